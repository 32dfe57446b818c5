package ondevice.ctr;

import java.util.Arrays;
import java.util.List;

/** One field of the feature specification: how raw values become IDs (ondevice/features.py). */
final class Field {
    static final long PADDING_ID = 0;
    static final long OOV_ID = 1;
    static final long FIRST_VOCABULARY_ID = 2;
    static final long MISSING_BUCKET_ID = 1;
    static final long FIRST_BUCKET_ID = 2;
    static final int MOST_LENGTH = 4096;
    static final int MOST_GROUPS = 16;

    final String name;
    final String kind;
    final String encoding;
    final long seed;
    final long[][] vocabulary; // hashes, ascending in each group; null: not in the file
    final int hashBits; // of each hash of the vocabulary, the highest ones
    final boolean keepsUnknown; // a value outside the vocabulary keeps its hash as ID
    final double[] boundaries; // ascending; null: none
    final int length; // of a sequence; 0: a single value
    final Cells cells; // how texts are read; null: a text is a string as it is

    Field(String name, String kind, String encoding, long seed, long[][] vocabulary, int hashBits,
            String unknown, double[] boundaries, int length, Cells cells) {
        this.name = name;
        this.kind = kind;
        this.encoding = encoding;
        this.seed = seed;
        this.vocabulary = vocabulary;
        this.hashBits = hashBits;
        this.keepsUnknown = unknown.equals("hash");
        this.boundaries = boundaries;
        this.length = length;
        this.cells = cells;
        boolean known = Arrays.asList("string", "integer", "number").contains(kind)
                && Arrays.asList("hash", "vocabulary", "id", "bucket").contains(encoding);
        if (name.isEmpty() || !known || encoding.equals("id") && !kind.equals("integer")
                || encoding.equals("bucket") != kind.equals("number")
                || vocabulary != null && !encoding.equals("vocabulary")
                || !(unknown.equals("oov") || keepsUnknown && encoding.equals("vocabulary"))
                || boundaries != null && !encoding.equals("bucket")
                || hashBits < 1 || hashBits > 64
                || length < 0 || length > MOST_LENGTH || length > 0 && encoding.equals("bucket")) {
            throw new ModelFileException("feature '" + name + "': " + kind + ", " + encoding
                    + ", length " + length + " do not go together");
        }
        checkVocabulary();
        for (int i = 0; boundaries != null && i < boundaries.length; i++) {
            double low = i == 0 ? Double.NEGATIVE_INFINITY : boundaries[i - 1];
            if (!(boundaries[i] > low) || Double.isInfinite(boundaries[i])) {
                throw new ModelFileException("feature '" + name + "': boundaries not ascending");
            }
        }
    }

    private void checkVocabulary() {
        int groups = vocabulary == null ? 0 : vocabulary.length;
        for (int g = 0; g < groups; g++) {
            long[] group = vocabulary[g];
            for (int i = 1; i < group.length; i++) {
                if (group[i] <= group[i - 1]) {
                    throw new ModelFileException("feature '" + name
                            + "': vocabulary not ascending");
                }
            }
            if (group.length > 0 && hashBits < 64 && (group[0] < -(1L << hashBits - 1)
                    || group[group.length - 1] >= 1L << hashBits - 1)) {
                throw new ModelFileException("feature '" + name + "': hashes of more than "
                        + hashBits + " bits");
            }
            for (int before = 0; before < g; before++) {
                if (shareHash(vocabulary[before], group)) {
                    throw new ModelFileException("feature '" + name
                            + "': a hash is in two groups of its vocabulary");
                }
            }
        }
    }

    private static boolean shareHash(long[] a, long[] b) {
        for (int i = 0, j = 0; i < a.length && j < b.length;) {
            if (a[i] == b[j]) {
                return true;
            }
            if (a[i] < b[j]) {
                i++;
            } else {
                j++;
            }
        }
        return false;
    }

    /** How many rows raw values are. */
    static int rows(Object values) {
        return values instanceof long[] ? ((long[]) values).length
                : values instanceof double[] ? ((double[]) values).length
                : values instanceof String[] ? ((String[]) values).length
                : ((List<?>) values).size();
    }

    /** IDs of raw values: [rows], or [rows, length] of a sequence. Throws InputException. */
    long[] encode(Object values) {
        int rows = rows(values);
        if (length == 0) {
            long[] out = new long[rows];
            for (int i = 0; i < rows; i++) {
                out[i] = values instanceof long[] && !hasForm() ? ofInteger(((long[]) values)[i])
                        : encodeOne(at(values, i), i);
            }
            return out;
        }
        if ((long) rows * length > Integer.MAX_VALUE) {
            throw new InputException("field '" + name + "': too many rows in one request");
        }
        long[] out = new long[rows * length]; // filled up with PADDING_ID
        for (int i = 0; i < rows; i++) {
            Object row = at(values, i);
            if (row instanceof String && cells != null) {
                row = cells.split((String) row);
            }
            if (row == null || isNan(row)) {
                continue;
            }
            if (!(row instanceof List)) {
                throw wrong("a list of values", row, i);
            }
            List<?> items = (List<?>) row;
            int skipped = Math.max(0, items.size() - length); // the last ones count
            for (int j = skipped; j < items.size(); j++) {
                out[i * length + j - skipped] = encodeOne(items.get(j), i);
            }
        }
        return out;
    }

    private boolean hasForm() {
        return cells != null && cells.form != null;
    }

    private static Object at(Object values, int i) {
        return values instanceof String[] ? ((String[]) values)[i]
                : values instanceof double[] ? Double.valueOf(((double[]) values)[i])
                : values instanceof long[] ? Long.valueOf(((long[]) values)[i])
                : ((List<?>) values).get(i);
    }

    private static boolean isNan(Object value) {
        return value instanceof Double && ((Double) value).isNaN()
                || value instanceof Float && ((Float) value).isNaN();
    }

    private long encodeOne(Object given, int row) {
        Object value = given;
        if (given instanceof String && cells != null) {
            try {
                value = cells.value((String) given, kind);
            } catch (NumberFormatException error) {
                throw wrong(error.getMessage(), given, row);
            }
        }
        if (hasForm() && given != null && !(given instanceof String) && !isNan(given)) {
            try {
                value = cells.typed(given);
            } catch (NumberFormatException error) {
                throw wrong(error.getMessage(), given, row);
            }
        }
        boolean whole = value instanceof Long || value instanceof Integer || value instanceof Short
                || value instanceof Byte;
        if (kind.equals("number")) {
            if (value != null && !whole && !(value instanceof Double) && !(value instanceof Float)) {
                throw wrong("numbers", value, row);
            }
            return bucket(value == null ? Double.NaN : ((java.lang.Number) value).doubleValue());
        }
        if (value == null || isNan(value)) {
            return PADDING_ID;
        }
        if (kind.equals("integer")) {
            if (!whole) {
                throw wrong("integers", value, row);
            }
            return ofInteger(((java.lang.Number) value).longValue());
        }
        if (!(value instanceof String)) {
            throw wrong("strings", value, row);
        }
        try {
            return ofHash(XxHash64.hash((String) value, seed));
        } catch (InputException error) {
            throw new InputException("field '" + name + "', value " + row + ": "
                    + error.getMessage());
        }
    }

    private long ofInteger(long value) {
        switch (kind) {
            case "number":
                return bucket(value);
            case "integer":
                return encoding.equals("id") ? value : ofHash(XxHash64.hash(value, seed));
            default:
                throw new InputException("field '" + name + "': expected strings, got integers");
        }
    }

    private long ofHash(long hash) {
        if (encoding.equals("hash")) {
            return hash;
        }
        if (vocabulary == null) {
            throw new InputException("field '" + name + "': its vocabulary is not in this file; "
                    + "give IDs, or convert with the vocabulary included");
        }
        long first = FIRST_VOCABULARY_ID;
        for (long[] group : vocabulary) {
            int place = Arrays.binarySearch(group, hash >> 64 - hashBits);
            if (place >= 0) {
                return first + place;
            }
            first += group.length;
        }
        return keepsUnknown ? hash : OOV_ID;
    }

    /** 2 + how many boundaries are less than or equal to the number. */
    private long bucket(double number) {
        if (boundaries == null) {
            throw new InputException("field '" + name
                    + "': its bucket boundaries are not in this file");
        }
        if (Double.isNaN(number)) {
            return MISSING_BUCKET_ID;
        }
        int low = 0;
        int high = boundaries.length;
        while (low < high) {
            int middle = (low + high) >>> 1;
            if (boundaries[middle] <= number) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        return low + FIRST_BUCKET_ID;
    }

    private InputException wrong(String expected, Object value, int row) {
        String text = String.valueOf(value);
        return new InputException("field '" + name + "': expected " + expected + ", got "
                + (value == null ? "null" : value.getClass().getSimpleName()) + " "
                + (text.length() > 40 ? text.substring(0, 37) + "..." : text) + " at " + row);
    }
}
