/* neon_body.h: what the kernels for NEON share: vectors of 4 lanes, and float16. */
#include <arm_neon.h>

#include "core/half.h"

/* What nothing but q8 layers gains from other instructions: compiled in neon.c only. */
#define KERNEL_NAME(name) od_neon_##name
void od_neon_gather(const od_gather *gathers, size_t count, size_t rows, od_fault *fault);
void od_neon_product(const od_product *p);
void od_neon_float_dense(const od_dense *layer, const float *in, size_t in_step, size_t rows,
                         const od_range *ranges, size_t range_count, const float *initial,
                         uint32_t relu, float *out, size_t out_step, const od_dense_scratch *s);

#define VW 4
#if defined(__aarch64__)
#define FLOAT_ROWS 6
#define FLOAT_BLOCKS 1
#define FLOAT_WIDE 5
#else /* 16 registers instead of 32 */
#define FLOAT_ROWS 2
#define FLOAT_BLOCKS 1
#define FLOAT_WIDE 2
#endif

typedef float32x4_t vf;

OD_INLINE vf vf_load(const float *p) { return vld1q_f32(p); }
OD_INLINE void vf_store(float *p, vf v) { vst1q_f32(p, v); }
OD_INLINE vf vf_set1(float x) { return vdupq_n_f32(x); }
OD_INLINE vf vf_mul(vf a, vf b) { return vmulq_f32(a, b); }
OD_INLINE vf vf_add(vf a, vf b) { return vaddq_f32(a, b); }
OD_INLINE vf vf_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
#if defined(__aarch64__)
/* c + v[i] * b. Written out, because GCC 12 copies lanes into registers that it then lacks. */
#define vf_fma_lane(v, i, b, c) \
  __asm__("fmla %0.4s, %1.4s, %2.s[" #i "]" : "+w"(c) : "w"(b), "w"(v))
#endif
OD_INLINE vf vf_least(vf least, vf v) { return vbslq_f32(vcltq_f32(v, least), least, v); }
OD_INLINE vf vf_keep(vf v, int32_t count) {
  static const int32_t lanes[4] = {0, 1, 2, 3};
  uint32x4_t mask = vcgtq_s32(vdupq_n_s32(count), vld1q_s32(lanes));
  return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v), mask));
}
OD_INLINE vf vf_load_q8(const uint8_t *p) {
  int8x8_t codes = vreinterpret_s8_u32(vdup_n_u32(od_load32(p)));
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(codes))));
}
OD_INLINE vf vf_codes(uint64_t bits, int size) {
  static const int32_t lanes[4] = {1, 2, 3, 4};
  int32x4_t codes = vdupq_n_s32((int32_t)(uint32_t)bits); /* each code to the top of its lane */
  codes = vshlq_s32(codes, vmlsq_n_s32(vdupq_n_s32(32), vld1q_s32(lanes), size));
  return vcvtq_f32_s32(vshlq_s32(codes, vdupq_n_s32(size - 32)));
}
OD_INLINE vf vf_levels(const float *levels, uint64_t codes, int size, int32_t count) {
  float lanes[4];
  for (int i = 0; i < 4; i++)
    lanes[i] = i < count ? levels[(i << size) | (int)(codes >> (size * i) & ((1u << size) - 1))] : 0;
  return vld1q_f32(lanes);
}
#if defined(__aarch64__)
OD_INLINE vf vf_load_f16(const uint8_t *p) {
  return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}
#else
OD_INLINE vf vf_load_f16(const uint8_t *p) {
  float lanes[4];
  for (int i = 0; i < 4; i++) lanes[i] = od_half(od_load16(p + 2 * i));
  return vld1q_f32(lanes);
}
#endif
OD_INLINE float half_value(uint16_t half) { return od_half(half); }
OD_INLINE uint32_t block_value(uint64_t code, uint64_t mask) { return od_pick_bits(code, mask); }

/* The 4 codes of one group, repeated. */
OD_INLINE int8x16_t group_codes(const int8_t *codes, uint32_t group) {
  return vreinterpretq_s8_u32(vdupq_n_u32(od_load32(codes + 4 * (size_t)group)));
}

#if defined(__aarch64__)
/* Numbers from `start` on of the words that are not zero: four at once where none is. */
OD_INLINE uint32_t list_words(const uint32_t *words, uint32_t count, uint32_t start, uint16_t *list) {
  static const uint16_t first[4] = {0, 1, 2, 3};
  uint16x4_t numbers = vadd_u16(vld1_u16(first), vdup_n_u16((uint16_t)start)), four = vdup_n_u16(4);
  uint32_t listed = 0, i = 0;
  for (; i < count; i += 4, numbers = vadd_u16(numbers, four)) {
    if (i + 4 <= count && vminvq_u32(vld1q_u32(words + i))) {
      vst1_u16(list + listed, numbers);
      listed += 4;
      continue;
    }
    for (uint32_t j = i; j < count && j < i + 4; j++) {
      list[listed] = (uint16_t)(start + j);
      listed += words[j] != 0;
    }
  }
  return listed;
}
#define HAS_LIST_WORDS
#endif
