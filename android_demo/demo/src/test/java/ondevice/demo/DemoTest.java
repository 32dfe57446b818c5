package ondevice.demo;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;
import static org.junit.Assert.fail;

import java.io.ByteArrayInputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.Arrays;
import ondevice.ctr.ModelFileException;
import ondevice.ctr.OnDeviceException;
import ondevice.ctr.OnDeviceModel;
import org.junit.After;
import org.junit.Assume;
import org.junit.Before;
import org.junit.Test;

/** What the app does apart from its screens, with what `ondevice export-android` wrote. */
public class DemoTest {
    private File fixtures;
    private File folder;
    private Catalogue catalogue;

    @Before
    public void open() throws Exception {
        String name = System.getProperty("ondevice.fixtures");
        Assume.assumeTrue("run by tests/android", name != null);
        fixtures = new File(name);
        folder = File.createTempFile("app", "");
        assertTrue(folder.delete() && folder.mkdir());
        catalogue = new Catalogue(new String(read("assets/catalogue.json"), "UTF-8"));
    }

    @After
    public void clean() {
        if (folder != null) {
            for (File file : folder.listFiles()) {
                file.delete();
            }
            folder.delete();
        }
    }

    private byte[] read(String name) throws IOException {
        File file = new File(fixtures, name);
        byte[] data = new byte[(int) file.length()];
        InputStream in = new FileInputStream(file);
        try {
            for (int at = 0; at < data.length; ) {
                at += in.read(data, at, data.length - at);
            }
        } finally {
            in.close();
        }
        return data;
    }

    @Test
    public void rankingsAreThoseOfPython() {
        OnDeviceModel model = OnDeviceModel.open(new File(fixtures, "assets/model.odm"));
        assertEquals(Arrays.asList("Ana", "Zoë", "nobody"), catalogue.users);
        assertEquals("Ελιά, 红", catalogue.items.get(1));
        Ranking ranking = new Ranking(model, catalogue, 0);
        assertArrayEquals(catalogue.firstUserScores, ranking.scores, 2e-6f);
        for (int i = 1; i < ranking.order.length; i++) {
            assertTrue(ranking.scores[ranking.order[i - 1]] >= ranking.scores[ranking.order[i]]);
        }
        assertTrue(ranking.medianNs > 0 && ranking.firstNs > 0);
        assertFalse(Arrays.equals(ranking.scores, new Ranking(model, catalogue, 1).scores));
        model.close();
    }

    @Test
    public void aGoodModelReplacesTheOldOneWhileThatIsInUse() throws Exception {
        File target = new File(folder, "model.odm");
        OnDeviceModel first = ModelFiles.replace(
                new ByteArrayInputStream(read("assets/model.odm")), target, catalogue);
        float[] before = new Ranking(first, catalogue, 0).scores;
        OnDeviceModel second = ModelFiles.replace(
                new ByteArrayInputStream(read("small.odm")), target, catalogue);
        assertArrayEquals(before, new Ranking(first, catalogue, 0).scores, 0);
        first.close();
        assertArrayEquals(before, new Ranking(second, catalogue, 0).scores, 0);
        second.close();
        assertArrayEquals(new String[] {"model.odm"}, folder.list());
    }

    @Test
    public void anythingElseLeavesTheOldModel() throws Exception {
        final File target = new File(folder, "model.odm");
        final byte[] good = read("assets/model.odm");
        ModelFiles.replace(new ByteArrayInputStream(good), target, catalogue).close();
        byte[] flipped = good.clone();
        flipped[good.length / 2] ^= 1;
        InputStream broken = new InputStream() {
            @Override
            public int read() throws IOException {
                throw new IOException("the card was removed");
            }
        };
        InputStream[] bad = {
            new ByteArrayInputStream(new byte[0]),
            new ByteArrayInputStream(Arrays.copyOf(good, good.length - 1)),
            new ByteArrayInputStream(flipped),
            new ByteArrayInputStream(read("features.odm")), // other inputs, no test vectors
            new ByteArrayInputStream(read("wrong_vectors.odm")),
            broken,
        };
        for (InputStream source : bad) {
            try {
                ModelFiles.replace(source, target, catalogue).close();
                fail("replaced by a bad file");
            } catch (OnDeviceException told) {
                assertTrue(told.getMessage().length() > 10);
            } catch (IOException told) {
                assertEquals("the card was removed", told.getMessage());
            }
            assertArrayEquals(new String[] {"model.odm"}, folder.list());
            assertEquals(good.length, target.length());
        }
        assertTrue(new File(folder, "model123.part").createNewFile());
        ModelFiles.removeLeftovers(folder);
        assertArrayEquals(new String[] {"model.odm"}, folder.list());
    }

    @Test
    public void otherCataloguesAreRefused() throws Exception {
        String good = new String(read("assets/catalogue.json"), "UTF-8");
        String[] bad = {"", "[]", "{}", good.replace("ondevice-catalogue", "x"),
            good.replace("\"version\": 1", "\"version\": 2"), good.replace("\"title\"", "\"name\""),
            good.replaceFirst("\"user\": ", "\"other\": "), good.replace("\"items\"", "\"i\""),
            good.replace("\"first_user_scores\": [", "\"first_user_scores\": [0.5, ")};
        for (String text : bad) {
            try {
                new Catalogue(text);
                fail(text);
            } catch (ModelFileException told) {
                assertTrue(told.getMessage().length() > 10);
            }
        }
    }

    @Test
    public void aReportBecomesLines() throws Exception {
        String text = ReportText.of(new String(read("example_report.json"), "UTF-8"));
        assertEquals("model.odm: start, cold: p50 314.55 ms, p95 316.51 ms\n"
                + "model.odm: load, cold: p50 1.54 ms, p95 1.58 ms\n"
                + "model.odm: memory of engine and model 1.8 MB\n"
                + "model.odm: predict 1: p50 11.3 us, p95 12.2 us\n", text);
    }
}
