package ondevice.ctr;

/**
 * Every error that this library throws on purpose; its subclasses say what kind. Unchecked: a
 * request that the model rejects is a mistake in the calling code, like an index out of range. What
 * comes from outside, a model file, is checked when it is opened.
 */
public class OnDeviceException extends RuntimeException {
    private static final long serialVersionUID = 1;

    public OnDeviceException(String message) {
        super(message);
    }

    public OnDeviceException(String message, Throwable cause) {
        super(message, cause);
    }
}
