package ondevice.ctr;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Reads the description inside a model file (ondevice/info.py): inputs, features, test vectors.
 * It comes from outside, so every type and size is checked.
 */
final class ModelInfo {
    private static final long NEWEST_VERSION = 2;
    private static final List<String> FIELD_KEYS = Arrays.asList("name", "kind", "encoding", "seed",
            "vocabulary", "vocabulary_of", "hash_bits", "boundaries", "length", "unknown",
            "cells");
    private static final List<String> CELL_KEYS = Arrays.asList("missing", "separator", "column",
            "part", "form", "utc_offset");
    private static final List<String> FORMS = Arrays.asList("boolean", "iso", "seconds",
            "milliseconds");
    private static final List<String> SHORT_PARTS = Arrays.asList("hour", "weekday");
    private static final List<String> PARTS = Arrays.asList("hour", "weekday", "day", "month");

    final List<String> inputs = new ArrayList<String>();
    final List<Boolean> floats = new ArrayList<Boolean>(); // whether they take numbers
    final List<long[]> lowest = new ArrayList<long[]>(); // IDs by element; or one for all
    final List<long[]> highest = new ArrayList<long[]>();
    final List<Integer> rowSizes = new ArrayList<Integer>();
    final List<String> outputs = new ArrayList<String>();
    final Map<String, Field> fields = new LinkedHashMap<String, Field>();
    final Map<String, String> madeBy = new LinkedHashMap<String, String>();
    final Map<String, Object> testInputs = new HashMap<String, Object>(); // long[] or float[]
    final List<Ranking> rankings = new ArrayList<Ranking>();
    final Map<String, float[]> testOutputs = new LinkedHashMap<String, float[]>(); // none: no tests
    double tolerance;
    private final AttachedArrays arrays;

    /** The source model's scores of candidates, taken from the first rows of the test inputs. */
    static final class Ranking {
        final Set<String> context; // inputs whose first row is the context
        final int rows;
        final Map<String, float[]> outputs;

        Ranking(Set<String> context, int rows, Map<String, float[]> outputs) {
            this.context = context;
            this.rows = rows;
            this.outputs = outputs;
        }
    }

    /** Read it: JSON, and in version 2 a zero byte and arrays. Throws ModelFileException. */
    ModelInfo(byte[] description) {
        int size = AttachedArrays.textBytes(description);
        arrays = new AttachedArrays(description);
        String text = new String(description, 0, size, Native.UTF_8);
        Map<String, Object> data = map(Json.parse(text), "description");
        long version = number(data, "version").toLong();
        if (version < 1 || version > NEWEST_VERSION) {
            throw new ModelFileException("model description version " + version
                    + "; this release reads versions 1 to " + NEWEST_VERSION);
        }
        for (Object item : list(data, "inputs")) {
            readInput(map(item, "inputs"));
        }
        for (Object item : list(data, "outputs")) {
            outputs.add(text(item, "outputs"));
        }
        // an object says how a log is laid out too, which is of no use where no file is read
        Object spec = data.get("features");
        boolean laidOut = spec instanceof Map && ((Map<?, ?>) spec).get("fields") instanceof List;
        for (Object item : laidOut ? list(map(spec, "features"), "fields")
                : list(data, "features")) {
            readField(map(item, "features"));
        }
        for (Map.Entry<String, Object> entry : map(data.get("made_by"), "made_by").entrySet()) {
            madeBy.put(entry.getKey(), text(entry.getValue(), "made_by"));
        }
        if (data.get("vectors") != null && !outputs.isEmpty()) {
            readVectors(map(data.get("vectors"), "vectors"));
        }
    }

    private void readInput(Map<String, Object> item) {
        inputs.add(text(item.get("name"), "inputs: name"));
        floats.add(isFloat(item));
        long size = 1;
        List<Object> shape = list(item, "shape");
        for (Object extent : shape.subList(Math.min(1, shape.size()), shape.size())) {
            size *= integer(extent, "inputs: shape");
            if (size < 1 || size > Integer.MAX_VALUE) {
                throw new ModelFileException("description: inputs: shape " + shape);
            }
        }
        rowSizes.add((int) size);
        readLimits(item);
    }

    private static boolean isFloat(Map<String, Object> item) {
        String dtype = textOr(item, "dtype", "int64");
        if (!dtype.equals("int64") && !dtype.equals("float32")) {
            throw new ModelFileException("description: dtype " + dtype);
        }
        return dtype.equals("float32");
    }

    /** The legal IDs of every element of a row, which the engine checks. */
    private void readLimits(Map<String, Object> item) {
        Object limit = item.get("id_limit");
        Object low = item.containsKey("id_low") ? item.get("id_low") : new Json.Number("0");
        int count = limit instanceof List ? ((List<?>) limit).size()
                : low instanceof List ? ((List<?>) low).size() : 1;
        long[] lows = new long[count];
        long[] highs = new long[count];
        for (int i = 0; i < count; i++) {
            Object most = limit instanceof List ? ((List<?>) limit).get(i) : limit;
            Object least = low instanceof List ? ((List<?>) low).get(i) : low;
            lows[i] = most == null ? Long.MIN_VALUE : integer(least, "inputs: id_low");
            // 2^63 is the limit of IDs up to Long.MAX_VALUE
            highs[i] = most == null ? Long.MAX_VALUE
                    : most.toString().equals("9223372036854775808") ? Long.MAX_VALUE
                    : integer(most, "inputs: id_limit") - 1;
        }
        lowest.add(lows);
        highest.add(highs);
    }

    private void readField(Map<String, Object> item) {
        for (String key : item.keySet()) {
            if (!FIELD_KEYS.contains(key)) {
                throw new ModelFileException("description: features: unknown key " + key);
            }
        }
        String name = text(item.get("name"), "features: name");
        Object stored = item.get("vocabulary");
        Object owner = item.get("vocabulary_of");
        long bits = item.containsKey("hash_bits") ? number(item, "hash_bits").toLong() : 64;
        if (bits < 1 || bits > 64) {
            throw new ModelFileException("feature '" + name + "': hash_bits must be 1..64");
        }
        long[][] vocabulary = stored == null ? null : groups(stored, name, (int) bits);
        if (owner != null) {
            Field other = fields.get(text(owner, "vocabulary_of"));
            if (other == null || vocabulary != null) {
                throw new ModelFileException("features: no field '" + owner
                        + "' to take the vocabulary of");
            }
            vocabulary = other.vocabulary;
        }
        Object bounds = item.get("boundaries");
        Object length = item.get("length");
        long most = length == null ? 0 : integer(length, "features: length");
        if (length != null && (most < 1 || most > Field.MOST_LENGTH) || fields.containsKey(name)) {
            throw new ModelFileException("feature '" + name + "' is given twice, or its length is "
                    + "not 1.." + Field.MOST_LENGTH);
        }
        Object seed = item.get("seed");
        if (seed != null && !(seed instanceof Json.Number)) {
            throw new ModelFileException("feature '" + name + "': seed must be an integer");
        }
        fields.put(name, new Field(name, textOr(item, "kind", "string"),
                textOr(item, "encoding", "hash"),
                seed == null ? 0 : ((Json.Number) seed).toUnsignedLong(), vocabulary,
                (int) bits,
                textOr(item, "unknown", "oov"),
                bounds == null ? null
                        : bounds instanceof Map ? arrays.doubles(map(bounds, "boundaries"))
                        : Base64.doubles(text(bounds, "boundaries")), (int) most,
                item.get("cells") == null ? null : cells(map(item.get("cells"), "cells"))));
    }

    /** A vocabulary's hashes: one group, or a list of groups that are not empty. */
    private long[][] groups(Object stored, String name, int bits) {
        if (!(stored instanceof List)) {
            return new long[][] {hashes(stored, bits)};
        }
        List<?> items = (List<?>) stored;
        if (items.isEmpty() || items.size() > Field.MOST_GROUPS) {
            throw new ModelFileException("feature '" + name + "': its vocabulary must have 1 to "
                    + Field.MOST_GROUPS + " groups");
        }
        long[][] groups = new long[items.size()][];
        for (int i = 0; i < groups.length; i++) {
            groups[i] = hashes(items.get(i), bits);
            if (groups[i].length == 0) {
                throw new ModelFileException("feature '" + name + "': an empty group");
            }
        }
        return groups;
    }

    private long[] hashes(Object stored, int bits) {
        return stored instanceof Map ? arrays.hashes(map(stored, "vocabulary"), bits)
                : Base64.longs(text(stored, "vocabulary"));
    }

    private static Cells cells(Map<String, Object> item) {
        for (String key : item.keySet()) {
            if (!CELL_KEYS.contains(key)) {
                throw new ModelFileException("description: cells: unknown key " + key);
            }
        }
        List<String> missing = new ArrayList<String>();
        for (Object marker : list(item, "missing")) {
            missing.add(text(marker, "cells: missing"));
        }
        String separator = textOr(item, "separator", "|");
        if (separator.isEmpty()) {
            throw new ModelFileException("description: cells: empty separator");
        }
        String part = item.get("part") == null ? null : text(item.get("part"), "cells: part");
        String form = item.get("form") == null ? null : text(item.get("form"), "cells: form");
        long offset = item.get("utc_offset") == null ? 0
                : number(item, "utc_offset").toLong();
        if (form != null && !FORMS.contains(form)
                || part != null && !(form == null ? SHORT_PARTS : PARTS).contains(part)
                || part != null && "boolean".equals(form)
                || offset != 0 && (part == null || form == null || Math.abs(offset) >= 24 * 60)) {
            throw new ModelFileException("description: cells: form " + form + ", part " + part
                    + " and utc_offset " + offset + " do not go together");
        }
        return new Cells(missing, separator, part, form, offset);
    }

    private void readVectors(Map<String, Object> vectors) {
        tolerance = number(vectors, "tolerance").toDouble();
        Map<String, Object> given = map(vectors.get("inputs"), "vectors");
        for (Map.Entry<String, Object> entry : given.entrySet()) {
            testInputs.put(entry.getKey(), testInput(map(entry.getValue(), "vectors")));
        }
        Map<String, Object> expected = map(vectors.get("outputs"), "vectors");
        for (String name : outputs) {
            if (expected.get(name) != null) {
                testOutputs.put(name, floats(expected.get(name)));
            }
        }
        if (vectors.containsKey("rankings")) { // files of older releases have none
            for (Object item : list(vectors, "rankings")) {
                readRanking(map(item, "rankings"), given, expected.keySet());
            }
        }
    }

    private void readRanking(Map<String, Object> item, Map<String, Object> given,
            Set<String> scored) {
        Set<String> context = new HashSet<String>();
        for (Object name : list(item, "context")) {
            context.add(text(name, "rankings: context"));
        }
        Map<String, Object> expected = map(item.get("outputs"), "rankings: outputs");
        if (!given.keySet().containsAll(context) || !expected.keySet().equals(scored)) {
            throw new ModelFileException("description: rankings: context " + context
                    + ", outputs " + expected.keySet() + ": other names than the test vectors'");
        }
        Map<String, float[]> scores = new LinkedHashMap<String, float[]>();
        long rows = 0;
        for (String name : testOutputs.keySet()) {
            Object output = expected.get(name);
            List<Object> shape = list(map(output, "rankings"), "shape");
            long height = shape.isEmpty() ? 0 : integer(shape.get(0), "rankings: shape");
            if (!scores.isEmpty() && height != rows) {
                throw new ModelFileException("description: rankings: outputs differ in rows");
            }
            rows = height;
            scores.put(name, floats(output));
            checkRows(rows, scores.get(name).length);
        }
        if (!scores.isEmpty()) {
            rankings.add(new Ranking(context, (int) rows, scores));
        }
    }

    /** The rows of ranked scores are the first ones of all test inputs. */
    private void checkRows(long rows, int scores) {
        for (int i = 0; i < inputs.size(); i++) {
            Object values = testInputs.get(inputs.get(i));
            int most = values == null ? 0 : Values.count(values) / rowSizes.get(i);
            if (rows < 1 || rows > most || scores % rows != 0) {
                throw new ModelFileException("description: rankings: " + rows + " rows of "
                        + scores + " scores, where the test inputs have " + most + " rows");
            }
        }
    }

    /** An array of test inputs: long[] or float[]; of version 1 in base64. */
    private Object testInput(Map<String, Object> array) {
        if (array.containsKey("at")) {
            return "F32".equals(array.get("dtype")) ? arrays.floats(array)
                    : (Object) arrays.longs(array);
        }
        String data = text(array.get("data"), "vectors: data");
        return isFloat(array) ? Base64.floats(data) : (Object) Base64.longs(data);
    }

    private float[] floats(Object array) {
        Map<String, Object> item = map(array, "vectors");
        return item.containsKey("at") ? arrays.floats(item)
                : Base64.floats(text(item.get("data"), "vectors: data"));
    }

    @SuppressWarnings("unchecked")
    private static Map<String, Object> map(Object value, String where) {
        if (value instanceof Map) {
            return (Map<String, Object>) value;
        }
        throw new ModelFileException("description: " + where + ": expected an object");
    }

    @SuppressWarnings("unchecked")
    private static List<Object> list(Map<String, Object> data, String name) {
        if (data.get(name) instanceof List) {
            return (List<Object>) data.get(name);
        }
        throw new ModelFileException("description: " + name + ": expected a list");
    }

    private static String text(Object value, String where) {
        if (value instanceof String) {
            return (String) value;
        }
        throw new ModelFileException("description: " + where + ": expected a text");
    }

    private static String textOr(Map<String, Object> item, String name, String otherwise) {
        return item.containsKey(name) ? text(item.get(name), name) : otherwise;
    }

    private static Json.Number number(Map<String, Object> data, String name) {
        if (data.get(name) instanceof Json.Number) {
            return (Json.Number) data.get(name);
        }
        throw new ModelFileException("description: " + name + ": expected a number");
    }

    private static long integer(Object value, String where) {
        if (value instanceof Json.Number) {
            return ((Json.Number) value).toLong();
        }
        throw new ModelFileException("description: " + where + ": expected an integer");
    }
}
