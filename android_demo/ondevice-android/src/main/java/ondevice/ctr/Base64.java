package ondevice.ctr;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/** Strict base64 to bytes: java.util.Base64 needs Android 8, this library runs on Android 7. */
final class Base64 {
    private static final String DIGITS =
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    private Base64() {}

    /** The bytes, as a little-endian buffer. Throws ModelFileException. */
    static ByteBuffer decode(String text) {
        int length = text.length();
        int padding = text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0;
        if (length % 4 != 0) {
            throw new ModelFileException("base64 of " + length + " characters");
        }
        byte[] out = new byte[length / 4 * 3 - padding];
        int[] values = new int[128];
        java.util.Arrays.fill(values, -1);
        for (int i = 0; i < DIGITS.length(); i++) {
            values[DIGITS.charAt(i)] = i;
        }
        int bits = 0;
        int held = 0;
        int to = 0;
        for (int i = 0; i < length - padding; i++) {
            char c = text.charAt(i);
            int value = c < 128 ? values[c] : -1;
            if (value < 0) {
                throw new ModelFileException("base64: unknown character at " + i);
            }
            bits = bits << 6 | value;
            held += 6;
            if (held >= 8) {
                held -= 8;
                out[to++] = (byte) (bits >> held);
                bits &= (1 << held) - 1;
            }
        }
        return ByteBuffer.wrap(out).order(ByteOrder.LITTLE_ENDIAN);
    }

    static long[] longs(String text) {
        ByteBuffer bytes = decode(text);
        if (bytes.remaining() % 8 != 0) {
            throw new ModelFileException("base64: not whole 64-bit numbers");
        }
        long[] out = new long[bytes.remaining() / 8];
        bytes.asLongBuffer().get(out);
        return out;
    }

    static double[] doubles(String text) {
        long[] bits = longs(text);
        double[] out = new double[bits.length];
        for (int i = 0; i < bits.length; i++) {
            out[i] = Double.longBitsToDouble(bits[i]);
        }
        return out;
    }

    static float[] floats(String text) {
        ByteBuffer bytes = decode(text);
        if (bytes.remaining() % 4 != 0) {
            throw new ModelFileException("base64: not whole 32-bit numbers");
        }
        float[] out = new float[bytes.remaining() / 4];
        bytes.asFloatBuffer().get(out);
        return out;
    }
}
