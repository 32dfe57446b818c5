/* json.c: a strict JSON reader (RFC 8259) with bounded depth and number of values. */
#include "core/json.h"

#include "core/utf8.h"

OD_FOR_SIZE

typedef struct {
  const char *p, *end, *start, *what;
  od_arena *arena;
  od_error *error;
  uint32_t values;
} reader;

static od_status fault(reader *r, const char *expected) {
  return od_fail(r->error, OD_E_FORMAT, "%s: not valid JSON at byte %u: %s expected", r->what,
                 (uint64_t)(r->p - r->start), expected);
}

static od_status no_memory(reader *r) {
  return od_fail(r->error, OD_E_MEMORY, "%s: out of memory", r->what);
}

static void skip_space(reader *r) {
  while (r->p < r->end && (*r->p == ' ' || *r->p == '\n' || *r->p == '\r' || *r->p == '\t')) r->p++;
}

static int hex4(const char *p, uint32_t *out) {
  uint32_t value = 0;
  for (int i = 0; i < 4; i++) {
    char c = p[i];
    uint32_t digit;
    if (c >= '0' && c <= '9') digit = (uint32_t)(c - '0');
    else if (c >= 'a' && c <= 'f') digit = (uint32_t)(c - 'a' + 10);
    else if (c >= 'A' && c <= 'F') digit = (uint32_t)(c - 'A' + 10);
    else return 0;
    value = value << 4 | digit;
  }
  *out = value;
  return 1;
}

static char *put_utf8(char *to, uint32_t code) {
  if (code < 0x80) {
    *to++ = (char)code;
  } else if (code < 0x800) {
    *to++ = (char)(0xC0 | code >> 6);
    *to++ = (char)(0x80 | (code & 63));
  } else if (code < 0x10000) {
    *to++ = (char)(0xE0 | code >> 12);
    *to++ = (char)(0x80 | ((code >> 6) & 63));
    *to++ = (char)(0x80 | (code & 63));
  } else {
    *to++ = (char)(0xF0 | code >> 18);
    *to++ = (char)(0x80 | ((code >> 12) & 63));
    *to++ = (char)(0x80 | ((code >> 6) & 63));
    *to++ = (char)(0x80 | (code & 63));
  }
  return to;
}

static od_status read_escape(reader *r, char **to) {
  static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
  if (r->end - r->p < 2) return fault(r, "an escape");
  char c = r->p[1];
  for (int i = 0; from[i]; i++)
    if (c == from[i]) {
      *(*to)++ = into[i];
      r->p += 2;
      return OD_OK;
    }
  uint32_t code, low;
  if (c != 'u' || r->end - r->p < 6 || !hex4(r->p + 2, &code)) return fault(r, "an escape");
  r->p += 6;
  if (code >= 0xD800 && code < 0xDC00) {
    if (r->end - r->p < 6 || r->p[0] != '\\' || r->p[1] != 'u' || !hex4(r->p + 2, &low) ||
        low < 0xDC00 || low >= 0xE000)
      return fault(r, "the second half of a surrogate pair");
    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    r->p += 6;
  } else if (code == 0 || (code >= 0xDC00 && code < 0xE000)) {
    return fault(r, "a character other than zero or half a surrogate pair");
  }
  *to = put_utf8(*to, code);
  return OD_OK;
}

OD_COLD static od_status read_text(reader *r, const char **text, size_t *size) {
  if (r->p >= r->end || *r->p != '"') return fault(r, "a string");
  r->p++;
  const char *stop = r->p;
  while (stop < r->end && *stop != '"') stop += (*stop == '\\') ? 2 : 1;
  if (stop >= r->end) return fault(r, "the end of a string");
  char *to = od_take(r->arena, (size_t)(stop - r->p) + 1, 1); /* escapes only shrink */
  if (!to) return no_memory(r);
  *text = to;
  while (r->p < stop) {
    unsigned char c = (unsigned char)*r->p;
    if (c == '\\') {
      OD_CHECK(read_escape(r, &to));
    } else if (c < 0x20) {
      return fault(r, "no control character in a string");
    } else {
      size_t length = od_utf8_length(r->p, r->end);
      if (!length) return fault(r, "valid UTF-8");
      for (; length; length--) *to++ = *r->p++;
    }
  }
  *size = (size_t)(to - *text);
  r->p++;
  return OD_OK;
}

static int is_digit(const reader *r) { return r->p < r->end && *r->p >= '0' && *r->p <= '9'; }

static double scaled(double value, int exponent) {
  double power = 10;
  int left = exponent < 0 ? -exponent : exponent;
  if (left > 400) left = 400;
  double factor = 1;
  for (; left; left >>= 1, power *= power)
    if (left & 1) factor *= power;
  return exponent < 0 ? value / factor : value * factor;
}

static od_status read_number(reader *r, od_json *value) {
  int exact = 1, exponent = 0;
  uint64_t magnitude = 0;
  double real = 0;
  value->negative = r->p < r->end && *r->p == '-';
  if (value->negative) r->p++;
  if (!is_digit(r)) return fault(r, "a value");
  if (*r->p == '0' && r->end - r->p > 1 && r->p[1] >= '0' && r->p[1] <= '9')
    return fault(r, "a number without leading zero");
  for (; is_digit(r); r->p++) {
    uint64_t digit = (uint64_t)(*r->p - '0');
    if (magnitude > (UINT64_MAX - digit) / 10) exact = 0;
    magnitude = magnitude * 10 + digit;
    real = real * 10 + (double)digit;
  }
  if (r->p < r->end && *r->p == '.') {
    r->p++;
    exact = 0;
    if (!is_digit(r)) return fault(r, "a digit");
    for (; is_digit(r); r->p++) {
      if (exponent > -400) {
        real = real * 10 + (*r->p - '0');
        exponent--;
      }
    }
  }
  if (r->p < r->end && (*r->p == 'e' || *r->p == 'E')) {
    int written = 0, minus;
    r->p++;
    exact = 0;
    minus = r->p < r->end && *r->p == '-';
    if (r->p < r->end && (*r->p == '-' || *r->p == '+')) r->p++;
    if (!is_digit(r)) return fault(r, "a digit");
    for (; is_digit(r); r->p++)
      if (written < 100000) written = written * 10 + (*r->p - '0');
    exponent += minus ? -written : written;
  }
  real = scaled(real, exponent);
  if (real - real != 0) return fault(r, "a number within the range of a double");
  value->kind = exact ? OD_J_INT : OD_J_REAL;
  value->magnitude = magnitude;
  value->real = value->negative ? -real : real;
  return OD_OK;
}

static int read_word(reader *r, const char *word) {
  size_t size = od_length(word);
  if ((size_t)(r->end - r->p) < size || !od_same(r->p, word, size)) return 0;
  r->p += size;
  return 1;
}

OD_COLD static od_status read_value(reader *r, int depth, od_json *value);

OD_COLD static od_status read_children(reader *r, int depth, od_json *parent) {
  char close = parent->kind == OD_J_LIST ? ']' : '}';
  od_json **link = &parent->first;
  r->p++;
  skip_space(r);
  if (r->p < r->end && *r->p == close) {
    r->p++;
    return OD_OK;
  }
  for (;;) {
    if (++r->values > OD_MAX_JSON_VALUES)
      return od_fail(r->error, OD_E_FORMAT, "%s: more than %u JSON values", r->what,
                     (uint64_t)OD_MAX_JSON_VALUES);
    od_json *child = od_take(r->arena, 1, sizeof *child);
    if (!child) return no_memory(r);
    skip_space(r);
    if (parent->kind == OD_J_OBJECT) {
      size_t size;
      OD_CHECK(read_text(r, &child->key, &size));
      skip_space(r);
      if (r->p >= r->end || *r->p != ':') return fault(r, "':'");
      r->p++;
      if (parent->size < OD_MAX_CHECKED_MEMBERS)
        for (od_json *other = parent->first; other; other = other->next)
          if (od_equal(other->key, child->key))
            return od_fail(r->error, OD_E_FORMAT, "%s: the name '%s' occurs twice", r->what,
                           child->key);
    }
    OD_CHECK(read_value(r, depth + 1, child));
    *link = child;
    link = &child->next;
    parent->size++;
    skip_space(r);
    if (r->p >= r->end) return fault(r, "',' or a closing bracket");
    if (*r->p == close) {
      r->p++;
      return OD_OK;
    }
    if (*r->p != ',') return fault(r, "',' or a closing bracket");
    r->p++;
  }
}

OD_COLD static od_status read_value(reader *r, int depth, od_json *value) {
  skip_space(r);
  if (depth > OD_MAX_JSON_DEPTH) return fault(r, "less nesting");
  if (r->p >= r->end) return fault(r, "a value");
  switch (*r->p) {
    case '{':
      value->kind = OD_J_OBJECT;
      return read_children(r, depth, value);
    case '[':
      value->kind = OD_J_LIST;
      return read_children(r, depth, value);
    case '"':
      value->kind = OD_J_TEXT;
      return read_text(r, &value->text, &value->size);
    case 't':
    case 'f':
      value->kind = OD_J_BOOL;
      value->magnitude = *r->p == 't';
      return read_word(r, value->magnitude ? "true" : "false") ? OD_OK : fault(r, "a value");
    case 'n':
      value->kind = OD_J_NULL;
      return read_word(r, "null") ? OD_OK : fault(r, "a value");
    default:
      return read_number(r, value);
  }
}

od_status od_json_parse(const char *text, size_t size, const char *what, od_arena *arena,
                        od_json **root, od_error *error) {
  reader r = {text, text + size, text, what, arena, error, 0};
  *root = od_take(arena, 1, sizeof **root);
  if (!*root) return no_memory(&r);
  OD_CHECK(read_value(&r, 0, *root));
  skip_space(&r);
  if (r.p != r.end) return fault(&r, "the end");
  return OD_OK;
}

const od_json *od_json_member(const od_json *object, const char *key) {
  if (!object || object->kind != OD_J_OBJECT) return NULL;
  for (const od_json *member = object->first; member; member = member->next)
    if (od_equal(member->key, key)) return member;
  return NULL;
}

int od_json_int(const od_json *value, int64_t low, int64_t high, int64_t *out) {
  if (!value || value->kind != OD_J_INT) return 0;
  int64_t number;
  if (value->negative) {
    if (value->magnitude > (uint64_t)INT64_MAX + 1) return 0;
    number = (int64_t)(0 - value->magnitude);
  } else {
    if (value->magnitude > (uint64_t)INT64_MAX) return 0;
    number = (int64_t)value->magnitude;
  }
  if (number < low || number > high) return 0;
  *out = number;
  return 1;
}
