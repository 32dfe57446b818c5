/* cells.c: reads a text or a typed value as a string, an integer, a number or no value. */
#include "features/cells.h"

#include "core/utf8.h"
#include "features/decimal.h"

enum { MOST_DIGITS = 19 }; /* of an integer of 64 bits */
static const char BOOLEAN[] = "true, false, 1 or 0";
static const char INTEGER[] = "a signed 64-bit integer";

static int is_same(od_bytes a, od_bytes b) {
  return a.size == b.size && od_same(a.text, b.text, a.size);
}

int od_is_marker(const od_cells *cells, od_bytes text) {
  for (size_t i = 0; i < cells->missing_count; i++)
    if (is_same(cells->missing[i], text)) return 1;
  return 0;
}

int od_is_utf8(od_bytes text) {
  const char *p = text.text, *end = p + text.size;
  while (p < end) {
    size_t size = od_utf8_length(p, end);
    if (!size) return 0;
    p += size;
  }
  return 1;
}

static int read_integer(od_bytes text, int64_t *value) {
  const char *p = text.text, *end = p + text.size;
  int negative = p < end && *p == '-';
  uint64_t magnitude = 0;
  if (p < end && (*p == '-' || *p == '+')) p++;
  if (p == end) return 0;
  while (p < end && *p == '0') p++;
  if (end - p > MOST_DIGITS) return 0;
  for (; p < end; p++) {
    if (!od_is_digit(*p)) return 0;
    magnitude = magnitude * 10 + (uint64_t)(*p - '0');
  }
  if (magnitude > (uint64_t)INT64_MAX + (uint64_t)negative) return 0;
  *value = (int64_t)(negative ? 0 - magnitude : magnitude);
  return 1;
}

/* Letters from A to Z as from a to z; `word` has no others. */
static int is_word(od_bytes text, const char *word) {
  size_t i = 0;
  for (; i < text.size && word[i]; i++) {
    char c = text.text[i];
    if ((c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c) != word[i]) return 0;
  }
  return i == text.size && !word[i];
}

static int read_boolean(od_bytes text, int64_t *value) {
  *value = is_word(text, "true") || is_word(text, "1");
  return *value || is_word(text, "false") || is_word(text, "0");
}

static const char *expected_time(od_form form) {
  if (form == OD_FORM_ISO)
    return "a time as YYYY-MM-DD[ HH:MM[:SS][zone]] (ISO 8601) of the years 1 to 9999";
  return form == OD_FORM_SECONDS ? "seconds since 1970 within the years 1 to 9999"
                                 : "milliseconds since 1970 within the years 1 to 9999";
}

/* A text of a feature whose integers are not written as such; NULL, or what was expected. */
static const char *read_form(const od_cells *cells, od_bytes text, int64_t *value) {
  int64_t seconds;
  if (cells->form == OD_FORM_BOOLEAN) return read_boolean(text, value) ? NULL : BOOLEAN;
  if (cells->form == OD_FORM_NONE)
    return od_moment_part(text.text, text.size, cells->part, value) ? NULL : "an hour as YYMMDDHH";
  if (!od_time_of_text(text.text, text.size, cells->form, &seconds))
    return expected_time(cells->form);
  *value = od_time_part(seconds, cells->part, cells->utc_offset);
  return NULL;
}

static const char *read_text(const od_cells *cells, od_raw_kind kind, od_raw_value *value) {
  od_bytes text = {value->text, value->size};
  if (!od_is_utf8(text)) return "valid UTF-8";
  if (!cells) return NULL;
  if (od_is_marker(cells, text)) {
    *value = od_raw_missing();
    return NULL;
  }
  if (kind == OD_KIND_STRING) return NULL;
  int64_t integer = 0;
  double number;
  const char *expected;
  if (cells->form != OD_FORM_NONE || cells->part != OD_PART_NONE) {
    expected = read_form(cells, text, &integer);
  } else if (kind == OD_KIND_NUMBER) {
    if (!od_decimal_read(text.text, text.size, &number)) return "a number";
    *value = od_raw_number(number);
    return NULL;
  } else {
    expected = read_integer(text, &integer) ? NULL : INTEGER;
  }
  if (!expected) *value = od_raw_integer(integer);
  return expected;
}

/* A value that is no text, of a feature whose integers have a form. */
static const char *read_typed(const od_cells *cells, od_raw_value *value) {
  int64_t seconds;
  int is_time = 0;
  if (cells->form == OD_FORM_BOOLEAN) {
    int is_bit = value->type == OD_RAW_INTEGER && (value->integer == 0 || value->integer == 1);
    if (value->type == OD_RAW_BOOLEAN) *value = od_raw_integer(value->boolean != 0);
    else if (!is_bit) return BOOLEAN;
    return NULL;
  }
  if (value->type == OD_RAW_INTEGER)
    is_time = od_time_of_integer(value->integer, cells->form, &seconds);
  else if (value->type == OD_RAW_NUMBER)
    is_time = od_time_of_number(value->number, cells->form, &seconds);
  if (!is_time) return expected_time(cells->form);
  *value = od_raw_integer(od_time_part(seconds, cells->part, cells->utc_offset));
  return NULL;
}

const char *od_cell_read(const od_cells *cells, od_raw_kind kind, od_raw_value *value) {
  const char *expected = NULL;
  if (value->type == OD_RAW_NUMBER && value->number != value->number) *value = od_raw_missing();
  if (value->type == OD_RAW_TEXT) expected = read_text(cells, kind, value);
  else if (cells && cells->form != OD_FORM_NONE && value->type != OD_RAW_MISSING)
    expected = read_typed(cells, value);
  if (expected || value->type == OD_RAW_MISSING) return expected;
  if (kind == OD_KIND_NUMBER && value->type == OD_RAW_INTEGER)
    *value = od_raw_number((double)value->integer);
  if (kind == OD_KIND_STRING) return value->type == OD_RAW_TEXT ? NULL : "a string";
  if (kind == OD_KIND_INTEGER) return value->type == OD_RAW_INTEGER ? NULL : "an integer";
  return value->type == OD_RAW_NUMBER ? NULL : "a number";
}
