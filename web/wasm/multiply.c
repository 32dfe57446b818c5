/* multiply.c: products of 128 bits, which clang leaves to a library. */
#include <stdint.h>

typedef unsigned __int128 wide;
__attribute__((used)) wide __multi3(wide a, wide b) {
  uint64_t a_low = (uint64_t)a, b_low = (uint64_t)b;
  uint64_t a0 = (uint32_t)a_low, a1 = a_low >> 32, b0 = (uint32_t)b_low, b1 = b_low >> 32;
  uint64_t low = a0 * b0, middle = a1 * b0 + (low >> 32), other = a0 * b1 + (uint32_t)middle;
  uint64_t high = a1 * b1 + (middle >> 32) + (other >> 32);
  high += a_low * (uint64_t)(b >> 64) + (uint64_t)(a >> 64) * b_low;
  return (wide)high << 64 | (uint64_t)(other << 32 | (uint32_t)low);
}
