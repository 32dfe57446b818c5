package ondevice.ctr.bench;

import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.util.Collections;
import ondevice.ctr.OnDeviceModel;

/** MODEL REPORT ROWS RANK CONTEXT SECONDS: a benchmark on this PC (benchmarks/java_calls.py). */
public final class HostBenchmark {
    private HostBenchmark() {}

    public static void main(String[] words) throws Exception {
        File model = new File(words[0]);
        Plan plan = new Plan();
        plan.rows = numbers(words[2]);
        plan.rank = numbers(words[3]);
        plan.context = Collections.singletonList(words[4]);
        plan.gapsMs = new double[] {0};
        plan.seconds = Double.parseDouble(words[5]);
        OnDeviceModel.open(model).close(); // loads the library, which the run needs here too
        String report = Benchmark.run(plan, Collections.singletonList(new Benchmark.Subject(
                new Benchmark.ModelFile(model.getName(), new FileInputStream(model)),
                new HostProcesses(model))), new Device(), "ondevice Java", new Benchmark.Progress() {
                    @Override
                    public void at(int done, int total, String text) {}
                });
        FileOutputStream out = new FileOutputStream(words[1]);
        out.write(report.getBytes("UTF-8"));
        out.close();
    }

    private static int[] numbers(String list) {
        String[] parts = list.split(",");
        int[] out = new int[parts.length];
        for (int i = 0; i < out.length; i++) {
            out[i] = Integer.parseInt(parts[i]);
        }
        return out;
    }
}
