package ondevice.ctr;

import java.util.Collections;
import java.util.List;
import java.util.Map;

/** What a model file says of itself. Immutable. */
public final class ModelDescription {
    /** One input of 64-bit IDs. Immutable. */
    public static final class Input {
        /** Its name. */
        public final String name;
        /** IDs in one row: 1, or the length of a sequence. */
        public final int rowSize;
        /** IDs must lie in 0..idLimit-1; -1: any 64-bit pattern is legal. */
        public final long idLimit;
        /** What its raw values are: "string", "integer" or "number"; null: only IDs are known. */
        public final String kind;

        Input(String name, int rowSize, long idLimit, String kind) {
            this.name = name;
            this.rowSize = rowSize;
            this.idLimit = idLimit;
            this.kind = kind;
        }
    }

    /** The inputs, in order. */
    public final List<Input> inputs;
    /** Names of the outputs; requests return the first. */
    public final List<String> outputs;
    /** Values of the first output in one row: 1 for a click probability. */
    public final int outputRowSize;
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

    ModelDescription(List<Input> inputs, List<String> outputs, int outputRowSize, long bytes,
            String kernels, double tolerance, int testRows, Map<String, String> madeBy) {
        this.inputs = Collections.unmodifiableList(inputs);
        this.outputs = Collections.unmodifiableList(outputs);
        this.outputRowSize = outputRowSize;
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
            out.append(input.kind == null ? "IDs" : input.kind);
            out.append(input.rowSize == 1 ? "" : ", " + input.rowSize + " values");
            out.append(input.idLimit < 0 ? "" : ", IDs below " + input.idLimit).append('\n');
        }
        return out.append("outputs: ").append(outputs).toString();
    }
}
