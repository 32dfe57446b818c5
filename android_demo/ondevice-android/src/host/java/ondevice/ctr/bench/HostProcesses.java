package ondevice.ctr.bench;

import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/** Measuring processes of this PC's JVM, as an app has them on a phone: a fresh one for each task. */
final class HostProcesses implements Benchmark.Machine {
    final File model;
    int started;
    private final String[] options;

    HostProcesses(File model, String... options) {
        this.model = model;
        this.options = options;
    }

    @Override
    public String observe(Task task) throws IOException {
        List<String> command = new ArrayList<String>();
        command.add(System.getProperty("java.home") + "/bin/java");
        command.addAll(Arrays.asList(options));
        command.addAll(Arrays.asList(
                "-Djava.library.path=" + System.getProperty("java.library.path"),
                "-classpath", System.getProperty("java.class.path"),
                WorkerProcess.class.getName(), model.getPath(), String.valueOf(System.nanoTime()),
                task.toJson()));
        Process process = new ProcessBuilder(command).redirectErrorStream(true).start();
        started++;
        BufferedReader in = new BufferedReader(
                new InputStreamReader(process.getInputStream(), "UTF-8"));
        String line = in.readLine();
        in.close();
        if (line == null || !line.startsWith("{")) {
            throw new IOException("the process said: " + line);
        }
        return line;
    }

    @Override
    public String path() {
        return model.getPath();
    }
}
