package ondevice.demo;

import android.content.Context;
import android.os.Handler;
import android.os.Looper;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.ArrayList;
import java.util.List;
import ondevice.ctr.OnDeviceException;
import ondevice.ctr.bench.Benchmark;
import ondevice.ctr.bench.Plan;

/**
 * The benchmark of this app: at most one at a time, independent of screens. Its last report is kept
 * in a file. Used on the main thread.
 */
final class BenchmarkRun {
    private static BenchmarkRun run;

    /** Is told on the main thread that something has changed. */
    interface Listener {
        void changed();
    }

    int done;
    int total;
    String step = "";
    String report; // the last one; null: none yet
    String problem; // why the last run failed; null: it did not
    private final Context context;
    private final Handler main = new Handler(Looper.getMainLooper());
    private Listener listener; // null: no screen is there
    private Thread thread; // null: nothing runs

    private BenchmarkRun(Context context) {
        this.context = context.getApplicationContext();
        try {
            report = Files.read(file());
        } catch (IOException none) {
            report = null;
        }
    }

    static BenchmarkRun get(Context context) {
        if (run == null) {
            run = new BenchmarkRun(context);
        }
        return run;
    }

    void listen(Listener fresh) {
        listener = fresh;
    }

    boolean isRunning() {
        return thread != null;
    }

    void start() {
        if (thread != null) {
            return;
        }
        problem = null;
        thread = new Thread("benchmark") {
            @Override
            public void run() {
                String written = null;
                String failure = null;
                try {
                    written = measure();
                    Files.write(file(), written);
                } catch (IOException error) {
                    failure = error.getMessage();
                } catch (OnDeviceException error) {
                    failure = error.getMessage();
                }
                finish(written, failure);
            }
        };
        thread.start();
        tell();
    }

    /** End the run; what has been measured makes a report. */
    void stop() {
        if (thread != null) {
            thread.interrupt();
        }
    }

    private String measure() throws IOException {
        File updated = Store.updatedModel(context);
        boolean isUpdated = updated.exists();
        List<Benchmark.Subject> subjects = new ArrayList<Benchmark.Subject>();
        subjects.add(subject(Store.MODEL, isUpdated ? new FileInputStream(updated)
                : context.getAssets().open(Store.MODEL),
                isUpdated ? updated.getPath() : context.getPackageCodePath(), null));
        for (String name : StockRuntimes.models(context)) {
            subjects.add(subject(name, context.getAssets().open(name),
                    context.getPackageCodePath(), name));
        }
        return Benchmark.run(new Plan(), subjects, new PhoneDevice(context), "ondevice app",
                new Benchmark.Progress() {
                    @Override
                    public void at(final int now, final int all, final String text) {
                        main.post(new Runnable() {
                            @Override
                            public void run() {
                                done = now;
                                total = all;
                                step = text;
                                tell();
                            }
                        });
                    }
                });
    }

    private Benchmark.Subject subject(String name, InputStream content, String path,
            String runtime) throws IOException {
        try {
            return new Benchmark.Subject(new Benchmark.ModelFile(name, content),
                    new ServiceMachine(context, path, runtime));
        } finally {
            content.close();
        }
    }

    private void finish(final String written, final String failure) {
        main.post(new Runnable() {
            @Override
            public void run() {
                thread = null;
                problem = failure;
                report = written == null ? report : written;
                tell();
            }
        });
    }

    private void tell() {
        if (listener != null) {
            listener.changed();
        }
    }

    private File file() {
        return new File(context.getFilesDir(), "bench.json");
    }
}
