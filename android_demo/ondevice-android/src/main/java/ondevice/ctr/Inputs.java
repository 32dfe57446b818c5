package ondevice.ctr;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * The values of a request, input by input: raw values, which the model's feature specification
 * turns into IDs, or IDs themselves.
 *
 * <pre>{@code
 * Inputs context = new Inputs().integers("user", 1).strings("city", "Paris");
 * Inputs candidates = new Inputs().integers("item", 4, 8, 15);
 * float[] scores = model.rank(context, candidates);
 * }</pre>
 *
 * <p>Arrays are not copied: do not change them, or this object, while a request uses them.
 */
public final class Inputs {
    final Map<String, Object> raw = new LinkedHashMap<String, Object>();
    /** As the model takes them: long[], float[] or boolean[]. */
    final Map<String, Object> direct = new LinkedHashMap<String, Object>();

    /** IDs as the model takes them, row after row: any 64-bit patterns, unless it has a limit. */
    public Inputs ids(String name, long... values) {
        return putDirect(name, values);
    }

    /** Numbers as a model takes them that takes numbers, row after row. */
    public Inputs floats(String name, float... values) {
        return putDirect(name, values);
    }

    /** Truth values for an input of numbers, row after row: 1 and 0. */
    public Inputs booleans(String name, boolean... values) {
        return putDirect(name, values);
    }

    /** A {@code long[]} as by {@link #ids}, or a {@code float[]} as by {@link #floats}. */
    public Inputs values(String name, Object array) {
        if (array != null && !(array instanceof long[]) && !(array instanceof float[])) {
            throw new InputException("input '" + name + "': expected long[] or float[], got "
                    + array.getClass().getSimpleName());
        }
        return putDirect(name, array);
    }

    /**
     * Raw texts, one a row, read as cells of the training log: a missing marker of that log is a
     * missing value, and so is {@code null}. In a model of a field that says nothing of texts,
     * which older releases wrote, they are strings as they are.
     */
    public Inputs strings(String name, String... values) {
        return put(name, values);
    }

    /** Raw integers, one a row; of an input of numbers as {@link #numbers}. */
    public Inputs integers(String name, long... values) {
        return put(name, values);
    }

    /**
     * Raw numbers; NaN is a missing value. An input of numbers for which the model specifies no
     * buckets takes them as they are, row after row.
     */
    public Inputs numbers(String name, double... values) {
        return put(name, values);
    }

    /**
     * Raw values of any kind, one a row: {@code String}; {@code Long}, {@code Integer},
     * {@code Short} or {@code Byte}; {@code Double} or {@code Float}; {@code null} for a missing
     * value; for a sequence a {@code List} of these, oldest first, or {@code null} for none. A
     * {@code String} is read as by {@link #strings}, NaN is a missing value. An input of numbers
     * without a specification takes numbers and {@code Boolean}s, and lists of as many as a row has.
     */
    public Inputs raw(String name, List<?> values) {
        return put(name, values);
    }

    /** Whether nothing was given. */
    public boolean isEmpty() {
        return raw.isEmpty() && direct.isEmpty();
    }

    private Inputs put(String name, Object values) {
        check(name, values);
        raw.put(name, values);
        return this;
    }

    private Inputs putDirect(String name, Object values) {
        check(name, values);
        direct.put(name, values);
        return this;
    }

    private void check(String name, Object values) {
        if (name == null || values == null) {
            throw new InputException("input " + name + ": no values");
        }
        if (raw.containsKey(name) || direct.containsKey(name)) {
            throw new InputException("input '" + name + "' is given twice");
        }
    }
}
