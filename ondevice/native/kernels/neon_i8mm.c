/* neon_i8mm.c: kernels for NEON with int8 matrix products (Neoverse V1, phones of 2021+). */
#include "kernels/kernels.h"

#if defined(__aarch64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod,i8mm"))), apply_to = function)
#else
#pragma GCC target("arch=armv8.2-a+dotprod+i8mm")
#endif
#include "neon_body.h"

#define Q8_ROWS 4
#define Q8_BLOCKS 1
#define Q8_WIDE 5

#include "neon_dot_body.h"

/* smmla multiplies 2 rows by 2 outputs over 8 features: two listed groups, whose weights are
 * brought together by zips. A single row gains nothing from it. */
OD_INLINE void q8_tile(uint32_t m, uint32_t n, const od_dense *layer, uint32_t unit,
                       const uint16_t *list, uint32_t count, const int8_t *const *codes,
                       const int32_t *sums, int positive, int32_t *out) {
  (void)sums, (void)positive;
  if (m == 1) {
    dot_tile(1, n, layer, unit, list, count, codes, out);
    return;
  }
  const int8_t *weights = (const int8_t *)layer->weight + (size_t)unit * 4;
  size_t step = (size_t)layer->padded_units * 4;
  int32x4_t acc[Q8_ROWS / 2][8];
  OD_UNROLL(2) for (uint32_t r = 0; r < m / 2; r++)
    OD_UNROLL(8) for (uint32_t j = 0; j < 8; j++) acc[r][j] = vdupq_n_s32(0);
  for (uint32_t i = 0; i < count; i += 2) {
    int pair = i + 1 < count;
    uint32_t g0 = list[i], g1 = pair ? list[i + 1] : g0;
    int32x4_t x[Q8_ROWS / 2];
    OD_UNROLL(2) for (uint32_t r = 0; r < m / 2; r++) {
      const int8_t *even = codes[2 * r], *odd = codes[2 * r + 1];
      int32_t four[4] = {(int32_t)od_load32(even + 4 * g0),
                         pair ? (int32_t)od_load32(even + 4 * g1) : 0,
                         (int32_t)od_load32(odd + 4 * g0),
                         pair ? (int32_t)od_load32(odd + 4 * g1) : 0};
      x[r] = vld1q_s32(four);
    }
    OD_UNROLL(4) for (uint32_t j = 0; j < 4; j++) {
      int32x4_t a = vreinterpretq_s32_s8(vld1q_s8(weights + g0 * step + 16 * j));
      int32x4_t b = vreinterpretq_s32_s8(vld1q_s8(weights + g1 * step + 16 * j));
      int8x16_t low = vreinterpretq_s8_s32(vzip1q_s32(a, b));
      int8x16_t high = vreinterpretq_s8_s32(vzip2q_s32(a, b));
      OD_UNROLL(2) for (uint32_t r = 0; r < m / 2; r++) {
        int8x16_t rows = vreinterpretq_s8_s32(x[r]);
        acc[r][2 * j] = vmmlaq_s32(acc[r][2 * j], rows, low);
        acc[r][2 * j + 1] = vmmlaq_s32(acc[r][2 * j + 1], rows, high);
      }
    }
  }
  OD_UNROLL(2) for (uint32_t r = 0; r < m / 2; r++)
    OD_UNROLL(8) for (uint32_t j = 0; j < 8; j++) {
      vst1_s32(out + (2 * r) * 16 + 2 * j, vget_low_s32(acc[r][j]));
      vst1_s32(out + (2 * r + 1) * 16 + 2 * j, vget_high_s32(acc[r][j]));
    }
}

#define LANES 4
#include "lanes_body.h"
#include "tiles_body.h"
#include "dense_body.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#define KERNELS od_neon_gather, dense, od_neon_product, &od_vectors_portable
#else
#define KERNELS NULL, NULL, NULL, NULL
#endif

const od_kernels od_kernels_neon_i8mm = {"neon-i8mm", od_cpu_i8mm, KERNELS, 0};
