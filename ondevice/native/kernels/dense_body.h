/* dense_body.h: q8 dense layers, and the way to those of float_body.h, compiled once for every
 * instruction set.
 *
 * Takes tiles_body.h and the function of float_body.h. The including file defines
 *   q8_tile(m, n, layer, unit, list, count, codes, sums, positive, out)
 * which writes the int32 sums of m rows by n blocks of 16 outputs from `unit` on to
 * out[m][16 * n], over the listed groups of 4 features. Its constants: Q8_ROWS and Q8_BLOCKS (rows
 * and blocks at once in a batch), Q8_WIDE (blocks at once for a single row). With STRIPS it has
 * strips_body.h in place of tiles.
 *
 * `positive` says that no code of the rows is negative, as after ReLU. `sums` are those of the rows'
 * codes where it does not and the file has sum_codes(codes, count).
 *
 * Zero inputs are skipped: what truncation and ReLU made zero costs nothing.
 */

#ifndef STRIPS
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
#if Q8_ROWS == 6
    OD_TALL_SIZES(q8_tile, 3, Q8_BLOCKS, Q8_ARGUMENTS)
    OD_TALL_SIZES(q8_tile, 5, Q8_BLOCKS, Q8_ARGUMENTS)
    OD_SIZES(q8_tile, 6, Q8_BLOCKS, Q8_ARGUMENTS)
#endif
#if Q8_ROWS == 6
    OD_TALL_SIZES(q8_tile, 4, Q8_BLOCKS, Q8_ARGUMENTS)
#elif Q8_ROWS == 4
    OD_SIZES(q8_tile, 4, Q8_BLOCKS, Q8_ARGUMENTS)
#endif
  }
}

#endif

typedef int8_t code_lanes __attribute__((vector_size(LANES)));

#define LARGER(a, b) larger(a, b)
#ifndef larger
OD_INLINE whole larger(whole a, whole b) { return (whole)pick(a > b, (lanes)a, (lanes)b); }
#endif

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

/* Tiles and rows whose scales are computed together: whole vectors of rows. */
enum { TILES = 8, TOGETHER = TILES * OD_TILE_ROWS };

/* Symmetric int8 codes: scale = largest magnitude / 127, code = round-half-even(x * (127 / largest)).
 * A row with NaN or infinity gets the scale NaN. Writes the scales of up to TOGETHER rows and
 * 127 / largest, 0 where it is not finite. First all magnitudes: within a row each step waits for
 * the last one. */
static __attribute__((noinline)) void scale_rows(const float *in, size_t in_step, uint32_t rows, const od_range *ranges,
                       size_t range_count, float *inverses, float *scales) {
  int32_t largest[TOGETHER];
  for (uint32_t r = 0; r < rows; r++) {
    largest[r] = 0;
    for (size_t i = 0; i < range_count; i++) {
      int32_t bits = largest_bits(in + r * in_step + ranges[i].start, ranges[i].stop - ranges[i].start);
      largest[r] = largest[r] > bits ? largest[r] : bits;
    }
  }
  for (uint32_t r = 0; r < rows; r += LANES) {
    whole bits = (whole){0} + largest[0]; /* of one row: what was just written is not read back */
    if (rows > 1) __builtin_memcpy(&bits, largest + r, sizeof bits);
    lanes size = (lanes)bits;
    whole finite = bits < 0x7f800000, usable = finite & (size >= OD_LEAST_MAGNITUDE);
    lanes scale = (lanes)(usable & (whole)(size / 127.0f));
    store(inverses + r, (lanes)(usable & (whole)(127.0f / size)));
    put(scales + r, pick(finite, scale, all(__builtin_nanf(""))), rows - r);
  }
}

/* Returns whether no code is negative. */
static int quantise_tile(const float *in, size_t in_step, uint32_t rows, const od_range *ranges,
                         size_t range_count, uint32_t padded, size_t row, const float *inverses,
                         const od_dense_scratch *s) {
  int8_t *codes = s->codes + row * padded;
  whole any = {0};
  if (range_count != 1 || ranges->start || ranges->stop + OD_FEATURE_GROUP <= padded)
    od_zero(codes, (size_t)rows * padded);
  for (uint32_t r = 0; r < rows; r++)
    for (size_t i = 0; i < range_count; i++)
      write_codes(in + r * in_step + ranges[i].start, ranges[i].stop - ranges[i].start, inverses[r],
                  codes + r * padded + ranges[i].start, &any);
  JOIN_LANES(any, EITHER)
#ifdef HAS_SUM_CODES
  for (uint32_t r = 0; (any[0] < 0 || rows < Q8_ROWS) && r < rows; r++)
    s->sums[row + r] = sum_codes(codes + r * padded, padded);
#endif
  return any[0] >= 0;
}

/* Groups of 4 features in which one of the rows has a code that is not zero. */
static uint32_t list_groups(const int8_t *codes, size_t step, uint32_t rows, uint32_t groups,
                            uint16_t *list) {
  uint32_t words[OD_PIECE], count = 0;
  for (uint32_t start = 0; start < groups; start += OD_PIECE) {
    uint32_t piece = groups - start < OD_PIECE ? groups - start : OD_PIECE;
    for (uint32_t i = 0; i < piece; i += LANES) {
      whole any = {0}, next;
      for (uint32_t r = 0; r < rows; r++) { /* behind the last row is room */
        __builtin_memcpy(&next, codes + r * step + 4 * (size_t)(start + i), sizeof next);
        any |= next;
      }
      __builtin_memcpy(words + i, &any, sizeof any);
    }
    count += list_words(words, piece, start, list + count);
  }
  return count;
}

/* Sums as results: a vector of outputs at a time, for all rows. */
static __attribute__((noinline)) void write_sums(const int32_t *sums, uint32_t width, const float *row_scales, uint32_t rows,
                       const float *unit_scales, const float *initial, uint32_t relu,
                       uint32_t units, float *out, size_t out_step) {
  lanes least = all(relu ? 0 : -__builtin_inff()); /* NaN stays */
  for (uint32_t i = 0; i < units; i += LANES) {
    lanes scale = load(unit_scales + i), begin = load(initial + i);
    float *to = out + i;
    const int32_t *from = sums + i;
    for (uint32_t r = 0; r < rows; r++, from += width, to += out_step) {
      whole sum;
      __builtin_memcpy(&sum, from, sizeof sum);
      lanes result = __builtin_convertvector(sum, lanes) * (row_scales[r] * scale) + begin;
      result = lanes_max(least, result);
      if (i + LANES <= units) store(to, result);
      else lanes_store(to, result, units - i);
    }
  }
}

#ifndef STRIPS
static void q8_block(const od_dense *layer, uint32_t unit, uint32_t m, uint32_t n,
                     const od_dense_scratch *s, uint32_t row, const uint16_t *list, uint32_t count,
                     int positive, uint32_t padded, uint32_t rows, const float *initial,
                     uint32_t relu, float *out, size_t out_step) {
  int32_t sums[Q8_ROWS * Q8_BLOCKS > Q8_WIDE ? Q8_ROWS * Q8_BLOCKS * 16 : Q8_WIDE * 16]
      __attribute__((aligned(64)));
  const int8_t *codes[Q8_ROWS] = {0};
  int32_t code_sums[Q8_ROWS] = {0};
  for (uint32_t r = 0; r < m; r++) { /* rows beyond the last repeat it */
    uint32_t at = row + (r < rows ? r : rows - 1);
    codes[r] = s->codes + (size_t)at * padded;
    code_sums[r] = s->sums[at];
  }
  q8_tiles(m, n, layer, unit, list, count, codes, code_sums, positive, sums);
  uint32_t width = n * 16, units = layer->units - unit < width ? layer->units - unit : width;
  write_sums(sums, width, s->scales + row, rows, layer->scale + unit, initial + unit, relu, units,
             out + unit, out_step);
}

#endif

/* The first row of a tile: tiles are of nearly equal size, the largest first, since it brings the weights
 * to a nearer cache. Without a division for a single tile. */
OD_INLINE size_t tile_start(size_t tile, size_t tiles, size_t rows) {
  if (tile == 0) return 0;
  return tile == tiles ? rows : (rows * tile + tiles - 1) / tiles;
}

/* Quantise all rows, and list the groups of each tile that are not zero; returns from one list to the
 * next, 0 where all tiles have the first. */
static size_t quantise(const od_dense *layer, const float *in, size_t in_step, size_t rows,
                       const od_range *ranges, size_t range_count, const od_dense_scratch *s) {
  uint32_t padded = od_padded(layer->features, OD_FEATURE_GROUP), groups = padded / 4;
  size_t tiles = (rows + OD_TILE_ROWS - 1) / OD_TILE_ROWS, room = OD_LIST_ROOM(padded);
  int narrow = rows > 2 && layer->padded_units / 16 <= OD_NARROW;
  float inverses[TOGETHER];
  if (s->quantised) return narrow && s->counts[0] == groups ? 0 : room;
  for (size_t t = 0, first = 0; t < tiles; t++) {
    size_t row = tile_start(t, tiles, rows);
    uint32_t tile_rows = (uint32_t)(tile_start(t + 1, tiles, rows) - row);
    const float *from = in + row * in_step;
    if (t % TILES == 0) {
      size_t end = tile_start(t + TILES < tiles ? t + TILES : tiles, tiles, rows);
      first = row;
      scale_rows(from, in_step, (uint32_t)(end - row), ranges, range_count, inverses, s->scales + row);
    }
    s->positive[t] = (uint8_t)quantise_tile(from, in_step, tile_rows, ranges, range_count, padded,
                                            row, inverses + (row - first), s);
    s->counts[t] = room ? list_groups(s->codes + row * padded, padded, tile_rows, groups,
                                      s->lists + t * room)
                        : groups;
    if (t || !narrow || s->counts[0] < groups - groups / 4) continue;
    room = 0; /* few zeros in the first tile: no search in the others */
    s->counts[0] = groups;
    od_list_numbers(0, groups, s->lists);
  }
  return room;
}

/* A layer with one output: codes are whole numbers in float32, and so are a piece's sums. */
static void dense_single_q8(const od_dense *layer, const float *in, size_t in_step, size_t rows,
                            const od_range *ranges, size_t range_count, const float *initial,
                            uint32_t relu, float *out, size_t out_step, const od_dense_scratch *s) {
  float weights[OD_PIECE + OD_PANEL], inverses[TOGETHER];
  int32_t sums[TOGETHER + LANES]; /* vectors are read from each */
  for (size_t first = 0; first < rows; first += TOGETHER) {
    uint32_t some = rows - first < TOGETHER ? (uint32_t)(rows - first) : TOGETHER;
    scale_rows(in, in_step, some, ranges, range_count, inverses, s->scales + first);
    od_zero(sums, sizeof sums);
    for (size_t i = 0; i < range_count; i++)
      for (uint32_t start = ranges[i].start; start < ranges[i].stop; start += OD_PIECE) {
        uint32_t left = ranges[i].stop - start, count = left < OD_PIECE ? left : OD_PIECE;
        od_single_weights(layer, start, count, weights);
        for (uint32_t r = 0; r < some; r++) {
          const float *row = in + r * in_step + start;
          lanes sum = {0};
          for (uint32_t j = 0; j < count; j += LANES) {
            lanes code = part(row + j, count - j, all(0)) * inverses[r];
            sum = sum + ((code + 12582912.0f) - 12582912.0f) * load(weights + j);
          }
          JOIN_LANES(sum, TOTAL)
          sums[r] += (int32_t)sum[0];
        }
      }
    write_sums(sums, 1, s->scales + first, some, layer->scale, initial, relu, 1, out, out_step);
    in += some * in_step, out += some * out_step;
  }
}

#ifdef STRIPS
#include "strips_body.h"
#else
static void dense_q8(const od_dense *layer, const float *in, size_t in_step, size_t rows,
                     const od_range *ranges, size_t range_count, const float *initial,
                     uint32_t relu, float *out, size_t out_step, const od_dense_scratch *s) {
  uint32_t padded = od_padded(layer->features, OD_FEATURE_GROUP);
  uint32_t blocks = layer->padded_units / 16, most = rows == 1 ? Q8_WIDE : Q8_BLOCKS;
  size_t tiles = (rows + OD_TILE_ROWS - 1) / OD_TILE_ROWS;
  size_t room = quantise(layer, in, in_step, rows, ranges, range_count, s);
  for (uint32_t block = 0, n; block < blocks; block += n) {
    n = od_tile_blocks(blocks - block, most);
    for (size_t t = 0; t < tiles; t++) {
      size_t end = tile_start(t + 1, tiles, rows);
      for (size_t row = tile_start(t, tiles, rows); row < end;) {
        uint32_t left = (uint32_t)(end - row), m = rows_at_once(left, Q8_ROWS);
        if (Q8_ROWS == 6 && (n > 2 || Q8_BLOCKS == 1)) m = left; /* a tile of each size */
        uint32_t block_rows = left < m ? left : m;
        q8_block(layer, block * 16, m, n, s, (uint32_t)row, s->lists + t * room, s->counts[t],
                 s->positive[t], padded, block_rows, initial, relu, out + row * out_step, out_step);
        row += block_rows;
      }
    }
  }
}

#endif

static void dense(const od_dense *layer, const float *in, size_t in_step, size_t rows,
                  const od_range *ranges, size_t range_count, const float *initial, uint32_t relu,
                  float *out, size_t out_step, const od_dense_scratch *s) {
  if (layer->codec == OD_CODEC_Q8 && layer->units == 1)
    dense_single_q8(layer, in, in_step, rows, ranges, range_count, initial, relu, out, out_step, s);
#ifdef STRIPS
  else if (layer->units == 1)
    dense_single(layer, in, in_step, rows, ranges, range_count, initial[0], relu, out, out_step);
  else
    dense_strips(layer, in, in_step, rows, ranges, range_count, initial, relu, out, out_step, s);
#else
  else if (layer->codec == OD_CODEC_Q8)
    dense_q8(layer, in, in_step, rows, ranges, range_count, initial, relu, out, out_step, s);
  else
    KERNEL_NAME(float_dense)(layer, in, in_step, rows, ranges, range_count, initial, relu, out,
                             out_step, s);
#endif
}
