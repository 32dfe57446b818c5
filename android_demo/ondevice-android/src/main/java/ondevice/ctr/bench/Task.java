package ondevice.ctr.bench;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import ondevice.ctr.Json;
import ondevice.ctr.ModelFileException;

/** One thing that a fresh process measures (ondevice/bench/measure/observation.py). Immutable. */
public final class Task {
    /** "start", "memory" or "latency". */
    public final String kind;
    /** Rows of a request, or candidates. */
    public final int rows;
    /** Inputs that are the context of a ranking; empty: rows are predicted one by one. */
    public final List<String> context;
    /** Pause between requests; 0: back to back. */
    public final double gapMs;
    /** Time to measure, after warm-up. */
    public final double seconds;
    /** Whether the model's pages are dropped before the process starts. */
    public final boolean dropPages;

    Task(String kind, int rows, List<String> context, double gapMs, double seconds,
            boolean dropPages) {
        this.kind = kind;
        this.rows = rows;
        this.context = context;
        this.gapMs = gapMs;
        this.seconds = seconds;
        this.dropPages = dropPages;
    }

    /** What is measured, in a few words. */
    @Override
    public String toString() {
        if (kind.equals("start")) {
            return dropPages ? "start, cold" : "start, warm";
        }
        if (kind.equals("memory")) {
            return "memory";
        }
        String pause = gapMs == 0 ? "" : " every " + (long) gapMs + " ms";
        return (context.isEmpty() ? "predict " : "rank ") + rows + pause;
    }

    /** As text for another process; {@link #parse} reads it. */
    public String toJson() {
        Map<String, Object> out = new LinkedHashMap<String, Object>();
        out.put("kind", kind);
        out.put("rows", rows);
        out.put("context", new ArrayList<Object>(context));
        out.put("gap_ms", gapMs);
        out.put("seconds", seconds);
        out.put("drop_pages", dropPages);
        return Json.write(out);
    }

    /** Throws ModelFileException for anything that {@link #toJson} did not write. */
    public static Task parse(String text) {
        try {
            Map<?, ?> data = (Map<?, ?>) Json.parse(text);
            List<String> context = new ArrayList<String>();
            for (Object name : (List<?>) data.get("context")) {
                context.add((String) name);
            }
            return new Task((String) data.get("kind"), (int) number(data, "rows").toLong(), context,
                    number(data, "gap_ms").toDouble(), number(data, "seconds").toDouble(),
                    (Boolean) data.get("drop_pages"));
        } catch (ClassCastException error) {
            throw new ModelFileException("not a task: " + text);
        } catch (NullPointerException error) {
            throw new ModelFileException("not a task: " + text);
        }
    }

    private static Json.Number number(Map<?, ?> data, String name) {
        return (Json.Number) data.get(name);
    }
}
