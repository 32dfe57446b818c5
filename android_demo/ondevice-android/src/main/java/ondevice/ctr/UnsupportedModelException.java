package ondevice.ctr;

/** A valid model file that this library or this processor cannot run. */
public final class UnsupportedModelException extends OnDeviceException {
    private static final long serialVersionUID = 1;

    public UnsupportedModelException(String message) {
        super(message);
    }
}
