package ondevice.demo;

import android.content.Context;
import android.net.Uri;
import android.os.Handler;
import android.os.Looper;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import ondevice.ctr.OnDeviceException;
import ondevice.ctr.OnDeviceModel;

/**
 * The catalogue and the model in use, one for the whole app, so that screens which are made anew
 * (rotation) find them open. Everything happens on one background thread; answers come on the main
 * thread.
 */
final class Store {
    static final String MODEL = "model.odm";
    private static final String CATALOGUE = "catalogue.json";
    private static Store store;

    /** Is told the answer on the main thread; exactly one of the two is null. */
    interface Answer<T> {
        void got(T value, String problem);
    }

    /** The screen that is there; told on the main thread. */
    interface Listener {
        /** The model was changed, or not: then {@code problem} says why, else it is null. */
        void modelChanged(String problem);
    }

    /** Work on the background thread. */
    private interface Work<T> {
        T run() throws IOException;
    }

    private final Context context;
    private final ExecutorService worker = Executors.newSingleThreadExecutor();
    private final Handler main = new Handler(Looper.getMainLooper());
    // Only for the main thread: a change is told to the next screen where there is none just then.
    private Listener listener;
    private boolean untold;
    private String untoldProblem;
    // Only for the background thread:
    private Catalogue catalogue;
    private OnDeviceModel model;
    private String notice;

    private Store(Context context) {
        this.context = context.getApplicationContext();
    }

    static synchronized Store get(Context context) {
        if (store == null) {
            store = new Store(context);
        }
        return store;
    }

    /** The file that an update writes; there is none before the first. */
    static File updatedModel(Context context) {
        return new File(context.getFilesDir(), MODEL);
    }

    /** The model in use where nothing is open yet: the updated file, else the asset. */
    static OnDeviceModel open(Context context) {
        File file = updatedModel(context);
        return file.exists() ? OnDeviceModel.open(file)
                : OnDeviceModel.open(context.getAssets(), MODEL);
    }

    void catalogue(Answer<Catalogue> answer) {
        start(answer, new Work<Catalogue>() {
            @Override
            public Catalogue run() throws IOException {
                load();
                return catalogue;
            }
        });
    }

    /** What should be said once: that an updated model was unusable, or null. */
    void notice(final Answer<String> answer) {
        start(answer, new Work<String>() {
            @Override
            public String run() throws IOException {
                load();
                String told = notice;
                notice = null;
                return told;
            }
        });
    }

    void rank(final int user, Answer<Ranking> answer) {
        start(answer, new Work<Ranking>() {
            @Override
            public Ranking run() throws IOException {
                load();
                return new Ranking(model, catalogue, user);
            }
        });
    }

    void model(Answer<OnDeviceModel> answer) {
        start(answer, new Work<OnDeviceModel>() {
            @Override
            public OnDeviceModel run() throws IOException {
                load();
                return model;
            }
        });
    }

    /** On the main thread; null: no screen is there. */
    void listen(Listener fresh) {
        listener = fresh;
        tell();
    }

    private void tell() {
        if (listener != null && untold) {
            untold = false;
            listener.modelChanged(untoldProblem);
        }
    }

    private Answer<OnDeviceModel> change() {
        return new Answer<OnDeviceModel>() {
            @Override
            public void got(OnDeviceModel value, String problem) {
                untold = true;
                untoldProblem = problem;
                tell();
            }
        };
    }

    /** Take the model that the user picked, if it is a good one; the listener is told. */
    void update(final Uri uri) {
        start(change(), new Work<OnDeviceModel>() {
            @Override
            public OnDeviceModel run() throws IOException {
                load();
                InputStream source = context.getContentResolver().openInputStream(uri);
                if (source == null) {
                    throw new IOException("the file cannot be read");
                }
                try {
                    use(ModelFiles.replace(source, updatedModel(context), catalogue));
                } finally {
                    source.close();
                }
                return model;
            }
        });
    }

    /** Go back to the model in the package; the listener is told. */
    void useBuiltIn() {
        start(change(), new Work<OnDeviceModel>() {
            @Override
            public OnDeviceModel run() throws IOException {
                load();
                OnDeviceModel builtIn = OnDeviceModel.open(context.getAssets(), MODEL);
                updatedModel(context).delete();
                use(builtIn);
                return model;
            }
        });
    }

    private void use(OnDeviceModel fresh) {
        if (model != null) {
            model.close();
        }
        model = fresh;
    }

    private void load() throws IOException {
        if (model != null) {
            return;
        }
        ModelFiles.removeLeftovers(context.getFilesDir());
        catalogue = new Catalogue(Files.read(context.getAssets().open(CATALOGUE)));
        OnDeviceModel opened = null;
        try {
            opened = open(context);
            ModelFiles.check(opened, catalogue);
            model = opened;
        } catch (OnDeviceException error) {
            if (opened != null) {
                opened.close();
            }
            if (!updatedModel(context).exists()) {
                throw error;
            }
            notice = error.getMessage();
            updatedModel(context).delete();
            model = OnDeviceModel.open(context.getAssets(), MODEL);
        }
    }

    private <T> void start(final Answer<T> answer, final Work<T> work) {
        worker.execute(new Runnable() {
            @Override
            public void run() {
                T value = null;
                String problem = null;
                try {
                    value = work.run();
                } catch (OnDeviceException error) {
                    problem = error.getMessage();
                } catch (IOException error) {
                    problem = error.getMessage();
                } catch (SecurityException error) { // a picked file whose permission has gone
                    problem = error.getMessage();
                }
                final T result = value;
                final String told = value == null && problem == null ? "" : problem;
                main.post(new Runnable() {
                    @Override
                    public void run() {
                        answer.got(result, told);
                    }
                });
            }
        });
    }
}
