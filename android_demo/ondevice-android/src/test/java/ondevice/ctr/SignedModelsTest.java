package ondevice.ctr;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;
import static org.junit.Assert.fail;

import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import org.junit.After;
import org.junit.Before;
import org.junit.Test;

/** Signed sets that Python made: what is trusted opens, whatever is forged does not. */
public class SignedModelsTest {
    private static final long NOW = 1796083200; // 1 December 2026
    private static final long LATER = 1798761600; // 1 January 2027: the sets expire

    private File folder;
    private File state;
    private File model;

    @Before
    public void copyTheSet() throws IOException {
        File source = Fixtures.file("signed");
        folder = File.createTempFile("signed", "");
        assertTrue(folder.delete() && folder.mkdir());
        state = new File(folder, "state.json");
        model = new File(folder, "m.odm");
        write(model, Fixtures.read(new File(source, "models/m.odm")));
        put("version5.json", "manifest.json");
    }

    @After
    public void removeIt() {
        if (folder != null) {
            for (File file : folder.listFiles()) {
                assertTrue(file.delete());
            }
            assertTrue(folder.delete());
        }
    }

    private static byte[] bytes(String name) throws IOException {
        return Fixtures.read(new File(Fixtures.file("signed"), name));
    }

    private static void write(File file, byte[] data) throws IOException {
        FileOutputStream out = new FileOutputStream(file);
        try {
            out.write(data);
        } finally {
            out.close();
        }
    }

    private void put(String name, String as) throws IOException {
        write(new File(folder, as), bytes(name));
    }

    private SignedModels byKey(String name) throws IOException {
        return SignedModels.ofKeys(new String(bytes(name), "UTF-8"), state);
    }

    private void opens(SignedModels trusted, long now) {
        trusted.open(model, now).close();
    }

    private String refuses(SignedModels trusted, long now) {
        try {
            trusted.open(model, now).close();
        } catch (UntrustedModelException expected) {
            return expected.getMessage();
        }
        fail("opened");
        return null;
    }

    @Test
    public void aSignedModelScoresAsEver() throws IOException {
        Inputs row = new Inputs().ids("user", -5).ids("colour", 3).ids("slot", 4);
        OnDeviceModel plain = OnDeviceModel.open(model);
        float expected = plain.predict(row)[0];
        plain.close();
        OnDeviceModel signed = byKey("signer.pub").open(model, NOW);
        write(model, new byte[] {1, 2, 3}); // what was checked is what runs
        assertEquals(expected, signed.predict(row)[0], 0);
        assertTrue(signed.verify().passed());
        signed.close();
    }

    @Test
    public void othersKeysExpiryAndOldVersionsAreRefused() throws IOException {
        assertTrue(refuses(byKey("new.pub"), NOW).contains("0 valid signatures"));
        SignedModels trusted = byKey("signer.pub");
        assertTrue(refuses(trusted, LATER + 1).contains("expired"));
        assertFalse(state.exists());
        opens(trusted, LATER);
        assertTrue(state.setLastModified(1000));
        opens(trusted, LATER);
        assertEquals(1000, state.lastModified()); // nothing new is not written
        put("other5.json", "manifest.json");
        assertTrue(refuses(trusted, NOW).contains("another set of version 5"));
        put("version4.json", "manifest.json");
        assertTrue(refuses(trusted, NOW).contains("version 4 is older than 5"));
        put("version6.json", "manifest.json");
        opens(trusted, NOW);
        put("version5.json", "manifest.json");
        assertTrue(refuses(byKey("signer.pub"), NOW).contains("version 5 is older than 6"));
    }

    @Test
    public void otherFilesAreRefused() throws IOException {
        SignedModels trusted = byKey("signer.pub");
        byte[] good = bytes("models/m.odm");
        byte[] wrong = good.clone();
        wrong[wrong.length - 1] ^= 1;
        for (byte[] data : new byte[][] {wrong, java.util.Arrays.copyOf(good, good.length - 1),
            java.util.Arrays.copyOf(good, good.length + 1), new byte[0]}) {
            write(model, data);
            try {
                trusted.open(model, NOW).close();
                fail("opened");
            } catch (ModelFileException expected) {
                assertFalse(state.exists());
            }
        }
        write(model, good);
        File other = new File(folder, "other.odm");
        write(other, good);
        try {
            trusted.open(other, NOW).close();
            fail("opened");
        } catch (UntrustedModelException expected) {
            assertTrue(expected.getMessage().contains("does not list it"));
        }
    }

    @Test
    public void forgedManifestsAreRefused() throws IOException {
        write(state, ("{\"kind\": \"ondevice trust state\", \"format\": 1, \"version\": 5, "
                + "\"keyids\": [], \"root\": null}").getBytes("UTF-8"));
        int count = 0;
        for (File forged : new File(Fixtures.file("signed"), "forged").listFiles()) {
            write(new File(folder, "manifest.json"), Fixtures.read(forged));
            try {
                byKey("signer.pub").open(model, NOW).close();
                fail("opened " + forged);
            } catch (UntrustedModelException expected) {
                count++;
            } catch (ModelFileException expected) {
                // the manifest is refused, not the file, which fits none of these
                assertFalse(forged + "", expected.getMessage().contains("another length"));
                count++;
            }
        }
        assertTrue(count > 80);
    }

    @Test
    public void rootsAreRotated() throws IOException {
        byte[] first = bytes("1.root.json");
        SignedModels trusted = SignedModels.ofRoot(first, state);
        opens(trusted, NOW);
        put("forged.root.json", "2.root.json");
        assertTrue(refuses(trusted, NOW).contains("0 valid signatures"));
        put("2.root.json", "2.root.json");
        assertTrue(refuses(trusted, NOW).contains("0 valid signatures"));
        put("new.json", "manifest.json");
        opens(trusted, NOW); // version 1, as the older key was withdrawn
        assertTrue(new File(folder, "2.root.json").delete());
        opens(SignedModels.ofRoot(first, state), NOW); // it is remembered
        put("version6.json", "manifest.json");
        assertTrue(refuses(trusted, NOW).contains("0 valid signatures"));
        assertTrue(refuses(trusted, LATER + 1).contains("root has expired"));
    }

    @Test
    public void rootsThatAreNotSignedAreRefused() throws IOException {
        try {
            SignedModels.ofRoot(bytes("unsigned.root.json"), state);
            fail("trusted");
        } catch (UntrustedModelException expected) {
            assertTrue(expected.getMessage().contains("1 valid signatures of trusted keys"));
        }
        for (String name : new String[] {"version5.json", "signer.pub"}) {
            try {
                SignedModels.ofRoot(bytes(name), state);
                fail("trusted");
            } catch (ModelFileException expected) {
                assertTrue(expected.getMessage().startsWith("the root: "));
            }
        }
    }

    @Test
    public void whatIsNoKeyOrStateIsRefused() throws IOException {
        String pem = new String(bytes("signer.pub"), "UTF-8");
        for (String text : new String[] {"", "x" + pem, pem + "x", pem.replace("MCow", "MCox"),
            pem.replace("PUBLIC", "PRIVATE")}) {
            try {
                SignedModels.ofKeys(text, state);
                fail("trusted: " + text);
            } catch (ModelFileException expected) {
                assertFalse(expected.getMessage().isEmpty());
            }
        }
        for (String text : new String[] {"", "{}", "[]", "{\"kind\": 1}", "null",
            "{\"kind\": \"ondevice trust state\", \"format\": 1, \"version\": 0, "
                + "\"keyids\": [], \"root\": null}",
            "{\"kind\": \"ondevice trust state\", \"format\": 1, \"version\": 1, "
                + "\"keyids\": [1], \"root\": null}",
            "{\"kind\": \"ondevice trust state\", \"format\": 1, \"version\": 1, "
                + "\"keyids\": null, \"root\": null}"}) {
            write(state, text.getBytes("UTF-8"));
            try {
                byKey("signer.pub").open(model, NOW).close();
                fail("opened with " + text);
            } catch (ModelFileException expected) {
                assertTrue(expected.getMessage().startsWith(state.getPath()));
            }
        }
    }
}
