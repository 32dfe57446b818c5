package ondevice.ctr;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Opens only models of sets that a trusted key signed ({@code ondevice sign}), that have not
 * expired, and that are not older than the newest one opened before. The file is copied into memory,
 * checked there, and runs from there.
 *
 * <p>Keep the state file where only the app can write, and use one for each model that is updated on
 * its own. One process at a time may use it.
 */
public final class SignedModels {
    private static final int DIGEST_BYTES = 33; // a flag and a SHA-256
    private static final int MOST_BYTES = 1 << 23; // a root inside a state takes more than alone
    private static final String BEGIN = "-----BEGIN PUBLIC KEY-----";
    private static final String END = "-----END PUBLIC KEY-----";
    // A public key in DER (RFC 8410) is this, before its 32 bytes.
    private static final byte[] PREFIX = {0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0};

    private final byte[] keys; // 32 bytes each; null: a root is trusted
    private final byte[] root; // as C reads it
    private final String rootText;
    private final File stateFile;

    private SignedModels(byte[] keys, byte[] root, String rootText, File stateFile) {
        this.keys = keys;
        this.root = root;
        this.rootText = rootText;
        this.stateFile = stateFile;
    }

    /** What the app remembers between runs, as Python writes it too. */
    private static final class State {
        long version;
        List<String> keyids = new ArrayList<String>();
        String root;
        String manifest = ""; // SHA-256 of the signed content of that version; empty: not known
    }

    /**
     * Trust whatever any of the keys in a PEM file ({@code .key.pub}) signed.
     *
     * @throws ModelFileException something else than public keys of Ed25519
     */
    public static SignedModels ofKeys(String pem, File stateFile) {
        Native.load();
        List<byte[]> keys = new ArrayList<byte[]>();
        String left = pem.trim();
        while (left.startsWith(BEGIN) && left.contains(END)) {
            int end = left.indexOf(END);
            String text = left.substring(BEGIN.length(), end).replaceAll("[\r\n]", "");
            ByteBuffer bytes = Base64.decode(text);
            byte[] key = new byte[bytes.remaining()];
            bytes.get(key);
            if (key.length != PREFIX.length + 32
                    || !Arrays.equals(PREFIX, Arrays.copyOf(key, PREFIX.length))) {
                throw new ModelFileException("a public key of another kind than Ed25519");
            }
            keys.add(Arrays.copyOfRange(key, PREFIX.length, key.length));
            left = left.substring(end + END.length()).trim();
        }
        if (keys.isEmpty() || !left.isEmpty()) {
            throw new ModelFileException("expected public keys as PEM, and nothing else");
        }
        ByteBuffer all = ByteBuffer.allocate(32 * keys.size());
        for (byte[] key : keys) {
            all.put(key);
        }
        return new SignedModels(all.array(), null, null, stateFile);
    }

    /**
     * Trust what a root document ({@code 1.root.json}) says, and the ones that replace it.
     *
     * @throws ModelFileException no root document
     * @throws UntrustedModelException one that its own keys have not signed
     */
    public static SignedModels ofRoot(byte[] document, File stateFile) {
        Native.load();
        byte[] root = new byte[Native.rootBytes()];
        readRoot("the root", document, false, root);
        return new SignedModels(null, root, new String(document, Native.UTF_8), stateFile);
    }

    /**
     * Open a model file beside its {@code manifest.json}, by the clock of the system.
     *
     * @throws UntrustedModelException not signed by whom it must be, expired, or too old
     * @throws ModelFileException missing, damaged, or not as signed; or the state file is damaged
     * @throws UnsupportedModelException as {@link OnDeviceModel#open(File)}
     */
    public OnDeviceModel open(File file) {
        return open(file, System.currentTimeMillis() / 1000);
    }

    /** The same by another clock: {@code now} is in seconds since 1970. */
    public OnDeviceModel open(File file, long now) {
        synchronized (SignedModels.class) {
            State state = readState();
            File folder = file.getAbsoluteFile().getParentFile();
            byte[] manifest = read(new File(folder, SetManifest.NAME));
            OnDeviceModel model = open(file, file.getName(), manifest, folder, now, state);
            try {
                writeState(state);
            } catch (RuntimeException | Error failure) {
                model.close();
                throw failure;
            }
            return model;
        }
    }

    /** Open a file that is to get a name in a folder, by a manifest of its own; nothing is remembered. */
    OnDeviceModel openDraft(File file, String name, byte[] manifest, File folder) {
        synchronized (SignedModels.class) {
            return open(file, name, manifest, folder, System.currentTimeMillis() / 1000, readState());
        }
    }

    /** Open a file that the manifest lists under a name; the state becomes what it is afterwards. */
    private OnDeviceModel open(File file, String name, byte[] manifest, File folder, long now,
            State state) {
        byte[] signers = keys;
        int threshold = 1;
        if (keys == null) {
            byte[] newest = newestRoot(state, folder, now);
            threshold = (int) facts(newest)[2];
            signers = Native.rootKeys(newest);
        }
        List<String> keyids = keyids(signers);
        // the thief of a withdrawn key could have signed the highest version there is
        long least = keyids.containsAll(state.keyids) ? state.version : 0;
        byte[] error = new byte[Native.ERROR_BYTES];
        long[] version = {least};
        byte[] digest = least > 0 ? flagged(state.manifest) : new byte[DIGEST_BYTES];
        String path = file.getPath();
        if (path.indexOf('\0') >= 0) {
            throw new ModelFileException("a path with a zero character: no such file");
        }
        RowThreads sharing = new RowThreads(1);
        long handle = Native.openSigned(path.getBytes(Native.UTF_8), name.getBytes(Native.UTF_8),
                manifest, signers, threshold, now, version, digest, error);
        OnDeviceModel model = OnDeviceModel.opened(handle, path, sharing, error);
        state.version = version[0];
        state.manifest = String.format("%064x", new BigInteger(1, Arrays.copyOfRange(digest, 1,
                DIGEST_BYTES)));
        state.keyids = keyids;
        return model;
    }

    /** A SHA-256 in hexadecimal as a flag, 1, and its bytes; zeros if there is none. */
    private static byte[] flagged(String text) {
        byte[] bytes = new byte[DIGEST_BYTES];
        if (!text.isEmpty()) {
            bytes[0] = 1;
            for (int i = 1; i < bytes.length; i++) {
                bytes[i] = (byte) Integer.parseInt(text.substring(2 * i - 2, 2 * i), 16);
            }
        }
        return bytes;
    }

    /** The newest root that is known, or that lies in the folder; it becomes the state's. */
    private byte[] newestRoot(State state, File folder, long now) {
        byte[] newest = root.clone();
        String text = rootText;
        if (state.root != null) {
            byte[] seen = new byte[root.length];
            readRoot(stateFile + ": root", state.root.getBytes(Native.UTF_8), false, seen);
            if (facts(seen)[0] > facts(newest)[0]) {
                newest = seen;
                text = state.root;
            }
        }
        while (true) {
            File file = new File(folder, (facts(newest)[0] + 1) + ".root.json");
            if (!file.exists()) {
                break;
            }
            byte[] document = read(file);
            readRoot(file.getPath(), document, true, newest);
            text = new String(document, Native.UTF_8);
        }
        if (now > facts(newest)[1]) {
            throw new UntrustedModelException("version " + facts(newest)[0]
                    + " of the root has expired");
        }
        state.root = text;
        return newest;
    }

    private static void readRoot(String where, byte[] text, boolean next, byte[] root) {
        byte[] error = new byte[Native.ERROR_BYTES];
        if (Native.readRoot(text, next, root, error) != 0) {
            throw Native.failure(where, error);
        }
    }

    private static long[] facts(byte[] root) {
        long[] facts = new long[3];
        Native.rootFacts(root, facts);
        return facts;
    }

    private static List<String> keyids(byte[] keys) {
        try {
            List<String> out = new ArrayList<String>();
            for (int at = 0; at < keys.length; at += 32) {
                MessageDigest hash = MessageDigest.getInstance("SHA-256");
                hash.update(keys, at, 32);
                StringBuilder text = new StringBuilder();
                for (byte one : hash.digest()) {
                    text.append(Character.forDigit(one >> 4 & 15, 16));
                    text.append(Character.forDigit(one & 15, 16));
                }
                out.add(text.toString());
            }
            Collections.sort(out);
            return out;
        } catch (NoSuchAlgorithmException error) {
            throw new OnDeviceException("this system has no SHA-256", error);
        }
    }

    private State readState() {
        State state = new State();
        if (!stateFile.exists()) {
            return state;
        }
        try {
            Object read = Json.parse(new String(read(stateFile), Native.UTF_8));
            Map<?, ?> data = (Map<?, ?>) read;
            long format = ((Json.Number) data.get("format")).toLong();
            if (format < 1 || format > 2 || data.size() != 4 + format
                    || !"ondevice trust state".equals(data.get("kind"))) {
                throw new ModelFileException("not a state of signed models");
            }
            state.manifest = format == 1 ? "" : (String) data.get("manifest");
            if (!state.manifest.matches("([0-9a-f]{64})?")) {
                throw new ModelFileException("not a SHA-256");
            }
            state.version = ((Json.Number) data.get("version")).toLong();
            for (Object keyid : (Collection<?>) data.get("keyids")) {
                state.keyids.add((String) keyid);
            }
            state.root = (String) data.get("root");
            if (state.version < 1) {
                throw new ModelFileException("a version below 1");
            }
            return state;
        } catch (ClassCastException error) {
            throw new ModelFileException(stateFile + ": not a state of signed models");
        } catch (NullPointerException error) {
            throw new ModelFileException(stateFile + ": not a state of signed models");
        } catch (ModelFileException error) {
            throw new ModelFileException(stateFile + ": " + error.getMessage());
        }
    }

    private void writeState(State state) {
        Map<String, Object> data = new LinkedHashMap<String, Object>();
        data.put("kind", "ondevice trust state");
        data.put("format", 2);
        data.put("version", state.version);
        data.put("keyids", state.keyids);
        data.put("root", state.root);
        data.put("manifest", state.manifest);
        byte[] text = Json.write(data).getBytes(Native.UTF_8);
        if (stateFile.exists() && Arrays.equals(text, read(stateFile))) {
            return;
        }
        File fresh = new File(stateFile.getPath() + ".new");
        try {
            FileOutputStream out = new FileOutputStream(fresh);
            try {
                out.write(text);
                out.getFD().sync(); // its bytes before its name
            } finally {
                out.close();
            }
        } catch (IOException error) {
            throw new OnDeviceException(stateFile + ": cannot be written: " + error.getMessage());
        }
        if (!fresh.renameTo(stateFile)) {
            throw new OnDeviceException(stateFile + ": cannot be replaced");
        }
        try {
            SystemFiles.sync(stateFile.getAbsoluteFile().getParentFile()); // its name, too
        } catch (IOException error) {
            throw new OnDeviceException(stateFile + ": cannot be written: " + error.getMessage());
        }
    }

    /** A small file. Throws ModelFileException. */
    private static byte[] read(File file) {
        try {
            FileInputStream in = new FileInputStream(file);
            try {
                ByteArrayOutputStream data = new ByteArrayOutputStream();
                byte[] part = new byte[1 << 14];
                int got;
                while ((got = in.read(part)) > 0) {
                    data.write(part, 0, got);
                    if (data.size() > MOST_BYTES) {
                        throw new ModelFileException(file + ": is too large");
                    }
                }
                return data.toByteArray();
            } finally {
                in.close();
            }
        } catch (IOException error) {
            throw new ModelFileException(file + ": cannot be read: " + error.getMessage());
        }
    }
}
