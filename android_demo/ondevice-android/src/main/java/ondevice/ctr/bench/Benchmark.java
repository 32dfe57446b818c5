package ondevice.ctr.bench;

import java.io.IOException;
import java.io.InputStream;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.text.SimpleDateFormat;
import java.util.ArrayList;
import java.util.Date;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TimeZone;
import ondevice.ctr.Json;
import ondevice.ctr.OnDeviceException;

/**
 * Runs a plan: every measurement in fresh processes, round by round, and the report they make
 * (ondevice/bench/measure/rounds.py; the format is in docs/bench.md).
 */
public final class Benchmark {
    // As in ondevice/bench/report.py.
    private static final String FORMAT = "ondevice-bench";
    private static final int FORMAT_VERSION = 1;

    /** Version of the library, which the report names. */
    public static final String VERSION = "0.1.0";

    /** Where measuring processes run. */
    public interface Machine {
        /**
         * Do a task in one fresh process with {@link Worker#observe}, and return what that does.
         *
         * @throws IOException the process ended without an answer
         * @throws InterruptedException the run was stopped
         */
        String observe(Task task) throws IOException, InterruptedException;

        /** The file whose pages a cold start must not find in memory. */
        String path();
    }

    /** Is told how far a run is, on the thread that runs it. */
    public interface Progress {
        void at(int done, int total, String text);
    }

    /** The measured file: its name, size and SHA-256 in hexadecimal. */
    public static final class ModelFile {
        final String name;
        final long bytes;
        final String sha256;

        /** Reads the stream to its end. */
        public ModelFile(String name, InputStream content) throws IOException {
            this.name = name;
            long count = 0;
            StringBuilder hex = new StringBuilder();
            try {
                MessageDigest digest = MessageDigest.getInstance("SHA-256");
                byte[] piece = new byte[1 << 16];
                for (int size = content.read(piece); size > 0; size = content.read(piece)) {
                    digest.update(piece, 0, size);
                    count += size;
                }
                for (byte value : digest.digest()) {
                    hex.append(String.format("%02x", value));
                }
            } catch (NoSuchAlgorithmException error) {
                throw new OnDeviceException("this Java has no SHA-256", error); // every Java has it
            }
            bytes = count;
            sha256 = hex.toString();
        }
    }

    /** A model and what runs it. */
    public static final class Subject {
        final ModelFile file;
        final Machine machine;

        public Subject(ModelFile file, Machine machine) {
            this.file = file;
            this.machine = machine;
        }
    }

    private static final class Collected {
        final int subject;
        final Task task;
        final List<Map<?, ?>> rounds = new ArrayList<Map<?, ?>>();
        Map<String, Object> before;
        Map<String, Object> after;
        String note;

        Collected(int subject, Task task) {
            this.subject = subject;
            this.task = task;
        }
    }

    private Benchmark() {}

    /**
     * Measure everything in the plan; interrupting the thread ends it early with what there is.
     *
     * @param tool who measures, such as "ondevice app"
     * @return the report, as JSON
     * @throws IOException a measuring process failed
     */
    public static String run(Plan plan, List<Subject> subjects, Device device, String tool,
            Progress progress) throws IOException {
        List<Collected> collected = new ArrayList<Collected>();
        for (int i = 0; i < subjects.size(); i++) {
            for (Task task : plan.tasks()) {
                collected.add(new Collected(i, task));
            }
        }
        int total = collected.size() * plan.processes;
        int done = 0;
        boolean interrupted = false;
        try {
            for (int round = 0; round < plan.processes; round++) {
                for (Collected item : collected) {
                    Subject subject = subjects.get(item.subject);
                    progress.at(done, total, subject.file.name + ", " + item.task);
                    observe(item, subject.machine, device);
                    done++;
                }
            }
        } catch (InterruptedException stopped) {
            interrupted = true;
        }
        progress.at(done, total, "");
        return Json.write(report(collected, subjects, device, tool, interrupted));
    }

    private static void observe(Collected item, Machine machine, Device device)
            throws IOException, InterruptedException {
        if (item.before == null) {
            item.before = device.state();
        }
        if (item.task.dropPages) {
            long stayed = SystemCalls.dropPages(machine.path().getBytes("UTF-8"));
            if (stayed != 0) {
                item.note = stayed > 0 ? stayed + " pages stayed in memory"
                        : "the pages could not be dropped (error " + -stayed + ")";
            }
        }
        Object answer = Json.parse(machine.observe(item.task));
        item.after = device.state();
        item.rounds.add((Map<?, ?>) answer);
    }

    private static Map<String, Object> report(List<Collected> collected, List<Subject> subjects,
            Device device, String tool, boolean interrupted) {
        SimpleDateFormat format = new SimpleDateFormat("yyyy-MM-dd'T'HH:mm:ss'Z'", Locale.ROOT);
        format.setTimeZone(TimeZone.getTimeZone("UTC"));
        Map<String, Object> out = new LinkedHashMap<String, Object>();
        out.put("format", FORMAT);
        out.put("version", FORMAT_VERSION);
        out.put("created", format.format(new Date()));
        out.put("tool", tool + " " + VERSION);
        out.put("interrupted", interrupted);
        out.put("device", device.describe(VERSION, SystemCalls.emulator()));
        List<Object> models = new ArrayList<Object>();
        for (Subject subject : subjects) {
            models.add(entry(subject.file));
        }
        out.put("models", models);
        List<Object> starts = new ArrayList<Object>();
        List<Object> memories = new ArrayList<Object>();
        List<Object> latencies = new ArrayList<Object>();
        for (Collected item : collected) {
            if (item.rounds.isEmpty()) {
                continue; // the run was stopped before
            }
            if (item.task.kind.equals("start")) {
                starts.add(start(item));
            } else if (item.task.kind.equals("memory")) {
                memories.add(memory(item));
            } else {
                latencies.add(latency(item));
            }
        }
        out.put("starts", starts);
        out.put("memories", memories);
        out.put("latencies", latencies);
        out.put("profiles", new ArrayList<Object>());
        return out;
    }

    private static Map<String, Object> entry(ModelFile model) {
        Map<String, Object> file = new LinkedHashMap<String, Object>();
        file.put("name", model.name);
        file.put("bytes", model.bytes);
        file.put("sha256", model.sha256);
        List<Object> files = new ArrayList<Object>();
        files.add(file);
        Map<String, Object> entry = new LinkedHashMap<String, Object>();
        entry.put("name", model.name);
        entry.put("files", files);
        entry.put("accuracy", new LinkedHashMap<String, Object>());
        return entry;
    }

    private static Map<String, Object> subject(Collected item) {
        Map<?, ?> first = item.rounds.get(0);
        Map<String, Object> conditions = new LinkedHashMap<String, Object>();
        conditions.put("before", item.before);
        conditions.put("after", item.after);
        conditions.put("affinity", first.get("affinity"));
        Map<String, Object> out = new LinkedHashMap<String, Object>();
        out.put("model", item.subject);
        out.put("engine", first.get("engine"));
        out.put("runtime", first.get("runtime"));
        out.put("threads", 1);
        out.put("conditions", conditions);
        return out;
    }

    /** Whether times mean anything. */
    private static boolean timed(Collected item) {
        for (Map<?, ?> round : item.rounds) {
            if (round.get("emulated") != null) {
                return false;
            }
        }
        return true;
    }

    private static Map<String, Object> start(Collected item) {
        Map<String, Object> out = subject(item);
        out.put("page_cache",
                !item.task.dropPages ? "warm" : item.note == null ? "dropped" : "unknown");
        out.put("page_cache_note", item.note);
        for (String name : new String[] {"start", "load", "first"}) {
            double[] values = new double[item.rounds.size()];
            for (int i = 0; i < values.length; i++) {
                values[i] = number(item.rounds.get(i).get(name + "_ns")) / 1000;
            }
            out.put(name + "_us", timed(item) ? Statistics.spread(values) : null);
        }
        return out;
    }

    private static Map<String, Object> memory(Collected item) {
        Map<String, Object> out = subject(item);
        out.put("rows", item.task.rows);
        for (String part : new String[] {"process", "growth", "faults"}) {
            Map<String, Object> spreads = new LinkedHashMap<String, Object>();
            for (Object name : memoryPart(item, 0, part).keySet()) {
                double[] values = new double[item.rounds.size()];
                boolean known = true;
                for (int i = 0; i < values.length; i++) {
                    Object value = memoryPart(item, i, part).get(name);
                    known &= value != null;
                    values[i] = value == null ? 0 : number(value);
                }
                if (known) {
                    spreads.put((String) name, Statistics.spread(values));
                }
            }
            out.put(part, spreads);
        }
        return out;
    }

    private static Map<?, ?> memoryPart(Collected item, int round, String part) {
        return (Map<?, ?>) ((Map<?, ?>) item.rounds.get(round).get("memory")).get(part);
    }

    private static Map<String, Object> latency(Collected item) {
        List<Double> times = new ArrayList<Double>();
        List<Double> rates = new ArrayList<Double>();
        List<Double> overhead = new ArrayList<Double>();
        List<Object> bursts = new ArrayList<Object>();
        double[] processor = new double[item.rounds.size()];
        boolean metered = true;
        for (int i = 0; i < processor.length; i++) {
            Map<?, ?> round = item.rounds.get(i);
            Map<?, ?> worker = (Map<?, ?>) ((List<?>) round.get("workers")).get(0);
            double[] nanoseconds = numbers(worker.get("times_ns"));
            double[] counts = numbers(worker.get("counts"));
            double[] walls = numbers(worker.get("walls_ns"));
            List<Object> medians = new ArrayList<Object>();
            int at = 0;
            for (int burst = 0; burst < counts.length; burst++) {
                double[] piece = new double[(int) counts[burst]];
                System.arraycopy(nanoseconds, at, piece, 0, piece.length);
                at += piece.length;
                medians.add(Statistics.rounded(Math.max(Statistics.median(piece), 1) / 1000));
                rates.add(piece.length * item.task.rows / Math.max(walls[burst], 1) * 1e9);
            }
            bursts.add(medians);
            for (double time : nanoseconds) {
                times.add(time / 1000);
            }
            for (double time : numbers(round.get("overhead_ns"))) {
                overhead.add(time / 1000);
            }
            metered &= round.get("cpu_ns") != null;
            processor[i] = metered ? number(round.get("cpu_ns")) / nanoseconds.length / 1000 : 0;
        }
        boolean timed = timed(item);
        Map<String, Object> out = subject(item);
        out.put("call", item.task.context.isEmpty() ? "predict" : "rank");
        out.put("rows", item.task.rows);
        out.put("context", new ArrayList<Object>(item.task.context));
        out.put("gap_ms", item.task.gapMs);
        out.put("workers", 1);
        out.put("worker_kind", "process");
        out.put("requests", times.size());
        out.put("latency_us", timed ? Statistics.spread(array(times)) : null);
        out.put("percentiles_us", timed ? Statistics.percentiles(array(times)) : null);
        out.put("bursts_us", timed ? bursts : null);
        out.put("rows_per_s",
                timed && item.task.gapMs == 0 ? Statistics.spread(array(rates)) : null);
        out.put("cpu_us", timed && metered ? Statistics.spread(processor) : null);
        out.put("energy_uj", null);
        out.put("energy_meter", null);
        out.put("overhead_us", timed ? Statistics.spread(array(overhead)) : null);
        return out;
    }

    private static double[] array(List<Double> values) {
        double[] out = new double[values.size()];
        for (int i = 0; i < out.length; i++) {
            out[i] = values.get(i);
        }
        return out;
    }

    private static double[] numbers(Object list) {
        List<?> values = (List<?>) list;
        double[] out = new double[values.size()];
        for (int i = 0; i < out.length; i++) {
            out[i] = number(values.get(i));
        }
        return out;
    }

    private static double number(Object value) {
        return ((Json.Number) value).toDouble();
    }
}
