/* tiles_body.h: which tiles of rows and blocks layers are cut into, and lists of what is not zero.
 *
 * Takes lanes_body.h. Before it the including file may define list_words, with HAS_LIST_WORDS.
 */

/* Sizes up to `most` blocks, which od_tile_blocks picks; those that an instruction set never asks for
 * fold away. */
OD_INLINE uint32_t od_tile_blocks(uint32_t left, uint32_t most) {
  if (most >= 25 && left <= most && left >= 25) return left;
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
/* Of tiles beside the full ones only wide blocks, or those of instruction sets without. */
#define OD_TALL_SIZES(function, m, most, ...)                     \
  case m * 64 + 1: if (most == 1) function(m, 1, __VA_ARGS__); break; \
  case m * 64 + 3: if (most >= 3) function(m, 3, __VA_ARGS__); break; \
  case m * 64 + 4: if (most >= 4) function(m, 4, __VA_ARGS__); break;
#define OD_WIDE_SIZES(function, most, ...)                             \
  case 64 + 5: if (most >= 5) function(1, 5, __VA_ARGS__); break;      \
  case 64 + 6: if (most >= 6) function(1, 6, __VA_ARGS__); break;      \
  case 64 + 7: if (most >= 7) function(1, 7, __VA_ARGS__); break;      \
  case 64 + 8: if (most >= 8) function(1, 8, __VA_ARGS__); break;      \
  case 64 + 13: if (most >= 13) function(1, 13, __VA_ARGS__); break;   \
  case 64 + 25: if (most >= 25) function(1, 25, __VA_ARGS__); break;  \
  case 64 + 26: if (most >= 26) function(1, 26, __VA_ARGS__); break;

/* How many rows a kernel takes for `left` rows: 1, 2 or as many as it can. */
OD_INLINE uint32_t rows_at_once(uint32_t left, uint32_t most) {
  if (left >= most) return most;
  return left <= 2 ? left : most;
}

#ifndef HAS_LIST_WORDS
/* Numbers from `start` on of the words that are not zero. */
OD_INLINE uint32_t list_words(const uint32_t *words, uint32_t count, uint32_t start,
                              uint16_t *list) {
  uint32_t listed = 0;
  for (uint32_t i = 0; i < count; i++) {
    list[listed] = (uint16_t)(start + i);
    listed += words[i] != 0;
  }
  return listed;
}
#endif

#define TOTAL(a, b) ((a) + (b))
#define EITHER(a, b) ((a) | (b))
