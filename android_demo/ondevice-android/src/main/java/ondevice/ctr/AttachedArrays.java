package ondevice.ctr;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.List;
import java.util.Map;

/**
 * The arrays that follow a description's JSON (ondevice/attached_arrays.py). They come from
 * outside, so every place and size is checked.
 */
final class AttachedArrays {
    private static final int MOST_AXES = 8;
    private static final int MOST_HASHES = 1 << 25; // MAX_VOCABULARY of ondevice/limits.py

    private final ByteBuffer bytes;
    private long left; // each byte is read once, or a small file could fill the memory

    /** The bytes behind the first zero byte of a description; none if it has none. */
    AttachedArrays(byte[] description) {
        int start = Math.min(textBytes(description) + 1, description.length);
        bytes = ByteBuffer.wrap(description, start, description.length - start).slice()
                .order(ByteOrder.LITTLE_ENDIAN);
        left = bytes.capacity();
    }

    /** How many bytes the JSON of a description has. */
    static int textBytes(byte[] description) {
        int size = 0;
        while (size < description.length && description[size] != 0) {
            size++;
        }
        return size;
    }

    /** Integers. Throws ModelFileException. */
    long[] longs(Map<String, Object> item) {
        String dtype = dtype(item);
        long[] out = new long[count(item, dtype)];
        ByteBuffer part = part(item, (long) out.length * size(dtype));
        for (int i = 0; i < out.length; i++) {
            out[i] = dtype.equals("I64") ? part.getLong() : unsigned(part, dtype);
        }
        return out;
    }

    /** Floats. Throws ModelFileException. */
    float[] floats(Map<String, Object> item) {
        String dtype = dtype(item);
        if (!dtype.equals("F32")) {
            throw new ModelFileException("description: an array of " + dtype + ", expected F32");
        }
        float[] out = new float[count(item, dtype)];
        part(item, out.length * 4L).asFloatBuffer().get(out);
        return out;
    }

    /** Doubles, which narrower numbers may stand for. Throws ModelFileException. */
    double[] doubles(Map<String, Object> item) {
        String dtype = dtype(item);
        double[] out = new double[count(item, dtype)];
        ByteBuffer part = part(item, (long) out.length * size(dtype));
        for (int i = 0; i < out.length; i++) {
            out[i] = dtype.equals("F64") ? part.getDouble()
                    : dtype.equals("F32") ? part.getFloat() : unsigned(part, dtype);
        }
        return out;
    }

    /** Ascending signed numbers of {@code bits} bits, in Elias-Fano code. */
    long[] hashes(Map<String, Object> item, int bits) {
        long length = integer(item, "count");
        if (length < 0 || length / 8 > bytes.capacity() || length > MOST_HASHES) {
            throw new ModelFileException("description: " + length + " hashes in "
                    + bytes.capacity() + " bytes");
        }
        int count = (int) length;
        if (count == 0) {
            part(item, 0);
            return new long[0];
        }
        int high = Math.min(31 - Integer.numberOfLeadingZeros(count), bits);
        int low = bits - high;
        long lowBytes = ((long) count * low + 7) / 8;
        long places = count + (1L << high) - 1;
        byte[] code = new byte[(int) (lowBytes + (places + 7) / 8)];
        part(item, code.length).get(code);
        long[] out = new long[count];
        int read = 0;
        for (long place = 0; place < (places + 7) / 8 * 8; place++) {
            if (bits(code, lowBytes * 8 + place, 1) == 0) {
                continue;
            }
            if (place >= places || read == count) {
                throw new ModelFileException("description: no Elias-Fano code of " + count);
            }
            long number = low < 64 ? place - read << low : 0;
            number |= bits(code, (long) read * low, low);
            out[read++] = number - (1L << bits - 1);
        }
        if (read < count) {
            throw new ModelFileException("description: no Elias-Fano code of " + count);
        }
        return out;
    }

    private static long bits(byte[] code, long first, int count) {
        long value = 0;
        for (int i = 0; i < count; i++) {
            long place = first + i;
            value |= (code[(int) (place / 8)] >> (int) (place % 8) & 1L) << i;
        }
        return value;
    }

    private static long unsigned(ByteBuffer part, String dtype) {
        return dtype.equals("U8") ? part.get() & 0xff
                : dtype.equals("U16") ? part.getShort() & 0xffff : part.getInt() & 0xffffffffL;
    }

    private static String dtype(Map<String, Object> item) {
        return String.valueOf(item.get("dtype"));
    }

    private static int size(String dtype) {
        switch (dtype) {
            case "U8":
                return 1;
            case "U16":
                return 2;
            case "U32":
            case "F32":
                return 4;
            case "I64":
            case "F64":
                return 8;
            default:
                throw new ModelFileException("description: an array of " + dtype);
        }
    }

    /** The elements of an array: not more than all bytes have room for. */
    private int count(Map<String, Object> item, String dtype) {
        if (!(item.get("shape") instanceof List)) {
            throw new ModelFileException("description: an array without a shape");
        }
        List<?> shape = (List<?>) item.get("shape");
        long count = 1;
        long most = bytes.capacity() / size(dtype);
        boolean fits = shape.size() <= MOST_AXES;
        for (Object extent : shape) {
            long size = extent instanceof Json.Number ? ((Json.Number) extent).toLong() : -1;
            fits &= size >= 0 && size <= most;
            count = fits ? Math.min(count * size, most + 1) : 0;
        }
        if (!fits || count > most) {
            throw new ModelFileException("description: an array of shape " + shape + " in "
                    + bytes.capacity() + " bytes");
        }
        return (int) count;
    }

    private ByteBuffer part(Map<String, Object> item, long size) {
        long at = integer(item, "at");
        if (at < 0 || at > bytes.capacity() || size > bytes.capacity() - at || size > left) {
            throw new ModelFileException("description: an array of " + size + " bytes at " + at
                    + " leaves the " + bytes.capacity() + " bytes of arrays, or overlaps others");
        }
        left -= size;
        ByteBuffer part = bytes.duplicate().order(ByteOrder.LITTLE_ENDIAN);
        part.position((int) at);
        part.limit((int) (at + size));
        return part;
    }

    private static long integer(Map<String, Object> item, String name) {
        if (item.get(name) instanceof Json.Number) {
            return ((Json.Number) item.get(name)).toLong();
        }
        throw new ModelFileException("description: an array without " + name);
    }
}
