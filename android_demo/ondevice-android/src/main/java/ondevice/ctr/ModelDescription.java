package ondevice.ctr;

import java.util.Collections;
import java.util.List;
import java.util.Map;

/** What a model file says of itself. Immutable. */
public final class ModelDescription {
    /** One input: 64-bit IDs, or float32 numbers. Immutable. */
    public static final class Input {
        /** Its name. */
        public final String name;
        /** Whether it takes numbers. */
        public final boolean isFloat;
        /** Values in one row: 1, or the length of a sequence. */
        public final int rowSize;
        /**
         * All IDs must lie in 0..idLimit-1; -1: any value is legal, or the legal values are others:
         * see {@link #lowest} and {@link #highest}.
         */
        public final long idLimit;
        /** What its raw values are: "string", "integer" or "number"; null: only IDs are known. */
        public final String kind;
        private final long[] lows; // one for all elements of a row, or one for each
        private final long[] highs;

        Input(String name, boolean isFloat, int rowSize, long[] lows, long[] highs, String kind) {
            this.name = name;
            this.isFloat = isFloat;
            this.rowSize = rowSize;
            this.lows = lows;
            this.highs = highs;
            this.kind = kind;
            boolean plain = lows.length == 1 && lows[0] == 0 && highs[0] >= 0
                    && highs[0] < Long.MAX_VALUE;
            idLimit = plain ? highs[0] + 1 : -1;
        }

        /** Whether an element of a row must lie between {@link #lowest} and {@link #highest}. */
        public boolean isLimited(int element) {
            return lowest(element) > Long.MIN_VALUE || highest(element) < Long.MAX_VALUE;
        }

        /** The lowest legal ID of an element of a row. */
        public long lowest(int element) {
            return lows[lows.length == 1 ? 0 : element];
        }

        /** The highest legal ID of an element of a row; of a number, its fraction dropped. */
        public long highest(int element) {
            return highs[highs.length == 1 ? 0 : element];
        }
    }

    /** The inputs, in order. */
    public final List<Input> inputs;
    /** Names of the outputs; {@code predict} and {@code rank} return the first. */
    public final List<String> outputs;
    /** Values of the first output in one row: 1 for a click probability. */
    public final int outputRowSize;
    /** Values in one row of every output. */
    public final List<Integer> outputRowSizes;
    /** Bytes of the model file. */
    public final long bytes;
    /** The kernels in use on this processor, such as "neon-dotprod". */
    public final String kernels;
    /** How far this engine may be from the source model on the file's test vectors. */
    public final double tolerance;
    /** Rows of test vectors inside the file; 0: none. */
    public final int testRows;
    /** What made the file: names to versions and settings. */
    public final Map<String, String> madeBy;

    ModelDescription(List<Input> inputs, List<String> outputs, List<Integer> outputRowSizes,
            long bytes, String kernels, double tolerance, int testRows,
            Map<String, String> madeBy) {
        this.inputs = Collections.unmodifiableList(inputs);
        this.outputs = Collections.unmodifiableList(outputs);
        this.outputRowSizes = Collections.unmodifiableList(outputRowSizes);
        this.outputRowSize = outputRowSizes.get(0);
        this.bytes = bytes;
        this.kernels = kernels;
        this.tolerance = tolerance;
        this.testRows = testRows;
        this.madeBy = Collections.unmodifiableMap(madeBy);
    }

    /** A few lines for people. */
    @Override
    public String toString() {
        StringBuilder out = new StringBuilder();
        out.append(bytes).append(" bytes, kernels ").append(kernels).append('\n');
        for (Input input : inputs) {
            out.append(input.name).append(": ");
            out.append(input.kind != null ? input.kind : input.isFloat ? "numbers" : "IDs");
            out.append(input.rowSize == 1 ? "" : ", " + input.rowSize + " values");
            out.append(input.idLimit < 0 ? "" : ", IDs below " + input.idLimit).append('\n');
        }
        return out.append("outputs: ").append(outputs).toString();
    }
}
