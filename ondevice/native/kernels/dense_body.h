/* dense_body.h: q8 dense layers, and the way to those of float_body.h, compiled once for every
 * instruction set.
 *
 * Takes tiles_body.h and the function of float_body.h. The including file defines
 *   q8_tile(m, n, layer, unit, list, count, codes, sums, positive, out)
 * which writes the int32 sums of m rows by n blocks of 16 outputs from `unit` on to
 * out[m][16 * n], over the listed groups of 4 features. Its constants: Q8_ROWS and Q8_BLOCKS (rows
 * and blocks at once in a batch), Q8_WIDE (blocks at once for a single row).
 *
 * `positive` says that no code of the rows is negative, as after ReLU. `sums` are those of the rows'
 * codes where it does not and the file has sum_codes(codes, count).
 *
 * Zero inputs are skipped: what truncation and ReLU made zero costs nothing.
 */

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

OD_INLINE float bits_float(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

typedef int8_t code_lanes __attribute__((vector_size(LANES)));

#define LARGER(a, b) larger(a, b)
#ifndef larger
OD_INLINE whole larger(whole a, whole b) { return (whole)pick(a > b, (lanes)a, (lanes)b); }
#endif
#define EITHER(a, b) ((a) | (b))

/* Bits of the largest magnitude, which order like the magnitudes, NaN above all. */
OD_INLINE int32_t largest_bits(const float *restrict in, uint32_t count) {
  whole largest = {0};
  uint32_t i = 0;
  for (; i + LANES <= count; i += LANES) largest = larger((whole)magnitude(load(in + i)), largest);
  if (i < count) largest = larger((whole)magnitude(lanes_load(in + i, count - i)), largest);
  JOIN_LANES(largest, LARGER)
  return largest[0];
}

OD_INLINE whole codes_of(lanes values, float inverse) {
  /* adding 1.5 * 2^23 rounds to an integer, half to even, in the low bits */
  lanes product = values * inverse;
  return (whole)(product + 12582912.0f) - 0x4B400000;
}

/* Codes of a row's columns, and zeros up to a whole vector behind them, where nothing is written yet.
 * `any` has the sign bit of each that is negative. */
OD_INLINE void write_codes(const float *restrict in, uint32_t count, float inverse,
                           int8_t *restrict codes, whole *any) {
  for (uint32_t i = 0; i < count; i += LANES) {
    whole code = codes_of(part(in + i, count - i, all(0)), inverse);
    code_lanes bytes = __builtin_convertvector(code, code_lanes);
    __builtin_memcpy(codes + i, &bytes, sizeof bytes);
    *any |= code;
  }
}

/* Symmetric int8 codes of a tile's rows: scale = largest magnitude / 127, code = round-half-even(x *
 * (127 / largest)). A row with NaN or infinity gets the scale NaN. First all magnitudes: within a row
 * each step waits for the last one. */
static void quantise_tile(const float *in, size_t in_step, uint32_t rows, const od_range *ranges,
                          size_t range_count, uint32_t padded, size_t row,
                          const od_dense_scratch *s) {
  int32_t largest[OD_TILE_ROWS];
  int8_t *codes = s->codes + row * padded;
  whole any = {0};
  if (range_count != 1 || ranges->start || ranges->stop + OD_FEATURE_GROUP <= padded)
    od_zero(codes, (size_t)rows * padded);
  for (uint32_t r = 0; r < rows; r++) {
    largest[r] = 0;
    for (size_t i = 0; i < range_count; i++) {
      int32_t bits = largest_bits(in + r * in_step + ranges[i].start, ranges[i].stop - ranges[i].start);
      largest[r] = largest[r] > bits ? largest[r] : bits;
    }
  }
  for (uint32_t r = 0; r < rows; r++) {
    float size = bits_float((uint32_t)largest[r]);
    int usable = largest[r] < 0x7f800000 && size >= OD_LEAST_MAGNITUDE;
    float inverse = usable ? 127.0f / size : 0;
    s->scales[row + r] = largest[r] >= 0x7f800000 ? __builtin_nanf("") : usable ? size / 127.0f : 0;
    for (size_t i = 0; i < range_count; i++)
      write_codes(in + r * in_step + ranges[i].start, ranges[i].stop - ranges[i].start, inverse,
                  codes + r * padded + ranges[i].start, &any);
  }
  JOIN_LANES(any, EITHER)
  s->positive[row / OD_TILE_ROWS] = any[0] >= 0;
#ifdef HAS_SUM_CODES
  for (uint32_t r = 0; any[0] < 0 && r < rows; r++)
    s->sums[row + r] = sum_codes(codes + r * padded, padded);
#endif
}

/* Groups of 4 features in which one of the rows has a code that is not zero. */
static uint32_t list_groups(const int8_t *codes, size_t step, uint32_t rows, uint32_t groups,
                            uint16_t *list) {
  uint32_t words[PIECE], count = 0;
  for (uint32_t start = 0; start < groups; start += PIECE) {
    uint32_t piece = groups - start < PIECE ? groups - start : PIECE;
    for (uint32_t i = 0; i < piece; i += LANES) {
      whole any = {0}, next;
      for (uint32_t r = 0; r < rows; r++) { /* behind the last row is room */
        __builtin_memcpy(&next, codes + r * step + 4 * (size_t)(start + i), sizeof next);
        any |= next;
      }
      __builtin_memcpy(words + i, &any, sizeof any);
    }
    count = list_piece(words, piece, start, list, count);
  }
  return count;
}

static void q8_block(const od_dense *layer, uint32_t unit, uint32_t m, uint32_t n,
                     const od_dense_scratch *s, uint32_t row, const uint16_t *list, uint32_t count,
                     uint32_t padded, uint32_t rows, const float *initial, uint32_t relu,
                     float *out, size_t out_step) {
  int32_t sums[Q8_ROWS * Q8_BLOCKS > Q8_WIDE ? Q8_ROWS * Q8_BLOCKS * 16 : Q8_WIDE * 16]
      __attribute__((aligned(64)));
  const int8_t *codes[Q8_ROWS] = {0};
  int32_t code_sums[Q8_ROWS] = {0};
  for (uint32_t r = 0; r < m; r++) { /* rows beyond the last repeat it */
    uint32_t at = row + (r < rows ? r : rows - 1);
    codes[r] = s->codes + (size_t)at * padded;
    code_sums[r] = s->sums[at];
  }
  q8_tiles(m, n, layer, unit, list, count, codes, code_sums, s->positive[row / OD_TILE_ROWS], sums);
  uint32_t width = n * 16;
  uint32_t units = layer->units - unit < width ? layer->units - unit : width;
  for (uint32_t r = 0; r < rows; r++) {
    float scale = s->scales[row + r], *to = out + (size_t)r * out_step + unit;
    const int32_t *row_sums = sums + (size_t)r * width;
    for (uint32_t i = 0; i < units; i += LANES) {
      whole sum;
      __builtin_memcpy(&sum, row_sums + i, sizeof sum);
      lanes step = scale * load(layer->scale + unit + i);
      lanes product = __builtin_convertvector(sum, lanes) * step;
      lanes result = product + load(initial + unit + i);
      if (relu) result = pick(result < 0.0f, all(0), result);
      put(to + i, result, units - i);
    }
  }
}

static void dense_q8(const od_dense *layer, const float *in, size_t in_step, size_t rows,
                     const od_range *ranges, size_t range_count, const float *initial,
                     uint32_t relu, float *out, size_t out_step, const od_dense_scratch *s) {
  uint32_t padded = od_padded(layer->features, OD_FEATURE_GROUP);
  uint32_t blocks = layer->padded_units / 16, most = rows == 1 ? Q8_WIDE : Q8_BLOCKS;
  size_t tiles = (rows + OD_TILE_ROWS - 1) / OD_TILE_ROWS, room = OD_LIST_ROOM(padded);
  uint32_t groups = padded / 4;
  int narrow = rows > 2 && blocks <= NARROW, all = 0;
  for (size_t t = 0; t < tiles; t++) {
    size_t row = t * OD_TILE_ROWS;
    uint32_t tile_rows = rows - row < OD_TILE_ROWS ? (uint32_t)(rows - row) : OD_TILE_ROWS;
    quantise_tile(in + row * in_step, in_step, tile_rows, ranges, range_count, padded, row, s);
    s->counts[t] = all ? groups
                       : list_groups(s->codes + row * padded, padded, tile_rows, groups,
                                     s->lists + t * room);
    if (t || !narrow || s->counts[0] < groups - groups / 4) continue;
    all = 1; /* few zeros in the first tile: no search in the others */
    room = 0;
    s->counts[0] = groups;
    for (uint32_t g = 0; g < groups; g++) s->lists[g] = (uint16_t)g;
  }
  for (uint32_t block = 0, n; block < blocks; block += n) {
    n = od_tile_blocks(blocks - block, most);
    for (size_t t = 0; t < tiles; t++) {
      size_t end = (t + 1) * OD_TILE_ROWS < rows ? (t + 1) * OD_TILE_ROWS : rows;
      for (size_t row = t * OD_TILE_ROWS; row < end;) {
        uint32_t m = rows_at_once((uint32_t)(end - row), Q8_ROWS);
        uint32_t block_rows = end - row < m ? (uint32_t)(end - row) : m;
        q8_block(layer, block * 16, m, n, s, (uint32_t)row, s->lists + t * room, s->counts[t], padded, block_rows, initial, relu, out + row * out_step, out_step);
        row += block_rows;
      }
    }
  }
}

static void dense(const od_dense *layer, const float *in, size_t in_step, size_t rows,
                  const od_range *ranges, size_t range_count, const float *initial, uint32_t relu,
                  float *out, size_t out_step, const od_dense_scratch *s) {
  if (layer->codec == OD_CODEC_Q8)
    dense_q8(layer, in, in_step, rows, ranges, range_count, initial, relu, out, out_step, s);
  else
    KERNEL_NAME(float_dense)(layer, in, in_step, rows, ranges, range_count, initial, relu, out,
                             out_step, s);
}
