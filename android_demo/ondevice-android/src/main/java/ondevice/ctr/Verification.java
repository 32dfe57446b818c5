package ondevice.ctr;

import java.util.Arrays;

/** How far this engine is from the source model's outputs on a file's test vectors. Immutable. */
public final class Verification {
    private static final double MAGNITUDES = 4;
    private static final double SMALL_OUTPUT_FACTOR = 10;
    private static final double SMALLEST_SCALE = 0.03;

    /** Rows compared. */
    public final int rows;
    /**
     * The largest difference, in units of the output's scale, which is 1 for probabilities; NaN
     * when an output is NaN.
     */
    public final double maxDifference;
    /** What the file allows. */
    public final double tolerance;

    Verification(int rows, double maxDifference, double tolerance) {
        this.rows = rows;
        this.maxDifference = maxDifference;
        this.tolerance = tolerance;
    }

    /** Whether every output is within the tolerance. */
    public boolean passed() {
        return maxDifference <= tolerance;
    }

    /**
     * The largest difference of scores as {@code ondevice/difference.py} defines it: relative to
     * the scale of the output, and to the expected value where that is larger.
     *
     * @param got rows of {@code rowSize} values, row after row
     * @param expected what they should be
     * @return infinity for unequal lengths; NaN where either value is
     */
    static double largestDifference(float[] got, float[] expected, int rowSize) {
        if (got.length != expected.length) {
            return Double.POSITIVE_INFINITY;
        }
        double largest = 0;
        for (int position = 0; position < rowSize; position++) {
            double scale = scale(expected, rowSize, position);
            for (int i = position; i < got.length; i += rowSize) {
                double unit = Math.max(Math.abs((double) expected[i]), scale);
                double difference = Math.abs((double) got[i] - expected[i]);
                largest = Math.max(largest, difference / unit); // NaN stays
            }
        }
        return largest;
    }

    /** The scale of the values at one position of every row. */
    private static double scale(float[] expected, int rowSize, int position) {
        double[] values = new double[expected.length / rowSize];
        boolean probability = true;
        for (int row = 0; row < values.length; row++) {
            float value = expected[row * rowSize + position];
            probability &= value >= 0 && value <= 1;
            values[row] = Math.abs((double) value);
        }
        if (values.length == 0) {
            return 1;
        }
        Arrays.sort(values); // NaN last
        double greatest = SMALL_OUTPUT_FACTOR * values[values.length - 1];
        double small = Math.min(Math.max(greatest, SMALLEST_SCALE), 1);
        double typical = MAGNITUDES * values[9 * (values.length - 1) / 10];
        return probability ? small : Math.max(typical, small);
    }
}
