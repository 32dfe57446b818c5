package ondevice.ctr;

import java.io.BufferedInputStream;
import java.io.Closeable;
import java.io.DataInputStream;
import java.io.EOFException;
import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Arrays;
import java.util.zip.DataFormatException;
import java.util.zip.Inflater;

/**
 * A delta (.odd): makes the new file of the one that a device has, a block at a time. Its format is
 * in docs/updates.md. Memory: less than 1 MB, whatever the sizes of the files.
 */
public final class ModelDelta implements Closeable {
    private static final byte[] MAGIC = {'o', 'n', 'd', 'e', 'l', 't', 'a', '1'};
    private static final int HEADER_BYTES = 92;
    private static final int BLOCK_HEADER_BYTES = 12;
    private static final int MOST_BYTES = 65_536; // operations of a block, and their data
    private static final int MOST_OVERHEAD = 1024;
    private static final int MOST_MANIFEST_BYTES = 1 << 20;
    private static final long LARGEST = (1L << 58) - 1;
    private static final int GROWTH = 8;
    private static final long ADDED = 1L << 26;
    private static final int NUMBER_BYTES = 9;
    private static final int PIECE = 16_384;
    private static final int COPY = 0;
    private static final int ADD = 1;
    private static final int XOR = 2;
    private static final int NEW = 3;
    private static final int WORDS = 4;
    private static final int HALVES = 5;
    private static final int SPARSE = 6;
    private static final int LONG_RUN = 255; // of the codes of SPARSE
    private static final int ZEROS = LONG_RUN / 3;

    private final DataInputStream delta;
    private final long oldBytes;
    private final byte[] oldDigest = new byte[32];
    private final byte[] newDigest = new byte[32];
    private final byte[] manifest;
    private final Inflater inflater = new Inflater(true);
    private final byte[] raw = new byte[2 * MOST_BYTES];
    private final byte[] old = new byte[PIECE + 1];
    private final byte[] made = new byte[PIECE];
    private long left; // bytes that the new file lacks
    private long place; // the bit of the old file at which the last operation stopped
    private int at; // in raw: the next byte of the operations
    private int data; // in raw: the next byte of their data
    private int large; // in raw: the next of the differences behind the codes of SPARSE
    private int zeros; // bytes of difference 0 that the last code of SPARSE still stands for
    private boolean differs; // whether a difference follows those

    /**
     * Reads the beginning of a delta.
     *
     * @throws ModelFileException if it is no delta, or damaged
     * @throws IOException if it cannot be read
     */
    public ModelDelta(File file) throws IOException {
        delta = new DataInputStream(new BufferedInputStream(new FileInputStream(file)));
        try {
            byte[] header = new byte[HEADER_BYTES];
            read(header, HEADER_BYTES);
            ByteBuffer fields = ByteBuffer.wrap(header).order(ByteOrder.LITTLE_ENDIAN);
            if (!Arrays.equals(Arrays.copyOf(header, MAGIC.length), MAGIC)) {
                throw new ModelFileException("not a delta file (.odd)");
            }
            oldBytes = fields.getLong(8);
            left = fields.getLong(16);
            System.arraycopy(header, 24, oldDigest, 0, 32);
            System.arraycopy(header, 56, newDigest, 0, 32);
            int manifestBytes = fields.getInt(88);
            if (oldBytes < 0 || oldBytes > LARGEST || left < 0 || left > LARGEST
                    || (oldBytes <= (LARGEST - ADDED) / GROWTH && left > GROWTH * oldBytes + ADDED)
                    || manifestBytes < 0 || manifestBytes > MOST_MANIFEST_BYTES) {
                throw damaged("its header has sizes beyond the limits");
            }
            manifest = new byte[manifestBytes];
            read(manifest, manifestBytes);
        } catch (IOException | RuntimeException error) {
            close();
            throw error;
        }
    }

    /** The new set's manifest.json, which its keys must have signed; empty if there is none. */
    public byte[] manifest() {
        return manifest.clone();
    }

    /**
     * Writes the new file and waits until the disk has it; then it is the one that the delta was
     * computed for. On an error it is removed. A delta can be applied once.
     *
     * @throws ModelFileException if the old file is another, or the delta is damaged
     * @throws IOException if a file cannot be read or written
     */
    public void apply(File oldFile, File newFile) throws IOException {
        boolean complete = false;
        try (RandomAccessFile before = new RandomAccessFile(oldFile, "r");
                FileOutputStream after = new FileOutputStream(newFile)) {
            checkBase(before);
            MessageDigest digest = sha256();
            while (left > 0) {
                applyBlock(before, after, digest);
            }
            if (delta.read() >= 0) {
                throw damaged("bytes follow the last block");
            }
            if (!MessageDigest.isEqual(digest.digest(), newDigest)) {
                throw damaged("what it makes has another SHA-256 than it says");
            }
            after.getFD().sync();
            complete = true;
        } finally {
            if (!complete) {
                newFile.delete();
            }
        }
    }

    @Override
    public void close() throws IOException {
        inflater.end();
        delta.close();
    }

    private void checkBase(RandomAccessFile before) throws IOException {
        MessageDigest digest = sha256();
        if (before.length() == oldBytes) {
            for (int size; (size = before.read(old, 0, PIECE)) > 0; ) {
                digest.update(old, 0, size);
            }
        }
        if (before.length() != oldBytes || !MessageDigest.isEqual(digest.digest(), oldDigest)) {
            throw new ModelFileException("the delta was computed from another file than the model");
        }
    }

    private void applyBlock(RandomAccessFile before, FileOutputStream after, MessageDigest digest)
            throws IOException {
        byte[] header = new byte[BLOCK_HEADER_BYTES];
        read(header, BLOCK_HEADER_BYTES);
        ByteBuffer sizes = ByteBuffer.wrap(header).order(ByteOrder.LITTLE_ENDIAN);
        int codes = sizes.getInt(0);
        int dataBytes = sizes.getInt(4);
        int packed = sizes.getInt(8);
        if (codes < 1 || codes > MOST_BYTES || dataBytes < 0 || dataBytes > MOST_BYTES || packed < 1
                || packed > codes + dataBytes + MOST_OVERHEAD) {
            throw damaged("a block is larger than a block may be");
        }
        byte[] stream = new byte[packed];
        read(stream, packed);
        inflate(stream, codes + dataBytes);
        at = 0;
        data = codes;
        while (at < codes) {
            perform(codes, codes + dataBytes, before, after, digest);
        }
        if (data != codes + dataBytes) {
            throw damaged("no operation uses the end of a block's data");
        }
    }

    private void inflate(byte[] stream, int size) throws IOException {
        inflater.reset();
        inflater.setInput(stream);
        try {
            int done = 0;
            while (done < size) {
                int count = inflater.inflate(raw, done, size - done);
                if (count == 0) {
                    break;
                }
                done += count;
            }
            // the end of the stream may not have been seen yet
            boolean more = !inflater.finished() && inflater.inflate(new byte[1]) > 0;
            if (done != size || more || !inflater.finished() || inflater.getRemaining() != 0) {
                throw damaged("a block is no DEFLATE stream of its size");
            }
        } catch (DataFormatException error) {
            throw damaged("a block is no DEFLATE stream: " + error.getMessage());
        }
    }

    /** Reads, checks and performs the next operation of a block. */
    private void perform(int codesEnd, int dataEnd, RandomAccessFile before, FileOutputStream after,
            MessageDigest digest) throws IOException {
        long first = number(codesEnd);
        int kind = (int) (first & 7);
        long size = first >>> 4;
        if (kind > SPARSE) {
            throw damaged("an operation of an unknown kind");
        }
        if ((first & 8) != 0) {
            if (kind == NEW) {
                throw damaged("an operation moves, but does not read the old file");
            }
            long moved = number(codesEnd);
            place += (moved >>> 1) ^ -(moved & 1);
        }
        if (size < 1 || size > left) {
            throw damaged("an operation leaves the new file");
        }
        int next = kind == COPY ? data : kind == SPARSE ? sparseEnd(size, dataEnd)
                : (int) Math.min(data + size, dataEnd + 1L);
        if (next > dataEnd) {
            throw damaged("operations use more than their data");
        }
        long bits = 8 * oldBytes;
        if (kind != NEW && (size > oldBytes || place < 0 || place > bits - 8 * size)) {
            throw damaged("an operation leaves the old file");
        }
        if ((kind == WORDS && size % 4 != 0) || (kind == HALVES && size % 2 != 0)) {
            throw damaged("an operation on parts of numbers");
        }
        for (long done = 0; done < size; ) {
            int count = (int) Math.min(PIECE, size - done);
            make(kind, size, (int) done, count, before);
            digest.update(made, 0, count);
            after.write(made, 0, count);
            done += count;
            left -= count;
        }
        data = next;
    }

    /** Where the data of SPARSE ends, checked; behind `end` if there is too little. */
    private int sparseEnd(long size, int end) throws ModelFileException {
        if (size > MOST_BYTES) {
            throw damaged("too many bytes of differences");
        }
        int next = data;
        int count = 0;
        int behind = 0;
        while (count < size && next < end) {
            int code = raw[next++] & 0xff;
            count += code == LONG_RUN ? ZEROS : code / 3 + 1;
            behind += code != LONG_RUN && code % 3 == 2 ? 1 : 0;
            if (count > size && code != LONG_RUN) {
                throw damaged("a difference leaves its operation");
            }
        }
        large = next;
        zeros = 0;
        differs = false;
        return count < size ? end + 1 : next + behind;
    }

    /** Makes the next bytes of an operation, in `made`. Only copies may be longer than an int. */
    private void make(int kind, long size, int done, int count, RandomAccessFile before)
            throws IOException {
        if (kind == NEW) {
            System.arraycopy(raw, data + done, made, 0, count);
            return;
        }
        readOld(before, count);
        if (kind == COPY) {
            System.arraycopy(old, 0, made, 0, count);
        } else if (kind == ADD || kind == XOR) {
            for (int i = 0; i < count; i++) {
                int change = raw[data + done + i];
                made[i] = (byte) (kind == ADD ? old[i] + change : old[i] ^ change);
            }
        } else if (kind == SPARSE) {
            addSparse(count);
        } else {
            addNumbers(kind == WORDS ? 4 : 2, (int) size, done, count);
        }
    }

    /** The old bytes plus the next differences of SPARSE, whose codes begin at `data`. */
    private void addSparse(int count) {
        for (int i = 0; i < count; i++) {
            made[i] = old[i];
            if (zeros == 0 && !differs) {
                int code = raw[data] & 0xff;
                differs = code != LONG_RUN;
                zeros = code / 3;
                data += differs ? 0 : 1;
            }
            if (zeros > 0) {
                zeros--;
                continue;
            }
            int kind = (raw[data++] & 0xff) % 3;
            made[i] += kind == 0 ? 1 : kind == 1 ? -1 : raw[large++];
            differs = false;
        }
    }

    /** Numbers of `unit` bytes plus zigzag differences; their lowest bytes come first. */
    private void addNumbers(int unit, int size, int done, int count) {
        int apart = size / unit;
        for (int i = 0; i < count; i += unit) {
            int value = 0;
            int zigzag = 0;
            for (int j = 0; j < unit; j++) {
                value |= (old[i + j] & 0xff) << 8 * j;
                zigzag |= (raw[data + (done + i) / unit + j * apart] & 0xff) << 8 * j;
            }
            value += (zigzag >>> 1) ^ -(zigzag & 1);
            for (int j = 0; j < unit; j++) {
                made[i + j] = (byte) (value >>> 8 * j);
            }
        }
    }

    /** Reads `count` bytes of the old file from the current bit on, into `old`. */
    private void readOld(RandomAccessFile before, int count) throws IOException {
        int shift = (int) (place % 8);
        before.seek(place / 8);
        try {
            before.readFully(old, 0, count + (shift == 0 ? 0 : 1));
        } catch (EOFException error) {
            throw new ModelFileException("the model became shorter while it was read");
        }
        for (int i = 0; shift != 0 && i < count; i++) {
            old[i] = (byte) ((old[i] & 0xff) >>> shift | old[i + 1] << (8 - shift));
        }
        place += 8L * count;
    }

    private long number(int end) throws ModelFileException {
        long number = 0;
        for (int i = 0; i < NUMBER_BYTES && at < end; i++) {
            byte next = raw[at++];
            number |= (long) (next & 0x7f) << 7 * i;
            if (next >= 0) {
                return number;
            }
        }
        throw damaged("a number is cut off, or has more than 9 bytes");
    }

    private void read(byte[] to, int size) throws IOException {
        try {
            delta.readFully(to, 0, size);
        } catch (EOFException error) {
            throw damaged("it is cut off");
        }
    }

    private static ModelFileException damaged(String what) {
        return new ModelFileException("the delta is damaged: " + what);
    }

    private static MessageDigest sha256() {
        try {
            return MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException error) {
            throw new IllegalStateException("every Java has SHA-256", error);
        }
    }
}
