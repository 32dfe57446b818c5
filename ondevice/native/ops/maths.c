/* maths.c: exponential, logarithm, root, error function and powers without a C library. */
#include "ops/maths.h"

static double power_of_two(int32_t exponent) { /* -1022..1023 */
  uint64_t bits = (uint64_t)(exponent + 1023) << 52;
  double value;
  __builtin_memcpy(&value, &bits, 8);
  return value;
}

/* 2^k times the Taylor series on [-ln2/2, ln2/2]. */
double od_exp_double(double x) {
  if (!(x > -700)) return x != x ? x : 0; /* floats below 1e-300 are zero */
  if (x > 700) return __builtin_inf();
  double k = x * 1.4426950408889634;
  int32_t whole = (int32_t)(k + (k < 0 ? -0.5 : 0.5));
  double r = (x - whole * 6.93147180369123816490e-01) - whole * 1.90821492927058770002e-10;
  double p = 1;
  for (int n = 14; n > 0; n--) p = 1 + p * r / n;
  return p * power_of_two(whole);
}

/* 2 atanh((m - 1) / (m + 1)) for a mantissa near 1, by its series. */
double od_log_double(double x) {
  if (x != x || x == __builtin_inf()) return x;
  if (x < 0) return __builtin_nan("");
  if (x == 0) return -__builtin_inf();
  uint64_t bits;
  int32_t exponent = 0;
  if (x < 0x1p-1022) x *= 0x1p54, exponent = -54;
  __builtin_memcpy(&bits, &x, 8);
  exponent += (int32_t)(bits >> 52) - 1023;
  bits = (bits & 0xFFFFFFFFFFFFFull) | 0x3FF0000000000000ull;
  double m;
  __builtin_memcpy(&m, &bits, 8);
  if (m > 1.4142135623730951) m *= 0.5, exponent++;
  double s = (m - 1) / (m + 1), q = s * s, sum = 0;
  for (int n = 21; n > 0; n -= 2) sum = sum * q + 1.0 / n;
  return exponent * 0.69314718055994531 + 2 * s * sum;
}

/* Newton's iteration in double, whose result rounds to the nearest float. */
float od_sqrt(float x) {
  if (!(x > 0) || x == __builtin_inff()) return x < 0 ? __builtin_nanf("") : x;
  double a = x, y;
  uint64_t bits;
  __builtin_memcpy(&bits, &a, 8);
  bits = (bits >> 1) + (1023ull << 51); /* half the exponent: within 7% */
  __builtin_memcpy(&y, &bits, 8);
  for (int i = 0; i < 4; i++) y = 0.5 * (y + a / y);
  return (float)y;
}

/* The series of positive terms below 3; above, the continued fraction of 1 - erf. */
OD_COLD float od_erf(float value) {
  double x = value < 0 ? -(double)value : (double)value;
  if (value != value) return value;
  double result = 1;
  if (x < 4) {
    double square = x * x, term = x * 1.1283791670955126 * od_exp_double(-square);
    result = term;
    for (int n = 1; term > result * 1e-9; n++) {
      term *= 2 * square / (2 * n + 1);
      result += term;
    }
  }
  return (float)(value < 0 ? -result : result);
}

static int is_whole(float x) { return od_floor(x) == x; }

static int is_odd(float x) {
  float half = x * 0.5f;
  return x > -16777216.0f && x < 16777216.0f && od_floor(half) != half;
}

OD_COLD float od_pow(float base, float exponent) {
  if (exponent == 0 || base == 1) return 1;
  if (exponent == 1) return base;
  if (exponent == 2) return base * base;
  if (base != base || exponent != exponent) return __builtin_nanf("");
  int infinite = exponent - exponent != 0;
  if (base < 0 && !infinite && !is_whole(exponent) && base != -__builtin_inff())
    return __builtin_nanf("");
  double size = base < 0 ? -(double)base : (double)base;
  if (infinite && size == 1) return 1;
  uint32_t bits;
  __builtin_memcpy(&bits, &base, 4);
  double result = od_exp_double((double)exponent * od_log_double(size));
  int odd = !infinite && is_whole(exponent) && is_odd(exponent);
  return (float)((bits >> 31) && odd ? -result : result);
}

float od_floor(float x) {
  if (!(x > -8388608.0f && x < 8388608.0f)) return x; /* whole, or not finite */
  float whole = (float)(int32_t)x;
  float result = whole > x ? whole - 1 : whole;
  return result == 0 ? x * 0 : result; /* keeps the sign of zero */
}

OD_COLD float od_ceil(float x) { return -od_floor(-x); }

OD_COLD float od_round(float x) {
  if (!(x > -8388608.0f && x < 8388608.0f)) return x;
  float below = od_floor(x), over = x - below;
  if (over < 0.5f) return below;
  if (over > 0.5f) return below + 1;
  return is_odd(below) ? below + 1 : below;
}

/* The remainder is exact: differences of shifted divisors, as in long division. */
OD_COLD float od_mod(float a, float b, int sign_of_dividend) {
  double x = a < 0 ? -(double)a : (double)a, y = b < 0 ? -(double)b : (double)b;
  if (a != a || b != b || y == 0 || x == __builtin_inf()) return __builtin_nanf("");
  if (y != __builtin_inf())
    while (x >= y) {
      double step = y;
      while (step <= x * 0.5) step *= 2;
      x -= step;
    }
  double result = a < 0 ? -x : x;
  if (!sign_of_dividend && result != 0 && (b < 0) != (result < 0)) result += b;
  return (float)result;
}

int64_t od_to_int(float x) {
  if (x != x) return 0;
  if (x >= 0x1p63f) return INT64_MAX;
  if (x < -0x1p63f) return INT64_MIN;
  return (int64_t)x;
}
