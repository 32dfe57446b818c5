package ondevice.demo;

import java.util.List;
import java.util.Locale;
import java.util.Map;
import ondevice.ctr.Json;

/** The main figures of a bench report as lines for a screen. */
final class ReportText {
    private ReportText() {}

    /** One line a measurement; members that are null are left out. */
    static String of(String report) {
        Map<?, ?> data = (Map<?, ?>) Json.parse(report);
        List<?> models = (List<?>) data.get("models");
        StringBuilder out = new StringBuilder();
        for (Object item : (List<?>) data.get("starts")) {
            Map<?, ?> start = (Map<?, ?>) item;
            boolean warm = "warm".equals(start.get("page_cache"));
            line(out, models, start, "start, " + (warm ? "warm" : "cold"), start.get("start_us"));
            line(out, models, start, "load, " + (warm ? "warm" : "cold"), start.get("load_us"));
        }
        for (Object item : (List<?>) data.get("memories")) {
            Map<?, ?> memory = (Map<?, ?>) item;
            Map<?, ?> growth = (Map<?, ?>) ((Map<?, ?>) memory.get("growth")).get("rss");
            if (growth != null) {
                out.append(name(models, memory)).append(": memory of engine and model ")
                        .append(String.format(Locale.ROOT, "%.1f MB", number(growth, "p50") / 1e6))
                        .append('\n');
            }
        }
        for (Object item : (List<?>) data.get("latencies")) {
            Map<?, ?> latency = (Map<?, ?>) item;
            double gap = number(latency, "gap_ms");
            line(out, models, latency, latency.get("call") + " " + latency.get("rows")
                    + (gap > 0 ? " every " + (long) gap + " ms" : ""), latency.get("latency_us"));
        }
        return out.toString();
    }

    private static void line(StringBuilder out, List<?> models, Map<?, ?> item, String what,
            Object spread) {
        if (spread != null) {
            Map<?, ?> figures = (Map<?, ?>) spread;
            out.append(name(models, item)).append(": ").append(what).append(": p50 ")
                    .append(time(number(figures, "p50"))).append(", p95 ")
                    .append(time(number(figures, "p95"))).append('\n');
        }
    }

    private static String name(List<?> models, Map<?, ?> item) {
        int place = (int) ((Json.Number) item.get("model")).toLong();
        return (String) ((Map<?, ?>) models.get(place)).get("name");
    }

    private static String time(double us) {
        return us < 1000 ? String.format(Locale.ROOT, "%.1f us", us)
                : String.format(Locale.ROOT, "%.2f ms", us / 1000);
    }

    private static double number(Map<?, ?> data, String name) {
        return ((Json.Number) data.get(name)).toDouble();
    }
}
