package ondevice.ctr.bench;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** What to measure, with the defaults of {@code ondevice bench} (ondevice/bench/measure/plan.py). */
public final class Plan {
    /** Requests with pauses take most of their time waiting: they get so many times the budget. */
    private static final int GAP_BUDGET = 3;

    /** Batch sizes of predict. */
    public int[] rows = {1, 128};
    /** Numbers of candidates of rank. */
    public int[] rank = {};
    /** Inputs that are the context of rank. */
    public List<String> context = Collections.emptyList();
    /** Pauses between requests, in milliseconds; 0: back to back. */
    public double[] gapsMs = {0, 100};
    /** Time for each latency, over all its processes. */
    public double seconds = 1;
    /** Fresh processes for every measurement, taken in turn with the others. */
    public int processes = 5;

    /** All measurements of one round. */
    List<Task> tasks() {
        if (rows.length + rank.length == 0 || gapsMs.length == 0 || processes < 1 || !(seconds > 0)
                || rank.length > 0 && context.isEmpty()) {
            throw new IllegalArgumentException("nothing to measure");
        }
        int largest = 1;
        List<Task> latencies = new ArrayList<Task>();
        double share = seconds / processes;
        for (int[] sizes : new int[][] {rows, rank}) {
            List<String> shared = sizes == rank ? context : Collections.<String>emptyList();
            for (int size : sizes) {
                largest = Math.max(largest, size);
                for (double gap : gapsMs) {
                    double budget = gap > 0 ? share * GAP_BUDGET : share;
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
}
