/* q8_sizes.h: q8_tiles, which picks the q8_tile made for a number of rows and blocks. */

/* Sizes up to `most` blocks, which od_tile_blocks picks; those that an instruction set never asks for
 * fold away. */
OD_INLINE uint32_t od_tile_blocks(uint32_t left, uint32_t most) {
  if (most >= 25 && left == 25) return 25;
  if (most >= 13 && left == 13) return 13;
  if (most > 8 && left % 13 == 0) return 13;
  most = most > 8 ? 8 : most;
  uint32_t panels = (left + most - 1) / most; /* of nearly equal size */
  return (left + panels - 1) / panels;
}

#define OD_SIZES(function, m, most, ...)                          \
  case m * 64 + 1: function(m, 1, __VA_ARGS__); break;            \
  case m * 64 + 2: if (most >= 2) function(m, 2, __VA_ARGS__); break; \
  case m * 64 + 3: if (most >= 3) function(m, 3, __VA_ARGS__); break; \
  case m * 64 + 4: if (most >= 4) function(m, 4, __VA_ARGS__); break;
#define OD_WIDE_SIZES(function, most, ...)                             \
  case 64 + 5: if (most >= 5) function(1, 5, __VA_ARGS__); break;      \
  case 64 + 6: if (most >= 6) function(1, 6, __VA_ARGS__); break;      \
  case 64 + 7: if (most >= 7) function(1, 7, __VA_ARGS__); break;      \
  case 64 + 8: if (most >= 8) function(1, 8, __VA_ARGS__); break;      \
  case 64 + 13: if (most >= 13) function(1, 13, __VA_ARGS__); break;   \
  case 64 + 25: if (most >= 25) function(1, 25, __VA_ARGS__); break;

#define Q8_ARGUMENTS layer, unit, list, count, codes, sums, positive, out
static void q8_tiles(uint32_t m, uint32_t n, const od_dense *layer, uint32_t unit,
                     const uint16_t *list, uint32_t count, const int8_t *const *codes,
                     const int32_t *sums, int positive, int32_t *out) {
  switch (m * 64 + n) {
    OD_SIZES(q8_tile, 1, Q8_WIDE, Q8_ARGUMENTS)
    OD_WIDE_SIZES(q8_tile, Q8_WIDE, Q8_ARGUMENTS)
#if Q8_ROWS >= 2
    OD_SIZES(q8_tile, 2, Q8_BLOCKS, Q8_ARGUMENTS)
#endif
#if Q8_ROWS == 4
    OD_SIZES(q8_tile, 4, Q8_BLOCKS, Q8_ARGUMENTS)
#endif
#if Q8_ROWS == 6
    OD_SIZES(q8_tile, 6, Q8_BLOCKS, Q8_ARGUMENTS)
#endif
  }
}
