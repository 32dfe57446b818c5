package ondevice.ctr;

import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.util.List;
import java.util.Map;
import org.junit.Assume;

/** What tests/android makes in Python: model files, requests, and the scores they must give. */
final class Fixtures {
    private Fixtures() {}

    /** A file of the folder; a test without it is skipped (Gradle on a PC has no such folder). */
    static File file(String name) {
        String folder = System.getProperty("ondevice.fixtures");
        Assume.assumeTrue("run by tests/android", folder != null);
        return new File(folder, name);
    }

    static byte[] read(File file) throws IOException {
        byte[] data = new byte[(int) file.length()];
        FileInputStream in = new FileInputStream(file);
        try {
            int at = 0;
            while (at < data.length) {
                at += in.read(data, at, data.length - at);
            }
        } finally {
            in.close();
        }
        return data;
    }

    static Object json(String name) throws IOException {
        return Json.parse(new String(read(file(name)), "UTF-8"));
    }

    @SuppressWarnings("unchecked")
    static List<Map<String, Object>> objects(Object list) {
        return (List<Map<String, Object>>) list;
    }

    @SuppressWarnings("unchecked")
    static Map<String, List<Object>> lists(Object map) {
        return (Map<String, List<Object>>) map;
    }

    /** Raw values as an app would give them: numbers of JSON become Long and Double. */
    static Inputs raw(Object map) {
        Inputs inputs = new Inputs();
        for (Map.Entry<String, List<Object>> entry : lists(map).entrySet()) {
            inputs.raw(entry.getKey(), plain(entry.getValue()));
        }
        return inputs;
    }

    private static List<Object> plain(List<Object> values) {
        List<Object> out = new java.util.ArrayList<Object>();
        for (Object value : values) {
            if (value instanceof List) {
                @SuppressWarnings("unchecked")
                List<Object> inner = (List<Object>) value;
                out.add(plain(inner));
            } else if (value instanceof Json.Number) {
                Json.Number number = (Json.Number) value;
                out.add(number.isInteger() ? (Object) number.toLong() : (Object) number.toDouble());
            } else {
                out.add(value);
            }
        }
        return out;
    }

    /** Values as the model takes them: by input an object of "ids" or of "floats". */
    @SuppressWarnings("unchecked")
    static Inputs direct(Object map) {
        Inputs inputs = new Inputs();
        for (Map.Entry<String, Object> entry : ((Map<String, Object>) map).entrySet()) {
            Map<String, List<Object>> given = lists(entry.getValue());
            inputs.values(entry.getKey(), given.containsKey("floats")
                    ? floats(given.get("floats")) : (Object) longs(given.get("ids")));
        }
        return inputs;
    }

    /** A value of tests/golden/cells.json as an app would give it. */
    static Object golden(String type, Object value) {
        if (type.equals("list")) {
            List<Object> out = new java.util.ArrayList<Object>();
            for (Object item : (List<?>) value) {
                out.add(golden((String) ((List<?>) item).get(0), ((List<?>) item).get(1)));
            }
            return out;
        }
        return type.equals("nan") ? (Object) Double.NaN
                : type.equals("infinity") ? (Object) Double.POSITIVE_INFINITY
                : type.equals("integer") ? (Object) ((Json.Number) value).toLong()
                : type.equals("double") ? (Object) ((Json.Number) value).toDouble()
                : value;
    }

    static long[] longs(List<Object> values) {
        long[] out = new long[values.size()];
        for (int i = 0; i < out.length; i++) {
            out[i] = ((Json.Number) values.get(i)).toLong();
        }
        return out;
    }

    static float[] floats(Object list) {
        List<?> values = (List<?>) list;
        float[] out = new float[values.size()];
        for (int i = 0; i < out.length; i++) {
            out[i] = (float) ((Json.Number) values.get(i)).toDouble();
        }
        return out;
    }
}
