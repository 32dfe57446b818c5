package ondevice.ctr;

import java.util.Date;

/** Times: how a text or a value becomes seconds since 1970 (UTC), and their parts (ondevice/times.py). */
final class Times {
    private static final long DAY = 86400;
    // The years 1 to 9999, which every calendar library has.
    private static final long EARLIEST = -62135596800L;
    private static final long LATEST = 253402300799L;
    private static final int MOST_DIGITS = 18; // of seconds: more are out of range

    private Times() {
    }

    static String expected(String form) {
        return form.equals("iso")
                ? "a time as YYYY-MM-DD[ HH:MM[:SS][zone]] (ISO 8601) of the years 1 to 9999"
                : form + " since 1970 within the years 1 to 9999";
    }

    /** Seconds since 1970 of a text of a form: "iso", "seconds" or "milliseconds". */
    static long ofText(String text, String form) {
        long[] seconds = form.equals("iso") ? iso(text)
                : epoch(text, form.equals("seconds") ? 1 : 1000);
        return inRange(seconds, form);
    }

    /** Seconds since 1970 of a Date, or of a number in the form's unit, rounded down. */
    static long ofValue(Object value, String form) {
        if (value instanceof Date) {
            return inRange(new long[] {floorDiv(((Date) value).getTime(), 1000L)}, form);
        }
        long unit = form.equals("milliseconds") ? 1000 : 1;
        if (!form.equals("iso")) {
            if (value instanceof Long || value instanceof Integer || value instanceof Short
                    || value instanceof Byte) {
                long whole = ((Number) value).longValue();
                return inRange(new long[] {floorDiv(whole, unit)}, form);
            }
            if (value instanceof Double || value instanceof Float) {
                double seconds = Math.floor(((Number) value).doubleValue() / unit);
                boolean fits = seconds >= EARLIEST && seconds <= LATEST; // not so of NaN
                return inRange(fits ? new long[] {(long) seconds} : null, form);
            }
        }
        throw new NumberFormatException(expected(form));
    }

    /** A part of a time: hour, weekday (Monday is 0), day or month, `offset` minutes ahead of UTC. */
    static long part(long seconds, String part, long offset) {
        long local = seconds + 60 * offset;
        long days = floorDiv(local, DAY);
        switch (part) {
            case "hour":
                return floorMod(local, DAY) / 3600;
            case "weekday":
                return floorMod(days + 3, 7L); // 1970-01-01 was a Thursday
            case "day":
                return civil(days)[2];
            default:
                return civil(days)[1];
        }
    }

    private static long inRange(long[] seconds, String form) {
        if (seconds == null || seconds[0] < EARLIEST || seconds[0] > LATEST) {
            throw new NumberFormatException(expected(form));
        }
        return seconds[0];
    }

    /** Seconds of an ISO 8601 text; null: it is none. */
    private static long[] iso(String text) {
        long date = 0;
        int at = 10;
        if (!digits(text, 0, 4, '-') || !digits(text, 5, 2, '-') || !digits(text, 8, 2, '\0')) {
            return null;
        }
        long year = number(text, 0, 4);
        long month = number(text, 5, 2);
        long day = number(text, 8, 2);
        if (year < 1 || month < 1 || month > 12 || day < 1 || day > daysOf(year, month)) {
            return null;
        }
        date = days(year, month, day) * DAY;
        if (at == text.length()) {
            return new long[] {date};
        }
        if (text.charAt(at) != 'T' && text.charAt(at) != ' '
                || !digits(text, 11, 2, ':') || !digits(text, 14, 2, '\0')) {
            return null;
        }
        long hour = number(text, 11, 2);
        long minute = number(text, 14, 2);
        long second = 0;
        at = 16;
        if (at < text.length() && text.charAt(at) == ':') {
            if (!digits(text, 17, 2, '\0')) {
                return null;
            }
            second = number(text, 17, 2);
            at = afterFraction(text, 19);
        }
        if (hour > 23 || minute > 59 || second > 59 || at < 0) {
            return null;
        }
        long[] ahead = zone(text, at);
        return ahead == null ? null
                : new long[] {date + 3600 * hour + 60 * minute + second - 60 * ahead[0]};
    }

    /** The place behind a fraction of up to nine digits, if there is one; -1: a wrong one. */
    private static int afterFraction(String text, int from) {
        if (from >= text.length() || text.charAt(from) != '.') {
            return from;
        }
        int at = from + 1;
        while (at < text.length() && isDigit(text.charAt(at))) {
            at++;
        }
        return at - from - 1 < 1 || at - from - 1 > 9 ? -1 : at;
    }

    /** Minutes by which the zone that ends a text is ahead of UTC; null: no zone. */
    private static long[] zone(String text, int at) {
        String zone = text.substring(at);
        if (zone.isEmpty() || zone.equals("Z")) {
            return new long[] {0};
        }
        boolean colon = zone.length() == 6 && zone.charAt(3) == ':';
        String minutes = zone.length() == 3 ? "00" : zone.substring(Math.min(colon ? 4 : 3,
                zone.length()));
        if (zone.charAt(0) != '+' && zone.charAt(0) != '-' || !digits(zone, 1, 2, '\0')
                || minutes.length() != 2 || !digits(minutes, 0, 2, '\0')) {
            return null;
        }
        long hours = number(zone, 1, 2);
        long rest = number(minutes, 0, 2);
        if (hours > 23 || rest > 59) {
            return null;
        }
        return new long[] {(zone.charAt(0) == '-' ? -1 : 1) * (60 * hours + rest)};
    }

    /** Seconds of a decimal number of seconds or milliseconds, rounded down; null: it is none. */
    private static long[] epoch(String text, long unit) {
        boolean signed = text.startsWith("-") || text.startsWith("+");
        int from = signed ? 1 : 0;
        int point = text.indexOf('.');
        String whole = text.substring(from, point < 0 ? text.length() : Math.max(from, point));
        String fraction = point < 0 ? "0" : text.substring(point + 1);
        String bare = whole.replaceFirst("^0+(?=.)", "");
        if (!allDigits(whole) || !allDigits(fraction) || bare.length() > MOST_DIGITS) {
            return null;
        }
        long value = Long.parseLong(bare);
        if (text.startsWith("-")) {
            value = -value - (fraction.replace("0", "").isEmpty() ? 0 : 1); // down
        }
        return new long[] {floorDiv(value, unit)};
    }

    private static boolean allDigits(String text) {
        return !text.isEmpty() && digits(text, 0, text.length(), '\0');
    }

    /** Whether `count` ASCII digits stand at `from`, and then the separator ('\0': anything). */
    private static boolean digits(String text, int from, int count, char separator) {
        if (text.length() < from + count + (separator == '\0' ? 0 : 1)) {
            return false;
        }
        for (int i = from; i < from + count; i++) {
            if (!isDigit(text.charAt(i))) {
                return false;
            }
        }
        return separator == '\0' || text.charAt(from + count) == separator;
    }

    private static boolean isDigit(char letter) {
        return letter >= '0' && letter <= '9';
    }

    private static long number(String text, int from, int count) {
        return Long.parseLong(text.substring(from, from + count));
    }

    /** Math.floorDiv, which old Android systems lack. */
    private static long floorDiv(long value, long divisor) {
        long quotient = value / divisor;
        return value % divisor < 0 ? quotient - 1 : quotient;
    }

    private static long floorMod(long value, long divisor) {
        return value - divisor * floorDiv(value, divisor);
    }

    private static boolean isLeap(long year) {
        return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    }

    private static int daysOf(long year, long month) {
        return month == 2 ? isLeap(year) ? 29 : 28
                : month == 4 || month == 6 || month == 9 || month == 11 ? 30 : 31;
    }

    /** Days since 1970 of a date of the proleptic Gregorian calendar, by eras of 400 years. */
    private static long days(long year, long month, long day) {
        long shifted = month <= 2 ? year - 1 : year; // years that begin in March
        long era = floorDiv(shifted, 400L);
        long yearOfEra = shifted - 400 * era;
        long dayOfYear = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
        return 146097 * era + 365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
                - 719468;
    }

    /** Year, month and day of days since 1970. */
    private static long[] civil(long days) {
        long shifted = days + 719468;
        long era = floorDiv(shifted, 146097L);
        long dayOfEra = shifted - 146097 * era;
        long yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36524 - dayOfEra / 146096) / 365;
        long dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100);
        long month = (5 * dayOfYear + 2) / 153;
        long day = dayOfYear - (153 * month + 2) / 5 + 1;
        long calendarMonth = month < 10 ? month + 3 : month - 9;
        return new long[] {yearOfEra + 400 * era + (calendarMonth <= 2 ? 1 : 0), calendarMonth,
            day};
    }
}
