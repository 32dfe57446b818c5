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
    private static final String BOOLEAN = "true, false, 1 or 0";
    private static final int MOST_DIGITS = 19; // of an integer of 64 bits

    private final List<String> missing;
    private final String separator;
    private final String part; // of a time; without a form of YYMMDDHH; null: the whole
    private final long utcOffset; // minutes by which the part's time is ahead of UTC
    final String form; // how an integer is written: "boolean", a time's; null: as an integer

    Cells(List<String> missing, String separator, String part, String form, long utcOffset) {
        this.missing = missing;
        this.separator = separator;
        this.part = part;
        this.form = form;
        this.utcOffset = utcOffset;
    }

    /** String, Long or Double; null where it is missing. Throws NumberFormatException. */
    Object value(String text, String kind) {
        if (missing.contains(text)) {
            return null;
        }
        if (form != null) {
            return form.equals("boolean") ? (Object) truth(text)
                    : (Object) ofSeconds(Times.ofText(text, form));
        }
        if (part != null) {
            return part(text, part.equals("hour"));
        }
        return kind.equals("string") ? text
                : kind.equals("integer") ? (Object) integer(text) : (Object) number(text);
    }

    /** The integer of a value of a field with a form that is no text. Throws NumberFormatException. */
    long typed(Object value) {
        if (!form.equals("boolean")) {
            return ofSeconds(Times.ofValue(value, form));
        }
        if (value instanceof Boolean) {
            return (Boolean) value ? 1 : 0;
        }
        boolean whole = value instanceof Long || value instanceof Integer
                || value instanceof Short || value instanceof Byte;
        long number = whole ? ((Number) value).longValue() : -1;
        if (number == 0 || number == 1) {
            return number;
        }
        throw new NumberFormatException(BOOLEAN);
    }

    private long ofSeconds(long seconds) {
        return part == null ? seconds : Times.part(seconds, part, utcOffset);
    }

    private static long truth(String text) {
        switch (asciiLower(text)) {
            case "true":
            case "1":
                return 1;
            case "false":
            case "0":
                return 0;
            default:
                throw new NumberFormatException(BOOLEAN);
        }
    }

    /** The text with A to Z as a to z, and no other letter changed. */
    private static String asciiLower(String text) {
        StringBuilder out = new StringBuilder();
        for (int i = 0; i < text.length(); i++) {
            char letter = text.charAt(i);
            out.append(letter >= 'A' && letter <= 'Z' ? (char) (letter + 32) : letter);
        }
        return out.toString();
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
