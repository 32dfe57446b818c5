package ondevice.ctr;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;
import static org.junit.Assert.fail;

import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.RandomAccessFile;
import java.math.BigDecimal;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.junit.Test;

/** The library on the host's JVM, against what the Python engine computed. */
public class OnDeviceModelTest {
    private static final float CLOSE = 2e-6f; // order of float32 sums

    private static OnDeviceModel small() {
        return OnDeviceModel.open(Fixtures.file("small.odm"));
    }

    private static Inputs row() {
        return new Inputs().ids("user", -5).ids("colour", 3).ids("slot", 4);
    }

    @Test
    public void everyRequestGivesPythonsScores() throws Exception {
        int requests = 0;
        for (Map<String, Object> item : Fixtures.objects(Fixtures.json("requests.json"))) {
            OnDeviceModel model = OnDeviceModel.open(Fixtures.file((String) item.get("model")));
            float[] expected = Fixtures.floats(item.get("scores"));
            Inputs candidates = Fixtures.raw(item.get("candidates"));
            float[] got;
            if (item.get("context") == null) {
                got = model.predict(candidates);
            } else {
                Inputs context = Fixtures.raw(item.get("context"));
                got = model.rank(context, candidates);
                assertArrayEquals(got, model.rank(context, candidates), 0);
            }
            assertArrayEquals(expected, got, CLOSE);
            model.close();
            requests++;
        }
        assertTrue(requests >= 6);
    }

    @Test
    public void rawValuesGetPythonsIds() throws Exception {
        int fields = 0;
        for (Map<String, Object> item : Fixtures.objects(Fixtures.json("encoded.json"))) {
            OnDeviceModel model = OnDeviceModel.open(Fixtures.file((String) item.get("model")));
            Inputs inputs = Fixtures.raw(item.get("raw"));
            for (Map.Entry<String, List<Object>> entry
                    : Fixtures.lists(item.get("ids")).entrySet()) {
                assertArrayEquals(entry.getKey(), Fixtures.longs(entry.getValue()),
                        model.encode(entry.getKey(), inputs));
                fields++;
            }
            model.close();
        }
        assertTrue(fields >= 7);
    }

    /** Texts and typed values are read, or refused, as in training and in Python. */
    @Test
    public void goldenCellsGetTheirIds() throws Exception {
        @SuppressWarnings("unchecked")
        Map<String, Object> golden = (Map<String, Object>) Fixtures.json("cells.json");
        OnDeviceModel model = OnDeviceModel.open(Fixtures.file("cells.odm"));
        int cases = 0;
        for (Map<String, Object> item : Fixtures.objects(golden.get("cases"))) {
            String name = (String) item.get("field");
            Object value = Fixtures.golden((String) item.get("type"), item.get("value"));
            String about = name + ", " + item.get("type") + " " + value;
            Inputs inputs = new Inputs().raw(name, Collections.singletonList(value));
            try {
                long[] ids = model.encode(name, inputs);
                assertTrue(about + " is not refused", item.get("ids") != null);
                @SuppressWarnings("unchecked")
                List<Object> expected = (List<Object>) item.get("ids");
                assertArrayEquals(about, Fixtures.longs(expected), ids);
                if (value instanceof String) {
                    assertArrayEquals(about, ids,
                            model.encode(name, new Inputs().strings(name, (String) value)));
                }
            } catch (InputException error) {
                assertTrue(about + ": " + error.getMessage(), item.get("ids") == null);
            }
            cases++;
        }
        assertTrue(cases > 150);
        model.close();
    }

    @Test
    public void typedValuesAreEncodedLikeLists() {
        OnDeviceModel model = OnDeviceModel.open(Fixtures.file("features.odm"));
        List<Long> longs = Arrays.asList(5L, -7L, Long.MAX_VALUE);
        assertArrayEquals(model.encode("colour", new Inputs().raw("colour", longs)),
                model.encode("colour", new Inputs().integers("colour", 5, -7, Long.MAX_VALUE)));
        List<Double> doubles = Arrays.asList(-0.0, Double.NaN, null);
        assertArrayEquals(model.encode("price", new Inputs().raw("price", doubles)),
                model.encode("price", new Inputs().numbers("price", -0.0, Double.NaN, Double.NaN)));
        assertArrayEquals(
                model.encode("price", new Inputs().numbers("price", 1, 2)),
                model.encode("price", new Inputs().integers("price", 1, 2)));
        List<String> texts = Arrays.asList("a", null, "\ud83c\udfac");
        assertArrayEquals(model.encode("user", new Inputs().raw("user", texts)),
                model.encode("user", new Inputs().strings("user", "a", null, "\ud83c\udfac")));
        model.close();
    }

    @Test
    public void testVectorsInsideTheFileHold() {
        OnDeviceModel model = small();
        Verification verification = model.verify();
        assertTrue(verification.passed());
        assertEquals(32, verification.rows);
        assertTrue(verification.maxDifference < CLOSE);
        model.close();
        OnDeviceModel none = OnDeviceModel.open(Fixtures.file("features.odm"));
        try {
            none.verify();
            fail("no vectors, no error");
        } catch (ModelFileException error) {
            assertTrue(error.getMessage().contains("no test vectors"));
        }
        none.close();
    }

    @Test
    public void rankIsVerifiedAsPythonDoes() throws Exception {
        int wrong = 0;
        for (Map<String, Object> item : Fixtures.objects(Fixtures.json("verifications.json"))) {
            String name = (String) item.get("model");
            OnDeviceModel model = OnDeviceModel.open(Fixtures.file(name));
            Verification found = model.verify();
            model.close();
            Object expected = item.get("rank_difference");
            assertEquals(name, expected == null ? Double.NaN
                    : ((Json.Number) expected).toDouble(), found.rankDifference, 1e-6);
            assertEquals(name, ((Json.Number) item.get("max_difference")).toDouble(),
                    found.maxDifference, CLOSE);
            assertEquals(name, ((Json.Number) item.get("rows")).toLong(), found.rows);
            assertEquals(name, item.get("passed"), found.passed());
            wrong += found.maxDifference < CLOSE && !found.passed() ? 1 : 0;
        }
        assertEquals(3, wrong); // only for what the source model ranked
    }

    private static OnDeviceModel mixed() {
        return OnDeviceModel.open(Fixtures.file("mixed.odm"));
    }

    /** Numbers, computed IDs and an embedding: every split of the inputs, and both outputs. */
    @Test
    public void numbersAndIdsAreRankedInEverySplit() throws Exception {
        @SuppressWarnings("unchecked")
        Map<String, Object> mixed = (Map<String, Object>) Fixtures.json("mixed.json");
        OnDeviceModel model = mixed();
        int splits = 0;
        for (Map<String, Object> item : Fixtures.objects(mixed.get("requests"))) {
            Inputs context = Fixtures.direct(item.get("context"));
            Inputs candidates = Fixtures.direct(item.get("candidates"));
            Map<String, float[]> got = context.isEmpty() ? model.predictAll(candidates)
                    : model.rankAll(context, candidates);
            Map<String, List<Object>> expected = Fixtures.lists(item.get("outputs"));
            assertEquals(Arrays.asList("count", "parts"), new ArrayList<String>(got.keySet()));
            for (String name : expected.keySet()) {
                assertArrayEquals(name, Fixtures.floats(expected.get(name)), got.get(name), CLOSE);
            }
            assertArrayEquals(got.get("count"), context.isEmpty() ? model.predict(candidates)
                    : model.rank(context, candidates), 0);
            splits++;
        }
        assertEquals(31, splits);
        model.close();
    }

    /** IDs outside the limits of their element, which Python refuses too. */
    @Test
    public void everyElementHasItsLimits() throws Exception {
        @SuppressWarnings("unchecked")
        Map<String, Object> mixed = (Map<String, Object>) Fixtures.json("mixed.json");
        OnDeviceModel model = mixed();
        int refused = 0;
        for (Map<String, Object> item : Fixtures.objects(mixed.get("refused"))) {
            try {
                model.predict(Fixtures.direct(item.get("inputs")));
                fail(item.toString());
            } catch (InputException error) {
                String said = error.getMessage();
                assertTrue(said, said.contains("'" + item.get("input") + "'"));
                assertTrue(said, said.contains("in row 1, ") && said.contains("outside"));
                refused++;
            }
        }
        assertEquals(10, refused);
        List<ModelDescription.Input> inputs = model.describe().inputs;
        assertEquals(-7, inputs.get(1).lowest(0));
        assertEquals(7, inputs.get(1).highest(0));
        assertEquals(-1, inputs.get(1).idLimit);
        assertEquals(6, inputs.get(0).idLimit);
        assertEquals(-2, inputs.get(2).lowest(2));
        assertTrue(inputs.get(2).isLimited(0) && !inputs.get(2).isLimited(1));
        assertTrue(inputs.get(4).isFloat && !inputs.get(2).isFloat);
        assertEquals(Arrays.asList(1, 3), model.describe().outputRowSizes);
        assertTrue(model.describe().toString(), model.describe().toString().contains("numbers"));
        model.close();
    }

    private static Inputs mixedRow() {
        return new Inputs().ids("user", 1).ids("day", -7).ids("columns", 3, -9, -2);
    }

    /** Whatever a number comes as, the model gets the same float32. */
    @Test
    public void numbersAreTakenInEveryForm() {
        OnDeviceModel model = mixed();
        float expected = model.predict(mixedRow().floats("price", 1).floats("matrix", 0, 1))[0];
        List<List<Object>> rows = Collections.singletonList(Arrays.<Object>asList(false, 1.0));
        Inputs[] same = {
            mixedRow().ids("price", 1).ids("matrix", 0, 1),
            mixedRow().booleans("price", true).booleans("matrix", false, true),
            mixedRow().numbers("price", 1).integers("matrix", 0, 1),
            mixedRow().raw("price", Collections.singletonList(1)).raw("matrix", rows),
            mixedRow().values("price", new float[] {1}).values("matrix", new long[] {0, 1}),
        };
        for (Inputs inputs : same) {
            assertEquals(expected, model.predict(inputs)[0], 0);
        }
        float tenth = model.predict(mixedRow().floats("price", 0.1f).floats("matrix", 0, 1))[0];
        assertEquals(tenth,
                model.predict(mixedRow().numbers("price", 0.1).floats("matrix", 0, 1))[0], 0);
        model.close();
    }

    @Test
    public void wrongNumbersAreRefused() {
        OnDeviceModel model = mixed();
        List<?> one = Collections.singletonList(1);
        Object[][] wrong = {
            {mixedRow().numbers("price", 1e39).floats("matrix", 0, 1), "too large for float32"},
            {mixedRow().raw("price", Collections.singletonList(new BigDecimal("1e400")))
                    .floats("matrix", 0, 1), "too large for float32"},
            {mixedRow().strings("price", "1").floats("matrix", 0, 1), "'price': expected numbers"},
            {mixedRow().raw("price", Collections.singletonList(null)).floats("matrix", 0, 1),
                "'price': expected 1 numbers, got null"},
            {mixedRow().floats("price", 1).raw("matrix", one), "'matrix': expected 2 numbers"},
            {mixedRow().floats("price", 1).raw("matrix", Collections.singletonList(
                    Arrays.asList(1, 2, 3))), "'matrix': expected"},
            {mixedRow().floats("price", 1).floats("matrix", 1), "'matrix': expected rows of 2"},
            {mixedRow().floats("price", 1, 2).floats("matrix", 0, 1), "differ in rows"},
            {mixedRow().floats("price", 1).floats("matrix", Float.NaN, 1), "'matrix': the ID in row"},
            {new Inputs().floats("user", 1).ids("day", 0).ids("columns", 0, 0, 0).floats("price", 1)
                    .floats("matrix", 0, 1), "'user': expected integer IDs, got float[]"},
            {new Inputs().booleans("user", true).ids("day", 0).ids("columns", 0, 0, 0)
                    .floats("price", 1).floats("matrix", 0, 1), "'user': expected integer IDs"},
        };
        for (Object[] item : wrong) {
            try {
                model.predict((Inputs) item[0]);
                fail((String) item[1]);
            } catch (InputException error) {
                assertTrue(error.getMessage(), error.getMessage().contains((String) item[1]));
            }
        }
        // no limit there: a number may be none
        float[] none = model.predict(mixedRow().floats("price", Float.NaN).floats("matrix", 0, 1));
        assertTrue(Float.isNaN(none[0]));
        model.close();
    }

    @Test
    public void everyOutputIsVerified() {
        OnDeviceModel model = OnDeviceModel.open(Fixtures.file("wrong_second.odm"));
        Verification found = model.verify();
        assertTrue(!found.passed() && found.maxDifference > 0.1 && found.rankDifference < CLOSE);
        model.close();
    }

    @Test
    public void splitsOfManyInputsCoverEveryTwo() {
        for (int count : new int[] {1, 2, 6, 7, 40}) {
            List<String> names = new ArrayList<String>();
            for (int i = 0; i < count; i++) {
                names.add("f" + i);
            }
            List<Set<String>> splits = Verifier.contextSplits(names);
            assertEquals(splits.size(), new HashSet<Set<String>>(splits).size());
            assertTrue(count > 6 ? splits.size() < 60 : splits.size() == (1 << count) - 2);
            assertEquals(splits, Verifier.contextSplits(names));
            for (Set<String> split : splits) {
                assertTrue(!split.isEmpty() && split.size() < count);
            }
            for (int a = 0; count > 2 && a < count; a++) {
                for (int b = 0; b < a; b++) {
                    Set<List<Boolean>> sides = new HashSet<List<Boolean>>();
                    for (Set<String> split : splits) {
                        sides.add(Arrays.asList(split.contains("f" + a), split.contains("f" + b)));
                    }
                    assertEquals(4, sides.size());
                }
            }
        }
    }

    @Test
    public void differencesAreInUnitsOfTheScaleOfAnOutput() throws Exception {
        for (Map<String, Object> entry : Fixtures.objects(Fixtures.json("differences.json"))) {
            int rowSize = (int) ((Json.Number) entry.get("row_size")).toLong();
            float[] right = Fixtures.floats(entry.get("expected"));
            double difference = Verification.largestDifference(Fixtures.floats(entry.get("got")),
                    right, Verification.scales(right, rowSize));
            double expected = ((Json.Number) entry.get("difference")).toDouble();
            assertEquals((String) entry.get("what"), expected, difference, 1e-12);
        }
        float[] one = {1};
        float[] none = {Float.NaN};
        double[] scale = {1};
        assertTrue(Double.isNaN(Verification.largestDifference(none, one, scale)));
        assertTrue(Double.isNaN(Verification.largestDifference(one, none, scale)));
        assertEquals(Double.POSITIVE_INFINITY,
                Verification.largestDifference(one, new float[] {1, 1}, scale), 0);
    }

    @Test
    public void aFileDescribesItself() {
        OnDeviceModel model = small();
        ModelDescription about = model.describe();
        assertEquals(3, about.inputs.size());
        assertEquals("slot", about.inputs.get(2).name);
        assertEquals(5, about.inputs.get(2).idLimit);
        assertEquals(-1, about.inputs.get(0).idLimit);
        assertEquals("string", about.inputs.get(0).kind);
        assertEquals(Collections.singletonList("probability"), about.outputs);
        assertEquals(Fixtures.file("small.odm").length(), about.bytes);
        assertEquals("test", about.madeBy.get("ondevice-ctr"));
        assertTrue(about.toString().contains(about.kernels));
        model.close();
        assertEquals(3, model.describe().inputs.size());
    }

    /** A large file is mapped: cutting it off under load is an exception, and no wrong score. */
    @Test
    public void aLargeFileThatIsCutOffUnderItsModel() throws Exception {
        File file = File.createTempFile("large", ".odm");
        FileOutputStream out = new FileOutputStream(file);
        out.write(Fixtures.read(Fixtures.file("large.odm")));
        out.close();
        final OnDeviceModel model = OnDeviceModel.open(file);
        final long[] ids = new long[3000];
        for (int i = 0; i < ids.length; i++) {
            ids[i] = i * 7919L % 100000;
        }
        final float[] right = model.predict(new Inputs().ids("a", ids));
        final CountDownLatch begun = new CountDownLatch(8);
        ExecutorService threads = Executors.newFixedThreadPool(8);
        List<Future<Boolean>> results = new ArrayList<Future<Boolean>>();
        for (int i = 0; i < 8; i++) {
            results.add(threads.submit(new Callable<Boolean>() {
                @Override
                public Boolean call() {
                    begun.countDown();
                    try {
                        while (true) {
                            assertArrayEquals(right, model.predict(new Inputs().ids("a", ids)), 0);
                        }
                    } catch (ModelFileException error) {
                        return error.getMessage().contains("open it again");
                    }
                }
            }));
        }
        begun.await();
        RandomAccessFile cut = new RandomAccessFile(file, "rw");
        cut.setLength(4096);
        cut.close();
        for (Future<Boolean> result : results) {
            assertTrue(result.get());
        }
        threads.shutdown();
        model.close();
        assertTrue(file.delete());
    }

    @Test
    public void aModelInsideAnotherFile() throws Exception {
        File model = Fixtures.file("small.odm");
        byte[] data = Fixtures.read(model);
        File holder = File.createTempFile("assets", ".zip");
        OnDeviceModel plain = OnDeviceModel.open(model);
        float expected = plain.predict(row())[0];
        for (int offset : new int[] {0, 4, 4096, 65536 + 12, 100000}) {
            FileOutputStream out = new FileOutputStream(holder);
            out.write(new byte[offset]);
            out.write(data);
            out.write(77);
            out.close();
            OnDeviceModel inside = fromDescriptor(holder, offset, data.length);
            assertEquals(expected, inside.predict(row())[0], 0);
            assertTrue(inside.verify().passed());
            assertEquals(data.length, inside.describe().bytes);
            inside.close();
        }
        for (long[] part : new long[][] {{-4, 100}, {0, 0}, {100000, data.length + 2}, {4, -2},
            {Long.MAX_VALUE, 1}, {0, Long.MAX_VALUE}, {holder.length() + 1, -1}}) {
            refused(holder, part, "a part that is not in it");
        }
        refused(holder, new long[] {0, data.length}, "header");
        refused(holder, new long[] {100001, data.length}, "header"); // shifted by a byte
        plain.close();
        assertTrue(holder.delete());
    }

    private static void refused(File file, long[] part, String message) throws Exception {
        try {
            fromDescriptor(file, part[0], part[1]).close();
            fail("opened " + Arrays.toString(part));
        } catch (OnDeviceException error) {
            assertTrue(error.getMessage(), error.getMessage().contains(message));
        }
    }

    /** As an AssetFileDescriptor gives it; the descriptor is closed before the model is used. */
    private static OnDeviceModel fromDescriptor(File file, long offset, long size)
            throws Exception {
        FileInputStream in = new FileInputStream(file);
        try {
            java.lang.reflect.Field number = java.io.FileDescriptor.class.getDeclaredField("fd");
            number.setAccessible(true);
            return OnDeviceModel.openDescriptor((Integer) number.get(in.getFD()), offset, size,
                    "asset", 1);
        } finally {
            in.close();
        }
    }

    @Test
    public void badFilesAreRefused() throws Exception {
        byte[] data = Fixtures.read(Fixtures.file("small.odm"));
        File file = File.createTempFile("bad", ".odm");
        List<byte[]> bad = new ArrayList<byte[]>();
        for (int size : new int[] {0, 1, 7, 8, 100, data.length / 2, data.length - 1}) {
            bad.add(Arrays.copyOf(data, size));
        }
        for (int at = 0; at < data.length - 64; at += 97) { // the end is alignment, never read
            byte[] flipped = data.clone();
            flipped[at] ^= 16;
            bad.add(flipped);
        }
        byte[] huge = data.clone();
        Arrays.fill(huge, 0, 8, (byte) 0xFF);
        bad.add(huge);
        int refused = 0;
        for (byte[] content : bad) {
            FileOutputStream out = new FileOutputStream(file);
            out.write(content);
            out.close();
            try {
                OnDeviceModel model = OnDeviceModel.open(file);
                assertTrue(model.verify().passed()); // a flipped bit of the padding between arrays
                model.close();
            } catch (ModelFileException error) {
                assertTrue(error.getMessage().startsWith(file.getPath()));
                refused++;
            }
        }
        assertTrue(refused > bad.size() * 0.8);
        assertTrue(file.delete());
        for (String path : new String[] {file.getPath(), file.getParent(), "/dev/null", "/dev/zero",
            "", "nul\0.odm", "/proc/self/mem"}) {
            try {
                OnDeviceModel.open(new File(path)).close();
                fail("opened " + path);
            } catch (ModelFileException error) {
                assertTrue(error.getMessage().length() > 10);
            }
        }
    }

    @Test
    public void hostileDescriptionsAreRefused() throws Exception {
        for (String name : Fixtures.file("descriptions").list()) {
            try {
                OnDeviceModel.open(Fixtures.file("descriptions/" + name)).close();
                fail("opened " + name);
            } catch (OnDeviceException error) {
                String said = error.getMessage().replace(name, ""); // the path would do
                assertTrue(name + ": " + said, said.contains(name.replaceAll("[-.].*", "")));
            }
        }
    }

    @Test
    public void wrongRequestsAreRefused() {
        final OnDeviceModel model = small();
        Object[][] wrong = {
            {new Inputs().ids("user", 1).ids("colour", 1), "missing inputs: slot"},
            {row().ids("other", 1), "unknown input 'other'; the model takes: user, colour, slot"},
            {new Inputs().ids("user").ids("colour").ids("slot"), "'user': expected rows of 1"},
            {new Inputs().ids("user", 1, 2).ids("colour", 1).ids("slot", 1), "differ in rows"},
            {new Inputs().ids("user", 1).ids("colour", 1).ids("slot", 5), "'slot': ID 5 in row 0, element 0 is outside 0..4"},
            {new Inputs().ids("user", 1).ids("colour", 1).ids("slot", -1), "ID -1"},
            {new Inputs().integers("user", 1).ids("colour", 1).ids("slot", 1), "expected strings"},
            {new Inputs().strings("user", "a").strings("colour", "b").ids("slot", 1),
                "expected integers, got String b at 0"},
            {new Inputs().numbers("user", 1.5).ids("colour", 1).ids("slot", 1), "expected strings"},
        };
        for (Object[] item : wrong) {
            try {
                model.predict((Inputs) item[0]);
                fail((String) item[1]);
            } catch (InputException error) {
                assertTrue(error.getMessage(), error.getMessage().contains((String) item[1]));
            }
        }
        Inputs user = new Inputs().ids("user", 1);
        Inputs items = new Inputs().ids("colour", 1, 2).ids("slot", 1, 2);
        Object[][] ranks = {
            {new Inputs().ids("user", 1, 2), items, "context input 'user': expected one row"},
            {row(), new Inputs(), "no candidate inputs"},
            {row(), user, "'user' is given as context and as candidate"},
            {user, new Inputs().ids("colour", 1, 2).ids("slot", 1), "differ in rows"},
            {user, new Inputs().ids("colour", 1, 2), "missing inputs: slot"},
            {user, new Inputs().ids("colour", 1, 2).ids("slot", 1, 9), "'slot': ID 9 in row 1"},
        };
        for (Object[] item : ranks) {
            try {
                model.rank((Inputs) item[0], (Inputs) item[1]);
                fail((String) item[2]);
            } catch (InputException error) {
                assertTrue(error.getMessage(), error.getMessage().contains((String) item[2]));
            }
        }
        try {
            new Inputs().ids("user", 1).strings("user", "a");
            fail("given twice");
        } catch (InputException error) {
            assertTrue(error.getMessage().contains("twice"));
        }
        assertEquals(2, model.rank(user, items).length); // still usable
        model.close();
    }

    @Test
    public void aClosedModelSaysSo() {
        OnDeviceModel model = small();
        model.predict(row());
        model.close();
        model.close();
        try {
            model.predict(row());
            fail("answered after close");
        } catch (ModelClosedException error) {
            assertTrue(error.getMessage().contains("closed"));
        }
    }

    /** 8 threads share a model; each request's scores are those of one thread. */
    @Test
    public void eightThreads() throws Exception {
        final OnDeviceModel model = small();
        final int rows = 40;
        final float[][] expected = new float[8][];
        for (int t = 0; t < 8; t++) {
            expected[t] = model.predict(ids(rows, t));
        }
        ExecutorService pool = Executors.newFixedThreadPool(8);
        List<Future<Void>> results = new ArrayList<Future<Void>>();
        for (int t = 0; t < 8; t++) {
            final int own = t;
            results.add(pool.submit(new Callable<Void>() {
                @Override
                public Void call() {
                    for (int i = 0; i < 300; i++) {
                        assertArrayEquals(expected[own], model.predict(ids(rows, own)), 0);
                    }
                    return null;
                }
            }));
        }
        for (Future<Void> result : results) {
            result.get();
        }
        pool.shutdown();
        model.close();
    }

    /** Threads that share the rows of a request give the scores of one, to the bit. */
    @Test
    public void threadsShareRows() throws Exception {
        OnDeviceModel alone = small();
        for (int threads = 1; threads <= 5; threads++) {
            OnDeviceModel model = OnDeviceModel.open(Fixtures.file("small.odm"), threads);
            for (int rows : new int[] {1, 255, 256, 257, 1000}) {
                assertArrayEquals(alone.predict(ids(rows, rows)), model.predict(ids(rows, rows)), 0);
                Inputs context = new Inputs().ids("user", rows);
                long[] colours = new long[rows];
                long[] slots = new long[rows];
                for (int i = 0; i < rows; i++) {
                    colours[i] = i % 9 - 1;
                    slots[i] = i % 5;
                }
                Inputs candidates = new Inputs().ids("colour", colours).ids("slot", slots);
                assertArrayEquals(alone.rank(context, candidates),
                        model.rank(context, candidates), 0);
            }
            model.close();
        }
        alone.close();
    }

    /** The error of a request that threads share is that of a single thread, row numbers included. */
    @Test
    public void threadsGiveTheErrorOfOne() {
        long[] users = new long[900];
        long[] colours = new long[900];
        long[] slots = new long[900];
        slots[700] = 1L << 40;
        Inputs wrong = new Inputs().ids("user", users).ids("colour", colours).ids("slot", slots);
        List<String> texts = new ArrayList<String>();
        for (int threads : new int[] {1, 4}) {
            OnDeviceModel model = OnDeviceModel.open(Fixtures.file("small.odm"), threads);
            try {
                model.predict(wrong);
                fail("scored an ID beyond the table");
            } catch (InputException error) {
                texts.add(error.getMessage());
            }
            model.predict(ids(900, 1)); // and scores the next one
            model.close();
        }
        assertEquals(texts.get(0), texts.get(1));
        for (int threads : new int[] {0, -1, 1025}) {
            try {
                OnDeviceModel.open(Fixtures.file("small.odm"), threads);
                fail("opened with " + threads + " threads");
            } catch (InputException error) {
                assertEquals("threads must be 1..1024, got " + threads, error.getMessage());
            }
        }
    }

    /** Closing while others score: they finish or are told, and nothing crashes. */
    @Test
    public void closingDuringRequests() throws Exception {
        for (int round = 0; round < 20; round++) {
            final OnDeviceModel model = small();
            final float expected = model.predict(ids(200, 1))[7];
            final CountDownLatch begun = new CountDownLatch(8);
            ExecutorService pool = Executors.newFixedThreadPool(8);
            List<Future<Integer>> results = new ArrayList<Future<Integer>>();
            for (int t = 0; t < 8; t++) {
                results.add(pool.submit(new Callable<Integer>() {
                    @Override
                    public Integer call() {
                        for (int i = 0;; i++) {
                            try {
                                assertEquals(expected, model.predict(ids(200, 1))[7], 0);
                            } catch (ModelClosedException told) {
                                return i;
                            }
                            begun.countDown();
                        }
                    }
                }));
            }
            begun.await();
            model.close();
            for (Future<Integer> result : results) {
                result.get();
            }
            pool.shutdown();
        }
    }

    private static Inputs ids(int rows, int seed) {
        long[] users = new long[rows];
        long[] colours = new long[rows];
        long[] slots = new long[rows];
        java.util.Random random = new java.util.Random(seed);
        for (int i = 0; i < rows; i++) {
            users[i] = random.nextLong();
            colours[i] = random.nextInt(9) - 1;
            slots[i] = random.nextInt(5);
        }
        return new Inputs().ids("user", users).ids("colour", colours).ids("slot", slots);
    }
}
