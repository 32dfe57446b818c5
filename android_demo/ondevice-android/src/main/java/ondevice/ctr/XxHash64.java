package ondevice.ctr;

/**
 * XXH64: how raw strings and integers become 64-bit IDs, identical to ondevice in Python and C.
 *
 * <p>Algorithm: <a href="https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md">the xxHash
 * specification</a>. Java's {@code long} arithmetic wraps as unsigned arithmetic does.
 */
public final class XxHash64 {
    private static final long P1 = 0x9E3779B185EBCA87L;
    private static final long P2 = 0xC2B2AE3D27D4EB4FL;
    private static final long P3 = 0x165667B19E3779F9L;
    private static final long P4 = 0x85EBCA77C2B2AE63L;
    private static final long P5 = 0x27D4EB2F165667C5L;

    private XxHash64() {}

    /** XXH64 of bytes; {@code seed} is any 64-bit pattern. */
    public static long hash(byte[] data, long seed) {
        int at = 0;
        long h;
        if (data.length >= 32) {
            long a = seed + P1 + P2;
            long b = seed + P2;
            long c = seed;
            long d = seed - P1;
            for (; at + 32 <= data.length; at += 32) {
                a = mix(a, word(data, at));
                b = mix(b, word(data, at + 8));
                c = mix(c, word(data, at + 16));
                d = mix(d, word(data, at + 24));
            }
            h = Long.rotateLeft(a, 1) + Long.rotateLeft(b, 7) + Long.rotateLeft(c, 12)
                    + Long.rotateLeft(d, 18);
            h = (h ^ mix(0, a)) * P1 + P4;
            h = (h ^ mix(0, b)) * P1 + P4;
            h = (h ^ mix(0, c)) * P1 + P4;
            h = (h ^ mix(0, d)) * P1 + P4;
        } else {
            h = seed + P5;
        }
        h += data.length;
        for (; at + 8 <= data.length; at += 8) {
            h = Long.rotateLeft(h ^ mix(0, word(data, at)), 27) * P1 + P4;
        }
        if (at + 4 <= data.length) {
            h = Long.rotateLeft(h ^ half(data, at) * P1, 23) * P2 + P3;
            at += 4;
        }
        for (; at < data.length; at++) {
            h = Long.rotateLeft(h ^ (data[at] & 0xFF) * P5, 11) * P1;
        }
        return finish(h);
    }

    /** XXH64 of an integer's 8 little-endian bytes. */
    public static long hash(long value, long seed) {
        long h = seed + P5 + 8;
        return finish(Long.rotateLeft(h ^ mix(0, value), 27) * P1 + P4);
    }

    /**
     * XXH64 of a string's UTF-8 bytes.
     *
     * @throws InputException a surrogate without its partner, which UTF-8 cannot express
     */
    public static long hash(String text, long seed) {
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            if (!Character.isSurrogate(c)) {
                continue;
            }
            if (!Character.isHighSurrogate(c) || i + 1 == text.length()
                    || !Character.isLowSurrogate(text.charAt(i + 1))) {
                throw new InputException("not valid Unicode: half a surrogate pair at " + i);
            }
            i++;
        }
        return hash(text.getBytes(Native.UTF_8), seed);
    }

    private static long mix(long lane, long word) {
        return Long.rotateLeft(lane + word * P2, 31) * P1;
    }

    private static long finish(long h) {
        h = (h ^ (h >>> 33)) * P2;
        h = (h ^ (h >>> 29)) * P3;
        return h ^ (h >>> 32);
    }

    private static long half(byte[] data, int at) {
        return (data[at] & 0xFFL) | (data[at + 1] & 0xFFL) << 8 | (data[at + 2] & 0xFFL) << 16
                | (data[at + 3] & 0xFFL) << 24;
    }

    private static long word(byte[] data, int at) {
        return half(data, at) | half(data, at + 4) << 32;
    }
}
