/* half.h: float16 to float32 and scattered bits, for processors without an instruction for it. */
#ifndef ONDEVICE_HALF_H
#define ONDEVICE_HALF_H

#include "core/base.h"

OD_INLINE float od_half(uint16_t half) {
  uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fffu, bits;
  float value;
  if (rest >= 0x7c00) {
    bits = sign | 0x7f800000u | (rest & 0x3ff) << 13;
  } else if (rest >= 0x400) {
    bits = sign | ((rest << 13) + 0x38000000u);
  } else {
    value = (float)rest * 0x1p-24f; /* subnormal: exact */
    __builtin_memcpy(&bits, &value, 4);
    bits |= sign;
  }
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

/* The bits of `code` that `mask` selects, packed to the right. */
OD_INLINE uint32_t od_pick_bits(uint64_t code, uint64_t mask) {
  uint32_t value = 0, place = 0;
  for (; mask; mask &= mask - 1) value |= (uint32_t)(code >> __builtin_ctzll(mask) & 1) << place++;
  return value;
}

#endif
