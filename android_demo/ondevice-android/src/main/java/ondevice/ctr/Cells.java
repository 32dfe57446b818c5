package ondevice.ctr;

import java.util.ArrayList;
import java.util.Calendar;
import java.util.GregorianCalendar;
import java.util.List;
import java.util.Locale;
import java.util.TimeZone;
import java.util.regex.Pattern;

/** How the texts of one field are read: cells of the training log (ondevice/cells.py). */
final class Cells {
    private static final Pattern NUMBER =
            Pattern.compile("[+-]?([0-9]+\\.?[0-9]*|\\.[0-9]+)([eE][+-]?[0-9]+)?");
    private static final int MOST_DIGITS = 19; // of an integer of 64 bits

    private final List<String> missing;
    private final String separator;
    private final String part; // "hour" or "weekday" of a time YYMMDDHH; null: the whole text

    Cells(List<String> missing, String separator, String part) {
        this.missing = missing;
        this.separator = separator;
        this.part = part;
    }

    /** String, Long or Double; null where it is missing. Throws NumberFormatException. */
    Object value(String text, String kind) {
        if (missing.contains(text)) {
            return null;
        }
        if (part != null) {
            return part(text, part.equals("hour"));
        }
        return kind.equals("string") ? text
                : kind.equals("integer") ? (Object) integer(text) : (Object) number(text);
    }

    /** The texts of a sequence's values; null where the whole text is missing. */
    List<String> split(String text) {
        if (missing.contains(text)) {
            return null;
        }
        List<String> parts = new ArrayList<String>();
        int from = 0;
        int at;
        while ((at = text.indexOf(separator, from)) >= 0) {
            parts.add(text.substring(from, at));
            from = at + separator.length();
        }
        parts.add(text.substring(from));
        return parts;
    }

    private static long integer(String text) {
        boolean signed = text.startsWith("-") || text.startsWith("+");
        int from = signed ? 1 : 0;
        for (int i = from; i < text.length(); i++) {
            if (text.charAt(i) < '0' || text.charAt(i) > '9') { // no digits but ASCII
                throw new NumberFormatException("a signed 64-bit integer");
            }
        }
        while (from < text.length() - 1 && text.charAt(from) == '0') {
            from++;
        }
        String digits = text.substring(from);
        if (digits.isEmpty() || digits.length() > MOST_DIGITS) {
            throw new NumberFormatException("a signed 64-bit integer");
        }
        try {
            return Long.parseLong(text.startsWith("-") ? "-" + digits : digits);
        } catch (NumberFormatException error) {
            throw new NumberFormatException("a signed 64-bit integer");
        }
    }

    private static long part(String text, boolean hour) {
        GregorianCalendar time = new GregorianCalendar(TimeZone.getTimeZone("UTC"), Locale.ROOT);
        time.setLenient(false); // refuses the 31st of June
        time.clear();
        try {
            int[] parts = new int[4];
            for (int i = 0; i < 8; i++) {
                char digit = text.length() == 8 ? text.charAt(i) : ' ';
                if (digit < '0' || digit > '9') {
                    throw new NumberFormatException();
                }
                parts[i / 2] = 10 * parts[i / 2] + digit - '0';
            }
            time.set(2000 + parts[0], parts[1] - 1, parts[2], parts[3], 0, 0);
            int day = time.get(Calendar.DAY_OF_WEEK); // Sunday is 1
            return hour ? parts[3] : (day + 5) % 7;
        } catch (IllegalArgumentException error) { // a NumberFormatException is one
            throw new NumberFormatException("an hour as YYMMDDHH");
        }
    }

    private static double number(String text) {
        if (NUMBER.matcher(text).matches()) {
            double value = Double.parseDouble(text);
            if (!Double.isInfinite(value)) {
                return value;
            }
        }
        throw new NumberFormatException("a number");
    }
}
