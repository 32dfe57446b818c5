package ondevice.ctr;

import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Updates a model file in its place, by a delta or a whole file: verified before the switch, put back
 * if it does not work. The files beside the model, and what they mean, are those of Python's
 * {@code ondevice update} (docs/updates.md), which may work on the same folder.
 *
 * <p>Start the app's model by {@link #boot}, in place of {@link OnDeviceModel#open(File)}.
 */
public final class ModelUpdates {
    /** Starts of a new model that end neither well nor in an error: a crash, or lost power. */
    public static final int TRIES = 3;

    private static final String PREVIOUS = ".previous";
    private static final String STATE = ".update.json";
    private static final int MOST_STATE_BYTES = 65_536;
    private static final int ATTEMPTS = 5; // of an update that other processes forestall
    private static final byte[] DELTA = {'o', 'n', 'd', 'e', 'l', 't', 'a', '1'};

    private final File model;
    private final File folder;
    private final File previous;
    private final File stateFile;
    private final File manifestFile;
    private final SignedModels trusted; // null: nobody must have signed

    /** What is known of a model file that was updated. */
    private static final class State {
        final String state; // "trying" or "good"
        final String sha256;
        final long tries;
        final String rejected; // the SHA-256 of the file that was rolled back last, or empty

        State(String state, String sha256, long tries, String rejected) {
            this.state = state;
            this.sha256 = sha256;
            this.tries = tries;
            this.rejected = rejected;
        }

        boolean isGood() {
            return state.equals("good");
        }

        byte[] toBytes() {
            Map<String, Object> data = new LinkedHashMap<String, Object>();
            data.put("state", state);
            data.put("sha256", sha256);
            data.put("tries", tries);
            data.put("rejected", rejected);
            return (Json.write(data) + "\n").getBytes(Native.UTF_8);
        }
    }

    /** For a model that need not be signed: fetch updates from where you trust. */
    public ModelUpdates(File model) throws IOException {
        this(model, null);
    }

    /** For a model of a set that must be signed. */
    public ModelUpdates(File model, SignedModels trusted) throws IOException {
        Native.load();
        this.model = model.getCanonicalFile(); // behind links, as Python does it
        this.trusted = trusted;
        folder = this.model.getParentFile();
        previous = beside(this.model, PREVIOUS);
        stateFile = beside(this.model, STATE);
        manifestFile = new File(folder, SetManifest.NAME);
    }

    /**
     * Replace the model by what a delta (.odd) makes of it, or by another model file. A
     * {@code manifest.json} beside a whole file comes with it. If the model is that file already, only
     * the manifest is replaced.
     *
     * @throws ModelFileException damaged, or the delta was computed from another file
     * @throws UntrustedModelException not signed as it must be
     * @throws UpdateException this device does not take it
     * @throws IOException a file cannot be read, or the disk refuses. In every case the model is as it
     *     was
     */
    public void update(File source) throws IOException {
        update(source, false);
    }

    /**
     * As {@link #update(File)}.
     *
     * @param again take the model that was rolled back last, too; everything else is checked as ever
     */
    public void update(File source, boolean again) throws IOException {
        if (source.exists() && !source.isFile()) { // a pipe would block
            throw new UpdateException(source + ": not a regular file; expected the file of a model");
        }
        for (int i = 0; i < ATTEMPTS; i++) {
            if (updateOnce(source, again)) {
                return;
            }
        }
        throw new IOException(model + ": cannot be written: other processes keep updating it");
    }

    /**
     * Open a model that may have been updated. The first opening after an update also verifies it,
     * while other processes that boot the model wait. If that ends in an error, or has begun TRIES
     * times without ending, because the process crashed, the previous file is put back and opened. On
     * storage that cannot be written an update is verified every time, and not counted. Where memory
     * is lacking that is an error, and counts as a try.
     *
     * @throws OnDeviceException it cannot be opened, and there is no previous one
     * @throws IOException the disk refuses
     */
    public OnDeviceModel boot() throws IOException {
        FileSet.finish(folder);
        if (isSettled()) {
            return open();
        }
        for (int i = 0; i < ATTEMPTS; i++) {
            int lock = model.isFile() ? SystemFiles.hold(model) : -1;
            try {
                FileSet.finish(folder);
                OnDeviceModel opened = isSettled() ? open() : tryNew();
                if (opened != null) {
                    return opened;
                }
            } finally {
                SystemFiles.release(lock);
            }
        }
        throw new UpdateException(model + ": other processes keep updating it");
    }

    /**
     * Put the previous file back, and the manifest that it had.
     *
     * @throws UpdateException there is none
     * @throws IOException the disk refuses
     */
    public void rollback() throws IOException {
        rollBack(null);
    }

    /** Whether it was done; otherwise the model or its manifest are not those that were seen. */
    private boolean rollBack(final long[][] seen) throws IOException {
        FileSet.finish(folder);
        if (!previous.isFile()) {
            throw new UpdateException(model + ": there is no " + previous.getName()
                    + " to go back to");
        }
        File oldManifest = beside(manifestFile, PREVIOUS);
        List<String> removed = new ArrayList<String>();
        removed.add(previous.getName());
        if (oldManifest.isFile()) {
            removed.add(oldManifest.getName());
        } else if (listsModel()) {
            removed.add(manifestFile.getName()); // it came with the file that goes
        }
        String rejected = model.isFile() ? SetManifest.record(model).sha256 : "";
        FileSet fresh = FileSet.begin(folder);
        try {
            keep(previous, new File(fresh.files, model.getName()));
            if (oldManifest.isFile()) {
                keep(oldManifest, new File(fresh.files, manifestFile.getName()));
            }
            String sha256 = SetManifest.record(new File(fresh.files, model.getName())).sha256;
            write(new File(fresh.files, stateFile.getName()),
                    new State("good", sha256, 0, rejected).toBytes());
            return fresh.commit(new FileSet.Condition() {
                @Override
                public boolean holds() {
                    return seen == null || Arrays.deepEquals(seen, modelIdentity());
                }
            }, removed);
        } finally {
            fresh.close();
        }
    }

    /** What changes when a process updates the model or rolls it back. */
    private long[][] modelIdentity() {
        return new long[][] {SystemFiles.stamp(model), SystemFiles.stamp(manifestFile)};
    }

    /** Whether the update was made; otherwise another process changed the model meanwhile. */
    private boolean updateOnce(File source, boolean again) throws IOException {
        FileSet.finish(folder);
        final long[][] seen = identity();
        FileSet fresh = FileSet.begin(folder);
        try {
            File draft = new File(fresh.files, model.getName());
            byte[] attached = writeDraft(source, draft);
            SetManifest.Record result = SetManifest.record(draft);
            State before = readState();
            boolean rejected = before != null && before.rejected.equals(result.sha256);
            if (rejected && !again) {
                throw new UpdateException(source + ": makes the model of SHA-256 " + result.sha256
                        + ", which was rolled back; publish another one, or update with again");
            }
            checkManifest(attached, result, source);
            checkVectors(draft, attached, source);
            if (attached.length > 0) {
                write(new File(fresh.files, manifestFile.getName()), attached);
            }
            if (model.isFile() && SetManifest.record(model).matches(result)) {
                draft.delete(); // it is there already: only the manifest is new
            } else {
                keepLastGood(before, fresh);
                State trying = new State("trying", result.sha256, 0,
                        before == null || rejected ? "" : before.rejected);
                write(new File(fresh.files, stateFile.getName()), trying.toBytes());
            }
            return fresh.commit(new FileSet.Condition() {
                @Override
                public boolean holds() {
                    return Arrays.deepEquals(seen, identity());
                }
            }, Collections.<String>emptyList());
        } finally {
            fresh.close();
        }
    }

    /** Give the model a second name in a new set, unless an older file is the last good one. */
    private void keepLastGood(State before, FileSet fresh) throws IOException {
        if (model.isFile() && (before == null || before.isGood())) {
            keep(model, new File(fresh.files, previous.getName()));
            if (manifestFile.isFile()) {
                keep(manifestFile, new File(fresh.files, manifestFile.getName() + PREVIOUS));
            }
        }
    }

    /** What changes when a process updates the model, rolls it back, or boots it. */
    private long[][] identity() {
        return new long[][] {SystemFiles.stamp(model), SystemFiles.stamp(manifestFile),
            SystemFiles.stamp(stateFile)};
    }

    /** Write the new model file; the manifest that comes with it, empty for none. */
    private byte[] writeDraft(File source, File draft) throws IOException {
        if (Arrays.equals(SetManifest.read(source, DELTA.length - 1), DELTA)) {
            try (ModelDelta delta = new ModelDelta(source)) {
                delta.apply(model, draft);
                return delta.manifest();
            }
        }
        copy(source, draft);
        File beside = new File(source.getAbsoluteFile().getParentFile(), SetManifest.NAME);
        if (!beside.isFile() || beside.getCanonicalFile().equals(manifestFile)) {
            return new byte[0];
        }
        return SetManifest.read(beside, SetManifest.MOST_BYTES);
    }

    /** Compare the manifest that an update brings with the files and with the installed one. */
    private void checkManifest(byte[] attached, SetManifest.Record result, File source)
            throws IOException {
        boolean isSet = listsModel();
        if (attached.length == 0) {
            if (isSet) {
                throw new UpdateException(model + ": belongs to the set of " + manifestFile
                        + ", and " + source + " brings no manifest");
            }
            return;
        }
        String where = source + ": " + SetManifest.NAME;
        SetManifest manifest = new SetManifest(attached, where);
        if (!result.matches(manifest.files.get(model.getName()))) {
            throw new ModelFileException(where + ": does not list " + model.getName() + " with "
                    + result.length + " bytes and the SHA-256 " + result.sha256);
        }
        for (Map.Entry<String, SetManifest.Record> entry : manifest.files.entrySet()) {
            String name = entry.getKey();
            File other = new File(folder, name);
            if (!name.equals(model.getName()) && other.exists()
                    && name.matches("(?s).*\\.(odm|onnx|onnx\\.data|tflite)")
                    && !SetManifest.record(other).matches(entry.getValue())) {
                throw new ModelFileException(other + ": is of another set than " + where);
            }
        }
        long installed = isSet ? installedManifest().version : 0;
        if (manifest.version < installed) {
            throw new UpdateException(where + ": version " + manifest.version + "; version "
                    + installed + " is installed");
        }
    }

    private SetManifest installedManifest() throws IOException {
        return new SetManifest(SetManifest.read(manifestFile, SetManifest.MOST_BYTES),
                manifestFile.getPath());
    }

    /** Whether the folder's manifest is of this project and lists the model. */
    private boolean listsModel() throws IOException {
        try {
            return manifestFile.isFile() && installedManifest().files.containsKey(model.getName());
        } catch (ModelFileException foreign) {
            return false;
        }
    }

    /** Open a file as it would be opened in its place, and run its test vectors. */
    private void checkVectors(File draft, byte[] manifest, File source) {
        if (trusted != null && manifest.length == 0) {
            throw new UntrustedModelException(source
                    + ": brings no manifest, so nothing says who signed it");
        }
        OnDeviceModel opened = trusted == null ? OnDeviceModel.open(draft)
                : trusted.openDraft(draft, model.getName(), manifest, folder);
        try {
            Verification tests = opened.verify();
            if (!tests.passed()) {
                throw new UpdateException(source + ": the new model does not answer its test vectors: "
                        + "largest difference " + tests.maxDifference + ", of rank "
                        + tests.rankDifference + ", tolerance " + tests.tolerance);
            }
        } finally {
            opened.close();
        }
    }

    private boolean isSettled() throws IOException {
        State state = readState();
        return state == null || state.isGood();
    }

    private OnDeviceModel open() {
        return trusted == null ? OnDeviceModel.open(model) : trusted.open(model);
    }

    /**
     * Open a new model, or the previous one if it does not work. Null: it did not, but another
     * process changed it meanwhile, so that nothing is known of either model.
     */
    private OnDeviceModel tryNew() throws IOException {
        long[][] seen = modelIdentity();
        State state = readState();
        String actual = SetManifest.record(model).sha256;
        if (state == null || !actual.equals(state.sha256)) { // put there by hand
            writeState(state, new State("good", actual, 0, state == null ? "" : state.rejected));
            return open();
        }
        boolean hasPrevious = previous.isFile();
        if (state.tries >= TRIES && hasPrevious) {
            return rollBack(seen) ? open() : null;
        }
        State tried = new State("trying", actual, state.tries + 1, state.rejected);
        writeState(state, tried);
        OnDeviceModel opened;
        try {
            byte[] manifest = manifestFile.isFile() && listsModel()
                    ? SetManifest.read(manifestFile, SetManifest.MOST_BYTES) : new byte[0];
            if (manifest.length > 0 && !SetManifest.record(model).matches(
                    new SetManifest(manifest, manifestFile.getPath()).files.get(model.getName()))) {
                throw new ModelFileException(model + ": is not as its manifest says");
            }
            checkVectors(model, manifest, model);
            opened = open();
        } catch (OnDeviceException error) {
            boolean noMemory = error.getClass() == OnDeviceException.class; // not the model's fault
            if (!hasPrevious || noMemory) {
                throw error;
            }
            return rollBack(seen) ? open() : null;
        }
        writeState(tried, new State("good", actual, 0, state.rejected));
        return opened;
    }

    /** Write the state, unless another process wrote one meanwhile, or the storage is read-only. */
    private void writeState(final State before, State state) {
        try {
            FileSet.write(stateFile, state.toBytes(), new FileSet.Condition() {
                @Override
                public boolean holds() {
                    try {
                        State now = readState();
                        return stateFile.isFile() && now != null && before != null
                                && Arrays.equals(now.toBytes(), before.toBytes());
                    } catch (IOException error) {
                        return false;
                    }
                }
            });
        } catch (IOException error) {
            // a model that works is worth more than its counter
        }
    }

    /** Null: never updated. One that cannot be read counts as that of a model not opened yet. */
    private State readState() throws IOException {
        if (!stateFile.exists()) {
            return null;
        }
        try {
            byte[] text = SetManifest.read(stateFile, MOST_STATE_BYTES);
            Map<?, ?> data = (Map<?, ?>) Json.parse(new String(text, Native.UTF_8));
            List<String> known = Arrays.asList("state", "sha256", "tries", "rejected");
            String state = (String) data.get("state");
            String sha256 = (String) data.get("sha256");
            Object rejected = data.containsKey("rejected") ? data.get("rejected") : "";
            long tries = data.containsKey("tries") ? ((Json.Number) data.get("tries")).toLong() : 0;
            if (known.containsAll(data.keySet()) && state != null && sha256 != null
                    && rejected != null) {
                return new State(state, sha256, tries, (String) rejected);
            }
        } catch (ClassCastException | NullPointerException | ModelFileException error) {
            // said below
        }
        return new State("trying", SetManifest.record(model).sha256, 0, "");
    }

    private static File beside(File file, String suffix) {
        return new File(file.getParentFile(), file.getName() + suffix);
    }

    /** A second name for a file, or a copy where the file system has no links. */
    private static void keep(File file, File second) throws IOException {
        if (!SystemFiles.link(file, second)) {
            copy(file, second);
            SystemFiles.copyPermissions(file, second);
        }
    }

    private static void copy(File source, File target) throws IOException {
        FileInputStream in = new FileInputStream(source);
        try {
            FileOutputStream out = new FileOutputStream(target);
            try {
                byte[] part = new byte[1 << 16];
                for (int size; (size = in.read(part)) > 0; ) {
                    out.write(part, 0, size);
                }
            } finally {
                out.close();
            }
        } finally {
            in.close();
        }
    }

    private static void write(File file, byte[] data) throws IOException {
        FileOutputStream out = new FileOutputStream(file);
        try {
            out.write(data);
        } finally {
            out.close();
        }
    }
}
