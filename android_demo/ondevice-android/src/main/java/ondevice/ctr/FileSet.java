package ondevice.ctr;

import java.io.Closeable;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.security.SecureRandom;
import java.util.Arrays;
import java.util.Collection;

/**
 * Publishes files in a folder as one: after a crash all of the old set is there, or the new one. The
 * protocol is Python's (ondevice/publish.py): written and synced in a hidden folder, which one rename
 * makes the folder's set; whoever comes next moves what a killed process did not.
 */
final class FileSet implements Closeable {
    static final String COMMITTED = ".ondevice-committed";
    private static final String HIDDEN = "\\.ondevice-[0-9a-f]{16}\\.tmp";
    private static final String LOCK = "lock";

    /** What must hold when nobody else publishes any more. */
    interface Condition {
        /** Whether the set may be committed. */
        boolean holds();
    }

    /** Where the files of the new set are written. */
    final File files;
    private final File folder;
    private final File hidden;
    private final int lock;

    private FileSet(File folder, File hidden, int lock) throws IOException {
        this.folder = folder;
        this.hidden = hidden;
        this.lock = lock;
        files = new File(hidden, "set/files");
    }

    /** Begin a set in a folder; what killed processes left is swept. */
    static FileSet begin(File folder) throws IOException {
        sweep(folder);
        byte[] digits = new byte[8];
        while (true) {
            new SecureRandom().nextBytes(digits);
            StringBuilder name = new StringBuilder();
            for (byte one : digits) {
                name.append(String.format("%02x", one));
            }
            File hidden = new File(folder, ".ondevice-" + name + ".tmp");
            if (!hidden.mkdir()) {
                throw new IOException(folder + ": no folder can be created there");
            }
            File lockFile = new File(hidden, LOCK);
            int lock = SystemFiles.tryHold(lockFile);
            if (SystemFiles.isTaken(lock)
                    || (lock >= 0 && !SystemFiles.isHeld(lock, lockFile))) {
                SystemFiles.release(lock); // somebody sweeps it
                continue;
            }
            FileSet set = new FileSet(folder, hidden, lock);
            if (!set.files.mkdirs()) {
                set.close();
                throw new IOException(hidden + ": no folder can be created there");
            }
            return set;
        }
    }

    /**
     * Make the set the folder's.
     *
     * @param removed names of files that the new set does not have
     * @return whether the condition held; otherwise nothing has changed
     */
    boolean commit(Condition condition, Collection<String> removed) throws IOException {
        int held = SystemFiles.hold(folder);
        try {
            moveCommitted(folder);
            if (!condition.holds()) {
                return false;
            }
            prepare(removed);
            rename(files.getParentFile(), new File(folder, COMMITTED));
            SystemFiles.sync(folder);
            moveCommitted(folder);
            return true;
        } finally {
            SystemFiles.release(held);
        }
    }

    /** Remove what was not committed. */
    @Override
    public void close() {
        deleteTree(hidden);
        SystemFiles.release(lock);
    }

    /** Replace one file, if the condition holds; whether it did. */
    static boolean write(File target, byte[] data, Condition condition) throws IOException {
        File folder = target.getParentFile();
        FileSet set = begin(folder);
        try {
            File fresh = new File(set.files, target.getName());
            FileOutputStream out = new FileOutputStream(fresh);
            try {
                out.write(data);
                out.getFD().sync(); // its bytes before its name
            } finally {
                out.close();
            }
            int held = SystemFiles.hold(folder);
            try {
                if (!condition.holds()) {
                    return false;
                }
                if (target.exists()) {
                    SystemFiles.copyPermissions(target, fresh);
                }
                rename(fresh, target);
                SystemFiles.sync(folder);
                return true;
            } finally {
                SystemFiles.release(held);
            }
        } finally {
            set.close();
        }
    }

    /** Finish what a killed process committed in a folder, before its files are read. */
    static void finish(File folder) throws IOException {
        if (new File(folder, COMMITTED).exists()) {
            int held = SystemFiles.hold(folder);
            try {
                moveCommitted(folder);
            } finally {
                SystemFiles.release(held);
            }
        }
    }

    private void prepare(Collection<String> removed) throws IOException {
        for (File fresh : sorted(files)) {
            File target = new File(folder, fresh.getName());
            if (isReplaceable(target)) {
                SystemFiles.copyPermissions(target, fresh);
            }
            SystemFiles.sync(fresh);
        }
        File gone = new File(files.getParentFile(), "removed");
        if (!gone.mkdir()) {
            throw new IOException(gone + ": cannot be created");
        }
        for (String name : removed) {
            if (isReplaceable(new File(folder, name)) && !new File(gone, name).createNewFile()) {
                throw new IOException(gone + ": no file can be created there");
            }
        }
        for (File part : new File[] {files, gone, files.getParentFile(), hidden}) {
            SystemFiles.sync(part);
        }
    }

    /** Whether there is something to replace; throws unless it is a regular file. */
    private boolean isReplaceable(File target) throws IOException {
        File real = new File(folder.getCanonicalFile(), target.getName());
        boolean link = !target.getCanonicalFile().equals(real);
        if (link || (target.exists() && !target.isFile())) {
            throw new IOException(target + ": cannot be written: it is not a regular file");
        }
        return target.exists();
    }

    /** Move a committed set's files to their places, if there is one; the folder is locked. */
    private static void moveCommitted(File folder) throws IOException {
        File committed = new File(folder, COMMITTED);
        if (!SystemFiles.isOwnFolder(committed, folder)) {
            return;
        }
        for (File name : sorted(new File(committed, "removed"))) {
            File target = new File(folder, name.getName());
            if (!target.delete() && target.exists()) {
                throw new IOException(target + ": cannot be removed");
            }
        }
        File files = new File(committed, "files");
        for (File file : sorted(files)) {
            rename(file, new File(folder, file.getName()));
        }
        if (files.exists()) {
            SystemFiles.sync(files);
        }
        SystemFiles.sync(folder);
        deleteTree(committed);
        SystemFiles.sync(folder);
    }

    private static void rename(File from, File to) throws IOException {
        if (!from.renameTo(to)) {
            throw new IOException(to + ": cannot be replaced");
        }
    }

    /** The files of a folder by name; none where there is no folder. */
    private static File[] sorted(File folder) {
        File[] files = folder.listFiles();
        if (files == null) {
            return new File[0];
        }
        Arrays.sort(files);
        return files;
    }

    /** Remove hidden folders whose processes are gone. */
    private static void sweep(File folder) {
        for (File item : sorted(folder)) {
            if (item.getName().matches(HIDDEN) && SystemFiles.isOwnFolder(item, folder)) {
                File lockFile = new File(item, LOCK);
                int lock = SystemFiles.tryHold(lockFile);
                if (lock >= 0 && SystemFiles.isHeld(lock, lockFile)) {
                    deleteTree(item);
                }
                SystemFiles.release(lock);
            }
        }
    }

    private static void deleteTree(File path) {
        if (SystemFiles.isOwnFolder(path, path.getParentFile())) { // no link
            for (File item : sorted(path)) {
                deleteTree(item);
            }
        }
        path.delete();
    }
}
