/* bfloat.h: numbers rounded to bfloat16. */
#ifndef ONDEVICE_BFLOAT_H
#define ONDEVICE_BFLOAT_H

#include "core/base.h"

/* The bits of a float32, rounded to bfloat16 (the high half), half to even. Magnitudes below 2^-48 become
 * zero, so that no sum of products gets into numbers that some processors take for zero. */
OD_INLINE uint32_t od_bfloat(uint32_t bits) {
  uint32_t size = bits & 0x7fffffff, rounded = bits + 0x7fff + (bits >> 16 & 1);
  rounded = size > 0x7f800000 ? bits | 0x400000 : rounded; /* NaN stays */
  return size < (127u - 48) << 23 ? 0 : rounded & 0xffff0000;
}

#endif
