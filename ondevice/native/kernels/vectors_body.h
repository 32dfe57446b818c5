/* vectors_body.h: the loops of vectors.h, compiled once for every instruction set.
 *
 * Takes lanes_body.h. With SOFTMAX_COLUMNS it has its own softmax along other axes than the last, with
 * SOFTMAX_SUMS_LAST it adds a row's powers when all are there.
 */
#include "kernels/vectors.h"

/* exp(x) as 2^k times a polynomial on [-ln2/2, ln2/2], within 2 units in the last place. `shifted` is
 * k + 1.5 * 2^23. Of the polynomial's sums those that can are independent. */
OD_INLINE lanes exponential_parts(lanes x, lanes *shifted) {
  *shifted = x * 1.44269504f + 12582912.0f; /* rounds to an integer */
  lanes w = *shifted - 12582912.0f;
  lanes r = x - w * 0.693359375f;
  r = r - w * -2.12194440e-4f;
  lanes s = r * r;
  lanes p = r * 8.3686690778e-3f + 4.1668258607e-2f;
  p = p + s * 1.3821331086e-3f;
  p = p * s + (r * 1.6666521132e-1f + 4.9999994040e-1f);
  return p * s + (r + 1.0f);
}

/* Below -104 results are 0. Products below the normal range are slow on some processors, which multiply
 * others and put zeros in their place; on the rest -104 stands for all, as its own result rounds to 0. */
#ifdef lanes_floor
#define SMALL_TO_ZERO(p) (p)
OD_INLINE lanes without_small(lanes x, whole *small) {
  (void)small;
  return lanes_floor(x, -104.0f); /* a NaN stays */
}
#else
#define SMALL_TO_ZERO(p) ((lanes)(~small & (whole)(p)))
OD_INLINE lanes without_small(lanes x, whole *small) {
  *small = x < -104.0f;
  return (lanes)(~*small & (whole)x);
}
#endif

#ifdef lanes_power
/* The same for x up to 89 and NaN. */
OD_INLINE lanes exponential_down(lanes x) {
  lanes shifted, p = exponential_parts(x, &shifted);
  return lanes_power(p, shifted - 12582912.0f, x, -104.0f);
}
#define exponential_up exponential_down
OD_INLINE lanes exponential(lanes x) { return exponential_down(lanes_min(all(89.0f), x)); }
#else
/* Results may overflow or lie below the normal range: the power is multiplied in two halves. */
OD_INLINE lanes exponential(lanes x) {
  whole small;
  lanes shifted, p = exponential_parts(lanes_min(all(89.0f), without_small(x, &small)), &shifted);
  whole k = (whole)shifted - 0x4B400000, half = k >> 1; /* a NaN stays */
  p = p * (lanes)((half + 127) << 23) * (lanes)((k - half + 127) << 23);
  return SMALL_TO_ZERO(p);
}

/* The same bits for x <= 0 and NaN, and for 0 <= x <= 40 and NaN. */
OD_INLINE lanes exponential_down(lanes x) {
  whole small;
  lanes shifted, p = exponential_parts(without_small(x, &small), &shifted);
  p = p * (lanes)(((whole)shifted - (0x4B400000 - 191)) << 23) * 0x1p-64f; /* -150 <= k <= 0 */
  return SMALL_TO_ZERO(p);
}
OD_INLINE lanes exponential_up(lanes x) {
  lanes shifted, p = exponential_parts(x, &shifted);
  return p * (lanes)(((whole)shifted - (0x4B400000 - 127)) << 23);
}
#endif

OD_INLINE lanes sigmoid(lanes x) {
  lanes small = exponential_down((lanes)((whole)x | (int32_t)0x80000000));
  return pick(x < 0.0f, small, all(1.0f)) / (small + 1.0f);
}

/* A polynomial below 0.625 (Cephes tanhf), above it 1 - 2 / (exp(2x) + 1), which is 1 from 10 on. */
OD_INLINE lanes tangent(lanes x) {
  lanes size = magnitude(x), s = x * x;
  lanes p = s * -5.70498872745e-3f + 2.06390887954e-2f;
  p = p * s + -5.37397155531e-2f;
  p = p * s + 1.33314422036e-1f;
  p = p * s + -3.33332819422e-1f;
  p = p * s * x + x;
#ifdef lanes_most
  if (lanes_most(size) < 0.625f) return p; /* rare among long vectors */
#endif
  lanes twice = lanes_min(all(20.0f), size + size); /* a NaN stays */
  lanes large = 1.0f - 2.0f / (exponential_up(twice) + 1.0f);
  return pick(size < 0.625f, p, with_sign(large, x));
}

OD_INLINE lanes apply_map(od_map map, float alpha, lanes x) {
  switch (map) {
    case OD_MAP_RELU: return pick(x < 0.0f, all(0), x);
    case OD_MAP_LEAKY_RELU: return pick(x < 0.0f, x * alpha, x);
    case OD_MAP_ABS: return magnitude(x);
    case OD_MAP_NEG: return -x;
    case OD_MAP_SQRT: return lanes_sqrt(x);
    case OD_MAP_RECIPROCAL: return 1.0f / x;
    case OD_MAP_EXP: return exponential(x);
    case OD_MAP_SIGMOID: return sigmoid(x);
    case OD_MAP_TANH: return tangent(x);
    default: return x;
  }
}

OD_INLINE lanes apply_pair(od_pair pair, lanes a, lanes b) {
  switch (pair) {
    case OD_PAIR_ADD: return a + b;
    case OD_PAIR_SUB: return a - b;
    case OD_PAIR_MUL: return a * b;
    case OD_PAIR_DIV: return a / b;
    case OD_PAIR_MAX: return pick(a != a, a, lanes_max(a, b));
    case OD_PAIR_MIN: return pick(a != a, a, lanes_min(a, b));
    default: return pick(a < 0.0f, a * b, a);
  }
}

/* An operand along the inner loop: its elements, or a vector of them in memory where there are
 * fewer than LANES, or one that repeats. */
typedef struct {
  float room[LANES];
  const float *at;
  size_t moves; /* all bits, or none */
} source;

OD_INLINE void open_source(source *s, const float *in, int64_t moves, size_t n) {
  s->at = s->room;
  s->moves = 0;
  if (!moves) store(s->room, all(*in));
  else if (n < LANES) store(s->room, lanes_load(in, n));
  else s->at = in, s->moves = ~(size_t)0;
}

/* Rows of n >= LANES elements. The last vector of a row begins LANES elements before its end, so some
 * elements are computed twice. SHORT_VECTORS are taken several at a time: counting them takes as long as
 * a product. */
#ifdef SHORT_VECTORS
#define SEVERAL_VECTORS(count, condition, ...) \
  for (; condition && at + (count)*LANES <= n; at += (count)*LANES) __VA_ARGS__
#else
#define SEVERAL_VECTORS(count, condition, ...)
#endif

OD_INLINE void map_row(od_map map, float alpha, const float *in, size_t moves, float *out, size_t n) {
  size_t at = 0;
  SEVERAL_VECTORS(2, 1, {
    const float *from = in + (at & moves);
    lanes first = apply_map(map, alpha, load(from));
    lanes second = apply_map(map, alpha, load(from + (LANES & moves)));
    store(out + at, first);
    store(out + at + LANES, second);
  })
  for (; at < n; at += LANES) {
    size_t i = at < n - LANES ? at : n - LANES;
    store(out + i, apply_map(map, alpha, load(in + (i & moves))));
  }
}

static void map_rows(od_map map, float alpha, const od_span *span, const source *x, float *out,
                     size_t rows, size_t n) {
  const float *in = x->at;
  size_t moves = x->moves;
#define MAP_CASE(name)                                                        \
  case name:                                                                  \
    for (; rows; rows--, in += span->in1[0], out += span->out1)               \
      map_row(name, alpha, in, moves, out, n);                                \
    break;
  switch (map) {
    MAP_CASE(OD_MAP_RELU) MAP_CASE(OD_MAP_LEAKY_RELU) MAP_CASE(OD_MAP_ABS) MAP_CASE(OD_MAP_NEG)
    MAP_CASE(OD_MAP_SQRT) MAP_CASE(OD_MAP_RECIPROCAL) MAP_CASE(OD_MAP_EXP)
    MAP_CASE(OD_MAP_SIGMOID) MAP_CASE(OD_MAP_TANH)
    default: MAP_CASE(OD_MAP_COPY)
  }
}

static void maps(od_map map, float alpha, const od_span *span) {
  const float *in = span->in[0];
  float *out = span->out, room[LANES];
  size_t n = span->n0;
  source x = {{0}, in, ~(size_t)0};
  if (n >= LANES && span->in0[0]) {
    map_rows(map, alpha, span, &x, out, span->n1, n);
    return;
  }
  if (n >= LANES && map == OD_MAP_COPY) {
    for (size_t i = 0; i < span->n1; i++, in += span->in1[0], out += span->out1)
      for (size_t j = 0; j < n; j += LANES) store(out + (j < n - LANES ? j : n - LANES), all(*in));
    return;
  }
  for (size_t i = 0; i < span->n1; i++, in += span->in1[0], out += span->out1) {
    open_source(&x, in, span->in0[0], n);
    map_rows(map, alpha, span, &x, n < LANES ? room : out, 1, n < LANES ? LANES : n);
    if (n < LANES) lanes_store(out, load(room), n);
  }
}

OD_INLINE void pair_row(od_pair pair, const float *a, size_t a_moves, const float *b, size_t b_moves,
                        float *out, size_t n) {
  size_t at = 0;
  SEVERAL_VECTORS(4, a_moves & b_moves, {
    lanes results[4];
    OD_UNROLL(4) for (int j = 0; j < 4; j++) results[j] =
        apply_pair(pair, load(a + at + j * LANES), load(b + at + j * LANES));
    OD_UNROLL(4) for (int j = 0; j < 4; j++) store(out + at + j * LANES, results[j]);
  })
  SEVERAL_VECTORS(4, 1, {
    const float *x = a + (at & a_moves), *y = b + (at & b_moves);
    lanes results[4];
    OD_UNROLL(4) for (size_t j = 0; j < 4; j++) results[j] =
        apply_pair(pair, load(x + (j * LANES & a_moves)), load(y + (j * LANES & b_moves)));
    OD_UNROLL(4) for (int j = 0; j < 4; j++) store(out + at + j * LANES, results[j]);
  })
  for (; at < n; at += LANES) {
    size_t i = at < n - LANES ? at : n - LANES;
    store(out + i, apply_pair(pair, load(a + (i & a_moves)), load(b + (i & b_moves))));
  }
}

static void pair_rows(od_pair pair, const od_span *span, const source *x, const source *y,
                      float *out, size_t rows, size_t n) {
  const float *a = x->at, *b = y->at;
  size_t a_moves = x->moves, b_moves = y->moves;
  int64_t a_step = span->in1[0], b_step = span->in1[1], out_step = span->out1;
#define PAIR_CASE(name)                                                     \
  case name:                                                                \
    for (; rows; rows--, a += a_step, b += b_step, out += out_step)         \
      pair_row(name, a, a_moves, b, b_moves, out, n);                       \
    break;
  switch (pair) {
    PAIR_CASE(OD_PAIR_ADD) PAIR_CASE(OD_PAIR_SUB) PAIR_CASE(OD_PAIR_MUL) PAIR_CASE(OD_PAIR_DIV)
    PAIR_CASE(OD_PAIR_MAX) PAIR_CASE(OD_PAIR_MIN)
    default: PAIR_CASE(OD_PAIR_PRELU)
  }
}

static void pairs(od_pair pair, const od_span *span) {
  const float *a = span->in[0], *b = span->in[1];
  float *out = span->out, room[LANES];
  size_t n = span->n0;
  source x = {{0}, a, ~(size_t)0}, y = {{0}, b, ~(size_t)0};
  if (n >= LANES && span->in0[0] && span->in0[1]) {
    pair_rows(pair, span, &x, &y, out, span->n1, n);
    return;
  }
  for (size_t i = 0; i < span->n1; i++, out += span->out1) {
    open_source(&x, a, span->in0[0], n);
    open_source(&y, b, span->in0[1], n);
    pair_rows(pair, span, &x, &y, n < LANES ? room : out, 1, n < LANES ? LANES : n);
    if (n < LANES) lanes_store(out, load(room), n);
    a += span->in1[0], b += span->in1[1];
  }
}

enum { FOLD_NUMBERS = OD_FOLD_MAX + 1 }; /* the largest, where a NaN need not be found */

/* A NaN among the values is the result, whether it is the value so far or the next. */
OD_INLINE lanes join(od_fold fold, lanes so_far, lanes next) {
  if (fold == OD_FOLD_SUM) return so_far + next;
  if (fold == (od_fold)FOLD_NUMBERS) return lanes_max(next, so_far);
  return pick(next != next, next, lanes_max(next, so_far));
}

OD_INLINE float fold_lanes(od_fold fold, lanes *parts) {
#define JOIN(a, b) join(fold, a, b)
  JOIN_PARTS(sum, parts, JOIN)
  return sum[0];
}

OD_INLINE float fold_row(od_fold fold, const float *in, size_t length) {
  lanes sums[PARTS], filler = all(fold == OD_FOLD_SUM ? 0 : *in);
  OD_UNROLL(4) for (int j = 0; j < PARTS; j++) sums[j] = filler;
  for (; length >= SUMS; length -= SUMS, in += SUMS)
    OD_UNROLL(4) for (int j = 0; j < PARTS; j++) sums[j] = join(fold, sums[j], load(in + j * LANES));
  OD_UNROLL(4) for (size_t j = 0; j < PARTS; j++)
    if (length > j * LANES)
      sums[j] = join(fold, sums[j], part(in + j * LANES, length - j * LANES, filler));
  return fold_lanes(fold, sums);
}

#define APART static __attribute__((noinline)) /* several readers, and long */
APART float sum_of(const float *in, size_t length) { return fold_row(OD_FOLD_SUM, in, length); }
APART float most_of(const float *in, size_t length) { return fold_row(OD_FOLD_MAX, in, length); }

OD_INLINE void fold_loops(od_fold fold, const float *in, size_t outer, size_t length, size_t inner,
                          float divisor, float *out) {
  for (size_t o = 0; o < outer; o++, in += length * inner, out += inner) {
    if (inner == 1) {
      *out = fold == OD_FOLD_SUM ? sum_of(in, length) : most_of(in, length);
      if (divisor != 1) *out /= divisor;
      continue;
    }
    for (size_t i = 0; i < inner; i += LANES) {
      size_t width = inner - i;
      lanes sum = fold == OD_FOLD_SUM ? all(0) : part(in + i, width, all(0));
      for (size_t j = 0; j < length; j++)
        sum = join(fold, sum, part(in + j * inner + i, width, all(0)));
      if (divisor != 1) sum = sum / divisor;
      put(out + i, sum, width);
    }
  }
}

static void folds(od_fold fold, const float *in, size_t outer, size_t length, size_t inner,
                  float divisor, float *out) {
  if (fold == OD_FOLD_SUM) fold_loops(OD_FOLD_SUM, in, outer, length, inner, divisor, out);
  else fold_loops(OD_FOLD_MAX, in, outer, length, inner, divisor, out);
}

static void dots(const float *a, const int64_t *a_places, const float *b, const int64_t *b_places,
                 size_t count, size_t length, float *out) {
  for (size_t i = 0; i < count; i++) {
    const float *x = a + (a_places ? (size_t)a_places[i] : i) * length;
    const float *y = b + (b_places ? (size_t)b_places[i] : i) * length;
    lanes sums[PARTS] = {{0}};
    size_t l = 0;
    for (; l + SUMS <= length; l += SUMS)
      for (int j = 0; j < PARTS; j++)
        sums[j] = sums[j] + load(x + l + j * LANES) * load(y + l + j * LANES);
    for (int j = 0; l < length; l += LANES, j++)
      sums[j] = sums[j] + part(x + l, length - l, all(0)) * part(y + l, length - l, all(0));
    out[i] = fold_lanes(OD_FOLD_SUM, sums);
  }
}

/* Softmax of a row, which another step divides by the sum that this one returns. Up to `room` elements are
 * written. */
OD_INLINE float powers(const float *in, size_t n, float largest, float *out, size_t room) {
  lanes most = all(largest), sums[PARTS] = {{0}};
#ifdef SOFTMAX_SUMS_LAST
  if (n >= LANES) {
    lanes last = load(in + n - LANES) - most; /* before what it overlaps is written */
    for (size_t i = 0; i < n - LANES; i += LANES)
      store(out + i, exponential_down(load(in + i) - most));
    store(out + n - LANES, exponential_down(last));
    return sum_of(out, n);
  }
#endif
  for (size_t i = 0; i < n; i += LANES) {
    lanes value = exponential_down(part(in + i, n - i, all(-__builtin_inff())) - most);
    size_t j = i / LANES % PARTS;
    sums[j] = sums[j] + value;
    put(out + i, value, room - i);
  }
  return fold_lanes(OD_FOLD_SUM, sums);
}

/* The last vector is read before what it overlaps is written. */
OD_INLINE void multiply(float *out, size_t n, float by) {
  size_t end = n < LANES ? 0 : n - LANES;
  lanes last = part(out + end, n - end, all(0)) * by;
  for (size_t i = 0; i < end; i += LANES) store(out + i, load(out + i) * by);
  put(out + end, last, n - end);
}

/* 1 to SUMS rows one step at a time, so that the processor overlaps them: within a row each step waits
 * for the last. What a row's last vector writes too much the next row replaces. */
static void softmax_rows(const float *in, size_t rows, size_t length, float *out) {
  float largest[SUMS], sums[SUMS];
  for (size_t r = 0; r < rows; r++)
    largest[r] = fold_row((od_fold)FOLD_NUMBERS, in + r * length, length);
  for (size_t r = 0; r < rows; r++)
    sums[r] = powers(in + r * length, length, largest[r], out + r * length, (rows - r) * length);
  for (size_t r = 0; r < rows; r++) multiply(out + r * length, length, 1.0f / sums[r]);
}

#ifdef SOFTMAX_COLUMNS
/* The same for all columns. */
static void softmax_columns(const float *in, size_t length, size_t inner, float *out) {
  for (size_t i = 0; i < inner; i += LANES, in += LANES, out += LANES) {
    size_t width = inner - i;
    lanes most = all(-__builtin_inff()), sum = all(0);
    for (size_t j = 0; j < length; j++) most = lanes_max(part(in + j * inner, width, sum), most);
    for (size_t j = 0; j < length; j++) {
      lanes value = exponential_down(part(in + j * inner, width, most) - most);
      sum = sum + value;
      put(out + j * inner, value, width);
    }
    lanes factor = 1.0f / sum;
    for (size_t j = 0; j < length; j++)
      put(out + j * inner, part(out + j * inner, width, sum) * factor, width);
  }
}
#else /* rare: not worth the code for every instruction set */
static void softmax_columns(const float *in, size_t length, size_t inner, float *out) {
  od_vectors_portable.softmax(in, 1, length, inner, out);
}
#endif

static void softmax(const float *in, size_t outer, size_t length, size_t inner, float *out) {
  for (size_t o = 0; inner == 1 && o < outer; o += SUMS)
    softmax_rows(in + o * length, outer - o < SUMS ? outer - o : SUMS, length, out + o * length);
  for (size_t o = 0; inner > 1 && o < outer; o++, in += length * inner, out += length * inner)
    softmax_columns(in, length, inner, out);
}
