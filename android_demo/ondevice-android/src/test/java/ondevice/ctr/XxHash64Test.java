package ondevice.ctr;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;
import static org.junit.Assert.fail;

import java.util.Map;
import org.junit.Test;

/** Hashes against vectors made by the reference implementation. */
public class XxHash64Test {
    @Test
    public void goldenVectors() throws Exception {
        int strings = 0;
        int integers = 0;
        for (Map<String, Object> item : Fixtures.objects(Fixtures.json("xxh64.json"))) {
            long seed = new java.math.BigInteger((String) item.get("seed")).longValue();
            long expected = Long.parseLong((String) item.get("id"));
            String value = (String) item.get("value");
            if (item.get("kind").equals("string")) {
                assertEquals(value, expected, XxHash64.hash(value, seed));
                assertEquals(value, expected, XxHash64.hash(value.getBytes("UTF-8"), seed));
                strings++;
            } else {
                long number = Long.parseLong(value);
                assertEquals(value, expected, XxHash64.hash(number, seed));
                byte[] bytes = new byte[8];
                for (int i = 0; i < 8; i++) {
                    bytes[i] = (byte) (number >> 8 * i);
                }
                assertEquals(value, expected, XxHash64.hash(bytes, seed));
                integers++;
            }
        }
        assertTrue(strings > 5 && integers > 5);
    }

    @Test
    public void halfACharacterIsRefused() {
        for (String text : new String[] {"\ud83c", "a\udfac", "\udfac\ud83c", "\ud83cx"}) {
            try {
                XxHash64.hash(text, 0);
                fail("taken");
            } catch (InputException error) {
                assertTrue(error.getMessage().contains("surrogate"));
            }
        }
        XxHash64.hash("\ud83c\udfac", 0);
    }
}
