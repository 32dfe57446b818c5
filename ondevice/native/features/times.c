/* times.c: reads times and takes them apart, in the proleptic Gregorian calendar. */
#include "features/times.h"

#include "features/decimal.h"

enum { DAY = 86400, MOST_EPOCH_DIGITS = 18, MOST_FRACTION_DIGITS = 9 };
/* The years 1 to 9999, which every calendar library has. */
static const int64_t EARLIEST = -62135596800, LATEST = 253402300799;

typedef struct {
  const char *p, *end;
} cursor;

static int64_t floor_div(int64_t value, int64_t divisor) {
  return value / divisor - (value % divisor < 0);
}

static int64_t floor_mod(int64_t value, int64_t divisor) {
  return value - divisor * floor_div(value, divisor);
}

/* Exactly `count` digits. */
static int take_digits(cursor *c, int count, int64_t *value) {
  *value = 0;
  for (; count; count--, c->p++) {
    if (c->p == c->end || !od_is_digit(*c->p)) return 0;
    *value = *value * 10 + (*c->p - '0');
  }
  return 1;
}

static int take(cursor *c, char letter) {
  if (c->p == c->end || *c->p != letter) return 0;
  c->p++;
  return 1;
}

static int64_t days_of_month(int64_t year, int64_t month) {
  int is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
  if (month == 2) return 28 + is_leap;
  return month == 4 || month == 6 || month == 9 || month == 11 ? 30 : 31;
}

static int is_date(int64_t year, int64_t month, int64_t day) {
  return year >= 1 && month >= 1 && month <= 12 && day >= 1 && day <= days_of_month(year, month);
}

/* Days since 1970 of a date, by eras of 400 years that begin in March. */
static int64_t days_of(int64_t year, int64_t month, int64_t day) {
  int64_t shifted = year - (month <= 2);
  int64_t era = floor_div(shifted, 400), of_era = shifted - 400 * era;
  int64_t of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
  return 146097 * era + 365 * of_era + of_era / 4 - of_era / 100 + of_year - 719468;
}

static void month_and_day(int64_t days, int64_t *month, int64_t *day) {
  int64_t of_era = floor_mod(days + 719468, 146097);
  int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
  int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
  int64_t from_march = (5 * of_year + 2) / 153;
  *day = of_year - (153 * from_march + 2) / 5 + 1;
  *month = from_march < 10 ? from_march + 3 : from_march - 9;
}

/* A fraction of a second, which does not count. */
static int skip_fraction(cursor *c) {
  const char *start = c->p;
  while (c->p < c->end && od_is_digit(*c->p)) c->p++;
  return c->p > start && c->p - start <= MOST_FRACTION_DIGITS;
}

/* Minutes by which the zone at the end is ahead of UTC. */
static int read_zone(cursor *c, int64_t *ahead) {
  int64_t hours, minutes = 0;
  *ahead = 0;
  if (c->p == c->end) return 1;
  if (take(c, 'Z')) return c->p == c->end;
  int negative = *c->p == '-';
  if (!negative && *c->p != '+') return 0;
  c->p++;
  if (!take_digits(c, 2, &hours)) return 0;
  if (c->p < c->end) {
    take(c, ':');
    if (!take_digits(c, 2, &minutes)) return 0;
  }
  *ahead = (negative ? -1 : 1) * (60 * hours + minutes);
  return c->p == c->end && hours <= 23 && minutes <= 59;
}

static int read_iso(const char *text, size_t size, int64_t *seconds) {
  cursor c = {text, text + size};
  int64_t year, month, day, hour, minute, second = 0, ahead;
  if (!take_digits(&c, 4, &year) || !take(&c, '-') || !take_digits(&c, 2, &month) ||
      !take(&c, '-') || !take_digits(&c, 2, &day) || !is_date(year, month, day))
    return 0;
  *seconds = days_of(year, month, day) * DAY;
  if (c.p == c.end) return 1;
  if ((!take(&c, 'T') && !take(&c, ' ')) || !take_digits(&c, 2, &hour) || !take(&c, ':') ||
      !take_digits(&c, 2, &minute))
    return 0;
  if (take(&c, ':') && (!take_digits(&c, 2, &second) || (take(&c, '.') && !skip_fraction(&c))))
    return 0;
  if (hour > 23 || minute > 59 || second > 59 || !read_zone(&c, &ahead)) return 0;
  *seconds += 3600 * hour + 60 * minute + second - 60 * ahead;
  return 1;
}

/* A decimal number, rounded down to an integer. */
static int read_epoch(const char *text, size_t size, int64_t *value) {
  cursor c = {text, text + size};
  int negative = take(&c, '-'), has_rest = 0;
  if (!negative) take(&c, '+');
  const char *start = c.p;
  while (c.p < c.end && *c.p == '0') c.p++;
  const char *counted = c.p;
  for (*value = 0; c.p < c.end && od_is_digit(*c.p); c.p++) {
    if (c.p - counted == MOST_EPOCH_DIGITS) return 0;
    *value = *value * 10 + (*c.p - '0');
  }
  if (c.p == start) return 0;
  if (take(&c, '.')) {
    if (c.p == c.end) return 0;
    for (; c.p < c.end && od_is_digit(*c.p); c.p++) has_rest |= *c.p != '0';
  }
  if (negative) *value = -*value - has_rest;
  return c.p == c.end;
}

static int in_range(int64_t seconds) { return seconds >= EARLIEST && seconds <= LATEST; }

int od_time_of_integer(int64_t value, od_form form, int64_t *seconds) {
  if (form != OD_FORM_SECONDS && form != OD_FORM_MILLISECONDS) return 0;
  *seconds = form == OD_FORM_SECONDS ? value : floor_div(value, 1000);
  return in_range(*seconds);
}

int od_time_of_text(const char *text, size_t size, od_form form, int64_t *seconds) {
  int64_t value;
  if (form == OD_FORM_ISO) return read_iso(text, size, seconds) && in_range(*seconds);
  return read_epoch(text, size, &value) && od_time_of_integer(value, form, seconds);
}

int od_time_of_number(double value, od_form form, int64_t *seconds) {
  if (!(value > -1e15 && value < 1e15)) return 0; /* beyond all years, or NaN */
  int64_t whole = (int64_t)value;
  return od_time_of_integer(whole - ((double)whole > value), form, seconds);
}

int64_t od_time_part(int64_t seconds, od_part part, int64_t offset) {
  int64_t local = seconds + 60 * offset, days = floor_div(local, DAY), month, day;
  switch (part) {
    case OD_PART_NONE: return seconds;
    case OD_PART_HOUR: return floor_mod(local, DAY) / 3600;
    case OD_PART_WEEKDAY: return floor_mod(days + 3, 7); /* 1970-01-01 was a Thursday */
    default: month_and_day(days, &month, &day); return part == OD_PART_DAY ? day : month;
  }
}

int od_moment_part(const char *text, size_t size, od_part part, int64_t *value) {
  cursor c = {text, text + size};
  int64_t year, month, day, hour;
  if (!take_digits(&c, 2, &year) || !take_digits(&c, 2, &month) || !take_digits(&c, 2, &day) ||
      !take_digits(&c, 2, &hour) || c.p != c.end || !is_date(2000 + year, month, day) || hour > 23)
    return 0;
  *value = od_time_part(days_of(2000 + year, month, day) * DAY + 3600 * hour, part, 0);
  return 1;
}
