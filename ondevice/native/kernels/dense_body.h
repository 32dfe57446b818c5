/* dense_body.h: dense layers, compiled once for every instruction set by the kernel files beside it.
 *
 * Takes lanes_body.h. Beyond what gather_body.h needs the including file defines vf_fma, vf_least
 * (the larger of two, or the second where it is NaN) and, for int8,
 *   q8_tile(m, n, layer, unit, list, count, codes, sums, positive, out)
 * which writes the int32 sums of m rows by n blocks of 16 outputs from `unit` on to
 * out[m][16 * n], over the listed groups of 4 features. Its constants: Q8_ROWS and Q8_BLOCKS (rows
 * and blocks at once in a batch), Q8_WIDE (blocks at once for a single row), and FLOAT_ROWS,
 * FLOAT_BLOCKS, FLOAT_WIDE likewise, and FLOAT_TALL where there are registers for twice as many rows
 * of that many blocks.
 *
 * `positive` says that no code of the rows is negative, as after ReLU. `sums` are those of the rows'
 * codes where it does not and the file has sum_codes(codes, count).
 *
 * Zero inputs are skipped: what truncation and ReLU made zero costs nothing.
 */

enum { MOST_BLOCKS = 25, PARTS_OF_16 = 16 / VW };

#ifdef FLOAT_TALL
enum { MOST_ROWS = 2 * FLOAT_ROWS };
#else
#define FLOAT_TALL 0
enum { MOST_ROWS = FLOAT_ROWS };
#endif

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

enum { PIECE = 256 }; /* words at once */

/* Numbers from `start` on of words that are not zero, behind the numbers that the list has. */
OD_INLINE uint32_t list_piece(const uint32_t *words, uint32_t count, uint32_t start, uint16_t *list,
                              uint32_t listed) {
  uint32_t more = list_words(words, count, list + listed);
  for (uint32_t i = 0; start && i < more; i++)
    list[listed + i] = (uint16_t)(list[listed + i] + start);
  return listed + more;
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

/* Features in which one of the rows is not zero. */
static uint32_t list_features(const float *in, size_t step, uint32_t rows, const od_range *ranges,
                              size_t range_count, uint16_t *restrict list) {
  uint32_t words[PIECE], count = 0;
  for (size_t r = 0; r < range_count; r++)
    for (uint32_t start = ranges[r].start; start < ranges[r].stop; start += PIECE) {
      uint32_t piece = ranges[r].stop - start < PIECE ? ranges[r].stop - start : PIECE;
      for (uint32_t i = 0; i < piece; i += LANES) {
        whole any = {0};
        for (uint32_t row = 0; row < rows; row++)
          any |= (whole)part(in + row * step + start + i, piece - i, all(0));
        any <<= 1; /* without the sign */
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

OD_INLINE vf load_weights(const od_dense *layer, size_t at, int half) {
  if (half) return vf_load_f16((const uint8_t *)layer->weight + 2 * at);
  return vf_load((const float *)layer->weight + at);
}

/* Where a tile's results begin, the smallest that they may be, and where they go. in_step: from row to
 * row of the input. */
typedef struct {
  size_t in_step;
  const float *initial;
  float least;
  float *out;
  size_t step;
} float_end;

/* m rows by n blocks of 16 outputs, kept in registers. */
OD_INLINE void float_tile(uint32_t m, uint32_t n, int half, const od_dense *layer, uint32_t unit,
                          const uint16_t *list, uint32_t count, const float *const *in,
                          const float_end *end) {
  vf sums[MOST_ROWS][MOST_BLOCKS * PARTS_OF_16], least = vf_set1(end->least);
  size_t in_step = end->in_step;
  OD_UNROLL(16) for (uint32_t r = 0; r < m; r++)
    OD_UNROLL(64) for (uint32_t j = 0; j < n * PARTS_OF_16; j++) sums[r][j] =
        vf_load(end->initial + j * VW);
  for (uint32_t i = 0; i < count; i++) {
    size_t at = (size_t)list[i] * layer->padded_units + unit;
    vf weights[MOST_BLOCKS * PARTS_OF_16];
    OD_UNROLL(64) for (uint32_t j = 0; j < n * PARTS_OF_16; j++) weights[j] =
        load_weights(layer, at + j * VW, half);
    OD_UNROLL(16) for (uint32_t r = 0; r < m; r++) {
      const float *from = in[r] + list[i];
      if (m == 2 * FLOAT_ROWS) /* addresses of three rows from one register */
        from = in[r - r % 3] + list[i] + r % 3 * in_step;
      vf value = vf_set1(*from);
      OD_UNROLL(64) for (uint32_t j = 0; j < n * PARTS_OF_16; j++) sums[r][j] =
          vf_fma(value, weights[j], sums[r][j]);
    }
  }
  OD_UNROLL(16) for (uint32_t r = 0; r < m; r++)
    OD_UNROLL(64) for (uint32_t j = 0; j < n * PARTS_OF_16; j++)
      vf_store(end->out + r * end->step + j * VW, vf_least(least, sums[r][j]));
}

#define FLOAT_ARGUMENTS layer, unit, list, count, in, end
static void float_tiles(uint32_t m, uint32_t n, int half, const od_dense *layer, uint32_t unit,
                        const uint16_t *list, uint32_t count, const float *const *in,
                        const float_end *end) {
#define F32_TILE(m, n, ...) float_tile(m, n, 0, __VA_ARGS__)
#define F16_TILE(m, n, ...) float_tile(m, n, 1, __VA_ARGS__)
  if (half) {
    switch (m * 64 + n) {
      OD_SIZES(F16_TILE, 1, FLOAT_BLOCKS, FLOAT_ARGUMENTS)
#if FLOAT_ROWS == 2
      OD_SIZES(F16_TILE, 2, FLOAT_BLOCKS, FLOAT_ARGUMENTS)
#else
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
#if FLOAT_TALL
      OD_SIZES(F32_TILE, 12, FLOAT_TALL, FLOAT_ARGUMENTS)
#endif
    }
  }
}

/* Results that have no room for a whole tile, from the room that they have been given. */
static void copy_block(const float *room, uint32_t width, uint32_t rows, uint32_t units, float *out,
                       size_t out_step) {
  for (uint32_t r = 0; r < rows; r++, room += width, out += out_step)
    for (uint32_t i = 0; i < units; i += LANES) put(out + i, load(room + i), units - i);
}

static void float_block(const od_dense *layer, uint32_t unit, uint32_t m, uint32_t n,
                        const float *in, size_t in_step, uint32_t rows, const uint16_t *list,
                        uint32_t count, const float *initial, uint32_t relu, float *out,
                        size_t out_step) {
  float room[MOST_ROWS * FLOAT_BLOCKS > FLOAT_WIDE ? MOST_ROWS * FLOAT_BLOCKS * 16
                                                   : FLOAT_WIDE * 16] __attribute__((aligned(64)));
  const float *at[MOST_ROWS] = {0};
  uint32_t width = n * 16, units = layer->units - unit < width ? layer->units - unit : width;
  int whole = rows == m && units == width;
  float_end end = {in_step, initial + unit, relu ? 0 : -__builtin_inff(), whole ? out + unit : room,
                   whole ? out_step : width};
  for (uint32_t r = 0; r < m; r++) at[r] = in + (r < rows ? r : rows - 1) * in_step;
  float_tiles(m, n, layer->codec == OD_CODEC_F16, layer, unit, list, count, at, &end);
  if (!whole) copy_block(room, width, rows, units, out + unit, out_step);
}

/* How many rows a kernel takes for `left` rows: 1, 2 or as many as it can. */
OD_INLINE uint32_t rows_at_once(uint32_t left, uint32_t most) {
  if (left >= most) return most;
  return left <= 2 ? left : most;
}

/* Where many rows meet at most so many blocks of outputs, looking for zeros costs more than it
 * saves. */
enum { NARROW = 8 };

static void dense_q8(const od_dense *layer, const float *in, size_t in_step, size_t rows,
                     const od_range *ranges, size_t range_count, const float *initial,
                     uint32_t relu, float *out, size_t out_step, const od_dense_scratch *s) {
  uint32_t padded = od_padded(layer->features, OD_FEATURE_GROUP);
  uint32_t blocks = layer->padded_units / 16, most = rows == 1 ? Q8_WIDE : Q8_BLOCKS;
  size_t tiles = (rows + OD_TILE_ROWS - 1) / OD_TILE_ROWS, room = OD_LIST_ROOM(padded);
  int all = rows > 2 && blocks <= NARROW;
  for (uint32_t g = 0; all && g < padded / 4; g++) s->lists[g] = (uint16_t)g;
  if (all) room = 0;
  for (size_t t = 0; t < tiles; t++) {
    size_t row = t * OD_TILE_ROWS;
    uint32_t tile_rows = rows - row < OD_TILE_ROWS ? (uint32_t)(rows - row) : OD_TILE_ROWS;
    quantise_tile(in + row * in_step, in_step, tile_rows, ranges, range_count, padded, row, s);
    s->counts[t] = all ? padded / 4
                       : list_groups(s->codes + row * padded, padded, tile_rows, padded / 4,
                                     s->lists + t * room);
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

/* A layer with one output: products along the features, whose sums add up as in vectors.h. */
static void dense_single(const od_dense *layer, const float *in, size_t in_step, size_t rows,
                         const od_range *ranges, size_t range_count, float initial, uint32_t relu,
                         float *out, size_t out_step) {
  float weights[PIECE];
  for (size_t row = 0; row < rows; row++) out[row * out_step] = initial;
  for (size_t r = 0; r < range_count; r++)
    for (uint32_t start = ranges[r].start; start < ranges[r].stop; start += PIECE) {
      uint32_t count = ranges[r].stop - start < PIECE ? ranges[r].stop - start : PIECE;
      for (uint32_t i = 0; i < count; i++) {
        size_t at = (size_t)(start + i) * layer->padded_units;
        weights[i] = layer->codec == OD_CODEC_F16
                         ? half_value(od_load16((const uint8_t *)layer->weight + 2 * at))
                         : ((const float *)layer->weight)[at];
      }
      for (size_t row = 0; row < rows; row++) {
        const float *from = in + row * in_step + start;
        lanes sums[PARTS] = {{0}};
        uint32_t i = 0;
        for (; i + SUMS <= count; i += SUMS)
          for (int j = 0; j < PARTS; j++)
            sums[j] = sums[j] + load(from + i + j * LANES) * load(weights + i + j * LANES);
        for (int j = 0; i < count; i += LANES, j++)
          sums[j] = sums[j] + part(from + i, count - i, all(0)) * part(weights + i, count - i, all(0));
        JOIN_PARTS(sum, sums, TOTAL)
        out[row * out_step] += sum[0];
      }
    }
  for (size_t row = 0; relu && row < rows; row++)
    if (out[row * out_step] < 0) out[row * out_step] = 0;
}

/* All features that count. */
static uint32_t list_all(const od_range *ranges, size_t range_count, uint16_t *list) {
  uint32_t count = 0;
  for (size_t r = 0; r < range_count; r++)
    for (uint32_t i = ranges[r].start; i < ranges[r].stop; i++) list[count++] = (uint16_t)i;
  return count;
}

static void dense_float(const od_dense *layer, const float *in, size_t in_step, size_t rows,
                        const od_range *ranges, size_t range_count, const float *initial,
                        uint32_t relu, float *out, size_t out_step, const od_dense_scratch *s) {
  int half = layer->codec == OD_CODEC_F16; /* which has fewer sizes of tiles */
  uint32_t blocks = layer->padded_units / 16;
  uint32_t most = rows == 1 && !half ? FLOAT_WIDE : FLOAT_BLOCKS;
  size_t tile_rows = rows > 2 && blocks <= NARROW ? rows : OD_TILE_ROWS;
  size_t tiles = (rows + tile_rows - 1) / tile_rows;
  for (size_t t = 0; t < tiles; t++) {
    size_t row = t * OD_TILE_ROWS, left = rows - row < OD_TILE_ROWS ? rows - row : OD_TILE_ROWS;
    uint16_t *list = s->lists + t * OD_LIST_ROOM(layer->features);
    s->counts[t] = tile_rows != OD_TILE_ROWS
                       ? list_all(ranges, range_count, list)
                       : list_features(in + row * in_step, in_step, (uint32_t)left, ranges,
                                       range_count, list);
  }
  for (uint32_t block = 0, n; block < blocks; block += n) {
    n = od_tile_blocks(blocks - block, most);
    for (size_t t = 0; t < tiles; t++) {
      size_t end = (t + 1) * tile_rows < rows ? (t + 1) * tile_rows : rows;
      for (size_t row = t * tile_rows, m; row < end; row += m) {
        m = rows_at_once((uint32_t)(end - row), FLOAT_ROWS);
        if (half && m > 1) m = FLOAT_ROWS;
        else if (FLOAT_TALL && n <= FLOAT_TALL && end - row >= MOST_ROWS) m = MOST_ROWS;
        float_block(layer, block * 16, (uint32_t)m, n, in + row * in_step, in_step,
                    (uint32_t)(end - row < m ? end - row : m),
                    s->lists + t * OD_LIST_ROOM(layer->features), s->counts[t], initial, relu,
                    out + row * out_step, out_step);
      }
    }
  }
}

static void dense(const od_dense *layer, const float *in, size_t in_step, size_t rows,
                  const od_range *ranges, size_t range_count, const float *initial, uint32_t relu,
                  float *out, size_t out_step, const od_dense_scratch *s) {
  if (layer->codec == OD_CODEC_Q8)
    dense_q8(layer, in, in_step, rows, ranges, range_count, initial, relu, out, out_step, s);
  else if (layer->units == 1)
    dense_single(layer, in, in_step, rows, ranges, range_count, initial[0], relu, out, out_step);
  else
    dense_float(layer, in, in_step, rows, ranges, range_count, initial, relu, out, out_step, s);
}
