package ondevice.ctr.bench;

import java.io.BufferedReader;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.Charset;

/** What a process can learn of itself: native methods (jni.c) and files of /proc. */
final class SystemCalls {
    // As in ondevice/bench/measure/constants.py.
    private static final int MAX_SYSTEM_FILE = 1 << 16;
    private static final String[] EMULATORS = {"qemu-", "box64", "box86", "FEX"};

    private SystemCalls() {}

    /** Processor time of this process in nanoseconds; -1: unknown. */
    static native long processTime();

    /** Drop a file's pages from memory: how many stayed, or minus a Linux error number. */
    static native long dropPages(byte[] path);

    /** The text of a file such as those of /proc; null where it may not be read. */
    static String read(String path) {
        StringBuilder out = new StringBuilder();
        try {
            BufferedReader in = new BufferedReader(new InputStreamReader(new FileInputStream(path),
                    Charset.forName("UTF-8")));
            try {
                char[] piece = new char[4096];
                int count = in.read(piece);
                while (count > 0 && out.length() < MAX_SYSTEM_FILE) {
                    out.append(piece, 0, count);
                    count = in.read(piece);
                }
            } finally {
                in.close();
            }
        } catch (IOException error) {
            return null;
        }
        return out.toString();
    }

    /** The rest of the line that begins with {@code name} and a colon; null when there is none. */
    static String line(String text, String name) {
        for (String line : text == null ? new String[0] : text.split("\n")) {
            int colon = line.indexOf(':');
            if (colon > 0 && line.substring(0, colon).trim().equals(name)) {
                return line.substring(colon + 1).trim();
            }
        }
        return null;
    }

    /** A line's number of kB, in bytes; -1 when there is none. */
    static long bytes(String text, String name) {
        String line = line(text, name);
        return line != null && line.matches("\\d{1,15} kB")
                ? Long.parseLong(line.substring(0, line.length() - 3)) * 1024 : -1;
    }

    /** What emulates or translates this process's processor; null: nothing known. */
    static String emulator() {
        try {
            String program = new File("/proc/thread-self/exe").getCanonicalFile().getName();
            for (String known : EMULATORS) {
                if (program.startsWith(known)) {
                    return program;
                }
            }
        } catch (IOException error) {
            // then the processor's own words must do
        }
        String processor = read("/proc/cpuinfo");
        String architecture = Device.architecture();
        boolean arm = architecture.startsWith("aarch64") || architecture.startsWith("arm");
        if (arm && line(processor, "vendor_id") != null) {
            return "binary translation";
        }
        return processor != null && processor.contains("QEMU Virtual CPU") ? "qemu-system" : null;
    }
}
