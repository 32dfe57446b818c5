/* avx512.c: kernels for AVX-512 with VNNI (Ice Lake, Zen 4 and later), and with BF16. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")
#endif
#include <immintrin.h>

#define VW 16
#define FLOAT_ROWS 6
#define FLOAT_BLOCKS 4
#define FLOAT_WIDE 13
#define FLOAT_TALL 2
#define Q8_ROWS 6
#define Q8_BLOCKS 4
#define Q8_WIDE 26

typedef __m512 vf;

OD_INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
OD_INLINE void vf_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
OD_INLINE vf vf_set1(float x) { return _mm512_set1_ps(x); }
OD_INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
OD_INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
OD_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
OD_INLINE vf vf_least(vf least, vf v) { return _mm512_max_ps(least, v); } /* NaN stays */
OD_INLINE vf vf_keep(vf v, int32_t count) {
  return _mm512_maskz_mov_ps((__mmask16)((1u << count) - 1), v);
}
OD_INLINE vf vf_load_q8(const uint8_t *p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
OD_INLINE vf vf_codes(uint64_t bits, int size) {
  __m512i up1 = _mm512_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16);
  __m512i up2 = _mm512_setr_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  __m512i up3 = _mm512_setr_epi32(29, 26, 23, 20, 17, 14, 11, 8, 29, 26, 23, 20, 17, 14, 11, 8);
  __m512i up4 = _mm512_setr_epi32(28, 24, 20, 16, 12, 8, 4, 0, 28, 24, 20, 16, 12, 8, 4, 0);
  __m512i half = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
  __m512i words = _mm512_set1_epi32((int)(uint32_t)bits);
  if (size == 4)
    words = _mm512_permutexvar_epi32(half, _mm512_castsi128_si512(_mm_cvtsi64_si128((long long)bits)));
  else if (size == 3)
    words = _mm512_mask_set1_epi32(words, 0xff00, (int)(uint32_t)(bits >> 24));
  __m512i up = size == 4 ? up4 : size == 3 ? up3 : size == 2 ? up2 : up1;
  __m512i codes = _mm512_sllv_epi32(words, up); /* to the top of the lanes */
  return _mm512_cvtepi32_ps(_mm512_srai_epi32(codes, 32 - size));
}
OD_INLINE vf vf_levels(const float *levels, uint64_t codes, int size, int32_t count) {
  __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  __m512i eighth = _mm512_and_si512(lanes, _mm512_set1_epi32(7)); /* codes 8 to 15 from the high word */
  __m512i words = _mm512_set1_epi32((int)(uint32_t)codes);
  words = _mm512_mask_set1_epi32(words, 0xff00, (int)(uint32_t)(codes >> (8 * size)));
  __m512i code = _mm512_srlv_epi32(words, _mm512_mullo_epi32(eighth, _mm512_set1_epi32(size)));
  code = _mm512_and_si512(code, _mm512_set1_epi32((1 << size) - 1));
  __m512i place = _mm512_or_si512(_mm512_slli_epi32(lanes, (unsigned)size), code);
  __mmask16 keep = count >= 16 ? 0xffff : (__mmask16)((1u << count) - 1);
  return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), keep, place, levels, 4);
}
OD_INLINE vf vf_load_f16(const uint8_t *p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
OD_INLINE float half_value(uint16_t half) { return _cvtsh_ss(half); }
OD_INLINE uint32_t block_value(uint64_t code, uint64_t mask) {
  return (uint32_t)_pext_u64(code, mask);
}

/* Written out, because GCC 12 copies the accumulator of the intrinsic back and forth. */
OD_INLINE __m512i dot(__m512i sum, __m512i unsigned_bytes, __m512i signed_bytes) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(unsigned_bytes), "vm"(signed_bytes));
  return sum;
}

/* Adds the product of the high halves, as bfloat16, and then that of the low ones, each sum rounded. */
OD_INLINE vf vf_pairs(vf a, vf b, vf sum) {
  __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}
#define HAS_PAIRS

/* Numbers from `start` on of the words that are not zero, 16 at a time; may write 15 beyond the last. */
OD_INLINE uint32_t list_words(const uint32_t *words, uint32_t count, uint32_t start, uint16_t *list) {
  __m512i numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  uint32_t listed = 0;
  numbers = _mm512_add_epi32(numbers, _mm512_set1_epi32((int)start));
  for (uint32_t i = 0; i < count; i += 16, numbers = _mm512_add_epi32(numbers, _mm512_set1_epi32(16))) {
    __mmask16 valid = count - i >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << (count - i)) - 1);
    __m512i part = _mm512_maskz_loadu_epi32(valid, words + i);
    __mmask16 set = _mm512_test_epi32_mask(part, part);
    __m256i chosen = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(set, numbers));
    _mm256_storeu_si256((__m256i *)(void *)(list + listed), chosen);
    listed += (uint32_t)__builtin_popcount(set);
  }
  return listed;
}
#define HAS_LIST_WORDS

/* The sum of codes, whose count is a multiple of 4. */
OD_INLINE int32_t sum_codes(const int8_t *codes, uint32_t count) {
  __m512i sum = _mm512_setzero_si512(), ones = _mm512_set1_epi8(1);
  for (uint32_t i = 0; i < count; i += 64) {
    __mmask16 valid = count - i >= 64 ? (__mmask16)0xffff : (__mmask16)((1u << (count - i) / 4) - 1);
    sum = dot(sum, ones, _mm512_maskz_loadu_epi32(valid, codes + i));
  }
  return _mm512_reduce_add_epi32(sum);
}
#define HAS_SUM_CODES

/* vpdpbusd multiplies unsigned by signed bytes. Codes without a sign are the unsigned ones.
 * Otherwise weights enter as weight + 128, and 128 times the sum of a row's codes is taken off;
 * zero codes stay zero, so they can be skipped. */
OD_INLINE void sign_tile(uint32_t m, uint32_t n, int positive, const od_dense *layer, uint32_t unit,
                         const uint16_t *list, uint32_t count, const int8_t *const *codes,
                         const int32_t *sums, int32_t *out) {
  const uint8_t *weights = (const uint8_t *)layer->weight + (size_t)unit * 4;
  size_t step = (size_t)layer->padded_units * 4;
  __m512i flip = _mm512_set1_epi8((char)0x80), acc[Q8_ROWS][Q8_WIDE];
  OD_UNROLL(8) for (uint32_t r = 0; r < m; r++)
    OD_UNROLL(32) for (uint32_t j = 0; j < n; j++) acc[r][j] = _mm512_setzero_si512();
  for (uint32_t i = 0; i < count; i++) {
    uint32_t group = list[i];
    const uint8_t *w = weights + group * step;
    __m512i values[Q8_ROWS];
    OD_UNROLL(8) for (uint32_t r = 0; r < m; r++) values[r] =
        _mm512_set1_epi32((int32_t)od_load32(codes[r] + 4 * group));
    OD_UNROLL(32) for (uint32_t j = 0; j < n; j++) {
      __m512i packed = _mm512_loadu_si512(w + 64 * j);
      if (!positive) packed = _mm512_xor_si512(packed, flip);
      OD_UNROLL(8) for (uint32_t r = 0; r < m; r++) acc[r][j] =
          positive ? dot(acc[r][j], values[r], packed) : dot(acc[r][j], packed, values[r]);
    }
  }
  OD_UNROLL(8) for (uint32_t r = 0; r < m; r++) {
    __m512i correction = _mm512_set1_epi32(positive ? 0 : (int32_t)(128u * (uint32_t)sums[r]));
    OD_UNROLL(32) for (uint32_t j = 0; j < n; j++)
      _mm512_storeu_si512(out + (r * n + j) * 16, _mm512_sub_epi32(acc[r][j], correction));
  }
}

OD_INLINE void q8_tile(uint32_t m, uint32_t n, const od_dense *layer, uint32_t unit,
                       const uint16_t *list, uint32_t count, const int8_t *const *codes,
                       const int32_t *sums, int positive, int32_t *out) {
  if (positive && m == Q8_ROWS) /* smaller tiles are not worth the code twice */
    sign_tile(m, n, 1, layer, unit, list, count, codes, sums, out);
  else sign_tile(m, n, 0, layer, unit, list, count, codes, sums, out);
}

#define LANES 16
#define lanes_load(p, n) ((lanes)_mm512_maskz_loadu_ps((__mmask16)((1u << (n)) - 1), p))
#define lanes_store(p, v, n) _mm512_mask_storeu_ps(p, (__mmask16)((1u << (n)) - 1), (__m512)(v))
#define lanes_max(a, b) ((lanes)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define lanes_min(a, b) ((lanes)_mm512_min_ps((__m512)(a), (__m512)(b)))
#define larger(a, b) ((whole)_mm512_max_epi32((__m512i)(a), (__m512i)(b)))
#define lanes_sqrt(v) ((lanes)_mm512_sqrt_ps((__m512)(v)))
#define lanes_power(p, w, x, least)                                                                 \
  ((lanes)_mm512_maskz_scalef_ps(                                                                  \
      _mm512_cmp_ps_mask((__m512)(x), _mm512_set1_ps(least), _CMP_NLT_UQ), (__m512)(p), (__m512)(w)))
#include "lanes_body.h"
#include "tiles_body.h"
#include "gather_body.h"
#include "float_body.h"
#include "dense_body.h"
#include "product_body.h"
#include "vectors_body.h"

static const od_vectors VECTORS = {pairs, maps, folds, dots, softmax};

/* 16 numbers as od_bfloat rounds them (core/bfloat.h), the first of two in the high half. */
OD_INLINE __m256i pairs_of(__m512 x) {
  __m256i halves;
  __mmask16 keep = _mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(0x1p-48f), _CMP_NLT_UQ);
  __asm__("vcvtneps2bf16 %1, %0 %{%2%}%{z%}" : "=v"(halves) : "v"(x), "Yk"(keep));
  return _mm256_rol_epi32(halves, 16);
}

/* The columns of rows in the ranges as pairs, others zero. */
static void pack_rows(const float *in, size_t in_step, size_t rows, const od_range *ranges,
                      size_t range_count, uint32_t step, uint32_t *pairs) {
  od_zero(pairs, rows * step * sizeof *pairs);
  for (size_t row = 0; row < rows; row++, in += in_step, pairs += step)
    for (size_t r = 0; r < range_count; r++)
      for (uint32_t i = ranges[r].start & ~1u; i < ranges[r].stop; i += OD_PANEL) {
        __m256i *to = (__m256i *)(void *)(pairs + i / 2);
        uint32_t left = ranges[r].stop - i;
        __mmask16 valid = left >= OD_PANEL ? 0xffff : (__mmask16)((1u << left) - 1);
        if (i < ranges[r].start) valid &= 0xfffe;
        __m256i packed = pairs_of(_mm512_maskz_loadu_ps(valid, in + i));
        _mm256_storeu_si256(to, _mm256_or_si256(packed, _mm256_loadu_si256(to)));
      }
}

/* Layers of pairs: those of float_body.h, a pair in place of a feature. */
static void dense_bf16(const od_dense *layer, const float *in, size_t in_step, size_t rows,
                       const od_range *ranges, size_t range_count, const float *initial,
                       uint32_t relu, float *out, size_t out_step, const od_dense_scratch *s) {
  if (layer->codec != OD_CODEC_PAIRS) {
    dense(layer, in, in_step, rows, ranges, range_count, initial, relu, out, out_step, s);
    return;
  }
  od_dense paired = *layer;
  uint32_t step = od_padded(layer->features, OD_PANEL) / 2, *pairs = (uint32_t *)(void *)s->codes;
  paired.features = (layer->features + 1) / 2;
  od_range all_pairs = {0, paired.features};
  if (rows > 1) /* whole tiles are read */
    od_zero(pairs + rows * step, (od_padded((uint32_t)rows, PAIRS_ROWS) - rows) * step * sizeof *pairs);
  pack_rows(in, in_step, rows, ranges, range_count, step, pairs);
  dense_float(&paired, (const float *)(void *)pairs, step, rows, &all_pairs, 1, initial, relu, out,
              out_step, s);
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
#define KERNELS(dense) gather, dense, product, &VECTORS
#else
#define KERNELS(dense) NULL, NULL, NULL, NULL
#endif

const od_kernels od_kernels_avx512vnni = {"avx512vnni", od_cpu_avx512vnni, KERNELS(dense), 0};
const od_kernels od_kernels_avx512bf16 = {"avx512bf16", od_cpu_avx512bf16, KERNELS(dense_bf16), 1};
