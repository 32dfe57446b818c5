package ondevice.ctr.bench;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** What to measure, with the defaults of {@code ondevice bench} (ondevice/bench/measure/plan.py). */
public final class Plan {
    // As in ondevice/bench/measure/constants.py, which has their units and reasons.
    private static final int PACED_BUDGET = 3;
    private static final int MAX_ROWS = 1000000;
    private static final int MAX_SECONDS = 86400;
    private static final int[] DEFAULT_ROWS = {1, 128};
    private static final double[] DEFAULT_GAPS_MS = {0, 100};
    private static final double DEFAULT_SECONDS = 1;
    private static final int DEFAULT_PROCESSES = 5;

    /** Batch sizes of predict. */
    public int[] rows = DEFAULT_ROWS.clone();
    /** Numbers of candidates of rank. */
    public int[] rank = {};
    /** Inputs that are the context of rank. */
    public List<String> context = Collections.emptyList();
    /** Pauses between requests, in milliseconds; 0: back to back. */
    public double[] gapsMs = DEFAULT_GAPS_MS.clone();
    /** Time for each latency, over all its processes. */
    public double seconds = DEFAULT_SECONDS;
    /** Fresh processes for every measurement, taken in turn with the others. */
    public int processes = DEFAULT_PROCESSES;

    /**
     * All measurements of one round.
     *
     * @throws IllegalArgumentException these options cannot be measured
     */
    List<Task> tasks() {
        check();
        int largest = 1;
        List<Task> latencies = new ArrayList<Task>();
        double share = seconds / processes;
        for (int[] sizes : new int[][] {rows, rank}) {
            List<String> shared = sizes == rank ? context : Collections.<String>emptyList();
            for (int size : sizes) {
                largest = Math.max(largest, size);
                for (double gap : gapsMs) {
                    double budget = gap > 0 ? share * PACED_BUDGET : share;
                    latencies.add(new Task("latency", size, shared, gap, budget, false));
                }
            }
        }
        List<String> none = Collections.emptyList();
        List<Task> tasks = new ArrayList<Task>();
        tasks.add(new Task("start", 1, none, 0, 0, true));
        tasks.add(new Task("start", 1, none, 0, 0, false));
        tasks.add(new Task("memory", largest, none, 0, 0, false));
        tasks.addAll(latencies);
        return tasks;
    }

    private void check() {
        if (rows.length + rank.length == 0 || gapsMs.length == 0) {
            throw new IllegalArgumentException("nothing to measure: no sizes, or no pauses");
        }
        if (rank.length > 0 && context.isEmpty()) {
            throw new IllegalArgumentException("rank needs the names of the context's inputs");
        }
        if (processes < 1 || !(seconds > 0 && seconds <= MAX_SECONDS)) {
            throw new IllegalArgumentException("expected at least 1 process and up to "
                    + MAX_SECONDS + " seconds, got " + processes + " and " + seconds);
        }
        for (int[] sizes : new int[][] {rows, rank}) {
            for (int size : sizes) {
                if (size < 1 || size > MAX_ROWS) {
                    throw new IllegalArgumentException("expected 1 to " + MAX_ROWS
                            + " rows, got " + size);
                }
            }
        }
        for (double gap : gapsMs) {
            double requests = gap == 0 ? 0 : seconds / processes * PACED_BUDGET * 1000 / gap;
            if (!(gap >= 0 && gap <= 1000.0 * MAX_SECONDS) || requests > Worker.MAX_REQUESTS) {
                throw new IllegalArgumentException("expected pauses of 0 to " + 1000 * MAX_SECONDS
                        + " ms that give a process at most " + Worker.MAX_REQUESTS
                        + " requests, got " + gap + " ms");
            }
        }
    }
}
