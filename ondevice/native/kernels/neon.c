/* neon.c: kernels for plain NEON: Raspberry Pi 4 (Cortex-A72), and 32-bit ARM. */
#include "kernels/kernels.h"

#if defined(__aarch64__) || (defined(__arm__) && defined(__linux__)) /* Cortex-M has no NEON */
#if defined(__arm__) && !defined(__aarch64__) && !defined(__clang__) /* clang: -mfpu=neon-vfpv4 */
#pragma GCC target("fpu=neon-vfpv4")
#endif
#include "neon_body.h"

#if defined(__aarch64__)
#define Q8_ROWS 2
#define Q8_BLOCKS 1
#define Q8_WIDE 2
#else
#define Q8_ROWS 1
#define Q8_BLOCKS 1
#define Q8_WIDE 1
#endif

OD_INLINE int32x4_t pair_sums(int32x4_t a, int32x4_t b) {
#if defined(__aarch64__)
  return vpaddq_s32(a, b);
#else
  return vcombine_s32(vpadd_s32(vget_low_s32(a), vget_high_s32(a)),
                      vpadd_s32(vget_low_s32(b), vget_high_s32(b)));
#endif
}

/* Products of two groups are added in 16 bits, which codes and weights within +-127 never
 * overflow, then pairwise to 32 bits: half a sum a lane, joined at the end. */
OD_INLINE void q8_tile(uint32_t m, uint32_t n, const od_dense *layer, uint32_t unit,
                       const uint16_t *list, uint32_t count, const int8_t *const *codes,
                       const int32_t *sums, int positive, int32_t *out) {
  const int8_t *weights = (const int8_t *)layer->weight + (size_t)unit * 4;
  size_t step = (size_t)layer->padded_units * 4;
  int32x4_t acc[Q8_ROWS][Q8_WIDE * 8];
  (void)sums, (void)positive;
  OD_UNROLL(8) for (uint32_t r = 0; r < m; r++)
    OD_UNROLL(16) for (uint32_t j = 0; j < n * 8; j++) acc[r][j] = vdupq_n_s32(0);
  uint32_t i = 0;
  for (; i + 1 < count; i += 2) {
    const int8_t *w0 = weights + list[i] * step, *w1 = weights + list[i + 1] * step;
    int8x8_t x0[Q8_ROWS], x1[Q8_ROWS];
    OD_UNROLL(8) for (uint32_t r = 0; r < m; r++) {
      x0[r] = vget_low_s8(group_codes(codes[r], list[i]));
      x1[r] = vget_low_s8(group_codes(codes[r], list[i + 1]));
    }
    OD_UNROLL(16) for (uint32_t j = 0; j < n * 8; j++) {
      int8x8_t a = vld1_s8(w0 + 8 * j), b = vld1_s8(w1 + 8 * j);
      OD_UNROLL(8) for (uint32_t r = 0; r < m; r++) acc[r][j] =
          vpadalq_s16(acc[r][j], vmlal_s8(vmull_s8(a, x0[r]), b, x1[r]));
    }
  }
  if (i < count) {
    const int8_t *w = weights + list[i] * step;
    OD_UNROLL(8) for (uint32_t r = 0; r < m; r++) {
      int8x8_t x = vget_low_s8(group_codes(codes[r], list[i]));
      OD_UNROLL(16) for (uint32_t j = 0; j < n * 8; j++) acc[r][j] =
          vpadalq_s16(acc[r][j], vmull_s8(vld1_s8(w + 8 * j), x));
    }
  }
  OD_UNROLL(8) for (uint32_t r = 0; r < m; r++)
    OD_UNROLL(16) for (uint32_t j = 0; j < n * 4; j++)
      vst1q_s32(out + r * n * 16 + 4 * j, pair_sums(acc[r][2 * j], acc[r][2 * j + 1]));
}

#define KERNEL /* neon_dotprod.c and neon_i8mm.c use them too */
#define LANES 4
#include "lanes_body.h"
#include "tiles_body.h"
#include "gather_body.h"
#include "float_body.h"
#include "dense_body.h"
#include "product_body.h"

#define KERNELS od_neon_gather, dense, od_neon_product, &od_vectors_portable
#else
#define KERNELS NULL, NULL, NULL, NULL
#endif

const od_kernels od_kernels_neon = {"neon", od_cpu_neon, KERNELS, 0};
