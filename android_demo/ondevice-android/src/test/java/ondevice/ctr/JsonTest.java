package ondevice.ctr;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.fail;

import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.junit.Test;

/** The JSON reader takes what the standard allows, and nothing else. */
public class JsonTest {
    @Test
    public void valuesAreRead() {
        Map<?, ?> read = (Map<?, ?>) Json.parse(
                " {\"a\" : [1, -2.5e3, true, false, null, \"x\\n\\u00e9\\ud83c\\udfac\\/\"],\"b\":{}}\n");
        List<?> list = (List<?>) read.get("a");
        assertEquals(1, ((Json.Number) list.get(0)).toLong());
        assertEquals(-2500.0, ((Json.Number) list.get(1)).toDouble(), 0);
        assertEquals(Arrays.asList(true, false, null, "x\n\u00e9\ud83c\udfac/"), list.subList(2, 6));
        assertEquals(0, ((Map<?, ?>) read.get("b")).size());
    }

    @Test
    public void allSeedsAreExact() {
        assertEquals(-1L, number("18446744073709551615").toUnsignedLong());
        assertEquals(Long.MIN_VALUE, number("9223372036854775808").toUnsignedLong());
        assertEquals(7, number("7").toUnsignedLong());
        for (String text : new String[] {"18446744073709551616", "-1", "1.5", "1e3"}) {
            try {
                number(text).toUnsignedLong();
                fail(text);
            } catch (ModelFileException expected) {
                // as it should
            }
        }
    }

    private static Json.Number number(String text) {
        return (Json.Number) Json.parse(text);
    }

    @Test
    public void whatIsWrittenIsReadAgain() {
        String text = "{\"a\": [1, 2.5, true, null, \"q\\\"\\\\\\u000a\\ud83c\\udfac\u00e9\"], "
                + "\"b\": {}, \"c\": []}";
        assertEquals(text.replace("1,", "1,"), Json.write(Json.parse(text)));
    }

    @Test
    public void everythingElseIsRefused() {
        StringBuilder deep = new StringBuilder();
        for (int i = 0; i < 100000; i++) {
            deep.append('[');
        }
        String[] wrong = {"", " ", "{", "[1,]", "[1 2]", "{\"a\":1,}", "{a:1}", "{'a':1}", "01",
            "-", "1.", ".5", "1e", "+1", "NaN", "Infinity", "tru", "\"\\x\"", "\"\\u12g4\"",
            "\"\\u00\"", "\"a", "\"\n\"", "[1]x", "{\"a\":1,\"a\":2}", "/**/1", "\u00a01",
            deep.toString(), "\"\\u\uff11\uff11\uff11\uff11\""};
        for (String text : wrong) {
            try {
                Json.parse(text);
                fail(text);
            } catch (ModelFileException expected) {
                // as it should
            }
        }
    }
}
