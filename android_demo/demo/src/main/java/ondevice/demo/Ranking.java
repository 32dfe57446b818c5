package ondevice.demo;

import java.util.Arrays;
import java.util.Comparator;
import ondevice.ctr.Inputs;
import ondevice.ctr.OnDeviceModel;

/** The items of a catalogue for one user, best first, and how long scoring took. Immutable. */
final class Ranking {
    private static final int TIMES = 21; // an odd number, for the median

    /** Numbers of items in the catalogue, best first. */
    final Integer[] order;
    /** Scores by the items' numbers. */
    final float[] scores;
    /** The first request, and the median of more: whole calls, raw values to scores. */
    final long firstNs;
    final long medianNs;

    /** Score all items for a user. Throws as {@link OnDeviceModel#rank}. */
    Ranking(OnDeviceModel model, Catalogue catalogue, int user) {
        Inputs context = catalogue.context(user);
        long before = System.nanoTime();
        scores = model.rank(context, catalogue.candidates());
        firstNs = System.nanoTime() - before;
        long[] times = new long[TIMES];
        for (int i = 0; i < TIMES; i++) {
            before = System.nanoTime();
            model.rank(context, catalogue.candidates());
            times[i] = System.nanoTime() - before;
        }
        Arrays.sort(times);
        medianNs = times[TIMES / 2];
        order = new Integer[scores.length];
        for (int i = 0; i < order.length; i++) {
            order[i] = i;
        }
        Arrays.sort(order, new Comparator<Integer>() {
            @Override
            public int compare(Integer a, Integer b) {
                return Float.compare(scores[b], scores[a]);
            }
        });
    }
}
