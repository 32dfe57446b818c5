/* dense_body.h: dense layers, compiled once for every instruction set by the kernel files beside it.
 *
 * Takes lanes_body.h. Beyond what gather_body.h needs the including file defines vf_fma, vf_relu
 * and, for int8,
 *   q8_tile(m, n, layer, unit, list, count, codes, sums, positive, out)
 * which writes the int32 sums of m rows by n blocks of 16 outputs from `unit` on to
 * out[m][16 * n], over the listed groups of 4 features. Its constants: Q8_ROWS and Q8_BLOCKS (rows
 * and blocks at once in a batch), Q8_WIDE (blocks at once for a single row), and FLOAT_ROWS,
 * FLOAT_BLOCKS, FLOAT_WIDE likewise.
 *
 * `positive` says that no code of the rows is negative, as after ReLU.
 *
 * Zero inputs are skipped: what truncation and ReLU made zero costs nothing.
 */

enum { MOST_BLOCKS = 25 };

OD_INLINE uint32_t float_bits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  return bits;
}

OD_INLINE float bits_float(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

#ifndef HAS_LIST_WORDS
/* Numbers of the words that are not zero. */
OD_INLINE uint32_t list_words(const uint32_t *words, uint32_t count, uint16_t *list) {
  uint32_t listed = 0;
  for (uint32_t i = 0; i < count; i++) {
    list[listed] = (uint16_t)i;
    listed += words[i] != 0;
  }
  return listed;
}
#endif

typedef int8_t code_lanes __attribute__((vector_size(LANES)));

#define LARGER(a, b) larger(a, b)
#ifndef larger
OD_INLINE whole larger(whole a, whole b) { return (whole)pick(a > b, (lanes)a, (lanes)b); }
#endif
#define TOTAL(a, b) ((a) + (b))
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

OD_INLINE int32_t write_codes(const float *restrict in, uint32_t count, float inverse,
                              int8_t *restrict codes, int32_t *signs) {
  whole total = {0}, any = {0};
  uint32_t i = 0;
  for (; i + LANES <= count; i += LANES) {
    whole code = codes_of(load(in + i), inverse);
    code_lanes bytes = __builtin_convertvector(code, code_lanes);
    __builtin_memcpy(codes + i, &bytes, sizeof bytes);
    total += code, any |= code;
  }
  if (i < count) {
    whole code = codes_of(lanes_load(in + i, count - i), inverse);
    code_lanes bytes = __builtin_convertvector(code, code_lanes);
    for (uint32_t j = 0; i < count; i++, j++) codes[i] = bytes[j];
    total += code, any |= code;
  }
  JOIN_LANES(total, TOTAL)
  JOIN_LANES(any, EITHER)
  *signs |= any[0];
  return total[0];
}

/* Bits of a row's largest magnitude over the columns that count. */
OD_INLINE int32_t largest_of_row(const float *in, const od_range *ranges, size_t range_count) {
  int32_t largest = 0;
  for (size_t r = 0; r < range_count; r++) {
    int32_t bits = largest_bits(in + ranges[r].start, ranges[r].stop - ranges[r].start);
    largest = largest > bits ? largest : bits;
  }
  return largest;
}

/* Symmetric int8 codes of one row: scale = largest magnitude / 127, code = round-half-even(x *
 * (127 / largest)). A row with NaN or infinity gets the scale NaN. */
OD_INLINE float quantise(const float *in, const od_range *ranges, size_t range_count,
                         uint32_t padded, int32_t largest, int8_t *codes, int32_t *sum,
                         int32_t *signs) {
  int32_t total = 0;
  float magnitude = bits_float((uint32_t)largest);
  int usable = largest < 0x7f800000 && magnitude >= OD_LEAST_MAGNITUDE;
  if (!usable || range_count != 1 || ranges[0].stop - ranges[0].start != padded)
    od_zero(codes, padded);
  if (usable) {
    float inverse = 127.0f / magnitude;
    for (size_t r = 0; r < range_count; r++) {
      uint32_t start = ranges[r].start;
      total += write_codes(in + start, ranges[r].stop - start, inverse, codes + start, signs);
    }
  }
  *sum = total;
  if (largest >= 0x7f800000) return bits_float(0x7fc00000u);
  return usable ? magnitude / 127.0f : 0;
}

/* Codes of a tile's rows. First all magnitudes: within a row each step waits for the last one. */
static void quantise_tile(const float *in, size_t in_step, uint32_t rows, const od_range *ranges,
                          size_t range_count, uint32_t padded, size_t row,
                          const od_dense_scratch *s) {
  int32_t largest[OD_TILE_ROWS], signs = 0;
  for (uint32_t r = 0; r < rows; r++)
    largest[r] = largest_of_row(in + r * in_step, ranges, range_count);
  for (uint32_t r = 0; r < rows; r++)
    s->scales[row + r] = quantise(in + r * in_step, ranges, range_count, padded, largest[r],
                                  s->codes + (row + r) * padded, &s->sums[row + r], &signs);
  s->positive[row / OD_TILE_ROWS] = signs >= 0;
}

/* Groups of 4 features in which one of the rows has a code that is not zero. */
static uint32_t list_groups(const int8_t *codes, size_t step, uint32_t rows, uint32_t groups,
                            uint16_t *list) {
  enum { PIECE = 256 };
  uint32_t words[PIECE], count = 0;
  for (uint32_t start = 0; start < groups; start += PIECE) {
    uint32_t piece = groups - start < PIECE ? groups - start : PIECE;
    od_copy(words, codes + 4 * (size_t)start, 4 * (size_t)piece);
    for (uint32_t r = 1; r < rows; r++) {
      const int8_t *row = codes + r * step + 4 * (size_t)start;
      for (uint32_t g = 0; g < piece; g++) words[g] |= od_load32(row + 4 * g);
    }
    uint32_t listed = list_words(words, piece, list + count);
    for (uint32_t i = 0; start && i < listed; i++)
      list[count + i] = (uint16_t)(list[count + i] + start);
    count += listed;
  }
  return count;
}

/* Features in which one of the rows is not zero. */
static uint32_t list_features(const float *in, size_t step, uint32_t rows, const od_range *ranges,
                              size_t range_count, uint16_t *restrict list) {
  enum { PIECE = 256 };
  uint32_t words[PIECE], count = 0;
  for (size_t r = 0; r < range_count; r++)
    for (uint32_t start = ranges[r].start; start < ranges[r].stop; start += PIECE) {
      uint32_t piece = ranges[r].stop - start < PIECE ? ranges[r].stop - start : PIECE;
      for (uint32_t i = 0; i < piece; i++) words[i] = float_bits(in[start + i]) << 1;
      for (uint32_t row = 1; row < rows; row++)
        for (uint32_t i = 0; i < piece; i++)
          words[i] |= float_bits(in[row * step + start + i]) << 1;
      uint32_t listed = list_words(words, piece, list + count);
      for (uint32_t i = 0; start && i < listed; i++)
        list[count + i] = (uint16_t)(list[count + i] + start);
      count += listed;
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
  int32_t code_sums[Q8_ROWS];
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

OD_INLINE vf load_weights(const od_dense *layer, size_t at, int half) {
  if (half) return vf_load_f16((const uint8_t *)layer->weight + 2 * at);
  return vf_load((const float *)layer->weight + at);
}

/* Where a tile's results begin, and where they go. */
typedef struct {
  const float *initial;
  float *out;
  size_t step;
} float_end;

/* m rows by n blocks of 16 outputs, kept in registers; activations follow (float_block). */
OD_INLINE void float_tile(uint32_t m, uint32_t n, int half, const od_dense *layer, uint32_t unit,
                          const uint16_t *list, uint32_t count, const float *const *in,
                          const float_end *end) {
  enum { PARTS = 16 / VW };
  vf sums[FLOAT_ROWS][MOST_BLOCKS * PARTS];
  OD_UNROLL(8) for (uint32_t r = 0; r < m; r++)
    OD_UNROLL(64) for (uint32_t j = 0; j < n * PARTS; j++) sums[r][j] =
        vf_load(end->initial + j * VW);
  for (uint32_t i = 0; i < count; i++) {
    size_t at = (size_t)list[i] * layer->padded_units + unit;
    vf values[FLOAT_ROWS];
    OD_UNROLL(8) for (uint32_t r = 0; r < m; r++) values[r] = vf_set1(in[r][list[i]]);
    OD_UNROLL(64) for (uint32_t j = 0; j < n * PARTS; j++) {
      vf weights = load_weights(layer, at + j * VW, half);
      OD_UNROLL(8) for (uint32_t r = 0; r < m; r++) sums[r][j] =
          vf_fma(values[r], weights, sums[r][j]);
    }
  }
  OD_UNROLL(8) for (uint32_t r = 0; r < m; r++)
    OD_UNROLL(64) for (uint32_t j = 0; j < n * PARTS; j++)
      vf_store(end->out + r * end->step + j * VW, sums[r][j]);
}

#define FLOAT_ARGUMENTS layer, unit, list, count, in, end
static void float_tiles(uint32_t m, uint32_t n, int half, const od_dense *layer, uint32_t unit,
                        const uint16_t *list, uint32_t count, const float *const *in,
                        const float_end *end) {
#define F32_TILE(m, n, ...) float_tile(m, n, 0, __VA_ARGS__)
#define F16_TILE(m, n, ...) float_tile(m, n, 1, __VA_ARGS__)
  if (half) {
    switch (m * 64 + n) {
      OD_SIZES(F16_TILE, 1, FLOAT_WIDE, FLOAT_ARGUMENTS)
      OD_WIDE_SIZES(F16_TILE, FLOAT_WIDE, FLOAT_ARGUMENTS)
#if FLOAT_ROWS >= 2
      OD_SIZES(F16_TILE, 2, FLOAT_BLOCKS, FLOAT_ARGUMENTS)
#endif
#if FLOAT_ROWS >= 6
      OD_SIZES(F16_TILE, 6, FLOAT_BLOCKS, FLOAT_ARGUMENTS)
#endif
    }
  } else {
    switch (m * 64 + n) {
      OD_SIZES(F32_TILE, 1, FLOAT_WIDE, FLOAT_ARGUMENTS)
      OD_WIDE_SIZES(F32_TILE, FLOAT_WIDE, FLOAT_ARGUMENTS)
#if FLOAT_ROWS >= 2
      OD_SIZES(F32_TILE, 2, FLOAT_BLOCKS, FLOAT_ARGUMENTS)
#endif
#if FLOAT_ROWS >= 6
      OD_SIZES(F32_TILE, 6, FLOAT_BLOCKS, FLOAT_ARGUMENTS)
#endif
    }
  }
}

static void float_block(const od_dense *layer, uint32_t unit, uint32_t m, uint32_t n,
                        const float *in, size_t in_step, uint32_t rows, const uint16_t *list,
                        uint32_t count, const float *initial, uint32_t relu, float *out,
                        size_t out_step) {
  float room[FLOAT_ROWS * FLOAT_BLOCKS > FLOAT_WIDE ? FLOAT_ROWS * FLOAT_BLOCKS * 16
                                                    : FLOAT_WIDE * 16] __attribute__((aligned(64)));
  const float *at[FLOAT_ROWS] = {0};
  uint32_t width = n * 16, units = layer->units - unit < width ? layer->units - unit : width;
  int whole = rows == m && units == width; /* else there is no room for all results */
  float_end end = {initial + unit, whole ? out + unit : room, whole ? out_step : width};
  for (uint32_t r = 0; r < m; r++) at[r] = in + (r < rows ? r : rows - 1) * in_step;
  float_tiles(m, n, layer->codec == OD_CODEC_F16, layer, unit, list, count, at, &end);
  for (uint32_t r = 0; relu && r < rows; r++)
    for (float *p = end.out + r * end.step, *stop = p + width; p < stop; p += VW)
      vf_store(p, vf_relu(vf_load(p)));
  for (uint32_t r = 0; !whole && r < rows; r++)
    for (uint32_t i = 0; i < units; i++) out[r * out_step + unit + i] = room[r * width + i];
}

/* How many rows a kernel takes for `left` rows: 1, 2 or as many as it can. */
OD_INLINE uint32_t rows_at_once(uint32_t left, uint32_t most) {
  if (left >= most) return most;
  return left <= 2 ? left : most;
}

static void dense(const od_dense *layer, const float *in, size_t in_step, size_t rows,
                  const od_range *ranges, size_t range_count, const float *initial, uint32_t relu,
                  float *out, size_t out_step, const od_dense_scratch *s) {
  int integer = layer->codec == OD_CODEC_Q8;
  uint32_t padded = integer ? od_padded(layer->features, OD_FEATURE_GROUP) : layer->features;
  size_t tiles = (rows + OD_TILE_ROWS - 1) / OD_TILE_ROWS;
  for (size_t t = 0; t < tiles; t++) {
    size_t row = t * OD_TILE_ROWS;
    uint32_t tile_rows = rows - row < OD_TILE_ROWS ? (uint32_t)(rows - row) : OD_TILE_ROWS;
    uint16_t *list = s->lists + t * OD_LIST_ROOM(padded);
    if (integer)
      quantise_tile(in + row * in_step, in_step, tile_rows, ranges, range_count, padded, row, s);
    s->counts[t] = integer
                       ? list_groups(s->codes + row * padded, padded, tile_rows, padded / 4, list)
                       : list_features(in + row * in_step, in_step, tile_rows, ranges, range_count,
                                       list);
  }
  uint32_t wide = integer ? Q8_WIDE : FLOAT_WIDE, at_once = integer ? Q8_ROWS : FLOAT_ROWS;
  uint32_t most = rows == 1 ? wide : integer ? Q8_BLOCKS : FLOAT_BLOCKS;
  uint32_t blocks = layer->padded_units / 16;
  if (most == MOST_BLOCKS && blocks != MOST_BLOCKS) most = 13; /* no tile has a size between */
  uint32_t panels = (blocks + most - 1) / most; /* of nearly equal size */
  for (uint32_t p = 0, block = 0; p < panels; p++) {
    uint32_t n = (blocks - block + panels - p - 1) / (panels - p);
    for (size_t t = 0; t < tiles; t++) {
      const uint16_t *list = s->lists + t * OD_LIST_ROOM(padded);
      size_t end = (t + 1) * OD_TILE_ROWS < rows ? (t + 1) * OD_TILE_ROWS : rows;
      for (size_t row = t * OD_TILE_ROWS; row < end;) {
        uint32_t m = rows_at_once((uint32_t)(end - row), at_once);
        uint32_t block_rows = end - row < m ? (uint32_t)(end - row) : m;
        if (integer)
          q8_block(layer, block * 16, m, n, s, (uint32_t)row, list, s->counts[t], padded,
                   block_rows, initial, relu, out + row * out_step, out_step);
        else
          float_block(layer, block * 16, m, n, in + row * in_step, in_step, block_rows, list,
                      s->counts[t], initial, relu, out + row * out_step, out_step);
        row += block_rows;
      }
    }
    block += n;
  }
}
