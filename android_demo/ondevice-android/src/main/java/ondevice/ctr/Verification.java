package ondevice.ctr;

/** How far this engine is from the source model's outputs on a file's test vectors. Immutable. */
public final class Verification {
    /** Rows compared. */
    public final int rows;
    /** The largest difference; NaN when an output is NaN. */
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
}
