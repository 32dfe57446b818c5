package ondevice.ctr;

import java.nio.ByteBuffer;
import java.nio.charset.Charset;

/**
 * The native methods of {@code libondevice.so} (jni.c). A status of 0 or a handle other than 0 is
 * success; otherwise {@code error} holds the status and a zero-terminated text.
 */
final class Native {
    static final int ERROR_BYTES = 256;
    static final Charset UTF_8 = Charset.forName("UTF-8");

    // As in ondevice.h.
    private static final int INPUT = 1;
    private static final int FORMAT = 2;
    private static final int UNSUPPORTED = 3;
    private static final int SYSTEM = 5;
    private static final int UNTRUSTED = 6;

    private static boolean loaded;

    private Native() {}

    /** Load the library once. Throws OnDeviceException where it is missing. */
    static synchronized void load() {
        if (loaded) {
            return;
        }
        try {
            System.loadLibrary("ondevice");
        } catch (UnsatisfiedLinkError error) {
            throw new OnDeviceException("libondevice.so for this processor ("
                    + System.getProperty("os.arch") + ") is not in the app; it is built for "
                    + "arm64-v8a, armeabi-v7a and x86_64", error);
        }
        loaded = true;
    }

    /** The exception that an error of the engine stands for; {@code where} may be empty. */
    static OnDeviceException failure(String where, byte[] error) {
        int end = 1;
        while (end < error.length && error[end] != 0) {
            end++;
        }
        String text = where + (where.isEmpty() ? "" : ": ") + new String(error, 1, end - 1, UTF_8);
        switch (error[0]) {
            case INPUT:
                return new InputException(text);
            case FORMAT:
            case SYSTEM:
                return new ModelFileException(text);
            case UNSUPPORTED:
                return new UnsupportedModelException(text);
            case UNTRUSTED:
                return new UntrustedModelException(text);
            default:
                return new OnDeviceException(text);
        }
    }

    /** Map a model file; {@code path} is UTF-8. */
    static native long openPath(byte[] path, byte[] error);

    /** Map a part of an open file; a size of -1 means up to its end. */
    static native long openDescriptor(int descriptor, long offset, long size, byte[] error);

    /**
     * Open a file if the manifest lists it under {@code name} and enough of the keys, 32 bytes
     * each, signed the manifest. {@code version} has the version that was used last, 0 for none, and
     * {@code digest} 1 and the SHA-256 of its signed content, or 0; both are then the manifest's.
     */
    static native long openSigned(byte[] path, byte[] name, byte[] manifest, byte[] keys,
            int threshold, long now, long[] version, byte[] digest, byte[] error);

    /** Bytes of a root document that was read. */
    static native int rootBytes();

    /** Put a document into {@code root}: a first one, or the next after the one that is there. */
    static native int readRoot(byte[] text, boolean next, byte[] root, byte[] error);

    /** Version, expiry in seconds, and how many keys must sign models. */
    static native void rootFacts(byte[] root, long[] facts);

    /** The keys that may sign models, 32 bytes each. */
    static native byte[] rootKeys(byte[] root);

    static native void close(long model);

    static native long bytes(long model);

    static native byte[] info(long model);

    static native byte[] kernels(long model);

    static native int count(long model, boolean outputs);

    static native byte[] name(long model, boolean output, int index);

    static native int rowSize(long model, boolean output, int index);

    static native long openSession(long model, byte[] error);

    static native void closeSession(long session);

    /** Score rows; the buffers are direct, in native order. {@code context} may be null. */
    static native int run(long model, long session, ByteBuffer values, int rows, byte[] context,
            ByteBuffer scores, byte[] error);
}
