package ondevice.demo;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotEquals;
import static org.junit.Assert.assertTrue;
import static org.junit.Assert.fail;

import android.content.Context;
import android.os.Build;
import android.view.View;
import android.widget.ListView;
import android.widget.TextView;
import androidx.test.core.app.ActivityScenario;
import androidx.test.core.app.ApplicationProvider;
import androidx.test.ext.junit.runners.AndroidJUnit4;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import ondevice.ctr.Json;
import ondevice.ctr.ModelFileException;
import ondevice.ctr.OnDeviceModel;
import ondevice.ctr.bench.Benchmark;
import ondevice.ctr.bench.Plan;
import org.junit.Before;
import org.junit.Test;
import org.junit.runner.RunWith;

/**
 * For a phone or Android's emulator: {@code gradle :demo:connectedPlainDebugAndroidTest}, after
 * {@code ondevice export-android ... --out android_demo/demo/src/main/assets}.
 */
@RunWith(AndroidJUnit4.class)
public class DeviceTest {
    private Context context;
    private Catalogue catalogue;

    @Before
    public void open() throws IOException {
        context = ApplicationProvider.getApplicationContext();
        Store.updatedModel(context).delete();
        catalogue = new Catalogue(new String(asset("catalogue.json"), "UTF-8"));
    }

    private byte[] asset(String name) throws IOException {
        InputStream in = context.getAssets().open(name);
        try {
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            byte[] piece = new byte[1 << 14];
            for (int size = in.read(piece); size > 0; size = in.read(piece)) {
                out.write(piece, 0, size);
            }
            return out.toByteArray();
        } finally {
            in.close();
        }
    }

    /** The model is mapped where it lies in the package, and computes what Python computed. */
    @Test
    public void theAssetScoresLikePython() {
        OnDeviceModel model = OnDeviceModel.open(context.getAssets(), "model.odm");
        assertTrue(model.verify().passed());
        assertArrayEquals(catalogue.firstUserScores,
                model.rank(catalogue.context(0), catalogue.candidates()), 1e-4f);
        if (Arrays.asList(Build.SUPPORTED_ABIS).contains("arm64-v8a")) {
            assertTrue(model.describe().kernels.startsWith("neon"));
        }
        model.close();
    }

    @Test
    public void aCompressedAssetIsExplained() {
        try {
            OnDeviceModel.open(context.getAssets(), "catalogue.json").close();
            fail("opened");
        } catch (ModelFileException error) {
            assertTrue(error.getMessage().contains("noCompress"));
        }
    }

    @Test
    public void anUpdateIsVerifiedFirst() throws IOException {
        File target = Store.updatedModel(context);
        byte[] good = asset("model.odm");
        ModelFiles.replace(new ByteArrayInputStream(good), target, catalogue).close();
        assertEquals(good.length, target.length());
        good[good.length / 2] ^= 1;
        try {
            ModelFiles.replace(new ByteArrayInputStream(good), target, catalogue).close();
            fail("replaced by a damaged file");
        } catch (ModelFileException error) {
            assertEquals(good.length, target.length());
        }
        assertTrue(target.delete());
    }

    /** Items are there, and still are after the screen is made anew. */
    @Test
    public void theScreenSurvivesRotation() throws InterruptedException {
        ActivityScenario<MainActivity> scenario = ActivityScenario.launch(MainActivity.class);
        assertEquals(catalogue.items.size(), waitForItems(scenario));
        scenario.recreate();
        assertEquals(catalogue.items.size(), waitForItems(scenario));
        scenario.onActivity(new ActivityScenario.ActivityAction<MainActivity>() {
            @Override
            public void perform(MainActivity activity) {
                TextView summary = (TextView) activity.findViewById(R.id.summary);
                assertTrue(summary.getText().length() > 20);
                View row = ((ListView) activity.findViewById(R.id.items)).getChildAt(0);
                assertTrue(row.getContentDescription().length() > 10); // what TalkBack says
            }
        });
        scenario.close();
    }

    private static int waitForItems(ActivityScenario<MainActivity> scenario)
            throws InterruptedException {
        final int[] count = new int[1];
        for (int i = 0; i < 100 && count[0] == 0; i++) {
            Thread.sleep(100);
            scenario.onActivity(new ActivityScenario.ActivityAction<MainActivity>() {
                @Override
                public void perform(MainActivity activity) {
                    count[0] = ((ListView) activity.findViewById(R.id.items)).getChildCount() == 0
                            ? 0 : ((ListView) activity.findViewById(R.id.items)).getCount();
                }
            });
        }
        return count[0];
    }

    /** A short benchmark: every measurement in a process of its own. */
    @Test
    public void theBenchmarkMeasuresInFreshProcesses() throws Exception {
        final String[] outcome = new String[2];
        final CountDownLatch done = new CountDownLatch(1);
        final Plan plan = new Plan();
        plan.rows = new int[] {1};
        plan.gapsMs = new double[] {0};
        plan.seconds = 0.2;
        plan.processes = 2;
        new Thread() {
            @Override
            public void run() {
                try {
                    Benchmark.ModelFile file = new Benchmark.ModelFile("model.odm",
                            context.getAssets().open("model.odm"));
                    outcome[0] = Benchmark.run(plan, Collections.singletonList(
                            new Benchmark.Subject(file, new ServiceMachine(context,
                                    context.getPackageCodePath(), null))),
                            new PhoneDevice(context), "ondevice app", new Benchmark.Progress() {
                                @Override
                                public void at(int now, int all, String text) {}
                            });
                } catch (IOException error) {
                    outcome[1] = error.getMessage();
                }
                done.countDown();
            }
        }.start();
        assertTrue(done.await(5, TimeUnit.MINUTES));
        assertEquals(null, outcome[1]);
        Map<?, ?> report = (Map<?, ?>) Json.parse(outcome[0]);
        assertEquals("ondevice-bench", report.get("format"));
        assertFalse((Boolean) report.get("interrupted"));
        assertEquals(2, ((List<?>) report.get("starts")).size());
        assertEquals(1, ((List<?>) report.get("latencies")).size());
        assertNotEquals("", ReportText.of(outcome[0]));
    }
}
