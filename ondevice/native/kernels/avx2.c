/* avx2.c: kernels for AVX2 with FMA and F16C (Haswell, Zen and later). */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,bmi,bmi2")
#endif
#include <immintrin.h>

#define VW 8
#define FLOAT_ROWS 6
#define FLOAT_BLOCKS 1
#define FLOAT_WIDE 6
#define Q8_ROWS 2
#define Q8_BLOCKS 2
#define Q8_WIDE 5

typedef __m256 vf;

OD_INLINE vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
OD_INLINE void vf_store(float *p, vf v) { _mm256_storeu_ps(p, v); }
OD_INLINE vf vf_set1(float x) { return _mm256_set1_ps(x); }
OD_INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
OD_INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
OD_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
OD_INLINE vf vf_least(vf least, vf v) { return _mm256_max_ps(least, v); } /* NaN stays */
OD_INLINE vf vf_keep(vf v, int32_t count) {
  __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes)));
}
OD_INLINE vf vf_load_q8(const uint8_t *p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
OD_INLINE vf vf_codes(uint64_t bits, int size) {
  __m256i words = _mm256_set1_epi32((int)(uint32_t)bits);
  __m256i up = _mm256_setr_epi32(32 - size, 32 - 2 * size, 32 - 3 * size, 32 - 4 * size,
                                 32 - 5 * size, 32 - 6 * size, 32 - 7 * size, 32 - 8 * size);
  __m256i codes = _mm256_sllv_epi32(words, up); /* to the top of the lanes */
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(codes, 32 - size));
}
OD_INLINE vf vf_levels(const float *levels, uint64_t codes, int size, int32_t count) {
  __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  __m256i down = _mm256_setr_epi32(0, size, 2 * size, 3 * size, 4 * size, 5 * size, 6 * size, 7 * size);
  __m256i code = _mm256_srlv_epi32(_mm256_set1_epi32((int)(uint32_t)codes), down);
  code = _mm256_and_si256(code, _mm256_set1_epi32((1 << size) - 1));
  __m256i place = _mm256_or_si256(_mm256_slli_epi32(lanes, size), code);
  __m256 keep = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes));
  return _mm256_mask_i32gather_ps(_mm256_setzero_ps(), levels, place, keep, 4);
}
OD_INLINE vf vf_load_f16(const uint8_t *p) {
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
OD_INLINE float half_value(uint16_t half) { return _cvtsh_ss(half); }
OD_INLINE uint32_t block_value(uint64_t code, uint64_t mask) {
  return (uint32_t)_pext_u64(code, mask);
}

/* vpmaddubsw multiplies unsigned by signed bytes: the codes' signs move to the weights. Codes and
 * weights stay within +-127, so the sum of two products never saturates. */
OD_INLINE void q8_tile(uint32_t m, uint32_t n, const od_dense *layer, uint32_t unit,
                       const uint16_t *list, uint32_t count, const int8_t *const *codes,
                       const int32_t *sums, int positive, int32_t *out) {
  const uint8_t *weights = (const uint8_t *)layer->weight + (size_t)unit * 4;
  size_t step = (size_t)layer->padded_units * 4;
  __m256i ones = _mm256_set1_epi16(1), acc[Q8_ROWS][2 * Q8_WIDE];
  (void)sums, (void)positive;
  OD_UNROLL(8) for (uint32_t r = 0; r < m; r++)
    OD_UNROLL(16) for (uint32_t j = 0; j < 2 * n; j++) acc[r][j] =
        _mm256_setzero_si256();
  for (uint32_t i = 0; i < count; i++) {
    uint32_t group = list[i];
    const uint8_t *w = weights + group * step;
    __m256i values[Q8_ROWS], sizes[Q8_ROWS];
    OD_UNROLL(8) for (uint32_t r = 0; r < m; r++) {
      values[r] = _mm256_set1_epi32((int32_t)od_load32(codes[r] + 4 * group));
      sizes[r] = _mm256_abs_epi8(values[r]);
    }
    OD_UNROLL(16) for (uint32_t j = 0; j < 2 * n; j++) {
      __m256i packed = _mm256_loadu_si256((const __m256i *)(const void *)(w + 32 * j));
      OD_UNROLL(8) for (uint32_t r = 0; r < m; r++) {
        __m256i pairs = _mm256_maddubs_epi16(sizes[r], _mm256_sign_epi8(packed, values[r]));
        acc[r][j] = _mm256_add_epi32(acc[r][j], _mm256_madd_epi16(pairs, ones));
      }
    }
  }
  OD_UNROLL(8) for (uint32_t r = 0; r < m; r++)
    OD_UNROLL(16) for (uint32_t j = 0; j < 2 * n; j++)
      _mm256_storeu_si256((__m256i *)(void *)(out + (r * n * 2 + j) * 8), acc[r][j]);
}

#define LANES 8
#define lanes_load(p, n) ((lanes)_mm256_maskload_ps(p, first_lanes(n)))
#define lanes_store(p, v, n) _mm256_maskstore_ps(p, first_lanes(n), (__m256)(v))
#define lanes_max(a, b) ((lanes)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define lanes_min(a, b) ((lanes)_mm256_min_ps((__m256)(a), (__m256)(b)))
#define larger(a, b) ((whole)_mm256_max_epi32((__m256i)(a), (__m256i)(b)))
#define lanes_sqrt(v) ((lanes)_mm256_sqrt_ps((__m256)(v)))
OD_INLINE __m256i first_lanes(size_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#include "lanes_body.h"
#include "tiles_body.h"
#include "gather_body.h"
#include "float_body.h"
#include "dense_body.h"
#include "product_body.h"
#include "vectors_body.h"

static const od_vectors VECTORS = {pairs, maps, folds, dots, softmax};

#if defined(__clang__)
#pragma clang attribute pop
#endif
#define KERNELS gather, dense, product, &VECTORS
#else
#define KERNELS NULL, NULL, NULL, NULL
#endif

const od_kernels od_kernels_avx2 = {"avx2", od_cpu_avx2, KERNELS, 0};
