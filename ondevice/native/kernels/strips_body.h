/* strips_body.h: dense layers row by row, for instruction sets of few registers (WebAssembly, and C without
 * vectors), in place of the tiles of float_body.h and dense_body.h.
 *
 * The weights of one feature, or of one group of 4 in q8, are a record. A few rows take CHUNK records at a
 * time through all outputs, so that each is read from its begin to its end: records of a wide layer lie in
 * pages of their own. Many rows take one panel of outputs after the other, which is copied without gaps.
 * A row skips the records that its zeros would meet. Sums of floats are in the order of the features.
 *
 * Beyond float_body.h and dense_body.h the including file defines FLOAT_STRIP and Q8_STRIP, outputs whose
 * sums fit the registers (48 is a multiple), FLOAT_REST and Q8_REST, which divide 16, FLOAT_PAIR, outputs
 * of two rows at once, where there are registers for them, and for q8
 *   Q8_SUMS, Q8_WIDE_BYTES            sums of an output, and its bytes in a panel's record
 *   q8_strip(units, wide, codes, list, count, weights, step, begin, sums)   wide: of a panel's records
 *   q8_widen(to, from, units)         a panel's record
 *   q8_join(sums, units)              sums of outputs as their first numbers
 */

enum {
  CHUNK = 16,
  STRIP_UNITS = 512, /* of sums at once */
  PANEL_ROWS = 12, /* fewer are not worth a copy */
  PANEL_HALVES = 4, /* the same, where it converts halves */
  ROW_GROUP = 64,
  PANEL_WIDTH = 384, /* bytes of a record */
  PANEL_BYTES = 80 * PANEL_WIDTH,
  MOST_PANEL_UNITS = PANEL_WIDTH / 4,
  STRIPS_AT_ONCE = 48 /* outputs: whole strips of all kinds */
};

/* Eighths of the features that are not zero from which on a layer is quicker without lists. A product in
 * a row takes 0.06 ns, in a pair 0.04, and a listed feature 1 ns (x86-64, V8). */
#ifdef FLOAT_PAIR
enum { LISTED_NARROW = 3, LISTED_WIDE = 5 };
#else
enum { LISTED_NARROW = 6, LISTED_WIDE = 9 };
#endif

/* A layer's work: its inputs are codes in q8. */
typedef struct {
  const od_dense *layer;
  const uint8_t *in;
  size_t in_step; /* bytes */
  const uint16_t *lists;
  size_t list_step;
  const uint32_t *counts;
  const float *initial, *row_scales;
  uint32_t relu, records, unit_bytes; /* of an output in a record */
  float *out;
  size_t out_step;
} strips;

OD_INLINE vf load_weights(const uint8_t *at, uint32_t first, int half) {
  return half ? vf_load_f16(at + 2 * first) : vf_load((const float *)(const void *)at + first);
}

OD_INLINE void float_strip(uint32_t units, int half, const float *x, const uint16_t *list, uint32_t count,
                           const uint8_t *weights, size_t step, const float *begin, float *sums) {
  vf sum[FLOAT_STRIP / VW];
  uint32_t parts = units / VW;
  OD_UNROLL(8) for (uint32_t j = 0; j < parts; j++) sum[j] = vf_load(begin + j * VW);
  for (uint32_t i = 0; i < count; i++) {
    const uint8_t *w = weights + list[i] * step;
    vf value = vf_set1(x[list[i]]);
    OD_UNROLL(8) for (uint32_t j = 0; j < parts; j++) sum[j] =
        vf_fma(value, load_weights(w, j * VW, half), sum[j]);
  }
  OD_UNROLL(8) for (uint32_t j = 0; j < parts; j++) vf_store(sums + j * VW, sum[j]);
}

/* Add the products of the listed records to the sums of `units` outputs, a multiple of 16. `begin` may be
 * `sums`. */
static __attribute__((noinline)) void add_records(od_codec codec, int wide, const uint8_t *row,
                                                  const uint16_t *list, uint32_t count,
                                                  const uint8_t *weights, size_t step, uint32_t units,
                                                  uint32_t unit_bytes, const int32_t *begin, int32_t *sums) {
  const float *x = (const float *)(const void *)row;
  uint32_t u = 0, whole = units / STRIPS_AT_ONCE * STRIPS_AT_ONCE;
  if (codec == OD_CODEC_Q8) {
#define Q8_UNITS(n, wide) \
  q8_strip(n, wide, (const int8_t *)row, list, count, weights + u * unit_bytes, step, \
           begin + u * Q8_SUMS, sums + u * Q8_SUMS)
    for (; wide && u < whole; u += Q8_STRIP) Q8_UNITS(Q8_STRIP, 1);
    for (; wide && u < units; u += Q8_REST) Q8_UNITS(Q8_REST, 1);
    for (; u < whole; u += Q8_STRIP) Q8_UNITS(Q8_STRIP, 0);
    for (; u < units; u += Q8_REST) Q8_UNITS(Q8_REST, 0);
    return;
  }
#define FLOAT_UNITS(n, half) \
  float_strip(n, half, x, list, count, weights + u * unit_bytes, step, \
              (const float *)(const void *)(begin + u), (float *)(void *)(sums + u))
  for (; codec == OD_CODEC_F16 && u < units; u += FLOAT_REST) FLOAT_UNITS(FLOAT_REST, 1);
  for (; u < whole; u += FLOAT_STRIP) FLOAT_UNITS(FLOAT_STRIP, 0);
  for (; u < units; u += FLOAT_REST) FLOAT_UNITS(FLOAT_REST, 0);
}

#ifdef FLOAT_PAIR
/* The same for two rows that list the same records, in f32: a record is loaded once for both. */
static __attribute__((noinline)) void add_to_pair(const float *x, const float *y, const uint16_t *list,
                                                  uint32_t count, const float *weights, size_t width,
                                                  const float *begin, const float *other_begin,
                                                  float *sums, float *other_sums) {
  for (uint32_t u = 0; u < width; u += FLOAT_PAIR) {
    vf a[FLOAT_PAIR / VW], b[FLOAT_PAIR / VW];
    OD_UNROLL(8) for (int j = 0; j < FLOAT_PAIR / VW; j++) {
      a[j] = vf_load(begin + u + j * VW);
      b[j] = vf_load(other_begin + u + j * VW);
    }
    for (uint32_t i = 0; i < count; i++) {
      const float *w = weights + list[i] * width + u;
      vf value = vf_set1(x[list[i]]), other = vf_set1(y[list[i]]);
      OD_UNROLL(8) for (int j = 0; j < FLOAT_PAIR / VW; j++) {
        vf weight = vf_load(w + j * VW);
        a[j] = vf_fma(value, weight, a[j]);
        b[j] = vf_fma(other, weight, b[j]);
      }
    }
    OD_UNROLL(8) for (int j = 0; j < FLOAT_PAIR / VW; j++) {
      vf_store(sums + u + j * VW, a[j]);
      vf_store(other_sums + u + j * VW, b[j]);
    }
  }
}
#endif

OD_INLINE int is_q8(const strips *s) { return s->layer->codec == OD_CODEC_Q8; }

/* What the sums of the outputs from `unit` on begin with. */
OD_INLINE const int32_t *first_sums(const strips *s, uint32_t unit) {
  static int32_t zeros[STRIP_UNITS * Q8_SUMS];
  return is_q8(s) ? zeros : (const int32_t *)(const void *)(s->initial + unit);
}

/* Sums as results of one row. */
static void end_sums(const strips *s, size_t row, uint32_t unit, uint32_t width, int32_t *sums) {
  uint32_t left = s->layer->units - unit, units = left < width ? left : width;
  float *out = s->out + row * s->out_step + unit;
  if (is_q8(s)) {
    q8_join(sums, width);
    write_sums(sums, width, s->row_scales + row, 1, s->layer->scale + unit, s->initial + unit, s->relu,
               units, out, 0);
    return;
  }
  lanes least = all(s->relu ? 0 : -__builtin_inff());
  const float *from = (const float *)(const void *)sums;
  for (uint32_t i = 0; i < units; i += LANES) put(out + i, lanes_max(least, load(from + i)), units - i);
}

static void stream_row(const strips *s, size_t row) {
  const od_dense *layer = s->layer;
  int32_t sums[STRIP_UNITS * (Q8_SUMS > 1 ? Q8_SUMS : 1)] __attribute__((aligned(16)));
  const uint16_t *list = s->lists + row * s->list_step;
  uint32_t count = s->counts[s->list_step ? row : 0];
  for (uint32_t unit = 0, width; unit < layer->units; unit += width) {
    width = layer->padded_units - unit < STRIP_UNITS ? layer->padded_units - unit : STRIP_UNITS;
    const uint8_t *in = s->in + row * s->in_step;
    const uint8_t *weights = (const uint8_t *)layer->weight + unit * s->unit_bytes;
    const int32_t *begin = first_sums(s, unit);
    size_t step = (size_t)layer->padded_units * s->unit_bytes;
    uint32_t done = 0;
#ifdef FOURS
    if (layer->codec != OD_CODEC_F16 && count >= 4) {
      done = count / 4 * 4;
      add_fours(is_q8(s), in, list, done, weights, step, width, begin, sums);
      begin = sums;
    }
#endif
    for (; begin != sums || done < count; done += CHUNK, begin = sums)
      add_records(layer->codec, 0, in, list + done, count - done < CHUNK ? count - done : CHUNK, weights, step,
                  width, s->unit_bytes, begin, sums);
    end_sums(s, row, unit, width, sums);
  }
}

/* Records [first, first + count) of the outputs [unit, unit + width), without gaps; floats of halves. */
static void copy_panel(const strips *s, uint32_t unit, uint32_t width, uint32_t first, uint32_t count,
                       uint8_t *panel) {
  size_t step = (size_t)s->layer->padded_units * s->unit_bytes;
  const uint8_t *from = (const uint8_t *)s->layer->weight + first * step + unit * s->unit_bytes;
  for (uint32_t i = 0; i < count; i++, from += step) {
    if (is_q8(s)) {
      q8_widen(panel, from, width);
      panel += Q8_WIDE_BYTES * width;
      continue;
    }
    float *to = (float *)(void *)panel;
    int half = s->unit_bytes == 2;
    for (uint32_t u = 0; !half && u < width; u += VW) vf_store(to + u, load_weights(from, u, 0));
    for (uint32_t u = 0; half && u < width; u += VW) vf_store(to + u, load_weights(from, u, 1));
    panel += 4 * width;
  }
}

/* Where in a list the numbers from `stop` on begin: `begin` is the first from stop - most on. */
static uint32_t end_in(const uint16_t *list, uint32_t begin, uint32_t count, uint32_t stop, uint32_t most) {
  uint32_t end = count - begin < most ? count : begin + most;
  if (begin == end || list[end - 1] < stop) return end;
  while (begin < end) {
    uint32_t middle = (begin + end) / 2;
    if (list[middle] < stop) begin = middle + 1;
    else end = middle;
  }
  return end;
}

/* Up to ROW_GROUP rows. */
static void panel_rows(const strips *s, size_t first_row, uint32_t rows) {
  uint8_t panel[PANEL_BYTES] __attribute__((aligned(16)));
  int32_t sums[ROW_GROUP][MOST_PANEL_UNITS] __attribute__((aligned(16)));
  uint32_t begins[ROW_GROUP]; /* in the rows' lists */
  od_codec codec = is_q8(s) ? OD_CODEC_Q8 : OD_CODEC_F32;
  uint32_t unit_bytes = is_q8(s) ? Q8_WIDE_BYTES : 4, most = PANEL_WIDTH / unit_bytes;
  for (uint32_t unit = 0, width; unit < s->layer->units; unit += width) {
    width = s->layer->padded_units - unit < most ? s->layer->padded_units - unit : most;
    size_t step = width * unit_bytes;
    uint32_t room = PANEL_BYTES / (uint32_t)step;
    for (uint32_t r = 0; r < rows; r++) begins[r] = 0;
    for (uint32_t first = 0; first < s->records; first += room) {
      uint32_t count = s->records - first < room ? s->records - first : room;
      copy_panel(s, unit, width, first, count, panel);
      for (uint32_t r = 0; r < rows; r++) {
        size_t row = first_row + r;
        const uint16_t *list = s->lists + row * s->list_step;
        uint32_t begin = begins[r], listed = s->counts[s->list_step ? row : 0];
        begins[r] = end_in(list, begin, listed, first + room, room);
        const uint8_t *weights = (const uint8_t *)((uintptr_t)panel - first * step);
#ifdef FLOAT_PAIR
        if (codec == OD_CODEC_F32 && !s->list_step && r + 1 < rows) {
          const uint8_t *x = s->in + row * s->in_step;
          begins[r + 1] = begins[r];
          add_to_pair((const float *)(const void *)x, (const float *)(const void *)(x + s->in_step),
                      list + begin, begins[r] - begin, (const float *)(const void *)weights, width,
                      (const float *)(const void *)(first ? sums[r] : first_sums(s, unit)),
                      (const float *)(const void *)(first ? sums[r + 1] : first_sums(s, unit)),
                      (float *)(void *)sums[r], (float *)(void *)sums[r + 1]);
          r++;
          continue;
        }
#endif
        add_records(codec, 1, s->in + row * s->in_step, list + begin, begins[r] - begin, weights,
                    step, width, unit_bytes, first ? sums[r] : first_sums(s, unit), sums[r]);
      }
    }
    for (uint32_t r = 0; r < rows; r++) end_sums(s, first_row + r, unit, width, sums[r]);
  }
}

/* List the features of each row that are not zero; returns from one list to the next, 0 where all rows
 * have the first, with all features: where few features of the first row are zero, and where the outputs
 * are so few that a list costs more than it saves. */
static size_t list_rows(const od_dense *layer, const float *in, size_t in_step, size_t rows,
                        const od_range *ranges, size_t range_count, const od_dense_scratch *s) {
  size_t room = OD_LIST_ROOM(layer->features);
  uint32_t listed = list_features(in, ranges, range_count, s->lists);
  int narrow = layer->padded_units / 16 <= OD_NARROW;
  if (rows > 2) {
    s->counts[0] = list_all(ranges, range_count, s->lists);
    if (8 * listed >= (narrow ? LISTED_NARROW : LISTED_WIDE) * s->counts[0]) return 0;
  }
  for (size_t row = 0; row < rows; row++)
    s->counts[row] = list_features(in + row * in_step, ranges, range_count, s->lists + row * room);
  return room;
}

static void dense_strips(const od_dense *layer, const float *in, size_t in_step, size_t rows,
                         const od_range *ranges, size_t range_count, const float *initial,
                         uint32_t relu, float *out, size_t out_step, const od_dense_scratch *scratch) {
  strips s = {layer, (const uint8_t *)in, 4 * in_step, scratch->lists, OD_LIST_ROOM(layer->features),
              scratch->counts, initial, scratch->scales, relu, layer->features,
              layer->codec == OD_CODEC_F16 ? 2 : 4, out, out_step};
  if (is_q8(&s)) {
    s.list_step = quantise(layer, in, in_step, rows, ranges, range_count, scratch);
    s.in_step = od_padded(layer->features, OD_FEATURE_GROUP);
    s.in = (const uint8_t *)scratch->codes;
    s.records = (uint32_t)s.in_step / OD_FEATURE_GROUP;
  } else {
    s.list_step = list_rows(layer, in, in_step, rows, ranges, range_count, scratch);
  }
  if (rows < (layer->codec == OD_CODEC_F16 ? PANEL_HALVES : PANEL_ROWS))
    for (size_t row = 0; row < rows; row++) stream_row(&s, row);
  else
    for (size_t row = 0; row < rows; row += ROW_GROUP)
      panel_rows(&s, row, rows - row < ROW_GROUP ? (uint32_t)(rows - row) : ROW_GROUP);
}
