package ondevice.ctr.bench;

import java.math.BigDecimal;
import java.math.MathContext;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Summaries of observations as the report has them; percentiles interpolate linearly. */
final class Statistics {
    private static final int REPORT_DIGITS = 7; // as in ondevice/bench/measure/constants.py

    private Statistics() {}

    static double median(double[] values) {
        double[] sorted = values.clone();
        Arrays.sort(sorted);
        return percentile(sorted, 50);
    }

    /** A spread: count, mean, standard deviation (n - 1), minimum, percentiles, maximum. */
    static Map<String, Object> spread(double[] values) {
        double[] sorted = values.clone();
        Arrays.sort(sorted);
        int n = sorted.length;
        double low = sorted[0];
        double high = sorted[n - 1];
        double sum = 0;
        for (double value : sorted) {
            sum += value;
        }
        double mean = Math.min(Math.max(sum / n, low), high); // rounding must not leave the range
        double squares = 0;
        for (double value : sorted) {
            squares += (value - mean) * (value - mean);
        }
        Map<String, Object> out = new LinkedHashMap<String, Object>();
        out.put("count", n);
        out.put("mean", rounded(mean));
        out.put("sd", rounded(n > 1 ? Math.sqrt(squares / (n - 1)) : 0));
        out.put("min", rounded(low));
        for (int p : new int[] {50, 90, 95, 99}) {
            out.put("p" + p, rounded(percentile(sorted, p)));
        }
        out.put("max", rounded(high));
        return out;
    }

    /** The 0th, 1st, ... 100th percentile. */
    static List<Object> percentiles(double[] values) {
        double[] sorted = values.clone();
        Arrays.sort(sorted);
        List<Object> out = new ArrayList<Object>();
        for (int p = 0; p <= 100; p++) {
            out.add(rounded(percentile(sorted, p)));
        }
        return out;
    }

    /** Rounded to the digits that all numbers of a report have. */
    static double rounded(double value) {
        return new BigDecimal(value).round(new MathContext(REPORT_DIGITS)).doubleValue();
    }

    private static double percentile(double[] sorted, int p) {
        double place = p / 100.0 * (sorted.length - 1);
        int below = (int) place;
        int above = Math.min(below + 1, sorted.length - 1);
        return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
    }
}
