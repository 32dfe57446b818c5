package ondevice.ctr;

import java.util.Arrays;

/**
 * How far this engine is from the source model's outputs on a file's test vectors, and its
 * {@code rank} from its {@code predict}, in units of the output's scale, which is 1 for
 * probabilities. Immutable.
 */
public final class Verification {
    private static final double MAGNITUDES = 4;
    private static final double SMALL_OUTPUT_FACTOR = 10;
    private static final double SMALLEST_SCALE = 0.03;

    /** Rows compared. */
    public final int rows;
    /** The largest difference of {@code predict}; NaN when an output is NaN. */
    public final double maxDifference;
    /**
     * The largest difference of {@code rank} from {@code predict} over splits of the inputs into
     * context and candidates, and from the source model's ranked scores where the file holds some;
     * NaN when one of those is NaN on either side.
     */
    public final double rankDifference;
    /** What the file allows each of the two. */
    public final double tolerance;

    Verification(int rows, double maxDifference, double rankDifference, double tolerance) {
        this.rows = rows;
        this.maxDifference = maxDifference;
        this.rankDifference = rankDifference;
        this.tolerance = tolerance;
    }

    /** Whether every output, of {@code predict} and of {@code rank}, is within the tolerance. */
    public boolean passed() {
        return maxDifference <= tolerance && rankDifference <= tolerance;
    }

    /**
     * The largest difference of scores as {@code ondevice/difference.py} defines it: relative to
     * the scale of the output, and to the expected value where that is larger.
     *
     * @param got values row after row
     * @param expected what they should be
     * @param scales of every position of a row
     * @return infinity for unequal lengths; NaN where either value is
     */
    static double largestDifference(float[] got, float[] expected, double[] scales) {
        if (got.length != expected.length) {
            return Double.POSITIVE_INFINITY;
        }
        double largest = 0;
        for (int i = 0; i < got.length; i++) {
            largest = Math.max(largest, difference(got[i], expected[i], scales[i % scales.length]));
        }
        return largest; // NaN stays
    }

    /** One value's difference, in units of its output's scale or of itself where it is larger. */
    static double difference(double got, double expected, double scale) {
        return Math.abs(got - expected) / Math.max(Math.abs(expected), scale);
    }

    /** The scale of an output at every position of its rows, by expected values row after row. */
    static double[] scales(float[] expected, int rowSize) {
        double[] scales = new double[rowSize];
        for (int position = 0; position < rowSize; position++) {
            scales[position] = scale(expected, rowSize, position);
        }
        return scales;
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
