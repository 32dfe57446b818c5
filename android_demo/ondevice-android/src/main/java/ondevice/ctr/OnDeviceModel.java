package ondevice.ctr;

import android.content.res.AssetFileDescriptor;
import android.content.res.AssetManager;
import java.io.Closeable;
import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * A click-through-rate model in a native file ({@code .odm}), ready to score requests.
 *
 * <p>The file is mapped into memory, not read: its bytes stay the file's, are shared with other
 * processes, and come in as they are needed. It must not be changed in place while it is open;
 * replace it by renaming another over it.
 *
 * <p><b>Threads.</b> Any number of threads may use one model at once; each request has scratch
 * memory of its own, which is kept for the next one. {@link #close} may be called while requests
 * run: those finish, later ones throw {@link ModelClosedException}. A model that is never closed
 * keeps its memory until the process ends.
 */
public final class OnDeviceModel implements Closeable {
    private final String where;
    private final ModelInfo info;
    private final ModelDescription description;
    private final String[] inputNames;
    private final int[] rowSizes;
    private final long[] idLimits;
    private final int outputSize;
    private final Map<String, Integer> places = new HashMap<String, Integer>();

    private final Object lock = new Object();
    private final ArrayDeque<Session> idle = new ArrayDeque<Session>();
    private long handle; // 0: released
    private int running;
    private boolean closed;

    /** Scratch memory of one request at a time. */
    private static final class Session {
        long handle;
        ByteBuffer ids = ByteBuffer.allocateDirect(0);
        ByteBuffer scores = ByteBuffer.allocateDirect(0);
        final byte[] error = new byte[Native.ERROR_BYTES];

        void makeRoom(long idBytes, long scoreBytes) {
            if (idBytes > Integer.MAX_VALUE || scoreBytes > Integer.MAX_VALUE) {
                throw new InputException("the request is larger than 2 GiB: send fewer rows");
            }
            if (ids.capacity() < idBytes) {
                ids = ByteBuffer.allocateDirect((int) idBytes).order(ByteOrder.nativeOrder());
            }
            if (scores.capacity() < scoreBytes) {
                scores = ByteBuffer.allocateDirect((int) scoreBytes).order(ByteOrder.nativeOrder());
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
        Native.load();
        byte[] path = file.getPath().getBytes(Native.UTF_8);
        byte[] error = new byte[Native.ERROR_BYTES];
        for (byte one : path) {
            if (one == 0) {
                throw new ModelFileException("a path with a zero character: no such file");
            }
        }
        return opened(Native.openPath(path, error), file.getPath(), error);
    }

    /**
     * Open a model inside another file, such as an uncompressed asset of the app's package. The
     * descriptor stays the caller's, who may close it as soon as this returns.
     *
     * @throws ModelFileException as {@link #open(File)}
     * @throws UnsupportedModelException as {@link #open(File)}
     */
    public static OnDeviceModel open(AssetFileDescriptor asset) {
        long size = asset.getDeclaredLength() == AssetFileDescriptor.UNKNOWN_LENGTH
                ? -1 : asset.getDeclaredLength();
        int descriptor = asset.getParcelFileDescriptor().getFd();
        return openDescriptor(descriptor, asset.getStartOffset(), size, "asset");
    }

    /**
     * Open an uncompressed asset by its name.
     *
     * @throws ModelFileException as {@link #open(File)}; also an asset that is missing or compressed
     * @throws UnsupportedModelException as {@link #open(File)}
     */
    public static OnDeviceModel open(AssetManager assets, String name) {
        try {
            AssetFileDescriptor asset = assets.openFd(name);
            try {
                return open(asset);
            } finally {
                asset.close();
            }
        } catch (IOException error) {
            throw new ModelFileException("asset " + name + ": missing, or compressed, which cannot "
                    + "be mapped; store it with: androidResources { noCompress 'odm' } ("
                    + error.getMessage() + ")");
        }
    }

    static OnDeviceModel openDescriptor(int descriptor, long offset, long size, String where) {
        Native.load();
        byte[] error = new byte[Native.ERROR_BYTES];
        return opened(Native.openDescriptor(descriptor, offset, size, error), where, error);
    }

    private static OnDeviceModel opened(long handle, String where, byte[] error) {
        if (handle == 0) {
            throw Native.failure(where, error);
        }
        try {
            return new OnDeviceModel(handle, where);
        } catch (RuntimeException failure) {
            Native.close(handle);
            throw failure;
        }
    }

    private OnDeviceModel(long handle, String where) {
        this.handle = handle;
        this.where = where;
        info = readInfo(handle, where);
        int count = Native.count(handle, false);
        inputNames = new String[count];
        rowSizes = new int[count];
        idLimits = new long[count];
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
            idLimits[i] = info.idLimits.get(i);
            places.put(name, i);
            Field field = info.fields.get(name);
            inputs.add(new ModelDescription.Input(name, rowSizes[i], idLimits[i],
                    field == null ? null : field.kind));
        }
        outputSize = Native.rowSize(handle, true, 0);
        if (info.outputs.isEmpty() || outputSize < 1) {
            throw new ModelFileException(where + ": no output");
        }
        int tests = info.testOutput == null ? 0 : info.testOutput.length / outputSize;
        String kernels = new String(Native.kernels(handle), Native.UTF_8);
        description = new ModelDescription(inputs, new ArrayList<String>(info.outputs), outputSize,
                Native.bytes(handle), kernels, info.tolerance, tests,
                new LinkedHashMap<String, String>(info.madeBy));
    }

    private static ModelInfo readInfo(long handle, String where) {
        byte[] text = Native.info(handle);
        if (text == null) {
            throw new ModelFileException(where + ": the description is too large");
        }
        try {
            return new ModelInfo(new String(text, Native.UTF_8));
        } catch (ModelFileException error) {
            throw new ModelFileException(where + ": " + error.getMessage());
        }
    }

    /** What the file says of itself. Also works on a closed model. */
    public ModelDescription describe() {
        return description;
    }

    /**
     * Click probabilities of rows: one value a row, or {@link ModelDescription#outputRowSize}.
     *
     * @throws InputException a missing or unknown input, a wrong count or type, no row, or an ID
     *     that the model rejects
     * @throws ModelClosedException the model was closed
     */
    public float[] predict(Inputs inputs) {
        long[][] ids = new long[inputNames.length][];
        fill(ids, inputs);
        int rows = -1;
        for (int i = 0; i < ids.length; i++) {
            rows = checkedRows(i, ids[i], rows);
        }
        return run(ids, null, rows);
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
        long[][] ids = new long[inputNames.length][];
        byte[] shared = new byte[inputNames.length];
        fill(ids, context, false);
        for (int i = 0; i < ids.length; i++) {
            shared[i] = (byte) (ids[i] == null ? 0 : 1);
        }
        for (int i = 0; i < ids.length; i++) {
            String name = inputNames[i];
            if (ids[i] != null && (candidates.ids.containsKey(name)
                    || candidates.raw.containsKey(name))) {
                throw new InputException("input '" + name + "' is given as context and as candidate");
            }
        }
        fill(ids, candidates);
        int rows = -1;
        for (int i = 0; i < ids.length; i++) {
            if (shared[i] == 0) {
                rows = checkedRows(i, ids[i], rows);
            } else if (ids[i].length != rowSizes[i]) {
                throw new InputException("context input '" + inputNames[i]
                        + "': expected one row of " + rowSizes[i] + ", got " + ids[i].length
                        + " values");
            }
        }
        if (rows < 0) {
            throw new InputException("no candidate inputs; give at least one input with N values");
        }
        return run(ids, shared, rows);
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
     * Run the file's own test vectors.
     *
     * @throws ModelFileException there are none inside, or they do not fit the model
     * @throws ModelClosedException the model was closed
     */
    public Verification verify() {
        if (info.testOutput == null) {
            throw new ModelFileException(where + ": no test vectors inside");
        }
        Inputs inputs = new Inputs();
        for (Map.Entry<String, long[]> entry : info.testInputs.entrySet()) {
            inputs.ids(entry.getKey(), entry.getValue());
        }
        float[] got;
        try {
            got = predict(inputs);
        } catch (InputException error) {
            throw new ModelFileException(where + ": its test vectors: " + error.getMessage());
        }
        double largest = Verification.largestDifference(got, info.testOutput, outputSize);
        return new Verification(got.length / outputSize, largest, info.tolerance);
    }

    /** The IDs of the file's test vectors, row after row, by input; empty when it has none. */
    public Map<String, long[]> testInputs() {
        Map<String, long[]> copy = new LinkedHashMap<String, long[]>();
        for (Map.Entry<String, long[]> entry : info.testInputs.entrySet()) {
            copy.put(entry.getKey(), entry.getValue().clone());
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
        Native.close(handle);
        handle = 0;
    }

    private void fill(long[][] ids, Inputs given) {
        fill(ids, given, true);
    }

    /** Put the IDs of the given inputs in their places; with {@code all}, none may be missing. */
    private void fill(long[][] ids, Inputs given, boolean all) {
        for (Map.Entry<String, long[]> entry : given.ids.entrySet()) {
            ids[place(entry.getKey())] = entry.getValue();
        }
        for (String name : given.raw.keySet()) {
            ids[place(name)] = encode(name, given);
        }
        StringBuilder missing = new StringBuilder();
        for (int i = 0; all && i < ids.length; i++) {
            if (ids[i] == null) {
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
    private int checkedRows(int input, long[] ids, int rows) {
        int height = ids.length / rowSizes[input];
        if (height * rowSizes[input] != ids.length || height == 0) {
            throw new InputException("input '" + inputNames[input] + "': expected rows of "
                    + rowSizes[input] + " values, got " + ids.length + " values");
        }
        if (rows >= 0 && height != rows) {
            throw new InputException("inputs differ in rows: '" + inputNames[input] + "' has "
                    + height + ", those before it " + rows);
        }
        return height;
    }

    private void checkLimit(int input, long[] ids) {
        for (int i = 0; i < ids.length; i++) {
            if (ids[i] < 0 || ids[i] >= idLimits[input]) {
                throw new InputException("input '" + inputNames[input] + "': ID " + ids[i] + " at "
                        + i + " is outside 0.." + (idLimits[input] - 1)
                        + ", and its table has no out-of-vocabulary row");
            }
        }
    }

    private float[] run(long[][] ids, byte[] shared, int rows) {
        long count = 0;
        for (int i = 0; i < ids.length; i++) {
            count += ids[i].length;
            if (idLimits[i] >= 0) {
                checkLimit(i, ids[i]);
            }
        }
        Session session = take();
        try {
            session.makeRoom(count * 8, (long) rows * outputSize * 4);
            java.nio.LongBuffer to = session.ids.asLongBuffer();
            for (long[] values : ids) {
                to.put(values);
            }
            int status = Native.run(handle, session.handle, session.ids, rows, shared,
                    session.scores, session.error);
            if (status != 0) {
                throw Native.failure("", session.error);
            }
            float[] scores = new float[rows * outputSize];
            session.scores.asFloatBuffer().get(scores);
            return scores;
        } finally {
            give(session);
        }
    }

    private Session take() {
        synchronized (lock) {
            if (closed) {
                throw new ModelClosedException(where + ": the model is closed");
            }
            running++;
            if (!idle.isEmpty()) {
                return idle.pop();
            }
        }
        Session session = new Session();
        session.handle = Native.openSession(handle, session.error);
        if (session.handle == 0) {
            synchronized (lock) {
                running--;
                releaseIfUnused();
            }
            throw Native.failure(where, session.error);
        }
        return session;
    }

    private void give(Session session) {
        synchronized (lock) {
            running--;
            idle.push(session);
            releaseIfUnused();
        }
    }
}
