package ondevice.ctr;

/** A model that no trusted key signed, that has expired, or that is older than one used before. */
public final class UntrustedModelException extends OnDeviceException {
    private static final long serialVersionUID = 1;

    public UntrustedModelException(String message) {
        super(message);
    }
}
