/* portable.c: kernels in plain C, for every processor, and the reading version. */
#include "core/half.h"
#include "kernels/kernels.h"

#if !defined(__wasm_simd128__) /* a module with vectors has no use for them, and is smaller without */

#define FLOAT_ROWS 2
#ifdef __wasm__ /* without vectors: sums of one row in registers, and little code */
#define VW 4
#define STRIPS
#define ANY_BITS
#define FLOAT_STRIP 8
#define FLOAT_REST 8
#define Q8_STRIP 16
#define Q8_REST 16
#define Q8_SUMS 1
#define Q8_WIDE_BYTES 4
#else
#define VW 8
#define FLOAT_BLOCKS 1
#define FLOAT_WIDE 2
#define Q8_ROWS 1
#define Q8_BLOCKS 1
#define Q8_WIDE 1
#endif
#define SMALL_GATHER /* few processors have no other kernels */

typedef struct {
  float lane[VW];
} vf;

#ifdef __wasm__
#define EACH_LANE OD_UNROLL(8) for (int i = 0; i < VW; i++)
#else /* GCC makes vectors of the loop, and four times as much code of the lanes one by one */
#define EACH_LANE for (int i = 0; i < VW; i++)
#endif

OD_INLINE vf vf_load(const float *p) {
  vf v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
OD_INLINE void vf_store(float *p, vf v) { __builtin_memcpy(p, &v, sizeof v); }
OD_INLINE vf vf_set1(float x) {
  vf v;
  EACH_LANE v.lane[i] = x;
  return v;
}
OD_INLINE vf vf_mul(vf a, vf b) {
  EACH_LANE a.lane[i] *= b.lane[i];
  return a;
}
OD_INLINE vf vf_add(vf a, vf b) {
  EACH_LANE a.lane[i] += b.lane[i];
  return a;
}
OD_INLINE vf vf_fma(vf a, vf b, vf c) { return vf_add(vf_mul(a, b), c); }
#ifndef STRIPS
OD_INLINE vf vf_least(vf least, vf v) {
  EACH_LANE v.lane[i] = v.lane[i] < least.lane[i] ? least.lane[i] : v.lane[i];
  return v;
}
#endif
OD_INLINE vf vf_keep(vf v, int32_t count) {
  EACH_LANE v.lane[i] = i < count ? v.lane[i] : 0;
  return v;
}
OD_INLINE vf vf_load_q8(const uint8_t *p) {
  vf v;
  EACH_LANE v.lane[i] = (float)(int8_t)p[i];
  return v;
}
OD_INLINE vf vf_codes(uint64_t bits, int size) {
  vf v;
  int sign = 1 << (size - 1);
  EACH_LANE v.lane[i] = (float)(((int)(bits >> (size * i) & (2u * (unsigned)sign - 1)) ^ sign) - sign);
  return v;
}
OD_INLINE vf vf_levels(const float *levels, uint64_t codes, int size, int32_t count) {
  vf v;
  EACH_LANE v.lane[i] = i < count ? levels[(i << size) | (int)(codes >> (size * i) & ((1u << size) - 1))] : 0;
  return v;
}
OD_INLINE vf vf_load_f16(const uint8_t *p) {
  vf v;
  EACH_LANE v.lane[i] = od_half(od_load16(p + 2 * i));
  return v;
}
OD_INLINE float half_value(uint16_t half) { return od_half(half); }
OD_INLINE uint32_t block_value(uint64_t code, uint64_t mask) { return od_pick_bits(code, mask); }

#ifdef STRIPS
static __attribute__((noinline)) void q8_strip(uint32_t units, int wide, const int8_t *codes,
                                               const uint16_t *list, uint32_t count,
                                               const uint8_t *weights, size_t step,
                                               const int32_t *begin, int32_t *sums) {
  int32_t acc[Q8_STRIP];
  (void)units, (void)wide; /* 16, and a panel's codes have 8 bits too */
  OD_UNROLL(16) for (int u = 0; u < 16; u++) acc[u] = begin[u];
  for (uint32_t i = 0; i < count; i++) {
    const int8_t *w = (const int8_t *)weights + list[i] * step, *x = codes + 4 * (size_t)list[i];
    OD_UNROLL(16) for (int u = 0; u < 16; u++) acc[u] +=
        w[4 * u] * x[0] + w[4 * u + 1] * x[1] + w[4 * u + 2] * x[2] + w[4 * u + 3] * x[3];
  }
  OD_UNROLL(16) for (int u = 0; u < 16; u++) sums[u] = acc[u];
}
OD_INLINE void q8_widen(uint8_t *to, const uint8_t *from, uint32_t units) {
  od_copy(to, from, 4 * (size_t)units);
}
OD_INLINE void q8_join(int32_t *sums, uint32_t units) { (void)sums, (void)units; }
#else
OD_INLINE void q8_tile(uint32_t m, uint32_t n, const od_dense *layer, uint32_t unit,
                       const uint16_t *list, uint32_t count, const int8_t *const *codes,
                       const int32_t *sums, int positive, int32_t *out) {
  const int8_t *weights = (const int8_t *)layer->weight + (size_t)unit * 4;
  size_t step = (size_t)layer->padded_units * 4;
  (void)m, (void)n, (void)sums, (void)positive;
  int32_t acc[16] = {0};
  for (uint32_t i = 0; i < count; i++) {
    const int8_t *w = weights + list[i] * step, *x = codes[0] + 4 * (size_t)list[i];
    for (int u = 0; u < 16; u++)
      acc[u] += w[4 * u] * x[0] + w[4 * u + 1] * x[1] + w[4 * u + 2] * x[2] + w[4 * u + 3] * x[3];
  }
  for (int u = 0; u < 16; u++) out[u] = acc[u];
}
#endif

#endif

/* Compilers make SSE2 or NEON of them on 64-bit processors, where these are always there. */
#ifdef STRIPS
#define LANES 1
#else
#define LANES 4
#endif
#if defined(__x86_64__)
#include <emmintrin.h>
#define lanes_max(a, b) ((lanes)_mm_max_ps((__m128)(a), (__m128)(b)))
#define lanes_min(a, b) ((lanes)_mm_min_ps((__m128)(a), (__m128)(b)))
#define lanes_sqrt(v) ((lanes)_mm_sqrt_ps((__m128)(v)))
#elif defined(__aarch64__)
#include <arm_neon.h>
#define lanes_sqrt(v) ((lanes)vsqrtq_f32((float32x4_t)(v)))
#define lanes_floor(v, least) ((lanes)vmaxq_f32((float32x4_t)(v), vdupq_n_f32(least)))
#define lanes_most(v) vmaxvq_f32((float32x4_t)(v))
#define SHORT_VECTORS
#else
#include "ops/maths.h"
#if LANES == 1
#define lanes_sqrt(v) ((lanes){od_sqrt((v)[0])})
#else
#define lanes_sqrt(v) ((lanes){od_sqrt((v)[0]), od_sqrt((v)[1]), od_sqrt((v)[2]), od_sqrt((v)[3])})
#endif
#endif
#include "lanes_body.h"

#if !defined(__wasm_simd128__)
#include "tiles_body.h"
#include "gather_body.h"
#include "float_body.h"
#include "dense_body.h"
#include "product_body.h"

#define KERNELS od_cpu_any, gather, dense, product
#else
#define KERNELS od_cpu_none, NULL, NULL, NULL
#endif

#define SOFTMAX_COLUMNS
#if defined(__aarch64__) /* an AutoInt takes 9 % fewer instructions; with wider vectors it is slower */
#define SOFTMAX_SUMS_LAST
#endif
#include "vectors_body.h"

const od_vectors od_vectors_portable = {pairs, maps, folds, dots, softmax};

const od_kernels od_kernels_portable = {"portable", KERNELS, &od_vectors_portable, 0};
