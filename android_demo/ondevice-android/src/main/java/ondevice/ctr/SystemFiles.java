package ondevice.ctr;

import java.io.File;
import java.io.IOException;

/** Locks, links and syncs of files, which Java 8 on Android has not (jni_files.c). */
final class SystemFiles {
    private static final int NO_SUCH_FILE = -2;
    private static final int TRY_AGAIN = -11;
    private static final int NO_ACCESS = -13;
    private static final int NO_FOLDER = -20;
    private static final int READ_ONLY = -30;

    private SystemFiles() {}

    /**
     * Lock a file or folder until {@link #release}; others wait.
     *
     * @return -1 where the file system has no locks
     * @throws IOException it cannot be opened
     */
    static int hold(File file) throws IOException {
        int lock = lock(bytes(file), false, true);
        if (lock == NO_SUCH_FILE || lock == NO_ACCESS || lock == NO_FOLDER) {
            throw new IOException(file + ": cannot be opened (error " + -lock + ")");
        }
        return Math.max(lock, -1);
    }

    static void release(int lock) {
        if (lock >= 0) {
            unlock(lock);
        }
    }

    /** Lock the file of a hidden folder, which is created; negative where that fails. */
    static int tryHold(File file) {
        return lock(bytes(file), true, false);
    }

    /** Whether a lock could not be had because another process has it, or removed its folder. */
    static boolean isTaken(int lock) {
        return lock == TRY_AGAIN || lock == NO_SUCH_FILE;
    }

    static boolean isHeld(int lock, File file) {
        return isLocked(lock, bytes(file)) == 0;
    }

    /** Wait until the disk has a file's bytes, or a folder's names. */
    static void sync(File file) throws IOException {
        check(sync(bytes(file)), file);
    }

    /** Give a file a second name; whether the file system can. */
    static boolean link(File file, File second) {
        return link(bytes(file), bytes(second)) == 0;
    }

    /** What changes when a file is replaced; null: there is none. */
    static long[] stamp(File file) {
        long[] stamp = new long[5];
        return stamp(bytes(file), stamp) == 0 ? stamp : null;
    }

    static void copyPermissions(File from, File to) throws IOException {
        check(copyPermissions(bytes(from), bytes(to)), to);
    }

    /** Whether a path is a folder, no link, of this user or of the owner of its parent. */
    static boolean isOwnFolder(File path, File parent) {
        return isOwnFolder(bytes(path), bytes(parent)) == 1;
    }

    private static void check(int result, File file) throws IOException {
        if (result < 0) {
            throw new IOException(file + (result == READ_ONLY ? ": the storage is read-only"
                    : ": the system refuses it (error " + -result + ")"));
        }
    }

    private static byte[] bytes(File file) {
        Native.load();
        String path = file.getPath();
        if (path.indexOf('\0') >= 0) {
            throw new ModelFileException("a path with a zero character: no such file");
        }
        return path.getBytes(Native.UTF_8);
    }

    private static native int lock(byte[] path, boolean create, boolean wait);

    private static native void unlock(int lock);

    private static native int isLocked(int lock, byte[] path);

    private static native int sync(byte[] path);

    private static native int link(byte[] file, byte[] second);

    private static native int stamp(byte[] path, long[] stamp);

    private static native int copyPermissions(byte[] from, byte[] to);

    private static native int isOwnFolder(byte[] path, byte[] parent);
}
