package ondevice.ctr;

/**
 * How far this engine is from the source model's outputs on a file's test vectors, and its
 * {@code rank} from its {@code predict}. A difference is relative where the expected score is
 * beyond 1. Immutable.
 */
public final class Verification {
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
}
