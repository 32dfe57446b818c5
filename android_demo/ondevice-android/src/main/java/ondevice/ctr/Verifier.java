package ondevice.ctr;

import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;

/** Compares a model with its file's test vectors, and its {@code rank} with its {@code predict}. */
final class Verifier {
    private static final int ALL_SPLITS = 6; // of this many inputs every split is tried (62)
    private static final int MOST_ROWS = 80; // candidates; more than the engine holds at once (64)

    private final OnDeviceModel model;
    private final ModelInfo info;
    private final Map<String, double[]> scales = new LinkedHashMap<String, double[]>(); // by output
    private final Map<String, Integer> rowSizes = new LinkedHashMap<String, Integer>();

    Verifier(OnDeviceModel model, ModelInfo info) {
        this.model = model;
        this.info = info;
        for (int i = 0; i < info.inputs.size(); i++) {
            rowSizes.put(info.inputs.get(i), info.rowSizes.get(i));
        }
    }

    /** Throws InputException where the model refuses the test vectors. */
    Verification verify() {
        for (Map.Entry<String, float[]> entry : info.testOutputs.entrySet()) {
            float[] right = entry.getValue();
            scales.put(entry.getKey(), Verification.scales(right, right.length / rows()));
        }
        double predicted = difference(model.predictAll(inputs(info.testInputs)), info.testOutputs);
        double rank = 0;
        for (ModelInfo.Ranking ranking : info.rankings) {
            rank = Math.max(rank,
                    difference(rank(firstRows(ranking.rows), ranking.context), ranking.outputs));
        }
        rank = Math.max(rank, rankingDifference(firstRows(Math.min(rows(), MOST_ROWS))));
        return new Verification(rows(), predicted, rank, info.tolerance);
    }

    private int rows() {
        String first = info.inputs.get(0);
        return Values.count(info.testInputs.get(first)) / rowSizes.get(first);
    }

    /** The largest difference over the outputs that the file has scores of. */
    private double difference(Map<String, float[]> got, Map<String, float[]> expected) {
        double largest = 0;
        for (Map.Entry<String, float[]> entry : expected.entrySet()) {
            largest = Math.max(largest, Verification.largestDifference(got.get(entry.getKey()),
                    entry.getValue(), scales.get(entry.getKey())));
        }
        return largest;
    }

    /**
     * The largest difference of rank from predict over all splits; infinity where only one of the
     * two refuses a request, or gives no number.
     */
    private double rankingDifference(Map<String, Object> request) {
        double largest = 0;
        for (Set<String> context : contextSplits(info.inputs)) {
            Map<String, float[]> expected = null;
            Map<String, float[]> got = null;
            try {
                expected = model.predictAll(inputs(repeated(request, context)));
            } catch (InputException refused) {
                // rank must refuse it too
            }
            try {
                got = rank(request, context);
            } catch (InputException refused) {
                // predict must have refused it too
            }
            if (expected != null && got != null) {
                for (String name : scales.keySet()) {
                    largest = Math.max(largest, disagreement(got.get(name), expected.get(name),
                            scales.get(name)));
                }
            } else if (expected != got) {
                largest = Double.POSITIVE_INFINITY;
            }
        }
        return largest;
    }

    private Map<String, float[]> rank(Map<String, Object> request, Set<String> context) {
        Inputs single = new Inputs();
        Inputs candidates = new Inputs();
        for (Map.Entry<String, Object> entry : request.entrySet()) {
            String name = entry.getKey();
            if (context.contains(name)) {
                single.values(name, Values.first(entry.getValue(), rowSizes.get(name)));
            } else {
                candidates.values(name, entry.getValue());
            }
        }
        return model.rankAfresh(single, candidates);
    }

    /** The rows that predict takes in the place of a ranking: the context's first row repeated. */
    private Map<String, Object> repeated(Map<String, Object> request, Set<String> context) {
        Map<String, Object> rows = new LinkedHashMap<String, Object>(request);
        for (String name : context) {
            Object values = Values.copy(request.get(name));
            int size = rowSizes.get(name);
            for (int at = size; at < Values.count(values); at += size) {
                System.arraycopy(values, 0, values, at, size);
            }
            rows.put(name, values);
        }
        return rows;
    }

    private Map<String, Object> firstRows(int rows) {
        Map<String, Object> request = new LinkedHashMap<String, Object>();
        for (Map.Entry<String, Integer> entry : rowSizes.entrySet()) {
            String name = entry.getKey();
            request.put(name, Values.first(info.testInputs.get(name), rows * entry.getValue()));
        }
        return request;
    }

    private static Inputs inputs(Map<String, Object> values) {
        Inputs inputs = new Inputs();
        for (Map.Entry<String, Object> entry : values.entrySet()) {
            inputs.values(entry.getKey(), entry.getValue());
        }
        return inputs;
    }

    /**
     * Which inputs are the context, split by split; never none of them and never all. Of up to
     * ALL_SPLITS inputs every split; of more, so many that every two inputs stand together on each
     * side, and apart both ways.
     */
    static List<Set<String>> contextSplits(List<String> names) {
        int count = names.size();
        if (count > ALL_SPLITS) {
            return coveringSplits(names);
        }
        List<Set<String>> splits = new ArrayList<Set<String>>();
        for (int bits = 1; bits < (1 << count) - 1; bits++) {
            Set<String> context = new HashSet<String>();
            for (int i = 0; i < count; i++) {
                if ((bits >> i & 1) == 1) {
                    context.add(names.get(i));
                }
            }
            splits.add(context);
        }
        return splits;
    }

    private static List<Set<String>> coveringSplits(List<String> names) {
        int count = names.size();
        Random draw = new Random(count); // the same sample every time
        byte[] seen = new byte[count * count]; // by pair, a bit for each combination of sides
        int missing = count * (count - 1) / 2 * 4;
        List<Set<String>> splits = new ArrayList<Set<String>>();
        while (missing > 0) {
            boolean[] sides = new boolean[count];
            Set<String> context = new HashSet<String>();
            for (int i = 0; i < count; i++) {
                sides[i] = draw.nextBoolean();
                if (sides[i]) {
                    context.add(names.get(i));
                }
            }
            int covered = context.isEmpty() || context.size() == count ? 0 : cover(seen, sides);
            missing -= covered;
            if (covered > 0) {
                splits.add(context);
            }
        }
        return splits;
    }

    /** Mark what a split covers; how much of it is new. */
    private static int cover(byte[] seen, boolean[] sides) {
        int covered = 0;
        for (int a = 0; a < sides.length; a++) {
            for (int b = a + 1; b < sides.length; b++) {
                int pair = a * sides.length + b;
                int bit = 1 << (sides[a] ? 2 : 0) + (sides[b] ? 1 : 0);
                covered += (seen[pair] & bit) == 0 ? 1 : 0;
                seen[pair] |= (byte) bit;
            }
        }
        return covered;
    }

    /** As {@link Verification#largestDifference}; two NaN agree, a NaN and a number are infinitely far apart. */
    private static double disagreement(float[] got, float[] expected, double[] scales) {
        double largest = got.length == expected.length ? 0 : Double.POSITIVE_INFINITY;
        for (int i = 0; i < got.length && i < expected.length; i++) {
            // equal where both are NaN, or the same infinity
            if (Float.compare(got[i] + 0f, expected[i] + 0f) != 0) {
                double difference = Verification.difference(got[i], expected[i],
                        scales[i % scales.length]);
                largest = Math.max(largest,
                        Double.isNaN(difference) ? Double.POSITIVE_INFINITY : difference);
            }
        }
        return largest;
    }
}
