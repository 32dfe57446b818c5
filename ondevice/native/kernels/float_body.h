/* float_body.h: f32 and f16 dense layers, compiled once for every instruction set.
 *
 * Takes tiles_body.h. Beyond what gather_body.h needs the including file defines vf_fma, with HAS_PAIRS
 * vf_pairs (of kernels.h's layers of pairs), and vf_least
 * (the larger of two, or the second where it is NaN). Its constants: FLOAT_ROWS and FLOAT_BLOCKS
 * (rows and blocks of 16 outputs at once in a batch), FLOAT_WIDE (blocks at once for a single row) and
 * FLOAT_TALL where there are registers for twice as many rows of that many blocks; or STRIPS, for
 * strips_body.h in place of tiles. Where it defines vf_fma_lane (vectors have 4 lanes, of which a
 * multiply-add takes one), neighbouring features are loaded four at a time.
 *
 * Inputs that are zero in all rows of a tile are skipped.
 */

enum { MOST_BLOCKS = 25, PARTS_OF_16 = 16 / VW };

#ifdef FLOAT_TALL
enum { MOST_ROWS = 2 * FLOAT_ROWS };
#else
#define FLOAT_TALL 0
enum { MOST_ROWS = FLOAT_ROWS };
#endif

#ifdef STRIPS
/* Features of a row that are not zero. */
static uint32_t list_features(const float *in, const od_range *ranges, size_t range_count,
                              uint16_t *list) {
  uint32_t count = 0;
  for (size_t r = 0; r < range_count; r++)
    for (uint32_t i = ranges[r].start; i < ranges[r].stop; i++) {
      list[count] = (uint16_t)i;
      count += od_load32((const uint8_t *)(in + i)) << 1 != 0; /* without the sign */
    }
  return count;
}
#else
/* Features in which one of the rows is not zero. */
static __attribute__((noinline)) uint32_t list_features(const float *in, size_t step, uint32_t rows, const od_range *ranges,
                              size_t range_count, uint16_t *restrict list) {
  uint32_t words[OD_PIECE], count = 0;
  for (size_t r = 0; r < range_count; r++)
    for (uint32_t start = ranges[r].start; start < ranges[r].stop; start += OD_PIECE) {
      uint32_t piece = ranges[r].stop - start < OD_PIECE ? ranges[r].stop - start : OD_PIECE;
      for (uint32_t i = 0; i < piece; i += LANES) {
        whole any = {0};
        for (uint32_t row = 0; row < rows; row++)
          any |= (whole)part(in + row * step + start + i, piece - i, all(0));
        any <<= 1; /* without the sign */
        __builtin_memcpy(words + i, &any, sizeof any);
      }
      count += list_words(words, piece, start, list + count);
    }
  return count;
}
#endif

/* How weights are stored, for float_tile. */
enum { SINGLE, HALF, PAIRS };
enum { PAIRS_ROWS = 8, PAIRS_BLOCKS = 3 }; /* whose weights stay in a first-level cache */

#ifndef STRIPS
OD_INLINE vf load_weights(const od_dense *layer, size_t at, int kind) {
  if (kind == HALF) return vf_load_f16((const uint8_t *)layer->weight + 2 * at);
  return vf_load((const float *)layer->weight + at);
}

#ifdef vf_fma_lane
/* Adds the products of m rows' `count` neighbouring values and `count` rows of w, from `w_step` to
 * `w_step`, to m x parts sums, in order. A weight serves all rows before the next one is loaded: sums and
 * values take nearly all registers. */
OD_INLINE void add_straight(uint32_t m, uint32_t parts, const float *const *in, size_t first,
                            size_t count, const float *w, size_t w_step,
                            vf sums[][MOST_BLOCKS * PARTS_OF_16]) {
  const float *from[MOST_ROWS];
  size_t i = 0;
  OD_UNROLL(16) for (uint32_t r = 0; r < m; r++) from[r] = in[r] + first;
#define ADD_LANE(lane)                                                              \
  OD_UNROLL(64) for (uint32_t j = 0; j < parts; j += 2) {                           \
    vf weight = vf_load(w + j * VW), next = vf_load(w + j * VW + VW);               \
    OD_UNROLL(16) for (uint32_t r = 0; r < m; r++) {                                \
      vf_fma_lane(values[r], lane, weight, sums[r][j]);                             \
      vf_fma_lane(values[r], lane, next, sums[r][j + 1]);                           \
    }                                                                               \
    if (m > 2) __asm__ volatile("" ::: "memory");                                   \
  }                                                                                 \
  w += w_step;
  for (; i + VW <= count; i += VW) {
    vf values[MOST_ROWS];
    OD_UNROLL(16) for (uint32_t r = 0; r < m; r++) values[r] = vf_load(from[r] + i);
    ADD_LANE(0) ADD_LANE(1) ADD_LANE(2) ADD_LANE(3)
  }
  for (; i < count; i++) {
    vf values[MOST_ROWS];
    OD_UNROLL(16) for (uint32_t r = 0; r < m; r++) values[r] = vf_set1(from[r][i]);
    ADD_LANE(0)
  }
#undef ADD_LANE
}

/* Writes m rows of `parts` sums. GCC 12 would compute every address first. */
OD_INLINE void store_tile(uint32_t m, uint32_t parts, float *out, size_t step,
                          vf sums[][MOST_BLOCKS * PARTS_OF_16]) {
  OD_UNROLL(16) for (uint32_t r = 0; r < m; r++, out += step) {
    __asm__("" : "+r"(out));
    OD_UNROLL(64) for (uint32_t j = 0; j < parts; j++) vf_store(out + j * VW, sums[r][j]);
  }
}

/* The rows of whole tiles, one tile after the other, times `depth` rows of 16 weights: returns how many
 * rows. Results begin with `initial` and are at least `least`. */
static __attribute__((noinline)) size_t straight_rows(const float *in, size_t in_step, size_t rows,
                                                      const float *w, size_t w_step, size_t depth,
                                                      const float *initial, float least, float *out,
                                                      size_t out_step) {
  size_t done = 0;
  for (; done + FLOAT_ROWS <= rows; done += FLOAT_ROWS, out += FLOAT_ROWS * out_step) {
    vf sums[FLOAT_ROWS][MOST_BLOCKS * PARTS_OF_16];
    const float *from[MOST_ROWS];
    OD_UNROLL(8) for (int r = 0; r < FLOAT_ROWS; r++, in += in_step) {
      from[r] = in;
      OD_UNROLL(8) for (int j = 0; j < PARTS_OF_16; j++) sums[r][j] = vf_load(initial + j * VW);
    }
    add_straight(FLOAT_ROWS, PARTS_OF_16, from, 0, depth, w, w_step, sums);
    if (least == 0)
      OD_UNROLL(8) for (int r = 0; r < FLOAT_ROWS; r++)
        OD_UNROLL(8) for (int j = 0; j < PARTS_OF_16; j++)
          sums[r][j] = vf_least(vf_set1(0), sums[r][j]);
    store_tile(FLOAT_ROWS, PARTS_OF_16, out, out_step, sums);
  }
  return done;
}

/* Whether a list, which is in order, leaves nothing out. */
OD_INLINE int are_neighbours(const uint16_t *list, uint32_t count) {
  return count && list[count - 1] - list[0] == (int)count - 1;
}
#endif

/* Where a tile's results begin, the smallest that they may be, and where they go. in_step: from row to
 * row of the input. */
typedef struct {
  size_t in_step;
  const float *initial;
  float least;
  float *out;
  size_t step;
} float_end;

#ifndef HAS_PAIRS
OD_INLINE vf vf_pairs(vf a, vf b, vf sum) { return (void)a, (void)b, sum; }
#endif

/* m rows by n blocks of 16 outputs, kept in registers. */
OD_INLINE void float_tile(uint32_t m, uint32_t n, int kind, const od_dense *layer, uint32_t unit,
                          const uint16_t *list, uint32_t count, const float *const *in,
                          const float_end *end) {
  vf sums[MOST_ROWS][MOST_BLOCKS * PARTS_OF_16], least = vf_set1(end->least);
  size_t in_step = end->in_step, out_step = end->step;
  float *out = end->out;
  OD_UNROLL(16) for (uint32_t r = 0; r < m; r++)
    OD_UNROLL(64) for (uint32_t j = 0; j < n * PARTS_OF_16; j++) sums[r][j] =
        vf_load(end->initial + j * VW);
#ifdef vf_fma_lane
  if (kind == SINGLE && m <= 2 && are_neighbours(list, count)) {
    const float *w = (const float *)layer->weight + (size_t)list[0] * layer->padded_units + unit;
    add_straight(m, n * PARTS_OF_16, in, list[0], count, w, layer->padded_units, sums);
    count = 0;
  }
#endif
  for (uint32_t i = 0; i < count; i++) {
    size_t at = (size_t)list[i] * layer->padded_units + unit;
    vf weights[MOST_BLOCKS * PARTS_OF_16];
    OD_UNROLL(64) for (uint32_t j = 0; j < n * PARTS_OF_16; j++) weights[j] =
        load_weights(layer, at + j * VW, kind);
    OD_UNROLL(16) for (uint32_t r = 0; r < m; r++) {
      const float *from = in[r] + list[i];
      if (m > FLOAT_ROWS) /* addresses of three rows from one register */
        from = in[r - r % 3] + list[i] + r % 3 * in_step;
      vf value = vf_set1(*from);
      OD_UNROLL(64) for (uint32_t j = 0; j < n * PARTS_OF_16; j++) sums[r][j] =
          kind == PAIRS ? vf_pairs(value, weights[j], sums[r][j])
                        : vf_fma(value, weights[j], sums[r][j]);
    }
  }
#ifdef vf_fma_lane
  if (end->least < 0) { /* no ReLU */
    store_tile(m, n * PARTS_OF_16, out, out_step, sums);
    return;
  }
#endif
  OD_UNROLL(16) for (uint32_t r = 0; r < m; r++)
    OD_UNROLL(64) for (uint32_t j = 0; j < n * PARTS_OF_16; j++)
      vf_store(out + r * out_step + j * VW, vf_least(least, sums[r][j]));
}

#define FLOAT_ARGUMENTS layer, unit, list, count, in, end
static void float_tiles(uint32_t m, uint32_t n, od_codec codec, const od_dense *layer, uint32_t unit,
                        const uint16_t *list, uint32_t count, const float *const *in,
                        const float_end *end) {
#define F32_TILE(m, n, ...) float_tile(m, n, SINGLE, __VA_ARGS__)
#define F16_TILE(m, n, ...) float_tile(m, n, HALF, __VA_ARGS__)
#define PAIRS_TILE(m, n, ...) float_tile(m, n, PAIRS, __VA_ARGS__)
#ifdef HAS_PAIRS
  if (codec == OD_CODEC_PAIRS) {
    switch (m * 64 + n) {
      case 64 + 2: PAIRS_TILE(1, 2, FLOAT_ARGUMENTS); break;
      case 64 + 3: PAIRS_TILE(1, 3, FLOAT_ARGUMENTS); break;
      case 64 + 4: PAIRS_TILE(1, 4, FLOAT_ARGUMENTS); break;
      case 8 * 64 + 2: PAIRS_TILE(8, 2, FLOAT_ARGUMENTS); break;
      case 8 * 64 + 3: PAIRS_TILE(8, 3, FLOAT_ARGUMENTS); break;
    }
    return;
  }
#endif
  if (codec == OD_CODEC_F16) {
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
  for (uint32_t r = 0; r < m; r++) { /* rows beyond the last repeat it */
    at[r] = in;
    if (r + 1 < rows) in += in_step;
  }
  float_tiles(m, n, layer->codec, layer, unit, list, count, at, &end);
  if (!whole) copy_block(room, width, rows, units, out + unit, out_step);
}

#endif

/* A layer with one output: products along the features, whose sums add up as in vectors.h. */
static void dense_single(const od_dense *layer, const float *in, size_t in_step, size_t rows,
                         const od_range *ranges, size_t range_count, float initial, uint32_t relu,
                         float *out, size_t out_step) {
  float weights[OD_PIECE + OD_PANEL];
  for (size_t row = 0; row < rows; row++) out[row * out_step] = initial;
  for (size_t r = 0; r < range_count; r++)
    for (uint32_t start = ranges[r].start; start < ranges[r].stop; start += OD_PIECE) {
      uint32_t count = ranges[r].stop - start < OD_PIECE ? ranges[r].stop - start : OD_PIECE;
      od_single_weights(layer, start, count, weights);
      for (size_t row = 0; row < rows; row++) {
        const float *from = in + row * in_step + start;
        lanes sums[PARTS] = {{0}};
        uint32_t i = 0;
        for (; i + SUMS <= count; i += SUMS)
          for (int j = 0; j < PARTS; j++)
            sums[j] = sums[j] + load(from + i + j * LANES) * load(weights + i + j * LANES);
        for (int j = 0; i < count; i += LANES, j++)
          sums[j] = sums[j] + part(from + i, count - i, all(0)) * load(weights + i);
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
  for (size_t r = 0; r < range_count; count += ranges[r].stop - ranges[r].start, r++)
    od_list_numbers(ranges[r].start, ranges[r].stop, list + count);
  return count;
}

#ifdef vf_fma_lane
/* Whether no feature is zero, as of layers that no ReLU precedes: to see that is quicker than a list. */
static int none_is_zero(const float *in, const od_range *range) {
  uint32_t i = range->start;
  whole zero = {0};
  for (; i + LANES <= range->stop; i += LANES) zero |= load(in + i) == 0.0f;
  for (; i < range->stop; i++) zero[0] |= in[i] == 0;
  JOIN_LANES(zero, EITHER)
  return !zero[0];
}
#endif

#ifndef STRIPS
/* Whether a layer of few blocks looks for zeros: not where its first rows have few. */
static int few_zeros(const float *in, size_t in_step, size_t rows, const od_range *ranges,
                     size_t range_count, uint16_t *list) {
  uint32_t some = rows < OD_TILE_ROWS ? (uint32_t)rows : OD_TILE_ROWS;
  uint32_t listed = list_features(in, in_step, some, ranges, range_count, list);
  uint32_t features = list_all(ranges, range_count, list);
  return listed >= features - features / 4;
}

static void dense_float(const od_dense *layer, const float *in, size_t in_step, size_t rows,
                        const od_range *ranges, size_t range_count, const float *initial,
                        uint32_t relu, float *out, size_t out_step, const od_dense_scratch *s) {
  int few = layer->codec != OD_CODEC_F32; /* sizes of tiles */
  uint32_t blocks = layer->padded_units / 16;
  int paired = layer->codec == OD_CODEC_PAIRS && rows > 1;
  uint32_t most = paired ? PAIRS_BLOCKS : rows == 1 && !few ? FLOAT_WIDE : FLOAT_BLOCKS;
  size_t list_rows = paired ? PAIRS_ROWS : OD_TILE_ROWS;
  int narrow = rows > 2 && blocks <= OD_NARROW &&
               few_zeros(in, in_step, rows, ranges, range_count, s->lists);
  size_t tile_rows = narrow ? rows : list_rows;
  size_t tiles = (rows + tile_rows - 1) / tile_rows;
#ifdef vf_fma_lane
  narrow |= rows == 1 && range_count == 1 && none_is_zero(in, ranges);
#endif
  for (size_t t = 0; t < tiles; t++) {
    size_t row = t * list_rows, left = rows - row < list_rows ? rows - row : list_rows;
    uint16_t *list = s->lists + t * OD_LIST_ROOM(layer->features);
    s->counts[t] = narrow
                       ? list_all(ranges, range_count, list)
                       : list_features(in + row * in_step, in_step, (uint32_t)left, ranges,
                                       range_count, list);
  }
  for (uint32_t block = 0, n; block < blocks; block += n) {
    n = od_tile_blocks(blocks - block, most);
    for (size_t t = 0; t < tiles; t++) {
      size_t end = (t + 1) * tile_rows < rows ? (t + 1) * tile_rows : rows, row = t * tile_rows;
#ifdef vf_fma_lane
      const uint16_t *list = s->lists + t * OD_LIST_ROOM(layer->features);
      uint32_t unit = block * 16;
      if (!few && n == 1 && layer->units >= unit + 16 && are_neighbours(list, s->counts[t]))
        row += straight_rows(in + row * in_step + list[0], in_step, end - row,
                             (const float *)layer->weight + (size_t)list[0] * layer->padded_units + unit,
                             layer->padded_units, s->counts[t], initial + unit,
                             relu ? 0 : -__builtin_inff(), out + row * out_step + unit, out_step);
#endif
      for (size_t m; row < end; row += m) {
        m = rows_at_once((uint32_t)(end - row), FLOAT_ROWS);
        if (few && m > 1) m = paired ? PAIRS_ROWS : FLOAT_ROWS;
        else if (FLOAT_TALL && n <= FLOAT_TALL && end - row >= MOST_ROWS) m = MOST_ROWS;
        float_block(layer, block * 16, (uint32_t)m, n, in + row * in_step, in_step,
                    (uint32_t)(end - row < m ? end - row : m),
                    s->lists + t * OD_LIST_ROOM(layer->features), s->counts[t], initial, relu,
                    out + row * out_step, out_step);
      }
    }
  }
}

KERNEL void KERNEL_NAME(float_dense)(const od_dense *layer, const float *in, size_t in_step,
                                     size_t rows, const od_range *ranges, size_t range_count,
                                     const float *initial, uint32_t relu, float *out,
                                     size_t out_step, const od_dense_scratch *s) {
  if (layer->units == 1)
    dense_single(layer, in, in_step, rows, ranges, range_count, initial[0], relu, out, out_step);
  else
    dense_float(layer, in, in_step, rows, ranges, range_count, initial, relu, out, out_step, s);
}
#endif
