package ondevice.ctr.bench;

import java.io.Closeable;
import java.lang.reflect.Array;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.locks.LockSupport;
import ondevice.ctr.Inputs;
import ondevice.ctr.Json;
import ondevice.ctr.ModelDescription;
import ondevice.ctr.ModelFileException;
import ondevice.ctr.OnDeviceModel;
import ondevice.ctr.Verification;

/**
 * Does one task in this process, which should be a fresh one: the same work, with the same
 * constants, as ondevice/bench/measure/worker.py, and the same answer: an observation as JSON.
 */
public final class Worker {
    // As in ondevice/bench/measure/constants.py, which has their units and reasons.
    private static final int REQUESTS = 64;
    private static final int MEMORY_REQUESTS = 100;
    private static final long WARM_UP_NS = 200000000;
    private static final int BURSTS = 10;
    private static final int MIN_BURST_REQUESTS = 2;
    static final int MAX_REQUESTS = 50000;
    private static final int PACED_BURST_REQUESTS = 3;
    private static final int MIN_PACED_BURSTS = 2;
    private static final int EMULATED_REQUESTS = 20;
    private static final int OVERHEAD_BURST_CALLS = 100;
    private static final int RANDOM_ROWS = 256;

    /** Opens the model to measure, every time anew. */
    public interface Source {
        /** The engine under measurement. */
        Engine open();

        /** The native file whose test vectors are the requests. */
        OnDeviceModel requests();
    }

    /** A runtime with an open model. */
    public interface Engine extends Closeable {
        /** "native", "onnx" or "tflite". */
        String engine();

        /** Its name with its version or kernels. */
        String runtime();

        /**
         * Prepare IDs, input by input, as an app would hold them; one row of each in the context.
         * {@code rowSizes} says how many IDs of an input make a row.
         */
        Object request(Map<String, Object> context, Map<String, Object> rows,
                Map<String, Integer> rowSizes);

        /** Score what {@link #request} prepared. */
        void call(Object request);

        @Override
        void close();
    }

    /** The native engine. */
    public static final class NativeEngine implements Engine {
        private final OnDeviceModel model;

        public NativeEngine(OnDeviceModel model) {
            this.model = model;
        }

        @Override
        public String engine() {
            return "native";
        }

        @Override
        public String runtime() {
            return "native " + model.describe().kernels;
        }

        @Override
        public Object request(Map<String, Object> context, Map<String, Object> rows,
                Map<String, Integer> rowSizes) {
            return new Inputs[] {inputs(context), inputs(rows)};
        }

        private static Inputs inputs(Map<String, Object> values) {
            Inputs inputs = new Inputs();
            for (Map.Entry<String, Object> entry : values.entrySet()) {
                inputs.values(entry.getKey(), entry.getValue());
            }
            return inputs;
        }

        @Override
        public void call(Object request) {
            Inputs[] parts = (Inputs[]) request;
            if (parts[0].isEmpty()) {
                model.predict(parts[1]);
            } else {
                model.rank(parts[0], parts[1]);
            }
        }

        @Override
        public void close() {
            model.close();
        }
    }

    private final Task task;
    private final Source source;
    private final String emulator = SystemCalls.emulator();
    private List<Map<String, Object>> contexts;
    private List<Map<String, Object>> rows;
    private final Map<String, Integer> rowSizes = new LinkedHashMap<String, Integer>();
    private Object[] requests;

    private Worker(Task task, Source source) {
        this.task = task;
        this.source = source;
    }

    /**
     * Measure.
     *
     * @param startedNs {@code System.nanoTime()} when the process was asked for
     * @return the observation, as JSON
     */
    public static String observe(Source source, Task task, long startedNs) {
        Worker worker = new Worker(task, source);
        Map<String, Object> observation = new LinkedHashMap<String, Object>();
        if (task.kind.equals("start")) {
            worker.start(observation, startedNs);
        } else if (task.kind.equals("memory")) {
            worker.memory(observation);
        } else {
            worker.latency(observation);
        }
        return Json.write(observation);
    }

    private void start(Map<String, Object> observation, long startedNs) {
        long before = System.nanoTime();
        Engine model = source.open();
        long loaded = System.nanoTime();
        draw(1, 1); // also from the file: its time is not counted
        prepare(model);
        long asked = System.nanoTime();
        call(model, 0);
        long answered = System.nanoTime();
        about(observation, model);
        observation.put("start_ns", answered - startedNs - (asked - loaded));
        observation.put("load_ns", loaded - before);
        observation.put("first_ns", answered - asked);
        model.close();
    }

    private void memory(Map<String, Object> observation) {
        draw(task.rows, MEMORY_REQUESTS);
        System.gc();
        Map<String, Long> before = memoryNow();
        long[] faults = faults();
        Engine model = source.open();
        prepare(model);
        for (int i = 0; i < MEMORY_REQUESTS; i++) {
            call(model, i);
        }
        System.gc();
        Map<String, Long> after = memoryNow();
        long[] later = faults();
        Map<String, Object> growth = new LinkedHashMap<String, Object>();
        for (String name : after.keySet()) {
            if (!name.equals("peak") && before.containsKey(name)) {
                growth.put(name, Math.max(0, after.get(name) - before.get(name)));
            }
        }
        Map<String, Object> counts = new LinkedHashMap<String, Object>();
        if (faults != null && later != null) {
            counts.put("minor", later[0] - faults[0]);
            counts.put("major", later[1] - faults[1]);
        }
        Map<String, Object> all = new LinkedHashMap<String, Object>();
        all.put("process", new LinkedHashMap<String, Object>(after));
        all.put("growth", growth);
        all.put("faults", counts);
        about(observation, model);
        observation.put("memory", all);
        model.close();
    }

    /** Bytes of this process by kind, as /proc/self tells them. */
    public static Map<String, Long> memoryNow() {
        String status = SystemCalls.read("/proc/self/status");
        String rollup = SystemCalls.read("/proc/self/smaps_rollup"); // Android 9 and later
        Map<String, Long> sizes = new LinkedHashMap<String, Long>();
        String[][] fields = {{"rss", "Rss", "VmRSS"}, {"pss", "Pss", ""},
            {"anonymous", "Anonymous", "RssAnon"}, {"file", "", "RssFile"}, {"peak", "", "VmHWM"}};
        for (String[] field : fields) {
            long bytes = SystemCalls.bytes(rollup, field[1]);
            bytes = bytes < 0 ? SystemCalls.bytes(status, field[2]) : bytes;
            if (bytes >= 0) {
                sizes.put(field[0], bytes);
            }
        }
        return sizes;
    }

    /** Minor and major page faults of this process; null: unknown. */
    private static long[] faults() {
        String text = SystemCalls.read("/proc/self/stat");
        String[] fields = text == null ? new String[0]
                : text.substring(text.lastIndexOf(')') + 1).trim().split(" ");
        return fields.length < 10 ? null
                : new long[] {Long.parseLong(fields[7]), Long.parseLong(fields[9])};
    }

    /**
     * Throws ModelFileException where the native engine's rank is wrong for the file's test vectors:
     * the time of a wrong answer says nothing.
     */
    private void checkRank() {
        OnDeviceModel model = source.requests();
        try {
            if (!task.context.isEmpty() && model.describe().testRows > 0) {
                Verification tests = model.verify();
                if (!(tests.rankDifference <= tests.tolerance)) {
                    throw new ModelFileException("rank differs from predict: by "
                            + tests.rankDifference + " (tolerance " + tests.tolerance
                            + "), so it is not measured");
                }
            }
        } finally {
            model.close();
        }
    }

    private void latency(Map<String, Object> observation) {
        draw(task.rows, REQUESTS);
        Engine model = source.open();
        if (model.engine().equals("native")) {
            checkRank();
        }
        prepare(model);
        int turn = 0;
        long deadline = System.nanoTime() + (long) Math.min(WARM_UP_NS, task.seconds * 1e9);
        do {
            call(model, turn++);
        } while (System.nanoTime() < deadline);
        List<Object> overhead = overhead();
        boolean emulated = emulator != null;
        long gap = emulated ? 0 : (long) (task.gapMs * 1e6);
        int bursts = BURSTS;
        int most = MAX_REQUESTS / BURSTS;
        if (emulated) {
            most = EMULATED_REQUESTS / BURSTS;
        } else if (gap > 0) {
            bursts = (int) Math.max(MIN_PACED_BURSTS,
                    Math.round(task.seconds * 1e9 / gap / PACED_BURST_REQUESTS));
            most = PACED_BURST_REQUESTS;
        }
        long length = emulated || gap > 0 ? 0 : (long) (task.seconds * 1e9 / bursts);
        long[] times = new long[bursts * most];
        long[] counts = new long[bursts];
        long[] walls = new long[bursts];
        int done = 0;
        long processor = SystemCalls.processTime();
        for (int burst = 0; burst < bursts; burst++) {
            long begun = System.nanoTime();
            long next = begun;
            while (counts[burst] < most) {
                next += gap;
                while (gap > 0 && System.nanoTime() < next) {
                    LockSupport.parkNanos(next - System.nanoTime());
                }
                long before = System.nanoTime();
                call(model, done);
                long after = System.nanoTime();
                times[done++] = after - before;
                counts[burst]++;
                if (length > 0 && after - begun >= length && counts[burst] >= MIN_BURST_REQUESTS) {
                    break;
                }
            }
            walls[burst] = System.nanoTime() - begun;
        }
        long used = SystemCalls.processTime() - processor;
        Map<String, Object> requestTimes = new LinkedHashMap<String, Object>();
        requestTimes.put("times_ns", list(times, done));
        requestTimes.put("counts", list(counts, bursts));
        requestTimes.put("walls_ns", list(walls, bursts));
        List<Object> workers = new ArrayList<Object>();
        workers.add(requestTimes);
        about(observation, model);
        observation.put("workers", workers);
        observation.put("cpu_ns", processor < 0 ? null : (Object) used);
        observation.put("overhead_ns", overhead);
        model.close();
    }

    /** Medians of bursts of timed calls that do nothing. */
    private static List<Object> overhead() {
        List<Object> out = new ArrayList<Object>();
        for (int burst = 0; burst < BURSTS; burst++) {
            double[] times = new double[OVERHEAD_BURST_CALLS];
            for (int i = 0; i < times.length; i++) {
                long before = System.nanoTime();
                times[i] = System.nanoTime() - before;
            }
            out.add((long) Statistics.median(times));
        }
        return out;
    }

    private static List<Object> list(long[] values, int count) {
        List<Object> out = new ArrayList<Object>(count);
        for (int i = 0; i < count; i++) {
            out.add(values[i]);
        }
        return out;
    }

    private void about(Map<String, Object> observation, Engine model) {
        observation.put("engine", model.engine());
        observation.put("runtime", model.runtime());
        observation.put("emulated", emulator);
        String allowed = SystemCalls.line(SystemCalls.read("/proc/self/status"),
                "Cpus_allowed_list");
        observation.put("affinity", allowed == null ? null : Device.numbers(allowed));
    }

    /** Draw {@code count} different requests, the same in every run. */
    private void draw(int size, int count) {
        OnDeviceModel model = source.requests();
        Map<String, Object> pool = model.testInputs();
        Random random = new Random(0);
        int available = RANDOM_ROWS;
        for (ModelDescription.Input input : model.describe().inputs) {
            if (pool.get(input.name) == null) {
                pool.put(input.name, randomValues(input, random));
            }
            rowSizes.put(input.name, input.rowSize);
            available = Math.min(available, Array.getLength(pool.get(input.name)) / input.rowSize);
        }
        contexts = new ArrayList<Map<String, Object>>();
        rows = new ArrayList<Map<String, Object>>();
        for (int i = 0; i < count; i++) {
            Map<String, Object> context = new LinkedHashMap<String, Object>();
            Map<String, Object> others = new LinkedHashMap<String, Object>();
            int[] chosen = new int[size];
            for (int row = 0; row < size; row++) {
                chosen[row] = random.nextInt(available);
            }
            for (ModelDescription.Input input : model.describe().inputs) {
                boolean shared = task.context.contains(input.name);
                int height = shared ? 1 : size;
                Object values = input.isFloat ? new float[height * input.rowSize]
                        : (Object) new long[height * input.rowSize];
                for (int row = 0; row < height; row++) {
                    System.arraycopy(pool.get(input.name), chosen[row] * input.rowSize, values,
                            row * input.rowSize, input.rowSize);
                }
                (shared ? context : others).put(input.name, values);
            }
            contexts.add(context);
            rows.add(others);
        }
        model.close();
    }

    private void prepare(Engine engine) {
        requests = new Object[rows.size()];
        for (int i = 0; i < requests.length; i++) {
            requests[i] = engine.request(contexts.get(i), rows.get(i), rowSizes);
        }
    }

    private static Object randomValues(ModelDescription.Input input, Random random) {
        long[] ids = new long[RANDOM_ROWS * input.rowSize];
        float[] numbers = new float[ids.length];
        for (int i = 0; i < ids.length; i++) {
            int element = i % input.rowSize;
            boolean limited = input.isLimited(element);
            ids[i] = limited ? randomId(input, element, random) : random.nextLong();
            numbers[i] = limited ? ids[i] : (float) random.nextGaussian();
        }
        return input.isFloat ? numbers : (Object) ids;
    }

    private static long randomId(ModelDescription.Input input, int element, Random random) {
        long low = input.lowest(element);
        long count = input.highest(element) - low + 1; // below 1: more than a long holds
        long any = random.nextLong() >>> 1;
        return low + (count < 1 ? any : any % count);
    }

    private void call(Engine engine, int turn) {
        engine.call(requests[turn % requests.length]);
    }
}
