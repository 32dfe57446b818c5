/* field.c: arithmetic modulo p = 2^255 - 19 in words of 32 bits; 2^256 is 38 modulo p. */
#include "update/field.h"

static const field P = {{0xffffffed, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff,
                         0xffffffff, 0x7fffffff}};

/* a + 38 * times, for times < 2^33: twice at most, what leaves the top comes in again below. */
static field folded(field a, uint64_t times) {
  while (times) {
    uint64_t carry = 38 * times;
    for (int i = 0; i < 8; i++) {
      carry += a.w[i];
      a.w[i] = (uint32_t)carry;
      carry >>= 32;
    }
    times = carry;
  }
  return a;
}

field od_field_add(field a, field b) {
  uint64_t carry = 0;
  for (int i = 0; i < 8; i++) {
    carry += (uint64_t)a.w[i] + b.w[i];
    a.w[i] = (uint32_t)carry;
    carry >>= 32;
  }
  return folded(a, carry);
}

/* a - b, and whether that is below zero: then the words are those of 2^256 + a - b. */
static int difference(field a, field b, field *out) {
  int64_t carry = 0;
  for (int i = 0; i < 8; i++) {
    carry += (int64_t)a.w[i] - b.w[i];
    out->w[i] = (uint32_t)carry;
    carry = carry < 0 ? -1 : 0;
  }
  return carry < 0;
}

field od_field_subtract(field a, field b) {
  static const field FOLD = {{38}};
  int below = difference(a, b, &a);
  while (below) below = difference(a, FOLD, &a); /* 2^256 too much is 38 too much; twice at most */
  return a;
}

field od_field_multiply(field a, field b) {
  uint32_t product[16] = {0};
  for (int i = 0; i < 8; i++) {
    uint64_t carry = 0;
    for (int j = 0; j < 8; j++) {
      carry += (uint64_t)a.w[i] * b.w[j] + product[i + j]; /* at most 2^64 - 1 */
      product[i + j] = (uint32_t)carry;
      carry >>= 32;
    }
    product[i + 8] = (uint32_t)carry;
  }
  uint64_t carry = 0;
  for (int i = 0; i < 8; i++) {
    carry += (uint64_t)product[i + 8] * 38 + product[i];
    a.w[i] = (uint32_t)carry;
    carry >>= 32;
  }
  return folded(a, carry);
}

/* a to the power of a number of so many bits: all ones, but the lowest five are those of `low`. */
static field power(field a, int bits, unsigned low) {
  field result = a;
  for (int i = bits - 2; i >= 0; i--) {
    result = od_field_multiply(result, result);
    if (i > 4 || low >> i & 1) result = od_field_multiply(result, a);
  }
  return result;
}

/* p - 2 is 2^255 - 21: 250 ones, then 01011. */
field od_field_invert(field a) { return power(a, 255, 0x0b); }

/* (p - 5) / 8 is 2^252 - 3: 250 ones, then 01. */
field od_field_root_power(field a) { return power(a, 252, 0x1d); }

field od_field_reduced(field a) {
  field less;
  while (!difference(a, P, &less)) a = less;
  return a;
}

int od_field_equal(field a, field b) {
  uint32_t differing = 0;
  a = od_field_reduced(a);
  b = od_field_reduced(b);
  for (int i = 0; i < 8; i++) differing |= a.w[i] ^ b.w[i];
  return !differing;
}
