package ondevice.ctr;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Strict JSON for model descriptions, catalogues and bench reports.
 *
 * <p>Android's {@code org.json} is not used: it reads integers above 2^63 as doubles, while a seed
 * has 64 bits, takes comments and unquoted names, and overflows the stack on hostile nesting.
 *
 * <p>Values are {@code Map<String, Object>}, {@code List<Object>}, {@code String},
 * {@code Boolean}, {@link Number} and {@code null}.
 */
public final class Json {
    private static final int DEEPEST = 32;

    /** A number as it is written: which type it is for is known where it is used. */
    public static final class Number {
        private final String text;

        Number(String text) {
            this.text = text;
        }

        /** As a signed 64-bit integer. Throws ModelFileException for anything else. */
        public long toLong() {
            try {
                return Long.parseLong(text);
            } catch (NumberFormatException error) {
                throw new ModelFileException("expected a 64-bit integer, got " + text);
            }
        }

        /** As 0..2^64-1, in the bits of a long. Throws ModelFileException for anything else. */
        public long toUnsignedLong() {
            try {
                if (!text.startsWith("-")) {
                    java.math.BigInteger value = new java.math.BigInteger(clipped());
                    if (value.bitLength() <= 64) {
                        return value.longValue();
                    }
                }
            } catch (NumberFormatException error) {
                // said below
            }
            throw new ModelFileException("expected an integer 0..2^64-1, got " + clipped());
        }

        public double toDouble() {
            return Double.parseDouble(text);
        }

        /** Whether it is written as an integer. */
        public boolean isInteger() {
            return text.indexOf('.') < 0 && text.indexOf('e') < 0 && text.indexOf('E') < 0;
        }

        private String clipped() {
            return text.length() > 40 ? text.substring(0, 40) + "..." : text;
        }

        @Override
        public String toString() {
            return text;
        }
    }

    private final String text;
    private int at;

    private Json(String text) {
        this.text = text;
    }

    /** Parse one value. Throws ModelFileException that says where it went wrong. */
    public static Object parse(String text) {
        Json json = new Json(text);
        Object value = json.value(0);
        json.space();
        if (json.at < text.length()) {
            throw json.wrong("text after the value");
        }
        return value;
    }

    /** The text of a value: of maps, lists, strings, booleans, numbers (finite) and null. */
    public static String write(Object value) {
        StringBuilder out = new StringBuilder();
        write(value, out);
        return out.toString();
    }

    private static void write(Object value, StringBuilder out) {
        if (value instanceof Map) {
            String comma = "{";
            for (Map.Entry<?, ?> entry : ((Map<?, ?>) value).entrySet()) {
                out.append(comma);
                quote((String) entry.getKey(), out);
                out.append(": ");
                write(entry.getValue(), out);
                comma = ", ";
            }
            out.append(comma.equals("{") ? "{}" : "}");
        } else if (value instanceof List) {
            String comma = "[";
            for (Object item : (List<?>) value) {
                out.append(comma);
                write(item, out);
                comma = ", ";
            }
            out.append(comma.equals("[") ? "[]" : "]");
        } else if (value instanceof String) {
            quote((String) value, out);
        } else if (value instanceof Double || value instanceof Float) {
            double number = ((java.lang.Number) value).doubleValue();
            if (Double.isNaN(number) || Double.isInfinite(number)) {
                throw new IllegalArgumentException("JSON has no " + number);
            }
            out.append(value);
        } else {
            out.append(value); // integers, booleans, null
        }
    }

    private static void quote(String text, StringBuilder out) {
        out.append('"');
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            if (c == '"' || c == '\\') {
                out.append('\\').append(c);
            } else if (c < 32 || Character.isSurrogate(c)) {
                out.append(String.format("\\u%04x", (int) c));
            } else {
                out.append(c);
            }
        }
        out.append('"');
    }

    private ModelFileException wrong(String what) {
        return new ModelFileException("JSON, character " + at + ": " + what);
    }

    private void space() {
        while (at < text.length() && " \t\r\n".indexOf(text.charAt(at)) >= 0) {
            at++;
        }
    }

    private char peek() {
        if (at == text.length()) {
            throw wrong("it ends too early");
        }
        return text.charAt(at);
    }

    private void expect(char wanted) {
        space();
        if (peek() != wanted) {
            throw wrong("expected " + wanted);
        }
        at++;
    }

    private Object value(int depth) {
        if (depth > DEEPEST) {
            throw wrong("nested more than " + DEEPEST + " deep");
        }
        space();
        switch (peek()) {
            case '{':
                return object(depth);
            case '[':
                return list(depth);
            case '"':
                return string();
            case 't':
                return word("true", Boolean.TRUE);
            case 'f':
                return word("false", Boolean.FALSE);
            case 'n':
                return word("null", null);
            default:
                return number();
        }
    }

    private Object word(String word, Object value) {
        if (!text.startsWith(word, at)) {
            throw wrong("expected a value");
        }
        at += word.length();
        return value;
    }

    private Map<String, Object> object(int depth) {
        Map<String, Object> found = new LinkedHashMap<String, Object>();
        at++;
        space();
        if (peek() == '}') {
            at++;
            return found;
        }
        while (true) {
            space();
            if (peek() != '"') {
                throw wrong("expected a name");
            }
            String name = string();
            expect(':');
            if (found.containsKey(name)) {
                throw wrong("a name occurs twice");
            }
            found.put(name, value(depth + 1));
            space();
            if (peek() == '}') {
                at++;
                return found;
            }
            expect(',');
        }
    }

    private List<Object> list(int depth) {
        List<Object> found = new ArrayList<Object>();
        at++;
        space();
        if (peek() == ']') {
            at++;
            return found;
        }
        while (true) {
            found.add(value(depth + 1));
            space();
            if (peek() == ']') {
                at++;
                return found;
            }
            expect(',');
        }
    }

    private String string() {
        int start = ++at;
        while (peek() != '"' && peek() != '\\') {
            plain();
        }
        if (peek() == '"') { // nearly always: nothing to replace
            return text.substring(start, at++);
        }
        StringBuilder out = new StringBuilder(text.substring(start, at));
        while (peek() != '"') {
            if (peek() == '\\') {
                at++;
                out.append(escape());
            } else {
                out.append(plain());
            }
        }
        at++;
        return out.toString();
    }

    private char plain() {
        char c = peek();
        if (c < 32) {
            throw wrong("a control character in a text");
        }
        at++;
        return c;
    }

    private char escape() {
        char c = peek();
        at++;
        if (c == 'u') {
            int code = 0;
            for (int i = 0; i < 4; i++) {
                int digit = Character.digit(peek(), 16);
                if (digit < 0 || peek() > 'f') {
                    throw wrong("expected four hexadecimal digits");
                }
                code = code * 16 + digit;
                at++;
            }
            return (char) code;
        }
        int place = "\"\\/bfnrt".indexOf(c);
        if (place < 0) {
            throw wrong("unknown escape");
        }
        return "\"\\/\b\f\n\r\t".charAt(place);
    }

    private Number number() {
        int start = at;
        take("-");
        int digits = at;
        digits();
        if (at - digits > 1 && text.charAt(digits) == '0') {
            throw wrong("a number begins with 0");
        }
        if (take(".")) {
            digits();
        }
        if (take("eE")) {
            take("+-");
            digits();
        }
        return new Number(text.substring(start, at));
    }

    private boolean take(String any) {
        boolean found = at < text.length() && any.indexOf(text.charAt(at)) >= 0;
        at += found ? 1 : 0;
        return found;
    }

    private void digits() {
        int start = at;
        while (take("0123456789")) {
            continue;
        }
        if (at == start) {
            throw wrong("expected a value");
        }
    }
}
