package ondevice.ctr;

import java.io.Closeable;
import java.io.File;
import java.util.Arrays;
import java.util.Map;
import java.util.concurrent.locks.ReentrantLock;

/**
 * The model of a file that may be replaced at any time by a rename: requests go on, new ones take the
 * new file. Safe to use from any number of threads.
 *
 * <p>A request computes with one model from begin to end. The memory of an old model is released when
 * its last request ends. A new file that cannot be opened, or that takes other inputs or gives other
 * outputs, leaves the model in use: {@link #error} says why.
 */
public final class LiveModel implements Closeable {
    /** Opens the file whenever it is another one. */
    public interface Opener {
        /** Throws OnDeviceException where the file cannot serve. */
        OnDeviceModel open(File file);
    }

    private static final long SECOND = 1000;

    private final File file;
    private final Opener opener;
    private final long checkMillis;
    private final ReentrantLock looking = new ReentrantLock();
    private long[] seen; // by whoever is looking
    private volatile long nextCheck;
    private volatile OnDeviceException error;
    private volatile Version current; // null: closed

    /** A model that serves or did. */
    private static final class Version {
        final OnDeviceModel model;
        private int users = 1; // requests, and one more while it is the current one

        Version(OnDeviceModel model) {
            this.model = model;
        }

        /** Whether it may be used: it is not released yet. */
        synchronized boolean enter() {
            if (users == 0) {
                return false;
            }
            users++;
            return true;
        }

        void leave() {
            boolean last;
            synchronized (this) {
                last = --users == 0;
            }
            if (last) {
                model.close();
            }
        }
    }

    /** A model that stays open until this is closed, whatever happens to the file. */
    public static final class Lease implements Closeable {
        private final Version version;
        private boolean closed;

        private Lease(Version version) {
            this.version = version;
        }

        /** The model, which is not the caller's to close. */
        public OnDeviceModel model() {
            return version.model;
        }

        /** End the use. Twice is harmless. */
        @Override
        public synchronized void close() {
            if (!closed) {
                closed = true;
                version.leave();
            }
        }
    }

    private LiveModel(File file, Opener opener, long checkMillis) {
        this.file = file;
        this.opener = opener;
        this.checkMillis = checkMillis;
        seen = SystemFiles.stamp(file);
        current = new Version(opener.open(file));
        nextCheck = System.nanoTime() + checkMillis * 1000000;
    }

    /** Serve a model file. A request looks for a new one if none did for a second. */
    public static LiveModel open(File file) {
        return open(file, new Opener() {
            @Override
            public OnDeviceModel open(File file) {
                return OnDeviceModel.open(file);
            }
        }, SECOND);
    }

    /** Serve a model file, and the new ones that are signed as they must be. */
    public static LiveModel open(File file, final SignedModels trusted) {
        return open(file, new Opener() {
            @Override
            public OnDeviceModel open(File file) {
                return trusted.open(file);
            }
        }, SECOND);
    }

    /**
     * Serve a model file.
     *
     * @param opener opens every model; the first in this call
     * @param checkMillis a request looks for a new file if none did for so long, and opens it; the
     *     others go on. -1: only {@link #refresh} looks
     */
    public static LiveModel open(File file, Opener opener, long checkMillis) {
        Native.load();
        return new LiveModel(file, opener, checkMillis);
    }

    /** As {@link OnDeviceModel#predict}, by the model that serves now. */
    public float[] predict(Inputs inputs) {
        Lease lease = acquire();
        try {
            return lease.model().predict(inputs);
        } finally {
            lease.close();
        }
    }

    /** As {@link OnDeviceModel#predictAll}, by the model that serves now. */
    public Map<String, float[]> predictAll(Inputs inputs) {
        Lease lease = acquire();
        try {
            return lease.model().predictAll(inputs);
        } finally {
            lease.close();
        }
    }

    /** As {@link OnDeviceModel#rank}, by the model that serves now. */
    public float[] rank(Inputs context, Inputs candidates) {
        Lease lease = acquire();
        try {
            return lease.model().rank(context, candidates);
        } finally {
            lease.close();
        }
    }

    /** As {@link OnDeviceModel#rankAll}, by the model that serves now. */
    public Map<String, float[]> rankAll(Inputs context, Inputs candidates) {
        Lease lease = acquire();
        try {
            return lease.model().rankAll(context, candidates);
        } finally {
            lease.close();
        }
    }

    /**
     * The model that serves now, for several requests of the same one.
     *
     * @throws ModelClosedException this was closed
     */
    public Lease acquire() {
        if (checkMillis >= 0 && System.nanoTime() - nextCheck >= 0 && looking.tryLock()) {
            try {
                look();
            } finally {
                looking.unlock();
            }
        }
        while (true) {
            Version version = current;
            if (version == null) {
                throw new ModelClosedException(file + ": the model is closed");
            }
            if (version.enter()) { // otherwise it was replaced and released since
                return new Lease(version);
            }
        }
    }

    /**
     * Open the file if it is another one than the last that was opened.
     *
     * @return whether another model serves now
     * @throws OnDeviceException the file cannot serve; the model in use goes on. The next call throws
     *     too, until the file changes
     */
    public boolean refresh() {
        looking.lock();
        try {
            boolean changed = look();
            if (error != null) {
                throw error;
            }
            return changed;
        } finally {
            looking.unlock();
        }
    }

    /** Why the file that is there now does not serve; null: it does. Does not look at the file. */
    public OnDeviceException error() {
        return error;
    }

    /** What the model that serves now says of itself. */
    public ModelDescription describe() {
        Lease lease = acquire();
        try {
            return lease.model().describe();
        } finally {
            lease.close();
        }
    }

    /** Release the model as soon as running requests are done. Twice is harmless. */
    @Override
    public void close() {
        looking.lock();
        try {
            Version last = current;
            current = null;
            if (last != null) {
                last.leave();
            }
        } finally {
            looking.unlock();
        }
    }

    /** Put a new model in the place of the one in use, if the file is another; the lock is held. */
    private boolean look() {
        long[] now = SystemFiles.stamp(file);
        nextCheck = System.nanoTime() + checkMillis * 1000000;
        Version old = current;
        if (old == null || Arrays.equals(now, seen)) {
            return false;
        }
        seen = now; // before it is opened: a file that comes meanwhile is opened too
        OnDeviceModel model = null;
        try {
            model = opener.open(file);
            checkSame(old.model.describe(), model.describe());
        } catch (OnDeviceException fault) {
            refuse(model, fault);
            return false;
        } catch (OutOfMemoryError fault) {
            refuse(model, new OnDeviceException(file + ": out of memory for the new model", fault));
            return false;
        }
        error = null;
        current = new Version(model);
        old.leave();
        return true;
    }

    private void refuse(OnDeviceModel model, OnDeviceException fault) {
        error = fault;
        if (model != null) {
            model.close();
        }
    }

    private void checkSame(ModelDescription old, ModelDescription fresh) {
        boolean same = old.inputs.size() == fresh.inputs.size()
                && old.outputs.equals(fresh.outputs)
                && old.outputRowSizes.equals(fresh.outputRowSizes);
        for (int i = 0; same && i < old.inputs.size(); i++) {
            ModelDescription.Input a = old.inputs.get(i);
            ModelDescription.Input b = fresh.inputs.get(i);
            same = a.name.equals(b.name) && a.rowSize == b.rowSize && a.isFloat == b.isFloat;
        }
        if (!same) {
            throw new ModelFileException(file + ": the new file takes other inputs or gives other "
                    + "outputs than the one in use: " + fresh + " instead of " + old);
        }
    }
}
