package ondevice.ctr;

import java.util.ArrayList;
import java.util.List;
import java.util.regex.Pattern;

/** How the texts of one field are read: cells of the training log (ondevice/cells.py). */
final class Cells {
    private static final Pattern NUMBER =
            Pattern.compile("[+-]?([0-9]+\\.?[0-9]*|\\.[0-9]+)([eE][+-]?[0-9]+)?");
    private static final int MOST_DIGITS = 19; // of an integer of 64 bits

    private final List<String> missing;
    private final String separator;

    Cells(List<String> missing, String separator) {
        this.missing = missing;
        this.separator = separator;
    }

    /** String, Long or Double; null where it is missing. Throws NumberFormatException. */
    Object value(String text, String kind) {
        if (missing.contains(text)) {
            return null;
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
