package ondevice.ctr;

/** A request that the model rejects: a missing or unknown input, a wrong count, type or ID. */
public final class InputException extends OnDeviceException {
    private static final long serialVersionUID = 1;

    public InputException(String message) {
        super(message);
    }
}
