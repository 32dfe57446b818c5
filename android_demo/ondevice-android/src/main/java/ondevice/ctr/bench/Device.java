package ondevice.ctr.bench;

import java.io.File;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** What a device says of itself, as the report has it; on Android many files may not be read. */
public class Device {
    private static final int MAX_SENSORS = 32; // as in ondevice/bench/measure/constants.py

    /** The name of the phone or board; null: unknown. Android's classes know it: override. */
    public String name() {
        return null;
    }

    /** The processor's name. */
    public String processor() {
        String text = SystemCalls.read("/proc/cpuinfo");
        Set<String> parts = new LinkedHashSet<String>();
        for (String line : text == null ? new String[0] : text.split("\n")) {
            int colon = line.indexOf(':');
            if (colon > 0 && line.startsWith("CPU part")) {
                parts.add(line.substring(colon + 1).trim());
            }
        }
        String model = SystemCalls.line(text, "model name");
        model = model == null ? SystemCalls.line(text, "Hardware") : model;
        return !parts.isEmpty() ? "ARM part " + join(parts) : model == null ? architecture() : model;
    }

    /** The operating system and its version. */
    public String system() {
        return System.getProperty("os.name");
    }

    /** What limits the speed now; empty: nothing; null: unknown. */
    public List<String> throttled() {
        return null;
    }

    /** As `uname -m` says it. */
    static String architecture() {
        String name = System.getProperty("os.arch");
        return name.equals("amd64") ? "x86_64" : name;
    }

    final Map<String, Object> describe(String version, String emulator) {
        Map<String, Object> out = new LinkedHashMap<String, Object>();
        long memory = SystemCalls.bytes(SystemCalls.read("/proc/meminfo"), "MemTotal");
        Map<String, Object> versions = new LinkedHashMap<String, Object>();
        versions.put("ondevice", version);
        out.put("name", name());
        out.put("cpu", processor());
        out.put("architecture", architecture());
        out.put("cores", Runtime.getRuntime().availableProcessors());
        out.put("memory_bytes", memory < 0 ? null : (Object) memory);
        out.put("system", system());
        out.put("kernel", "Linux " + System.getProperty("os.version"));
        out.put("emulated", emulator);
        out.put("versions", versions);
        return out;
    }

    final Map<String, Object> state() {
        Map<String, Object> out = new LinkedHashMap<String, Object>();
        String load = SystemCalls.read("/proc/loadavg");
        out.put("clocks", clocks());
        out.put("temperatures", temperatures());
        out.put("throttled", throttled());
        out.put("load", load != null && load.matches("(?s)\\d+\\.\\d+ .*")
                ? (Object) Double.parseDouble(load.split(" ")[0]) : null);
        return out;
    }

    private static List<Object> clocks() {
        List<Object> out = new ArrayList<Object>();
        for (String policy : sorted("/sys/devices/system/cpu/cpufreq", "policy\\d+")) {
            String cpus = SystemCalls.read(policy + "/affected_cpus");
            String governor = SystemCalls.read(policy + "/scaling_governor");
            String khz = SystemCalls.read(policy + "/scaling_cur_freq");
            if (cpus == null || cpus.trim().isEmpty()) {
                continue;
            }
            boolean known = khz != null && khz.trim().matches("\\d{1,9}");
            Map<String, Object> clock = new LinkedHashMap<String, Object>();
            clock.put("cpus", cpus.trim().replace(' ', ','));
            clock.put("governor", governor == null ? null : governor.trim());
            clock.put("mhz", known ? (Object) (Long.parseLong(khz.trim()) / 1000.0) : null);
            out.add(clock);
        }
        return out;
    }

    private static List<Object> temperatures() {
        List<Object> out = new ArrayList<Object>();
        for (String zone : sorted("/sys/class/thermal", "thermal_zone\\d+")) {
            String type = SystemCalls.read(zone + "/type");
            String value = SystemCalls.read(zone + "/temp");
            if (type == null || value == null || !value.trim().matches("-?\\d{1,7}")
                    || out.size() == MAX_SENSORS) {
                continue;
            }
            Map<String, Object> sensor = new LinkedHashMap<String, Object>();
            sensor.put("sensor", type.trim());
            sensor.put("celsius", Long.parseLong(value.trim()) / 1000.0);
            out.add(sensor);
        }
        return out;
    }

    private static List<String> sorted(String folder, String pattern) {
        String[] names = new File(folder).list();
        List<String> out = new ArrayList<String>();
        for (String name : names == null ? new String[0] : names) {
            if (name.matches(pattern)) {
                out.add(folder + "/" + name);
            }
        }
        String[] array = out.toArray(new String[0]);
        Arrays.sort(array);
        return Arrays.asList(array);
    }

    /** Numbers as Linux lists them, "0-3,8"; null when it is no such list. */
    static List<Object> numbers(String text) {
        List<Object> out = new ArrayList<Object>();
        for (String part : text.split(",")) {
            if (!part.matches("\\d{1,4}(-\\d{1,4})?")) {
                return null;
            }
            String[] ends = part.split("-");
            int last = Integer.parseInt(ends[ends.length - 1]);
            for (int i = Integer.parseInt(ends[0]); i <= last; i++) {
                out.add(i);
            }
        }
        return out;
    }

    private static String join(Set<String> parts) {
        StringBuilder out = new StringBuilder();
        for (String part : parts) {
            out.append(out.length() == 0 ? "" : " + ").append(part);
        }
        return out.toString();
    }
}
