package ondevice.ctr;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.ThreadFactory;

/** Threads that share the rows of large requests; they sleep between requests. */
final class RowThreads {
    /** A thread gets at least so many rows, as OD_POOL_ROWS in ondevice.h. */
    static final int LEAST_ROWS = 128;
    static final int MOST = 1024;

    private final int threads;
    private final ExecutorService others; // null: the caller works by itself

    /** Rows from {@code first} on, {@code count} of them. */
    interface Part {
        void score(int first, int count);
    }

    /**
     * @param threads with the caller's
     * @throws InputException fewer than 1 or more than MOST
     */
    RowThreads(int threads) {
        if (threads < 1 || threads > MOST) {
            throw new InputException("threads must be 1.." + MOST + ", got " + threads);
        }
        this.threads = threads;
        others = threads == 1 ? null : Executors.newFixedThreadPool(threads - 1,
                new ThreadFactory() {
                    @Override
                    public Thread newThread(Runnable work) {
                        Thread thread = new Thread(work, "ondevice");
                        thread.setDaemon(true); // a model that is not closed ends with the process
                        return thread;
                    }
                });
    }

    /** In how many parts a request of so many rows is scored. */
    int parts(int rows) {
        return Math.max(1, Math.min(threads, rows / LEAST_ROWS));
    }

    /** Score all rows, the first part in the calling thread; whether every part succeeded. */
    boolean score(int rows, final Part part) {
        int parts = parts(rows);
        List<Future<?>> running = new ArrayList<Future<?>>();
        for (int i = 1; i < parts; i++) {
            final int first = start(rows, parts, i);
            final int count = start(rows, parts, i + 1) - first;
            running.add(others.submit(new Runnable() {
                @Override
                public void run() {
                    part.score(first, count);
                }
            }));
        }
        boolean succeeded = true;
        try {
            part.score(0, start(rows, parts, 1));
        } catch (OnDeviceException error) {
            succeeded = false;
        } finally { // no part may outlive the request
            for (Future<?> one : running) {
                succeeded &= finished(one);
            }
        }
        return succeeded;
    }

    private static int start(int rows, int parts, int part) {
        return (int) ((long) rows * part / parts);
    }

    /** Wait for a part, also in a thread that was interrupted; whether it succeeded. */
    private static boolean finished(Future<?> part) {
        boolean interrupted = false;
        try {
            while (true) {
                try {
                    part.get();
                    return true;
                } catch (InterruptedException again) {
                    interrupted = true;
                } catch (ExecutionException error) {
                    return false;
                }
            }
        } finally {
            if (interrupted) {
                Thread.currentThread().interrupt();
            }
        }
    }

    void close() {
        if (others != null) {
            others.shutdown();
        }
    }
}
