/* web_floor.c: bare loops over the weights of one request, the least time that web_latency.py compares with.
 *
 * read: vectors of 16 bytes, in two sequences, which caches deliver quicker than one. floats, codes:
 * a multiplication and an addition for each weight in float32, and for each 8-bit one, as the engine's
 * kernels do; `reach` bytes are read again and again, so that a small reach leaves arithmetic only.
 */
#define _POSIX_C_SOURCE 199309L
#include <stdint.h>

#ifdef __wasm__
#include <wasm_simd128.h>
#define EXPORT(name) __attribute__((export_name(name)))
#else
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#define EXPORT(name) static __attribute__((noinline))
#endif

typedef float floats4 __attribute__((vector_size(16)));
typedef int32_t words4 __attribute__((vector_size(16)));

enum { MOST = 4 << 20, UNITS = 1024 };

static uint8_t data[MOST] __attribute__((aligned(4096)));
static floats4 sums[UNITS / 4];

EXPORT("fill") void fill(void) {
  float *to = (float *)(void *)data;
  for (int i = 0; i < MOST / 4; i++) to[i] = (float)(i % 7 - 3);
}

EXPORT("read") float read_all(uint32_t bytes, uint32_t reach) {
  const words4 *from = (const words4 *)(const void *)data;
  uint32_t half = bytes / 128 * 4; /* in vectors: whole lines of caches */
  words4 a = {0}, b = {0}, c = {0}, d = {0};
  (void)reach;
  for (uint32_t i = 0; i < half; i += 4) {
    a ^= from[i], b ^= from[i + 1], c ^= from[i + 2], d ^= from[i + 3];
    const words4 *other = from + half + i;
    a ^= other[0], b ^= other[1], c ^= other[2], d ^= other[3];
  }
  a ^= b ^ c ^ d;
  return (float)(a[0] ^ a[1] ^ a[2] ^ a[3]);
}

/* Four features at once, each with UNITS weights. */
EXPORT("floats") float floats(uint32_t bytes, uint32_t reach) {
  for (uint32_t done = 0, at = 0; done < bytes; done += 16 * UNITS) {
    const floats4 *w = (const floats4 *)(const void *)(data + at);
    float f = (float)(done & 255);
    floats4 p = {f, f, f, f}, q = p + 1, r = p + 2, s = p + 3;
    for (uint32_t u = 0; u < UNITS / 4; u++)
      sums[u] = sums[u] + p * w[u] + q * w[u + UNITS / 4] + r * w[u + UNITS / 2] +
                s * w[u + 3 * UNITS / 4];
    at = at + 16 * UNITS < reach ? at + 16 * UNITS : 0;
  }
  return sums[0][0];
}

#ifdef __wasm__
/* Four groups of four features at once: a group's weights of an output lie together. */
EXPORT("codes") float codes(uint32_t bytes, uint32_t reach) {
  v128_t *to = (v128_t *)(void *)sums;
  for (uint32_t done = 0, at = 0; done < bytes; done += 8 * UNITS) {
    const uint8_t *w = data + at;
    v128_t x = wasm_i16x8_splat((int16_t)(done & 127));
    for (uint32_t u = 0; u < UNITS / 4; u++, w += 8) { /* UNITS / 2 outputs, two in a vector */
      v128_t sum = wasm_v128_load(to + u);
      _Pragma("clang loop unroll(full)") for (int k = 0; k < 4; k++)
        sum = wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(wasm_i16x8_load8x8(w + 2 * UNITS * k), x));
      wasm_v128_store(to + u, sum);
    }
    at = at + 8 * UNITS < reach ? at + 8 * UNITS : 0;
  }
  return sums[0][0];
}
#else
static double cpu_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

/* NAME BYTES REACH: prints microseconds of CPU, the least of several windows. */
int main(int count, char **words) {
  if (count != 4) return 2;
  float (*loop)(uint32_t, uint32_t) = words[1][0] == 'r' ? read_all : floats;
  uint32_t bytes = (uint32_t)atoi(words[2]), reach = (uint32_t)atoi(words[3]);
  double least = 1e9;
  volatile float sink = 0;
  fill();
  for (int window = 0; window < 60; window++) {
    double start = cpu_us();
    for (int i = 0; i < 200; i++) sink += loop(bytes, reach);
    double each = (cpu_us() - start) / 200;
    if (each < least) least = each;
  }
  printf("%.3f\n", least);
  return 0;
}
#endif
