package ondevice.ctr;

/** A model file that is missing, cut off, damaged, or not one of ondevice's. */
public final class ModelFileException extends OnDeviceException {
    private static final long serialVersionUID = 1;

    public ModelFileException(String message) {
        super(message);
    }
}
