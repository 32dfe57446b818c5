package ondevice.ctr;

import java.util.List;

/** Turns the values given for one input into what the engine takes: long[] IDs or float[] numbers. */
final class Values {
    private Values() {}

    /** The array of values given as the model takes them. Throws InputException. */
    static Object direct(String name, boolean isFloat, Object given) {
        if (isFloat) {
            return given instanceof long[] ? ofLongs((long[]) given)
                    : given instanceof boolean[] ? ofBooleans((boolean[]) given) : given;
        }
        if (given instanceof long[]) {
            return given;
        }
        throw new InputException("input '" + name + "': expected integer IDs, got "
                + given.getClass().getSimpleName());
    }

    /** IDs as an input takes them that is of numbers. */
    static float[] ofLongs(long[] values) {
        float[] out = new float[values.length];
        for (int i = 0; i < out.length; i++) {
            out[i] = values[i];
        }
        return out;
    }

    private static float[] ofBooleans(boolean[] values) {
        float[] out = new float[values.length];
        for (int i = 0; i < out.length; i++) {
            out[i] = values[i] ? 1 : 0;
        }
        return out;
    }

    /**
     * Raw values of an input of numbers that no specification turns into IDs: the numbers.
     *
     * @param rowSize numbers in a row; of more than one, a list holds a row as lists
     * @throws InputException texts, missing values, rows of another size, a number beyond float32
     */
    static float[] ofNumbers(String name, int rowSize, Object raw) {
        if (raw instanceof long[]) {
            return ofLongs((long[]) raw);
        }
        if (raw instanceof double[]) {
            double[] values = (double[]) raw;
            float[] out = new float[values.length];
            for (int i = 0; i < out.length; i++) {
                out[i] = narrow(name, values[i]);
            }
            return out;
        }
        if (raw instanceof String[]) {
            throw new InputException("input '" + name + "': expected numbers, got texts");
        }
        List<?> rows = (List<?>) raw;
        if ((long) rows.size() * rowSize > Integer.MAX_VALUE) {
            throw new InputException("input '" + name + "': too many rows in one request");
        }
        float[] out = new float[rows.size() * rowSize];
        for (int row = 0; row < rows.size(); row++) {
            int end = fill(name, out, row * rowSize, (row + 1) * rowSize, rows.get(row));
            if (end != (row + 1) * rowSize) {
                throw wrong(name, rowSize, rows.get(row));
            }
        }
        return out;
    }

    /** Write the numbers of a row, or of a list inside it, and return where they end. */
    private static int fill(String name, float[] out, int from, int end, Object value) {
        if (value instanceof List) {
            int at = from;
            for (Object item : (List<?>) value) {
                at = fill(name, out, at, end, item);
            }
            return at;
        }
        boolean number = value instanceof java.lang.Number || value instanceof Boolean;
        if (!number || from >= end) {
            throw wrong(name, end - from, value);
        }
        out[from] = value instanceof Boolean ? (Boolean) value ? 1 : 0
                : value instanceof Double ? narrow(name, (Double) value)
                : value instanceof Float ? (Float) value
                : rounded(name, (java.lang.Number) value);
        return from + 1;
    }

    private static float narrow(String name, double value) {
        float number = (float) value;
        if (Float.isInfinite(number) && !Double.isInfinite(value)) {
            throw tooLarge(name, value);
        }
        return number;
    }

    /** A whole or decimal number, which may have any number of digits. */
    private static float rounded(String name, java.lang.Number value) {
        float number = value.floatValue();
        if (Float.isInfinite(number)) {
            throw tooLarge(name, value);
        }
        return number;
    }

    private static InputException tooLarge(String name, Object value) {
        return new InputException("input '" + name + "': " + shown(value)
                + " is too large for float32");
    }

    private static InputException wrong(String name, int expected, Object value) {
        return new InputException("input '" + name + "': expected " + expected + " numbers, got "
                + shown(value));
    }

    private static String shown(Object value) {
        String text = String.valueOf(value);
        return text.length() > 40 ? text.substring(0, 37) + "..." : text;
    }

    /** How many values there are. */
    static int count(Object array) {
        return array instanceof float[] ? ((float[]) array).length : ((long[]) array).length;
    }

    /** What the engine's buffer takes for them: a multiple of 8. */
    static long bytes(Object array) {
        return array instanceof float[] ? (count(array) * 4L + 7) / 8 * 8 : count(array) * 8L;
    }

    /** The first values, in an array of the same kind. */
    static Object first(Object array, int count) {
        return slice(array, 0, count);
    }

    /** Some of the values, in an array of the same kind. */
    static Object slice(Object array, int from, int count) {
        int to = from + count;
        return array instanceof float[] ? java.util.Arrays.copyOfRange((float[]) array, from, to)
                : (Object) java.util.Arrays.copyOfRange((long[]) array, from, to);
    }

    static Object copy(Object array) {
        return first(array, count(array));
    }
}
