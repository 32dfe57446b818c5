/* wasm_simd.c: kernels for WebAssembly with 128-bit vectors: browsers since 2021 to 2023, and Node. */
#include "kernels/kernels.h"

#if defined(__wasm_simd128__)
#include <wasm_simd128.h>

#include "core/half.h"

#define VW 4
/* An engine maps vectors to 16 registers on x86-64: sums beyond them would go to memory. */
#define STRIPS
#define FLOAT_STRIP 24
#define FLOAT_REST 16
#define FLOAT_PAIR 16
#define Q8_STRIP 12
#define Q8_REST 8
#define ANY_BITS /* less code; a page does not load large tables of floats */
#define FLOAT_ROWS 2 /* of a product of matrices */

typedef v128_t vf;

OD_INLINE vf vf_load(const float *p) { return wasm_v128_load(p); }
OD_INLINE void vf_store(float *p, vf v) { wasm_v128_store(p, v); }
OD_INLINE vf vf_set1(float x) { return wasm_f32x4_splat(x); }
OD_INLINE vf vf_mul(vf a, vf b) { return wasm_f32x4_mul(a, b); }
OD_INLINE vf vf_add(vf a, vf b) { return wasm_f32x4_add(a, b); }
OD_INLINE vf vf_fma(vf a, vf b, vf c) { return vf_add(vf_mul(a, b), c); }
OD_INLINE vf vf_keep(vf v, int32_t count) {
  v128_t lanes = wasm_i32x4_const(0, 1, 2, 3);
  return wasm_v128_and(v, wasm_i32x4_gt(wasm_i32x4_splat(count), lanes));
}
OD_INLINE vf vf_load_q8(const uint8_t *p) {
  v128_t pairs = wasm_i16x8_extend_low_i8x16(wasm_v128_load32_zero(p));
  return wasm_f32x4_convert_i32x4(wasm_i32x4_extend_low_i16x8(pairs));
}
OD_INLINE vf vf_codes(uint64_t bits, int size) {
  uint32_t word = (uint32_t)bits; /* each code to the top of its lane, and back with its sign */
  v128_t codes = wasm_i32x4_make((int32_t)(word << (32 - size)), (int32_t)(word << (32 - 2 * size)),
                                 (int32_t)(word << (32 - 3 * size)),
                                 (int32_t)(word << (32 - 4 * size)));
  return wasm_f32x4_convert_i32x4(wasm_i32x4_shr(codes, (uint32_t)(32 - size)));
}
OD_INLINE vf vf_levels(const float *levels, uint64_t codes, int size, int32_t count) {
  float lanes[4];
  for (int i = 0; i < 4; i++)
    lanes[i] = i < count ? levels[(i << size) | (int)(codes >> (size * i) & ((1u << size) - 1))] : 0;
  return wasm_v128_load(lanes);
}
OD_INLINE vf vf_load_f16(const uint8_t *p) {
  v128_t half = wasm_u32x4_extend_low_u16x8(wasm_v128_load64_zero(p));
  v128_t size = wasm_v128_and(half, wasm_i32x4_splat(0x7fff));
  /* 2^112 moves the exponent, of subnormals too; that of infinity and NaN becomes the largest */
  v128_t number = wasm_f32x4_mul(wasm_i32x4_shl(size, 13), wasm_f32x4_splat(0x1p112f));
  v128_t endless = wasm_i32x4_gt(size, wasm_i32x4_splat(0x7bff));
  number = wasm_v128_or(number, wasm_v128_and(endless, wasm_i32x4_splat(0x7f800000)));
  return wasm_v128_or(number, wasm_i32x4_shl(wasm_i32x4_shr(wasm_i32x4_shl(half, 16), 31), 31));
}
OD_INLINE float half_value(uint16_t half) { return od_half(half); }
OD_INLINE uint32_t block_value(uint64_t code, uint64_t mask) { return od_pick_bits(code, mask); }

/* Lanes 0 + 1 and 2 + 3 of a, then of b. */
OD_INLINE v128_t pair_sums(v128_t a, v128_t b) {
  return wasm_i32x4_add(wasm_i32x4_shuffle(a, b, 0, 2, 4, 6), wasm_i32x4_shuffle(a, b, 1, 3, 5, 7));
}

#define Q8_SUMS 2 /* even and odd pairs of each group's products */
#define Q8_WIDE_BYTES 8

/* Four codes of two outputs meet the four codes of a row in one instruction, which adds products in
 * pairs. */
OD_INLINE void q8_strip(uint32_t units, int wide, const int8_t *codes, const uint16_t *list, uint32_t count,
                        const uint8_t *weights, size_t step, const int32_t *begin,
                        int32_t *sums) {
  v128_t acc[Q8_STRIP / 2];
  OD_UNROLL(8) for (uint32_t j = 0; j < units / 2; j++) acc[j] = wasm_v128_load(begin + 4 * j);
  for (uint32_t i = 0; i < count; i++) {
    const uint8_t *w = weights + list[i] * step;
    v128_t x = wasm_i16x8_extend_low_i8x16(wasm_v128_load32_splat(codes + 4 * (size_t)list[i]));
    OD_UNROLL(8) for (uint32_t j = 0; j < units / 2; j++) acc[j] = wasm_i32x4_add(
        acc[j], wasm_i32x4_dot_i16x8(wide ? wasm_v128_load(w + 16 * j) : wasm_i16x8_load8x8(w + 8 * j), x));
  }
  OD_UNROLL(8) for (uint32_t j = 0; j < units / 2; j++) wasm_v128_store(sums + 4 * j, acc[j]);
}

OD_INLINE void q8_widen(uint8_t *to, const uint8_t *from, uint32_t units) {
  for (uint32_t i = 0; i < 4 * units; i += 8) wasm_v128_store(to + 2 * i, wasm_i16x8_load8x8(from + i));
}

OD_INLINE void q8_join(int32_t *sums, uint32_t units) {
  for (uint32_t i = 0; i < units; i += 4)
    wasm_v128_store(sums + i, pair_sums(wasm_v128_load(sums + 2 * i), wasm_v128_load(sums + 2 * i + 4)));
}

/* Add the products of `count` listed records, a multiple of 4, to the sums of `units` outputs, a multiple of
 * 16: four records side by side, because a processor fetches a few sequences ahead of a loop quicker than
 * one. `begin` may be `sums`. */
#define FOURS
static __attribute__((noinline)) void add_fours(int q8, const uint8_t *row, const uint16_t *list,
                                                uint32_t count, const uint8_t *weights, size_t step,
                                                uint32_t units, const int32_t *begin, int32_t *sums) {
  for (uint32_t i = 0; i < count; i += 4, begin = sums) {
    const uint8_t *w[4];
    v128_t x[4];
    OD_UNROLL(4) for (int k = 0; k < 4; k++) {
      x[k] = wasm_v128_load32_splat(row + 4 * list[i + k]);
      if (q8) x[k] = wasm_i16x8_extend_low_i8x16(x[k]);
      w[k] = weights + list[i + k] * step;
    }
    if (q8)
      for (uint32_t u = 0; u < units; u += 4) {
        v128_t a = wasm_v128_load(begin + 2 * u), b = wasm_v128_load(begin + 2 * u + 4);
        OD_UNROLL(4) for (int k = 0; k < 4; k++) {
          a = wasm_i32x4_add(a, wasm_i32x4_dot_i16x8(wasm_i16x8_load8x8(w[k] + 4 * u), x[k]));
          b = wasm_i32x4_add(b, wasm_i32x4_dot_i16x8(wasm_i16x8_load8x8(w[k] + 4 * u + 8), x[k]));
        }
        wasm_v128_store(sums + 2 * u, a);
        wasm_v128_store(sums + 2 * u + 4, b);
      }
    else
      for (uint32_t u = 0; u < units; u += 4) {
        vf sum = wasm_v128_load(begin + u);
        OD_UNROLL(4) for (int k = 0; k < 4; k++) sum = vf_fma(x[k], wasm_v128_load(w[k] + 4 * u), sum);
        wasm_v128_store(sums + u, sum);
      }
  }
}

#define LANES 4
#include "lanes_body.h"
#include "tiles_body.h"
#include "gather_body.h"
#include "float_body.h"
#include "dense_body.h"
#include "product_body.h"

#define KERNELS od_cpu_any, gather, dense, product, &od_vectors_portable
#else
#define KERNELS od_cpu_none, NULL, NULL, NULL, NULL
#endif

/* Supported wherever it is compiled: an engine without vectors refuses the whole module. */
const od_kernels od_kernels_wasm_simd = {"wasm-simd", KERNELS, 0};
