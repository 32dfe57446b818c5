/* arithmetic.c: prints 64-bit divisions and conversions that a 32-bit processor needs help with. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static uint64_t state = 88172645463325252u;

static uint64_t draw(void) { /* xorshift64, Marsaglia 2003 */
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

int main(void) {
  static const uint64_t edges[] = {
      1, 2, 3, 10, 0xffffffff, 0x100000000, INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX,
      (uint64_t)INT64_MAX + 2, 0x7fffff8000000000, 0x7fffffc000000000, (1 << 24) + 1,
      (1 << 25) + 2, (1 << 25) + 6, 0x7f800000, 0xff800000, 0x7fc00000, 0x5f000000, 0xdf000000};
  enum { EDGES = sizeof edges / sizeof *edges };
  for (int i = 0; i < 20000; i++) {
    volatile uint64_t a = draw() >> (i % 64), b = draw() >> (i * 7 % 64) | 1;
    if (i < EDGES * EDGES) a = edges[i / EDGES], b = edges[i % EDGES];
    volatile int64_t sa = (int64_t)a, sb = (int64_t)b;
    volatile float rounded = (float)sa, any;
    uint32_t bits = (uint32_t)a, back;
    memcpy((void *)&any, &bits, sizeof bits);
    float value = rounded;
    memcpy(&back, &value, sizeof back);
    int fits = any == any && any < 9.2e18f && any > -9.2e18f;
    int divides = sa != INT64_MIN || sb != -1;
    printf("%" PRIu64 " %" PRIu64 " %" PRId64 " %" PRId64 " %" PRIx32 " %" PRId64 "\n", a / b,
           a % b, divides ? sa / sb : 0, divides ? sa % sb : 0, back, fits ? (int64_t)any : 0);
  }
  return 0;
}
