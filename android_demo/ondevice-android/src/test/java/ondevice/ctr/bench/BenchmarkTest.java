package ondevice.ctr.bench;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;
import static org.junit.Assert.fail;

import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import ondevice.ctr.Json;
import ondevice.ctr.ModelFileException;
import org.junit.Assume;
import org.junit.Test;

/** A whole benchmark with processes of the host's JVM; tests/android reads the report it writes. */
public class BenchmarkTest {
    private static File folder() {
        String folder = System.getProperty("ondevice.fixtures");
        Assume.assumeTrue("run by tests/android", folder != null);
        return new File(folder);
    }

    private static HostProcesses processes() {
        return new HostProcesses(new File(folder(), "small.odm"), "-Xcheck:jni");
    }

    private static Plan plan() {
        Plan plan = new Plan();
        plan.rows = new int[] {1, 16};
        plan.rank = new int[] {8};
        plan.context = Collections.singletonList("user");
        plan.gapsMs = new double[] {0, 5};
        plan.seconds = 0.1;
        plan.processes = 2;
        return plan;
    }

    @Test
    public void aReportIsWritten() throws Exception {
        HostProcesses processes = processes();
        Benchmark.ModelFile model = new Benchmark.ModelFile("small.odm",
                new FileInputStream(processes.model));
        final int[] last = new int[2];
        String report = Benchmark.run(plan(),
                Collections.singletonList(new Benchmark.Subject(model, processes)), new Device(),
                "ondevice test", new Benchmark.Progress() {
                    @Override
                    public void at(int done, int total, String text) {
                        last[0] = done;
                        last[1] = total;
                    }
                });
        assertEquals(18, processes.started); // (2 starts, memory, 3 sizes of 2 pauses) twice
        assertEquals(18, last[0]);
        assertEquals(18, last[1]);
        FileOutputStream out = new FileOutputStream(new File(folder(), "report.json"));
        out.write(report.getBytes("UTF-8"));
        out.close();
    }

    @Test
    public void anInterruptedRunKeepsWhatItHas() throws Exception {
        final HostProcesses processes = processes();
        Benchmark.Machine two = new Benchmark.Machine() {
            @Override
            public String observe(Task task) throws IOException, InterruptedException {
                if (processes.started == 2) {
                    throw new InterruptedException();
                }
                return processes.observe(task);
            }

            @Override
            public String path() {
                return processes.path();
            }
        };
        Benchmark.Subject subject = new Benchmark.Subject(
                new Benchmark.ModelFile("small.odm", new FileInputStream(processes.model)), two);
        Map<?, ?> report = (Map<?, ?>) Json.parse(Benchmark.run(plan(),
                Collections.singletonList(subject), new Device(), "ondevice test",
                new Benchmark.Progress() {
                    @Override
                    public void at(int done, int total, String text) {}
                }));
        assertEquals(true, report.get("interrupted"));
        assertEquals(2, ((List<?>) report.get("starts")).size());
        assertEquals(0, ((List<?>) report.get("latencies")).size());
    }

    @Test
    public void thePlanIsThatOfOndeviceBench() {
        List<Task> tasks = new Plan().tasks();
        assertEquals("[start, cold, start, warm, memory, predict 1, predict 1 every 100 ms, "
                + "predict 128, predict 128 every 100 ms]", tasks.toString());
        assertEquals(128, tasks.get(2).rows);
        assertEquals(0.2, tasks.get(3).seconds, 1e-12);
        assertEquals(0.6, tasks.get(4).seconds, 1e-12);
        Task task = plan().tasks().get(8);
        Task again = Task.parse(task.toJson());
        assertEquals("rank 8 every 5 ms", again.toString());
        assertEquals(task.toJson(), again.toJson());
        for (String text : new String[] {"{}", "[]", "x", "{\"kind\": 1}"}) {
            try {
                Task.parse(text);
                fail(text);
            } catch (ModelFileException expected) {
                // as it should
            }
        }
    }

    @Test
    public void plansThatNoDeviceCanDoAreRefused() {
        Plan[] plans = new Plan[7];
        for (int i = 0; i < plans.length; i++) {
            plans[i] = new Plan();
        }
        plans[0].rows = new int[] {0};
        plans[1].rows = new int[] {1000001};
        plans[2].gapsMs = new double[] {1e-6};
        plans[3].gapsMs = new double[] {Double.NaN};
        plans[4].seconds = 1e300;
        plans[5].processes = 0;
        plans[6].rank = new int[] {5}; // without a context
        for (int i = 0; i < plans.length; i++) {
            try {
                plans[i].tasks();
            } catch (IllegalArgumentException expected) {
                continue;
            }
            fail("plan " + i);
        }
    }

    /** Figures of numpy.percentile and numpy.std(ddof=1). */
    @Test
    public void spreadsAreThoseOfNumpy() {
        Map<String, Object> spread = Statistics.spread(new double[] {4, 1, 3, 2, 10});
        assertEquals("{\"count\": 5, \"mean\": 4.0, \"sd\": 3.535534, \"min\": 1.0, \"p50\": 3.0, "
                + "\"p90\": 7.6, \"p95\": 8.8, \"p99\": 9.76, \"max\": 10.0}", Json.write(spread));
        assertEquals(0.0, Statistics.spread(new double[] {7}).get("sd"));
        List<Object> percentiles = Statistics.percentiles(new double[] {0, 100});
        assertEquals(101, percentiles.size());
        assertEquals(37.0, percentiles.get(37));
    }

    @Test
    public void listsOfProcessorsAreRead() {
        assertEquals(Arrays.<Object>asList(0, 1, 2, 3, 8), Device.numbers("0-3,8"));
        assertNull(Device.numbers("all"));
        assertNull(Device.numbers(""));
    }

    @Test
    public void memoryAndTimeOfThisProcess() {
        Map<String, Long> memory = Worker.memoryNow();
        assertTrue(memory.get("rss") > 10 << 20);
        assertTrue(memory.get("peak") >= memory.get("rss") / 2);
        ondevice.ctr.OnDeviceModel.open(new File(folder(), "small.odm")).close(); // loads natives
        long before = SystemCalls.processTime();
        long end = System.nanoTime() + 60000000000L; // a busy machine gives this process little
        while (SystemCalls.processTime() - before <= 1000000 && System.nanoTime() < end) {
            continue;
        }
        assertTrue(SystemCalls.processTime() - before > 1000000);
        assertEquals(-2, SystemCalls.dropPages(new File("/nowhere").getPath().getBytes()));
    }
}
