/* floor.c: a bare loop that touches the bytes of one request and does nothing else.
 *
 * 26 x 3 rows of 16 bytes at random places, then every int8 weight of 416-400-400-400-1 once with
 * a dot product instruction. Prints microseconds per request, the best of several bursts.
 */
#define _POSIX_C_SOURCE 199309L
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { ROWS = 26 * 320, GATHERS = 26 * 3, WEIGHTS = 416 * 400 + 2 * 400 * 400 + 400 * 16 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

int main(void) {
  static int8_t table[ROWS][16] __attribute__((aligned(64)));
  static int8_t weights[WEIGHTS] __attribute__((aligned(64)));
  static uint32_t places[4096][GATHERS];
  double best = 1e9;
  volatile int sink = 0;
  for (size_t i = 0; i < sizeof table; i++) ((int8_t *)table)[i] = (int8_t)rand();
  for (size_t i = 0; i < sizeof weights; i++) weights[i] = (int8_t)rand();
  for (size_t i = 0; i < sizeof places / 4; i++) ((uint32_t *)places)[i] = (uint32_t)rand() % ROWS;
  for (int burst = 0; burst < 15; burst++) {
    double start = now();
    for (int request = 0; request < 4096; request++) {
      __m512i acc[16], input = _mm512_set1_epi8(3);
      __m512 sum = _mm512_setzero_ps();
      for (int i = 0; i < 16; i++) acc[i] = _mm512_setzero_si512();
      for (int g = 0; g < GATHERS; g++)
        sum = _mm512_add_ps(sum, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(
                                     _mm_load_si128((void *)table[places[request][g]]))));
      for (size_t at = 0; at + 1024 <= sizeof weights; at += 1024)
        for (int i = 0; i < 16; i++)
          __asm__("vpdpbusd %2, %1, %0"
                  : "+v"(acc[i])
                  : "v"(input), "m"(*(const __m512i *)(const void *)(weights + at + 64 * i)));
      for (int i = 1; i < 16; i++) acc[0] = _mm512_add_epi32(acc[0], acc[i]);
      sink += _mm512_reduce_add_epi32(acc[0]) + (int)_mm512_reduce_add_ps(sum);
    }
    double each = (now() - start) / 4096;
    if (each < best) best = each;
  }
  printf("%.3f\n", best);
  return 0;
}
