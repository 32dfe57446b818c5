package ondevice.ctr;

import android.content.res.AssetFileDescriptor;
import android.content.res.AssetManager;
import java.io.Closeable;
import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * A click-through-rate model in a native file ({@code .odm}), ready to score requests.
 *
 * <p>A file of up to 8 MiB is read. A larger one is mapped into memory: its bytes stay the file's, are
 * shared with other processes, and come in as they are needed. Replace it by renaming another over it;
 * where it is truncated or overwritten instead, requests throw {@link ModelFileException} from then on.
 *
 * <p><b>Threads.</b> Any number of threads may use one model at once; each request has scratch
 * memory of its own, which is kept for the next one. A model opened with several threads shares the
 * rows of requests of 256 rows and more among them; scores are the same to the bit. {@link #close} may be called while requests
 * run: those finish, later ones throw {@link ModelClosedException}. A model that is never closed
 * keeps its memory until the process ends.
 */
public final class OnDeviceModel implements Closeable {
    private final String where;
    private final ModelInfo info;
    private final ModelDescription description;
    private final String[] inputNames;
    private final int[] rowSizes;
    private final int[] outputSizes;
    private final Map<String, Integer> places = new HashMap<String, Integer>();

    private final RowThreads threads;
    private final Object lock = new Object();
    private final ArrayDeque<Session> idle = new ArrayDeque<Session>();
    private long handle; // 0: released
    private int running;
    private boolean closed;

    /** Scratch memory of one request at a time. */
    private static final class Session {
        long handle;
        ByteBuffer values = ByteBuffer.allocateDirect(0);
        LongBuffer longs; // the same bytes
        FloatBuffer floats;
        ByteBuffer scores = ByteBuffer.allocateDirect(0);
        final byte[] error = new byte[Native.ERROR_BYTES];

        void makeRoom(long bytes, long scoreBytes) {
            if (bytes > Integer.MAX_VALUE || scoreBytes > Integer.MAX_VALUE) {
                throw new InputException("the request is larger than 2 GiB: send fewer rows");
            }
            if (values.capacity() < bytes) {
                values = ByteBuffer.allocateDirect((int) bytes).order(ByteOrder.nativeOrder());
                longs = values.asLongBuffer();
                floats = values.asFloatBuffer();
            }
            if (scores.capacity() < scoreBytes) {
                scores = ByteBuffer.allocateDirect((int) scoreBytes).order(ByteOrder.nativeOrder());
            }
        }

        /** The values of every input in turn, each at a multiple of 8 bytes. */
        void put(Object[] arrays) {
            int at = 0;
            for (Object array : arrays) {
                if (array instanceof float[]) {
                    floats.position(at / 4);
                    floats.put((float[]) array);
                } else {
                    longs.position(at / 8);
                    longs.put((long[]) array);
                }
                at += (int) Values.bytes(array);
            }
        }
    }

    /**
     * Open a model file. Files of up to 8 MiB are checked byte by byte, larger ones in every size
     * and offset.
     *
     * @throws ModelFileException missing, damaged, or not one of ondevice's
     * @throws UnsupportedModelException valid, but this library or processor cannot run it
     */
    public static OnDeviceModel open(File file) {
        return open(file, 1);
    }

    /**
     * As {@link #open(File)}.
     *
     * @param threads that share the rows of large requests, with the caller's: 1 to 1024
     * @throws InputException another number of threads
     */
    public static OnDeviceModel open(File file, int threads) {
        Native.load();
        byte[] path = file.getPath().getBytes(Native.UTF_8);
        byte[] error = new byte[Native.ERROR_BYTES];
        for (byte one : path) {
            if (one == 0) {
                throw new ModelFileException("a path with a zero character: no such file");
            }
        }
        RowThreads sharing = new RowThreads(threads);
        return opened(Native.openPath(path, error), file.getPath(), sharing, error);
    }

    /**
     * Open a model inside another file, such as an uncompressed asset of the app's package. The
     * descriptor stays the caller's, who may close it as soon as this returns.
     *
     * @throws ModelFileException as {@link #open(File)}
     * @throws UnsupportedModelException as {@link #open(File)}
     */
    public static OnDeviceModel open(AssetFileDescriptor asset) {
        return open(asset, 1);
    }

    /** As {@link #open(AssetFileDescriptor)}, with threads as in {@link #open(File, int)}. */
    public static OnDeviceModel open(AssetFileDescriptor asset, int threads) {
        long size = asset.getDeclaredLength() == AssetFileDescriptor.UNKNOWN_LENGTH
                ? -1 : asset.getDeclaredLength();
        int descriptor = asset.getParcelFileDescriptor().getFd();
        return openDescriptor(descriptor, asset.getStartOffset(), size, "asset", threads);
    }

    /**
     * Open an uncompressed asset by its name.
     *
     * @throws ModelFileException as {@link #open(File)}; also an asset that is missing or compressed
     * @throws UnsupportedModelException as {@link #open(File)}
     */
    public static OnDeviceModel open(AssetManager assets, String name) {
        return open(assets, name, 1);
    }

    /** As {@link #open(AssetManager, String)}, with threads as in {@link #open(File, int)}. */
    public static OnDeviceModel open(AssetManager assets, String name, int threads) {
        try {
            AssetFileDescriptor asset = assets.openFd(name);
            try {
                return open(asset, threads);
            } finally {
                asset.close();
            }
        } catch (IOException error) {
            throw new ModelFileException("asset " + name + ": missing, or compressed, which cannot "
                    + "be mapped; store it with: androidResources { noCompress 'odm' } ("
                    + error.getMessage() + ")");
        }
    }

    static OnDeviceModel openDescriptor(int descriptor, long offset, long size, String where,
            int threads) {
        Native.load();
        byte[] error = new byte[Native.ERROR_BYTES];
        RowThreads sharing = new RowThreads(threads);
        return opened(Native.openDescriptor(descriptor, offset, size, error), where, sharing, error);
    }

    static OnDeviceModel opened(long handle, String where, RowThreads threads,
            byte[] error) {
        if (handle == 0) {
            threads.close();
            throw Native.failure(where, error);
        }
        try {
            return new OnDeviceModel(handle, where, threads);
        } catch (RuntimeException | Error failure) { // out of memory
            threads.close();
            Native.close(handle);
            throw failure;
        }
    }

    private OnDeviceModel(long handle, String where, RowThreads threads) {
        this.threads = threads;
        this.handle = handle;
        this.where = where;
        info = readInfo(handle, where);
        int count = Native.count(handle, false);
        inputNames = new String[count];
        rowSizes = new int[count];
        List<ModelDescription.Input> inputs = new ArrayList<ModelDescription.Input>();
        for (int i = 0; i < count; i++) {
            String name = new String(Native.name(handle, false, i), Native.UTF_8);
            inputNames[i] = name;
            rowSizes[i] = Native.rowSize(handle, false, i);
            if (count != info.inputs.size() || !name.equals(info.inputs.get(i))
                    || rowSizes[i] != info.rowSizes.get(i)) {
                throw new ModelFileException(where
                        + ": the inputs of its description are not those of its plan");
            }
            places.put(name, i);
            Field field = info.fields.get(name);
            inputs.add(new ModelDescription.Input(name, info.floats.get(i), rowSizes[i],
                    info.lowest.get(i), info.highest.get(i), field == null ? null : field.kind));
        }
        outputSizes = new int[Native.count(handle, true)];
        List<Integer> sizes = new ArrayList<Integer>();
        for (int i = 0; i < outputSizes.length; i++) {
            outputSizes[i] = Native.rowSize(handle, true, i);
            sizes.add(outputSizes[i]);
            if (outputSizes[i] < 1) {
                throw new ModelFileException(where + ": an output without values");
            }
        }
        if (info.outputs.isEmpty() || info.outputs.size() != outputSizes.length) {
            throw new ModelFileException(where + ": no output");
        }
        float[] test = info.testOutputs.get(info.outputs.get(0));
        int tests = test == null ? 0 : test.length / outputSizes[0];
        String kernels = new String(Native.kernels(handle), Native.UTF_8);
        description = new ModelDescription(inputs, new ArrayList<String>(info.outputs), sizes,
                Native.bytes(handle), kernels, info.tolerance, tests,
                new LinkedHashMap<String, String>(info.madeBy));
    }

    private static ModelInfo readInfo(long handle, String where) {
        byte[] text = Native.info(handle);
        if (text == null) {
            throw new ModelFileException(where + ": the description is too large");
        }
        try {
            return new ModelInfo(text);
        } catch (ModelFileException error) {
            throw new ModelFileException(where + ": " + error.getMessage());
        }
    }

    /** What the file says of itself. Also works on a closed model. */
    public ModelDescription describe() {
        return description;
    }

    /**
     * Click probabilities of rows: one value a row, or {@link ModelDescription#outputRowSize}. Of a
     * model with several outputs, those of the first.
     *
     * @throws InputException a missing or unknown input, a wrong count or type, no row, or an ID
     *     that the model rejects
     * @throws ModelClosedException the model was closed
     */
    public float[] predict(Inputs inputs) {
        return predict(inputs, 1)[0];
    }

    /**
     * As {@link #predict}, all outputs: by name, in the model's order, row after row with
     * {@link ModelDescription#outputRowSizes} values each.
     */
    public Map<String, float[]> predictAll(Inputs inputs) {
        return named(predict(inputs, outputSizes.length));
    }

    private float[][] predict(Inputs inputs, int asked) {
        Object[] arrays = new Object[inputNames.length];
        fill(arrays, inputs, true);
        int rows = -1;
        for (int i = 0; i < arrays.length; i++) {
            rows = checkedRows(i, arrays[i], rows);
        }
        return run(arrays, null, rows, false, asked);
    }

    /**
     * Click probabilities of N candidates for one context. What depends on the context alone is
     * computed once.
     *
     * @param context inputs that are the same for all candidates, one row each
     * @param candidates the other inputs, N rows each
     * @throws InputException as {@link #predict}; also an input given in both, a context input that
     *     is not a single row, or no candidates
     * @throws ModelClosedException the model was closed
     */
    public float[] rank(Inputs context, Inputs candidates) {
        return rank(context, candidates, false, 1)[0];
    }

    /** As {@link #rank}, all outputs, as {@link #predictAll} gives them. */
    public Map<String, float[]> rankAll(Inputs context, Inputs candidates) {
        return named(rank(context, candidates, false, outputSizes.length));
    }

    /** As {@link #rankAll}, with scratch memory that no other request has used or will use. */
    Map<String, float[]> rankAfresh(Inputs context, Inputs candidates) {
        return named(rank(context, candidates, true, outputSizes.length));
    }

    private float[][] rank(Inputs context, Inputs candidates, boolean afresh, int asked) {
        Object[] arrays = new Object[inputNames.length];
        byte[] shared = new byte[inputNames.length];
        fill(arrays, context, false);
        for (int i = 0; i < arrays.length; i++) {
            shared[i] = (byte) (arrays[i] == null ? 0 : 1);
        }
        for (int i = 0; i < arrays.length; i++) {
            String name = inputNames[i];
            if (arrays[i] != null && (candidates.direct.containsKey(name)
                    || candidates.raw.containsKey(name))) {
                throw new InputException("input '" + name + "' is given as context and as candidate");
            }
        }
        fill(arrays, candidates, true);
        int rows = -1;
        for (int i = 0; i < arrays.length; i++) {
            if (shared[i] == 0) {
                rows = checkedRows(i, arrays[i], rows);
            } else if (Values.count(arrays[i]) != rowSizes[i]) {
                throw new InputException("context input '" + inputNames[i]
                        + "': expected one row of " + rowSizes[i] + ", got "
                        + Values.count(arrays[i]) + " values");
            }
        }
        if (rows < 0) {
            throw new InputException("no candidate inputs; give at least one input with N values");
        }
        return run(arrays, shared, rows, afresh, asked);
    }

    /**
     * IDs of one input's raw values, row after row, as a request would use them.
     *
     * @throws InputException an unknown name, raw values of a wrong type, or IDs given
     */
    public long[] encode(String name, Inputs inputs) {
        Object values = inputs.raw.get(name);
        Field field = info.fields.get(name);
        if (values == null || field == null) {
            throw new InputException("input '" + name + "': no raw values, or no specification of "
                    + "them in the model");
        }
        return field.encode(values);
    }

    /**
     * Run the file's own test vectors, and compare {@code rank} with {@code predict}: over every
     * split of up to 6 inputs into context and candidates, over a covering sample of the splits of
     * more. Every split is ranked with new scratch memory, so that no value that an earlier request
     * left can pass for a right one. All outputs are compared.
     *
     * @throws ModelFileException there are none inside, or they do not fit the model
     * @throws ModelClosedException the model was closed
     */
    public Verification verify() {
        if (info.testOutputs.isEmpty()) {
            throw new ModelFileException(where + ": no test vectors inside");
        }
        try {
            return new Verifier(this, info).verify();
        } catch (InputException error) {
            throw new ModelFileException(where + ": its test vectors: " + error.getMessage());
        }
    }

    /**
     * The values of the file's test vectors, row after row, by input: IDs as {@code long[]}, numbers
     * as {@code float[]}, which {@link Inputs#values} takes. Empty when it has none.
     */
    public Map<String, Object> testInputs() {
        Map<String, Object> copy = new LinkedHashMap<String, Object>();
        for (Map.Entry<String, Object> entry : info.testInputs.entrySet()) {
            copy.put(entry.getKey(), Values.copy(entry.getValue()));
        }
        return copy;
    }

    /** Release the file and all memory, as soon as running requests are done. Twice is harmless. */
    @Override
    public void close() {
        synchronized (lock) {
            closed = true;
            releaseIfUnused();
        }
    }

    private void releaseIfUnused() {
        if (!closed || running > 0 || handle == 0) {
            return;
        }
        for (Session session : idle) {
            Native.closeSession(session.handle);
        }
        idle.clear();
        threads.close();
        Native.close(handle);
        handle = 0;
    }

    /** Put the values of the given inputs in their places; with {@code all}, none may be missing. */
    private void fill(Object[] arrays, Inputs given, boolean all) {
        for (Map.Entry<String, Object> entry : given.direct.entrySet()) {
            int i = place(entry.getKey());
            arrays[i] = Values.direct(inputNames[i], info.floats.get(i), entry.getValue());
        }
        for (Map.Entry<String, Object> entry : given.raw.entrySet()) {
            int i = place(entry.getKey());
            if (!info.floats.get(i)) {
                arrays[i] = encode(inputNames[i], given);
            } else if (info.fields.containsKey(inputNames[i])) {
                arrays[i] = Values.ofLongs(encode(inputNames[i], given));
            } else {
                arrays[i] = Values.ofNumbers(inputNames[i], rowSizes[i], entry.getValue());
            }
        }
        StringBuilder missing = new StringBuilder();
        for (int i = 0; all && i < arrays.length; i++) {
            if (arrays[i] == null) {
                missing.append(missing.length() == 0 ? "" : ", ").append(inputNames[i]);
            }
        }
        if (missing.length() > 0) {
            throw new InputException("missing inputs: " + missing + "; the model takes: " + known());
        }
    }

    private int place(String name) {
        Integer place = places.get(name);
        if (place == null) {
            throw new InputException("unknown input '" + name + "'; the model takes: " + known());
        }
        return place;
    }

    private String known() {
        StringBuilder out = new StringBuilder();
        for (String name : inputNames) {
            out.append(out.length() == 0 ? "" : ", ").append(name);
        }
        return out.toString();
    }

    /** The rows of one input, which must be those of the inputs before it (-1: it is the first). */
    private int checkedRows(int input, Object array, int rows) {
        int count = Values.count(array);
        int height = count / rowSizes[input];
        if (height * rowSizes[input] != count || height == 0) {
            throw new InputException("input '" + inputNames[input] + "': expected rows of "
                    + rowSizes[input] + " values, got " + count + " values");
        }
        if (rows >= 0 && height != rows) {
            throw new InputException("inputs differ in rows: '" + inputNames[input] + "' has "
                    + height + ", those before it " + rows);
        }
        return height;
    }

    /** The scores of the first outputs, as many as asked for. */
    private float[][] run(final Object[] arrays, final byte[] shared, int rows, boolean afresh,
            int asked) {
        final float[][] scores = new float[asked][];
        for (int i = 0; i < asked; i++) {
            scores[i] = new float[rows * outputSizes[i]];
        }
        enter();
        try {
            boolean shares = !afresh && threads.parts(rows) > 1;
            boolean succeeded = shares && threads.score(rows, new RowThreads.Part() {
                @Override
                public void score(int first, int count) {
                    runRows(slices(arrays, shared, first, count), shared, count, false, scores,
                            first);
                }
            });
            if (!succeeded) { // the error of a part would count its rows only
                runRows(arrays, shared, rows, afresh, scores, 0);
            }
            return scores;
        } finally {
            leave();
        }
    }

    /** Rows of every input; all of one that is shared by them. */
    private Object[] slices(Object[] arrays, byte[] shared, int first, int count) {
        Object[] parts = arrays.clone();
        for (int i = 0; i < parts.length; i++) {
            if (shared == null || shared[i] == 0) {
                parts[i] = Values.slice(arrays[i], first * rowSizes[i], count * rowSizes[i]);
            }
        }
        return parts;
    }

    /** Score rows in one session, and put the scores of the first outputs behind row {@code at}. */
    private void runRows(Object[] arrays, byte[] shared, int rows, boolean afresh,
            float[][] scores, int at) {
        long bytes = 0;
        for (Object array : arrays) {
            bytes += Values.bytes(array);
        }
        long scoreBytes = 0;
        for (int size : outputSizes) {
            scoreBytes += (long) rows * size * 4;
        }
        Session session = take(afresh);
        try {
            session.makeRoom(bytes, scoreBytes);
            session.put(arrays);
            int status = Native.run(handle, session.handle, session.values, rows, shared,
                    session.scores, session.error);
            if (status != 0) {
                throw Native.failure("", session.error);
            }
            FloatBuffer from = session.scores.asFloatBuffer();
            for (int i = 0; i < scores.length; i++) {
                from.get(scores[i], at * outputSizes[i], rows * outputSizes[i]);
            }
        } finally {
            give(session, afresh);
        }
    }

    private Map<String, float[]> named(float[][] scores) {
        Map<String, float[]> all = new LinkedHashMap<String, float[]>();
        for (int i = 0; i < scores.length; i++) {
            all.put(description.outputs.get(i), scores[i]);
        }
        return all;
    }

    /** Keep the model from being released until {@link #leave}. */
    private void enter() {
        synchronized (lock) {
            if (closed) {
                throw new ModelClosedException(where + ": the model is closed");
            }
            running++;
        }
    }

    private void leave() {
        synchronized (lock) {
            running--;
            releaseIfUnused();
        }
    }

    /** A session for a request that has entered. */
    private Session take(boolean afresh) {
        synchronized (lock) {
            if (!afresh && !idle.isEmpty()) {
                return idle.pop();
            }
        }
        Session session = new Session();
        session.handle = Native.openSession(handle, session.error);
        if (session.handle == 0) {
            throw Native.failure(where, session.error);
        }
        return session;
    }

    private void give(Session session, boolean discard) {
        synchronized (lock) {
            if (discard) {
                Native.closeSession(session.handle);
            } else {
                idle.push(session);
            }
        }
    }
}
