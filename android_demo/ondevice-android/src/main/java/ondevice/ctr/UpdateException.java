package ondevice.ctr;

/**
 * An update that this device does not take, though its files are in order: an older version, a model
 * that was rolled back or does not answer its test vectors, no manifest for a set, or nothing to go
 * back to. The model is as it was.
 */
public final class UpdateException extends OnDeviceException {
    private static final long serialVersionUID = 1;

    public UpdateException(String message) {
        super(message);
    }
}
