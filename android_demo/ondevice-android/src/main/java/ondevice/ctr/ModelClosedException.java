package ondevice.ctr;

/** A model used after it was closed. */
public final class ModelClosedException extends OnDeviceException {
    private static final long serialVersionUID = 1;

    public ModelClosedException(String message) {
        super(message);
    }
}
