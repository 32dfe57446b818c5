/* decimal.c: decimal texts as doubles: the exact quotient of two large integers, bit by bit.
 *
 * Short numbers take one multiplication or division of exact doubles instead, which rounds once
 * (W. D. Clinger, How to read floating point numbers accurately, 1990).
 */
#include "features/decimal.h"

#include <float.h>

/* A double and every point halfway between two has at most 767 significant digits, so that of
 * further ones only matters whether they are all zero. 5^1124 and 10^801 are the largest integers:
 * 2661 bits, and one bit more while dividing. */
enum { MOST_DIGITS = 800, WORDS = 84 };
enum { LEAST_POINT = -323, MOST_POINT = 309 };
enum { EXACT_DIGITS = 15, EXACT_POWERS = 22 };
static const int64_t MOST_EXPONENT = 100000000000000000;

/* 0.D x 10^point, where D are the digits from `first` to `last`, skipping the point. */
typedef struct {
  const char *first, *last; /* not zero; NULL: the number is zero */
  int64_t point;
  uint64_t count; /* digits of D */
  int negative;
} decimal;

typedef struct {
  uint32_t words[WORDS]; /* little-endian */
  uint32_t size; /* without leading zeros */
} integer;

static int skip_sign(const char **p, const char *end) {
  int negative = *p < end && **p == '-';
  if (*p < end && (**p == '-' || **p == '+')) ++*p;
  return negative;
}

/* Digits and at most one point; 0: not a digit among them. */
static int scan_digits(const char **p, const char *end, decimal *number) {
  int digits = 0, fraction = 0;
  uint64_t zeros = 0; /* that end D so far */
  for (; *p < end && (od_is_digit(**p) || (**p == '.' && !fraction)); ++*p) {
    if (**p == '.') {
      fraction = 1;
      continue;
    }
    digits = 1;
    if (**p != '0') {
      if (!number->first) number->first = *p;
      number->last = *p;
      number->count += zeros + 1;
      zeros = 0;
    } else if (number->first) {
      zeros++;
    }
    if (!fraction && number->first) number->point++;
    if (fraction && !number->first) number->point--;
  }
  return digits;
}

static int scan(const char *text, size_t size, decimal *number) {
  const char *p = text, *end = text + size;
  int64_t exponent = 0;
  number->negative = skip_sign(&p, end);
  if (!scan_digits(&p, end, number)) return 0;
  if (p < end && (*p == 'e' || *p == 'E')) {
    p++;
    int negative = skip_sign(&p, end);
    if (p == end) return 0;
    for (; p < end && od_is_digit(*p); p++)
      if (exponent < MOST_EXPONENT) exponent = exponent * 10 + (*p - '0');
    number->point += negative ? -exponent : exponent;
  }
  return p == end;
}

static void multiply_add(integer *value, uint32_t factor, uint32_t addend) {
  uint64_t carry = addend;
  for (uint32_t i = 0; i < value->size; i++, carry >>= 32) {
    carry += (uint64_t)value->words[i] * factor;
    value->words[i] = (uint32_t)carry;
  }
  if (carry) value->words[value->size++] = (uint32_t)carry;
}

static void multiply_by_power_of_5(integer *value, uint64_t power) {
  for (; power >= 13; power -= 13) multiply_add(value, 1220703125, 0);
  for (; power; power--) multiply_add(value, 5, 0);
}

static uint32_t bit_length(const integer *value) {
  return 32 * value->size - (uint32_t)__builtin_clz(value->words[value->size - 1]);
}

static void shift_left(integer *value, uint32_t bits) {
  uint32_t whole = bits / 32, rest = bits % 32;
  if (rest) multiply_add(value, (uint32_t)1 << rest, 0);
  uint32_t size = value->size + whole;
  for (uint32_t i = size; whole && i-- > 0;)
    value->words[i] = i >= whole ? value->words[i - whole] : 0;
  value->size = size;
}

static int order(const integer *a, const integer *b) {
  if (a->size != b->size) return a->size < b->size ? -1 : 1;
  for (uint32_t i = a->size; i-- > 0;)
    if (a->words[i] != b->words[i]) return a->words[i] < b->words[i] ? -1 : 1;
  return 0;
}

/* a - b, which is not negative. */
static void subtract(integer *a, const integer *b) {
  uint64_t borrow = 0;
  for (uint32_t i = 0; i < a->size; i++) {
    uint64_t word = (uint64_t)a->words[i] - (i < b->size ? b->words[i] : 0) - borrow;
    a->words[i] = (uint32_t)word;
    borrow = word >> 63;
  }
  while (a->size && !a->words[a->size - 1]) a->size--;
}

/* The bits of the double nearest to above / below x 2^exponent; both are changed. */
static uint64_t rounded_quotient(integer *above, integer *below, int64_t exponent) {
  int64_t shift = (int64_t)bit_length(above) - (int64_t)bit_length(below);
  if (shift > 0) shift_left(below, (uint32_t)shift);
  else shift_left(above, (uint32_t)-shift);
  exponent += shift;
  if (order(above, below) < 0) {
    shift_left(above, 1);
    exponent--;
  }
  /* 1 <= above / below < 2; below 2^-1022 a double has fewer bits */
  int64_t precision = exponent >= -1022 ? 53 : 53 + exponent + 1022;
  uint64_t mantissa = 0;
  if (precision < 0) return 0;
  for (int64_t i = 0; i < precision; i++) {
    mantissa <<= 1;
    if (order(above, below) >= 0) {
      subtract(above, below);
      mantissa |= 1;
    }
    shift_left(above, 1);
  }
  int rest = order(above, below); /* to half a unit in the last place */
  if (rest > 0 || (rest == 0 && (mantissa & 1))) mantissa++;
  /* the leading bit of a full mantissa counts as one of the exponent */
  return exponent < -1022 ? mantissa : ((uint64_t)(exponent + 1022) << 52) + mantissa;
}

static uint64_t read_exactly(const decimal *number) {
  integer above = {.size = 0}, below = {.words = {1}, .size = 1};
  uint64_t count = number->count;
  for (const char *p = number->first; p <= number->last; p++) {
    if (*p == '.') continue;
    if (count + MOST_DIGITS == number->count) { /* more follow, and the last is not zero */
      multiply_add(&above, 10, 1);
      count--;
      break;
    }
    multiply_add(&above, 10, (uint32_t)(*p - '0'));
    count--;
  }
  int64_t exponent = number->point - (int64_t)(number->count - count);
  if (exponent >= 0) multiply_by_power_of_5(&above, (uint64_t)exponent);
  else multiply_by_power_of_5(&below, (uint64_t)-exponent);
  return rounded_quotient(&above, &below, exponent);
}

/* The magnitude where it is one operation of exact doubles. */
static int read_short(const decimal *number, double *value) {
  static const double powers[EXACT_POWERS + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                                  1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                                  1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
  if (FLT_EVAL_METHOD != 0 || number->count > EXACT_DIGITS) return 0;
  int64_t exponent = number->point - (int64_t)number->count;
  if (exponent < -EXACT_POWERS || exponent > EXACT_POWERS) return 0;
  uint64_t digits = 0;
  for (const char *p = number->first; p <= number->last; p++)
    if (*p != '.') digits = digits * 10 + (uint64_t)(*p - '0');
  *value = exponent < 0 ? (double)digits / powers[-exponent] : (double)digits * powers[exponent];
  return 1;
}

int od_decimal_read(const char *text, size_t size, double *value) {
  decimal number = {.first = NULL};
  double magnitude = 0;
  if (!scan(text, size, &number)) return 0;
  if (number.first && number.point >= LEAST_POINT && !read_short(&number, &magnitude)) {
    if (number.point > MOST_POINT) return 0;
    uint64_t bits = read_exactly(&number);
    if (bits >= (uint64_t)0x7FF << 52) return 0;
    od_copy(&magnitude, &bits, sizeof magnitude);
  }
  *value = number.negative ? -magnitude : magnitude;
  return 1;
}
