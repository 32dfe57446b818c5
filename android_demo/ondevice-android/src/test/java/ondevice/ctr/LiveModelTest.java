package ondevice.ctr;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;
import static org.junit.Assert.fail;

import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;
import org.junit.After;
import org.junit.Before;
import org.junit.Test;

/** A file that is replaced under load: -Dondevice.switches says how often. */
public class LiveModelTest {
    private static final int THREADS = 8;
    private static final int SWITCHES = Integer.getInteger("ondevice.switches", 500);

    private File file;
    private final byte[][] contents = new byte[2][];
    private final float[][] scores = new float[2][];
    private Map<String, Object> rows;

    private final LiveModel.Opener opener = new LiveModel.Opener() {
        @Override
        public OnDeviceModel open(File file) {
            return OnDeviceModel.open(file);
        }
    };

    @Before
    public void putTheFirst() throws IOException {
        OnDeviceModel second = OnDeviceModel.open(Fixtures.file("updates/new.odm"));
        rows = second.testInputs();
        second.close();
        for (int i = 0; i < 2; i++) {
            File version = Fixtures.file("updates/" + (i == 0 ? "old" : "new") + ".odm");
            contents[i] = Fixtures.read(version);
            OnDeviceModel model = OnDeviceModel.open(version);
            scores[i] = model.predict(request());
            model.close();
        }
        assertFalse(Arrays.equals(scores[0], scores[1]));
        file = File.createTempFile("live", ".odm");
        replace(contents[0]);
    }

    @After
    public void remove() {
        if (file != null) {
            file.delete();
        }
    }

    /** The rows of the second file's test vectors. */
    private Inputs request() {
        Inputs inputs = new Inputs();
        for (Map.Entry<String, Object> entry : rows.entrySet()) {
            inputs.values(entry.getKey(), entry.getValue());
        }
        return inputs;
    }

    private void replace(byte[] data) throws IOException {
        File fresh = new File(file.getPath() + ".fresh");
        FileOutputStream out = new FileOutputStream(fresh);
        try {
            out.write(data);
        } finally {
            out.close();
        }
        assertTrue(fresh.renameTo(file));
    }

    /**
     * Memory of this process in bytes, after garbage was collected. Java's heap must be of one size
     * and touched: else it grows by as much as the threads could allocate between two collections.
     */
    private static long resident() throws IOException {
        System.gc();
        byte[] text = new byte[200];
        FileInputStream in = new FileInputStream("/proc/self/statm"); // has no length
        try {
            int size = in.read(text);
            return Long.parseLong(new String(text, 0, size, "US-ASCII").split(" ")[1]) * 4096;
        } finally {
            in.close();
        }
    }

    @Test
    public void requestsGoOnWhileTheFileIsReplaced() throws Exception {
        final LiveModel live = LiveModel.open(file, opener, -1);
        final AtomicBoolean stop = new AtomicBoolean();
        final AtomicLong[] served = {new AtomicLong(), new AtomicLong()};
        ExecutorService threads = Executors.newFixedThreadPool(THREADS);
        List<Future<Void>> results = new ArrayList<Future<Void>>();
        for (int i = 0; i < THREADS; i++) {
            results.add(threads.submit(new Callable<Void>() {
                @Override
                public Void call() {
                    while (!stop.get()) {
                        float[] got = live.predict(request());
                        int which = Arrays.equals(got, scores[0]) ? 0 : 1;
                        assertArrayEquals(scores[which], got, 0);
                        served[which].incrementAndGet();
                    }
                    return null;
                }
            }));
        }
        long middle = 0;
        // a busy processor may let the threads begin late
        for (int i = 1; i <= SWITCHES || served[0].get() == 0 || served[1].get() == 0; i++) {
            replace(contents[i % 2]);
            assertTrue(live.refresh());
            if (i == SWITCHES / 2) {
                middle = resident();
            }
            for (Future<Void> result : results) {
                assertFalse("a thread ended", result.isDone());
            }
        }
        long growth = resident() - middle;
        stop.set(true);
        for (Future<Void> result : results) {
            result.get();
        }
        threads.shutdown();
        assertTrue("grew by " + growth, growth < 32e6);
        System.out.println("LiveModel: " + SWITCHES + " switches, "
                + (served[0].get() + served[1].get()) + " requests, " + growth / 1000 + " kB more");
        live.close();
        try {
            live.predict(request());
            fail("served after its end");
        } catch (ModelClosedException expected) {
            // as it must be
        }
        live.close();
    }

    @Test
    public void aFileThatCannotServeLeavesTheModelInUse() throws Exception {
        LiveModel live = LiveModel.open(file, opener, -1);
        for (byte[] data : new byte[][] {Arrays.copyOf(contents[1], contents[1].length - 100),
            Fixtures.read(Fixtures.file("features.odm"))}) {
            replace(data);
            for (int i = 0; i < 2; i++) { // as long as it is there
                try {
                    live.refresh();
                    fail("taken");
                } catch (ModelFileException expected) {
                    assertEquals(expected, live.error());
                }
            }
            assertArrayEquals(scores[0], live.predict(request()), 0);
        }
        assertTrue(file.delete());
        try {
            live.refresh();
            fail("taken");
        } catch (ModelFileException expected) {
            assertNotNull(live.error());
        }
        replace(contents[1]);
        assertTrue(live.refresh());
        assertFalse(live.refresh());
        assertNull(live.error());
        assertArrayEquals(scores[1], live.predict(request()), 0);
        live.close();
    }

    @Test
    public void aRequestKeepsTheModelThatItBeganWith() throws Exception {
        LiveModel live = LiveModel.open(file, opener, -1);
        LiveModel.Lease held = live.acquire();
        LiveModel.Lease other = live.acquire();
        replace(contents[1]);
        assertTrue(live.refresh());
        assertArrayEquals(scores[1], live.predict(request()), 0);
        assertArrayEquals(scores[0], held.model().predict(request()), 0);
        held.close();
        held.close(); // twice is harmless, also for the other one
        assertArrayEquals(scores[0], other.model().predict(request()), 0);
        other.close();
        try {
            other.model().predict(request());
            fail("an old model stays");
        } catch (ModelClosedException expected) {
            // its last request has ended
        }
        live.close();
    }

    @Test
    public void requestsLookForANewFileOnceInAWhile() throws Exception {
        LiveModel eager = LiveModel.open(file, opener, 0);
        LiveModel patient = LiveModel.open(file, opener, 1000000);
        replace(contents[1]);
        assertArrayEquals(scores[1], eager.predict(request()), 0);
        assertArrayEquals(scores[0], patient.predict(request()), 0);
        replace(new byte[] {1, 2, 3});
        assertArrayEquals(scores[1], eager.predict(request()), 0);
        assertTrue(eager.error() instanceof ModelFileException);
        eager.close();
        patient.close();
    }
}
