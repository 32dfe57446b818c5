/* arm_helpers.c: what compilers call on 32-bit ARM for 64-bit integers and block copies ("Run-time
 * ABI for the Arm Architecture"), for links without the compiler's own library. Weak: where there
 * is one, it is taken. */
#include <stddef.h>
#include <stdint.h>

#if defined(__arm__)
#define HELPER __attribute__((weak, visibility("hidden"), used))
#define BASE __attribute__((pcs("aapcs"))) /* floats in integer registers, whatever else is set */

void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int value, size_t size);

HELPER void __aeabi_memcpy(void *to, const void *from, size_t size) { memcpy(to, from, size); }
HELPER void __aeabi_memcpy4(void *to, const void *from, size_t size) { memcpy(to, from, size); }
HELPER void __aeabi_memcpy8(void *to, const void *from, size_t size) { memcpy(to, from, size); }
HELPER void __aeabi_memmove(void *to, const void *from, size_t size) { memmove(to, from, size); }
HELPER void __aeabi_memmove4(void *to, const void *from, size_t size) { memmove(to, from, size); }
HELPER void __aeabi_memmove8(void *to, const void *from, size_t size) { memmove(to, from, size); }
HELPER void __aeabi_memset(void *to, size_t size, int value) { memset(to, value, size); }
HELPER void __aeabi_memset4(void *to, size_t size, int value) { memset(to, value, size); }
HELPER void __aeabi_memset8(void *to, size_t size, int value) { memset(to, value, size); }
HELPER void __aeabi_memclr(void *to, size_t size) { memset(to, 0, size); }
HELPER void __aeabi_memclr4(void *to, size_t size) { memset(to, 0, size); }
HELPER void __aeabi_memclr8(void *to, size_t size) { memset(to, 0, size); }

/* Quotient, bit by bit; a division by zero gives all ones. */
HELPER uint64_t od_arm_divide(uint64_t n, uint64_t d, uint64_t *rest) {
  uint64_t quotient = 0, left = 0;
  if (!((n | d) >> 32) && d) {
    *rest = (uint32_t)n % (uint32_t)d;
    return (uint32_t)n / (uint32_t)d;
  }
  for (int bit = 63; bit >= 0; bit--) {
    uint64_t carry = left >> 63;
    left = left << 1 | ((n >> bit) & 1);
    if (carry || left >= d) left -= d, quotient |= (uint64_t)1 << bit;
  }
  *rest = left;
  return quotient;
}

HELPER int64_t od_arm_divide_signed(int64_t n, int64_t d, int64_t *rest) {
  uint64_t left;
  uint64_t quotient = od_arm_divide(n < 0 ? 0 - (uint64_t)n : (uint64_t)n,
                                    d < 0 ? 0 - (uint64_t)d : (uint64_t)d, &left);
  *rest = (int64_t)(n < 0 ? 0 - left : left);
  return (int64_t)((n < 0) != (d < 0) ? 0 - quotient : quotient);
}

/* Quotient in r0 and r1, remainder in r2 and r3. */
#define DIVIDE(name, target)                                          \
  __asm__(".syntax unified\n\t.text\n\t.p2align 2\n\t.weak " #name    \
          "\n\t.hidden " #name "\n\t.type " #name ", %function\n"     \
          "\t.arm\n" #name ":\n\t"                                    \
          "push {r6, lr}\n\t"                                         \
          "sub sp, sp, #16\n\t"                                       \
          "add r6, sp, #8\n\t"                                        \
          "str r6, [sp]\n\t"                                          \
          "bl " #target "\n\t"                                        \
          "ldr r2, [sp, #8]\n\t"                                      \
          "ldr r3, [sp, #12]\n\t"                                     \
          "add sp, sp, #16\n\t"                                       \
          "pop {r6, pc}\n\t"                                          \
          ".size " #name ", . - " #name);
DIVIDE(__aeabi_uldivmod, od_arm_divide)
DIVIDE(__aeabi_ldivmod, od_arm_divide_signed)

/* float32 to int64, towards zero; what does not fit becomes the nearest that does, NaN zero. */
HELPER BASE int64_t __aeabi_f2lz(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  int exponent = (int)(bits >> 23 & 255) - 150;
  uint64_t size = (bits & 0x7fffff) | 0x800000;
  int negative = (int)(bits >> 31);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0;
  if (exponent > 39) return negative ? INT64_MIN : INT64_MAX;
  size = exponent >= 0 ? size << exponent : exponent > -24 ? size >> -exponent : 0;
  return negative ? (int64_t)(0 - size) : (int64_t)size;
}

/* int64 to float32, to nearest, half to even. */
HELPER BASE float __aeabi_l2f(int64_t value) {
  uint64_t size = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
  uint32_t bits = 0;
  float result;
  if (size) {
    int zeros = 0;
    while (!(size << zeros >> 63)) zeros++;
    size <<= zeros;
    uint32_t mantissa = (uint32_t)(size >> 40), half = (uint32_t)(size >> 39) & 1;
    int sticky = size << 25 != 0;
    bits = (uint32_t)(63 - zeros + 127) << 23;
    bits += mantissa & 0x7fffffu;
    bits += half && (sticky || (mantissa & 1)); /* a carry moves on into the exponent, as it should */
  }
  bits |= value < 0 ? 0x80000000u : 0;
  __builtin_memcpy(&result, &bits, sizeof result);
  return result;
}
#endif
