/* neon_dotprod.c: kernels for NEON with dot products: Raspberry Pi 5 (Cortex-A76). */
#include "kernels/kernels.h"

#if defined(__aarch64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif
#include "neon_body.h"

#define Q8_ROWS 6
#define Q8_BLOCKS 1
#define Q8_WIDE 5

#include "neon_dot_body.h"
OD_INLINE void q8_tile(uint32_t m, uint32_t n, const od_dense *layer, uint32_t unit,
                       const uint16_t *list, uint32_t count, const int8_t *const *codes,
                       const int32_t *sums, int positive, int32_t *out) {
  (void)sums, (void)positive;
  dot_tile(m, n, layer, unit, list, count, codes, out);
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

const od_kernels od_kernels_neon_dotprod = {"neon-dotprod", od_cpu_dotprod, KERNELS, 0};
