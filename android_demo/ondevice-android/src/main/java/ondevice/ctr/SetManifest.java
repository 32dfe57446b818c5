package ondevice.ctr;

import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.LinkedHashMap;
import java.util.Map;

/** What a manifest.json says of a set of files; who signed it is {@link SignedModels}' to check. */
final class SetManifest {
    static final String NAME = "manifest.json";
    static final int MOST_BYTES = 1 << 20;

    /** A file's bytes, and their SHA-256 in hexadecimal. */
    static final class Record {
        final long length;
        final String sha256;

        Record(long length, String sha256) {
            this.length = length;
            this.sha256 = sha256;
        }

        boolean matches(Record other) {
            return other != null && length == other.length && sha256.equals(other.sha256);
        }
    }

    final long version;
    final Map<String, Record> files = new LinkedHashMap<String, Record>();

    /** Read a manifest strictly. Throws ModelFileException, whose text begins with {@code where}. */
    SetManifest(byte[] data, String where) {
        if (data.length > MOST_BYTES) {
            throw new ModelFileException(where + ": larger than a manifest may be");
        }
        try {
            Map<?, ?> document = (Map<?, ?>) Json.parse(new String(data, Native.UTF_8));
            Map<?, ?> signed = (Map<?, ?>) document.get("signed");
            if (document.size() != 2 || !document.containsKey("signatures") || signed.size() != 5
                    || !signed.containsKey("expires")
                    || !"ondevice model set".equals(signed.get("kind"))
                    || ((Json.Number) signed.get("format")).toLong() != 1) {
                throw new ModelFileException("not the manifest of a set of models");
            }
            version = ((Json.Number) signed.get("version")).toLong();
            for (Map.Entry<?, ?> entry : ((Map<?, ?>) signed.get("files")).entrySet()) {
                String name = (String) entry.getKey();
                Map<?, ?> file = (Map<?, ?>) entry.getValue();
                String sha256 = (String) file.get("sha256");
                long length = ((Json.Number) file.get("length")).toLong();
                if (file.size() != 2 || !sha256.matches("[0-9a-f]{64}") || length < 0
                        || !isPlainName(name)) {
                    throw new ModelFileException("the record of a file is not as it must be");
                }
                files.put(name, new Record(length, sha256));
            }
            if (version < 1 || files.isEmpty()) {
                throw new ModelFileException("a version below 1, or no files");
            }
        } catch (ClassCastException | NullPointerException error) {
            throw new ModelFileException(where + ": not the manifest of a set of models");
        } catch (ModelFileException error) {
            throw new ModelFileException(where + ": " + error.getMessage());
        }
    }

    private static boolean isPlainName(String name) {
        return !name.isEmpty() && !name.equals(".") && !name.equals("..") && !name.equals(NAME)
                && name.getBytes(Native.UTF_8).length <= 255
                && !name.matches("(?s).*[\\x00-\\x1f\\x7f-\\x9f/\\\\:*?\"<>|].*");
    }

    /** Length and SHA-256 of a file. */
    static Record record(File file) throws IOException {
        FileInputStream in = new FileInputStream(file);
        try {
            MessageDigest hash = MessageDigest.getInstance("SHA-256");
            byte[] part = new byte[1 << 16];
            long length = 0;
            for (int size; (size = in.read(part)) > 0; length += size) {
                hash.update(part, 0, size);
            }
            StringBuilder text = new StringBuilder();
            for (byte one : hash.digest()) {
                text.append(Character.forDigit(one >> 4 & 15, 16));
                text.append(Character.forDigit(one & 15, 16));
            }
            return new Record(length, text.toString());
        } catch (NoSuchAlgorithmException error) {
            throw new OnDeviceException("this system has no SHA-256", error);
        } finally {
            in.close();
        }
    }

    /** A small file, as far as {@code most} bytes and one more. */
    static byte[] read(File file, int most) throws IOException {
        FileInputStream in = new FileInputStream(file);
        try {
            byte[] data = new byte[(int) Math.min(most + 1L, file.length() + 1)];
            int size = 0;
            for (int got; size < data.length
                    && (got = in.read(data, size, data.length - size)) > 0; ) {
                size += got;
            }
            return java.util.Arrays.copyOf(data, size);
        } finally {
            in.close();
        }
    }
}
