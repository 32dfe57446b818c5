package ondevice.demo;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import ondevice.ctr.Inputs;
import ondevice.ctr.Json;
import ondevice.ctr.ModelFileException;

/** The users and items of catalogue.json, which `ondevice export-android` writes. Immutable. */
final class Catalogue {
    private static final String FORMAT = "ondevice-catalogue";
    private static final long VERSION = 1;

    /** What the app shows of each user and item, in order. */
    final List<String> users = new ArrayList<String>();
    final List<String> items = new ArrayList<String>();
    /** What Python computed for the first user. */
    final float[] firstUserScores;
    private final List<Map<String, Object>> userValues = new ArrayList<Map<String, Object>>();
    private final List<Map<String, Object>> itemValues = new ArrayList<Map<String, Object>>();
    private final Inputs candidates;

    /** Read it. Throws ModelFileException when it is something else. */
    Catalogue(String text) {
        try {
            Map<?, ?> data = (Map<?, ?>) Json.parse(text);
            if (!FORMAT.equals(data.get("format"))
                    || ((Json.Number) data.get("version")).toLong() != VERSION) {
                throw new ModelFileException("catalogue.json: another format or version");
            }
            read(data.get("users"), users, userValues);
            read(data.get("items"), items, itemValues);
            candidates = inputs(itemValues);
            List<?> scores = (List<?>) data.get("first_user_scores");
            firstUserScores = new float[scores.size()];
            for (int i = 0; i < firstUserScores.length; i++) {
                firstUserScores[i] = (float) ((Json.Number) scores.get(i)).toDouble();
            }
        } catch (ClassCastException error) {
            throw new ModelFileException("catalogue.json: a value of a wrong type");
        } catch (NullPointerException error) {
            throw new ModelFileException("catalogue.json: a member is missing");
        }
        if (users.isEmpty() || items.isEmpty() || firstUserScores.length != items.size()) {
            throw new ModelFileException("catalogue.json: users, items and scores do not fit");
        }
    }

    /** All items as candidates of a request. */
    Inputs candidates() {
        return candidates;
    }

    /** One user as the context of a request. */
    Inputs context(int user) {
        List<Map<String, Object>> one = new ArrayList<Map<String, Object>>();
        one.add(userValues.get(user));
        return inputs(one);
    }

    /** An item's raw values, one a line. */
    String itemText(int item) {
        StringBuilder out = new StringBuilder();
        for (Map.Entry<String, Object> entry : itemValues.get(item).entrySet()) {
            out.append(out.length() == 0 ? "" : "\n").append(entry.getKey()).append(": ")
                    .append(entry.getValue() == null ? "-" : entry.getValue());
        }
        return out.toString();
    }

    private static void read(Object list, List<String> titles, List<Map<String, Object>> values) {
        for (Object one : (List<?>) list) {
            Map<?, ?> row = (Map<?, ?>) one;
            titles.add((String) row.get("title"));
            Map<String, Object> raw = new LinkedHashMap<String, Object>();
            for (Map.Entry<?, ?> entry : ((Map<?, ?>) row.get("values")).entrySet()) {
                raw.put((String) entry.getKey(), plain(entry.getValue()));
            }
            if (row.get("title") == null || !values.isEmpty()
                    && !values.get(0).keySet().equals(raw.keySet())) {
                throw new ModelFileException("catalogue.json: rows with different members");
            }
            values.add(raw);
        }
    }

    private static Object plain(Object value) {
        if (value instanceof Json.Number) {
            Json.Number number = (Json.Number) value;
            return number.isInteger() ? (Object) number.toLong() : (Object) number.toDouble();
        }
        if (value instanceof List) {
            List<Object> out = new ArrayList<Object>();
            for (Object item : (List<?>) value) {
                out.add(plain(item));
            }
            return out;
        }
        return value;
    }

    private static Inputs inputs(List<Map<String, Object>> rows) {
        Inputs inputs = new Inputs();
        for (String name : rows.get(0).keySet()) {
            List<Object> column = new ArrayList<Object>();
            for (Map<String, Object> row : rows) {
                column.add(row.get(name));
            }
            inputs.raw(name, column);
        }
        return inputs;
    }
}
