/* products.c: matrix products, and the shape of dense layers. */
#include "core/codecs.h"
#include "ops/ops.h"

enum { DEEP = 256 }; /* of a panel in memory */

typedef float four __attribute__((vector_size(16)));
#if defined(__clang__)
#define MIXED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t four_places __attribute__((vector_size(16)));
#define MIXED(a, b, ...) __builtin_shuffle(a, b, (four_places){__VA_ARGS__})
#endif

OD_INLINE four load_four(const float *p) {
  four v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

/* Four columns of b as four rows of the panel. */
OD_INLINE void pack_four(float *panel, const float *b, size_t column_step) {
  four w = load_four(b), x = load_four(b + column_step);
  four y = load_four(b + 2 * column_step), z = load_four(b + 3 * column_step);
  four low = MIXED(w, x, 0, 4, 1, 5), high = MIXED(w, x, 2, 6, 3, 7);
  four low2 = MIXED(y, z, 0, 4, 1, 5), high2 = MIXED(y, z, 2, 6, 3, 7);
  four rows[4] = {MIXED(low, low2, 0, 1, 4, 5), MIXED(low, low2, 2, 3, 6, 7),
                  MIXED(high, high2, 0, 1, 4, 5), MIXED(high, high2, 2, 3, 6, 7)};
  for (int i = 0; i < 4; i++) __builtin_memcpy(panel + i * OD_PANEL, &rows[i], sizeof rows[i]);
}

/* Up to 16 columns of b from `first` on, beside zeros. */
static void pack(float *panel, const float *b, size_t row_step, size_t column_step, uint32_t depth,
                 uint32_t width) {
  uint32_t l = 0;
  if (width < OD_PANEL) od_zero(panel, depth * OD_PANEL * sizeof *panel);
  for (; row_step == 1 && l + 4 <= depth; l += 4) {
    uint32_t j = 0;
    float *to = panel + l * OD_PANEL;
    for (; j + 4 <= width; j += 4) pack_four(to + j, b + j * column_step + l, column_step);
    for (; j < width; j++)
      for (uint32_t i = 0; i < 4; i++) to[i * OD_PANEL + j] = b[j * column_step + l + i];
  }
  for (; l < depth; l++) {
    uint32_t j = 0;
    float *to = panel + l * OD_PANEL;
    const float *from = b + l * row_step;
    for (; column_step == 1 && j + 4 <= width; j += 4) __builtin_memcpy(to + j, from + j, 16);
    for (; j < width; j++) to[j] = from[j * column_step];
  }
}

/* Columns that are not 16 neighbours in memory go through a panel. */
static void packed_product(const od_kernels *kernels, const od_matmul *m, uint32_t first,
                           uint32_t width, const float *a, const float *b, float *out) {
  float panel[DEEP * OD_PANEL];
  b += (size_t)first * m->b_column;
  for (uint32_t l = 0; l < m->depth; l += DEEP) {
    uint32_t depth = m->depth - l < DEEP ? m->depth - l : DEEP;
    pack(panel, b + (size_t)l * m->b_row, m->b_row, m->b_column, depth, width);
    od_product p = {a + l, panel, out + first, m->a_step, OD_PANEL, m->out_step, m->rows, depth,
                    width, l != 0};
    kernels->product(&p);
  }
}

/* One product of two matrices. */
static __attribute__((noinline)) void product(const od_kernels *kernels, const od_matmul *m, const float *a, const float *b,
                    float *out) {
  uint32_t n = m->columns;
  for (uint32_t j = 0; j < n; j += OD_PANEL) {
    if (n >= OD_PANEL && j + OD_PANEL > n) j = n - OD_PANEL; /* some columns a second time */
    uint32_t width = n - j < OD_PANEL ? n - j : OD_PANEL;
    od_product p = {a, b + j, out + j, m->a_step, m->b_row, m->out_step, m->rows, m->depth, OD_PANEL,
                    0};
    if (m->b_column != 1 || width < OD_PANEL) packed_product(kernels, m, j, width, a, b, out);
    else kernels->product(&p);
  }
}

od_status od_shape_gemm(const od_inference *f) {
  OD_CHECK(od_need_floats(f, 2));
  const od_value *a = od_operand(f, 0), *b = od_operand(f, 1), *c = od_operand(f, 2);
  od_gemm *gemm = &f->node->gemm;
  if (od_attribute_flag(f, "transA", 0) || od_full_rank(a) != 2 || b->batched || b->rank != 2)
    return od_refuse(f, "rows times a constant matrix needed");
  gemm->transposed = od_attribute_flag(f, "transB", 0) != 0;
  gemm->rows = a->batched ? 1 : a->dims[0];
  gemm->depth = a->batched ? a->dims[0] : a->dims[1];
  gemm->columns = b->dims[gemm->transposed ? 0 : 1];
  if (b->dims[gemm->transposed ? 1 : 0] != gemm->depth)
    return od_refuse(f, "its inputs' shapes do not fit each other");
  gemm->alpha = od_attribute_real(f, "alpha", 1);
  gemm->beta = od_attribute_real(f, "beta", 1);
  if (c && (c->batched || c->dtype != OD_F32 || !(c->size == gemm->columns || c->size == 1) ||
            c->rank > 2 || (c->rank && c->dims[c->rank - 1] != c->size)))
    return od_refuse(f, "a constant bias, one value an output, needed");
  uint32_t dims[2] = {gemm->rows, gemm->columns};
  return od_set_dims(f, a->batched, OD_F32, a->batched ? dims + 1 : dims, a->batched ? 1 : 2);
}

OD_COLD od_trouble od_loop_gemm(const od_node *node, const od_value *values, const char *const *in,
                        char *out) {
  const od_gemm *gemm = &node->gemm;
  const float *bias = OD_FLOATS(in[2]);
  uint32_t biases = bias ? values[node->inputs[2]].size : 0;
  float *to = (float *)(void *)out;
  od_matmul m = {.rows = gemm->rows, .depth = gemm->depth, .columns = gemm->columns,
                 .a_step = gemm->depth, .b_row = gemm->transposed ? 1 : gemm->columns,
                 .b_column = gemm->transposed ? gemm->depth : 1, .out_step = gemm->columns};
  product(node->kernels, &m, OD_FLOATS(in[0]), OD_FLOATS(in[1]), to);
  for (uint32_t i = 0; i < gemm->rows * gemm->columns; i++) {
    float value = to[i] * gemm->alpha;
    if (bias) value += gemm->beta * bias[biases == 1 ? 0 : i % gemm->columns];
    to[i] = value;
  }
  return OD_TROUBLE_NONE;
}

/* Matrices without gaps. */
static void whole_steps(od_matmul *m) {
  m->a_step = m->depth;
  m->b_row = m->out_step = m->columns;
  m->b_column = 1;
}

/* Every row of the request times a constant matrix. */
static od_status rows_times_matrix(const od_inference *f, const od_value *a, const od_value *b) {
  od_matmul *matmul = &f->node->matmul;
  if (b->batched || b->rank != 2 || b->dims[0] != a->dims[0])
    return od_refuse(f, "rows times a constant matrix needed");
  matmul->rows = 1, matmul->depth = b->dims[0], matmul->columns = b->dims[1];
  whole_steps(matmul);
  matmul->plain = 1;
  return od_set_dims(f, 1, OD_F32, &matmul->columns, 1);
}

/* The leading axes repeat as in elementwise operators. */
od_status od_shape_matmul(const od_inference *f) {
  OD_CHECK(od_need_floats(f, 2));
  const od_value *a = od_operand(f, 0), *b = od_operand(f, 1);
  od_matmul *matmul = &f->node->matmul;
  od_walk *walk = &matmul->walk;
  uint32_t ra = od_full_rank(a), rb = od_full_rank(b), rank = ra > rb ? ra : rb;
  uint32_t left[OD_MAX_RANK], right[OD_MAX_RANK], dims[OD_MAX_RANK];
  if (ra < 2 || rb < 2 || rank > OD_MAX_RANK) return od_refuse(f, "matrices needed");
  int batched = a->batched || b->batched;
  if (ra == 2 && a->batched) return rows_times_matrix(f, a, b);
  if (rb == 2 && b->batched) return od_refuse(f, "its rows would not stay its first axis");
  if (!od_align(a, rank, left) || !od_align(b, rank, right))
    return od_refuse(f, "its inputs' rows are not on the same axis");
  uint32_t first = batched ? 1 : 0;
  if (batched && ((!a->batched && left[0] != 1) || (!b->batched && right[0] != 1)))
    return od_refuse(f, "a constant has one value for every row of the request");
  matmul->rows = left[rank - 2], matmul->depth = left[rank - 1];
  matmul->columns = right[rank - 1];
  if (right[rank - 2] != matmul->depth)
    return od_refuse(f, "its inputs' shapes do not fit each other");
  walk->rank = rank - 2 - first;
  for (uint32_t i = 0; i < walk->rank; i++) {
    uint32_t x = left[i + first], y = right[i + first];
    if (x != y && x != 1 && y != 1)
      return od_refuse(f, "its inputs' shapes do not fit each other");
    walk->shape[i] = dims[i] = x == 1 ? y : x;
  }
  whole_steps(matmul);
  od_strides(left + first, walk->rank, walk->strides[0]);
  od_strides(right + first, walk->rank, walk->strides[1]);
  for (uint32_t i = walk->rank, step = matmul->rows * matmul->columns; i-- > 0;) {
    walk->strides[0][i] *= (int32_t)(matmul->rows * matmul->depth); /* of matrices, to elements */
    walk->strides[1][i] *= (int32_t)(matmul->depth * matmul->columns);
    walk->strides[2][i] = (int32_t)step;
    step *= walk->shape[i];
  }
  dims[walk->rank] = matmul->rows, dims[walk->rank + 1] = matmul->columns;
  return od_set_dims(f, batched, OD_F32, dims, walk->rank + 2);
}

od_trouble od_loop_matmul(const od_node *node, const od_value *values, const char *const *in,
                          char *out) {
  const od_matmul *m = &node->matmul;
  od_walker w = {{0}, {0, 0, 0}};
  uint32_t count = 1;
  (void)values;
  for (uint32_t i = 0; i < m->walk.rank; i++) count *= m->walk.shape[i];
  for (uint32_t i = 0; i < count; i++, od_step_on(&w, &m->walk))
    product(node->kernels, m, OD_FLOATS(in[0]) + w.places[0], OD_FLOATS(in[1]) + w.places[1],
            (float *)(void *)out + w.places[2]);
  return OD_TROUBLE_NONE;
}

/* Dense layers, which the kernels compute */

static const void *dense_array(const od_inference *f, uint32_t i, od_dtype dtype, uint64_t count) {
  const od_value *v = od_operand(f, i);
  if (!v || v->batched || v->dtype != dtype || v->size != count) return NULL;
  return v->data;
}

static od_status read_dense(const od_inference *f, od_codec codec, const od_value *in,
                            uint32_t units) {
  od_dense *d = &f->node->dense.layer;
  int scaled = codec == OD_CODEC_Q8;
  d->codec = codec;
  d->features = in->dims[in->rank - 1];
  d->units = units;
  d->padded_units = od_padded(units, OD_UNIT_BLOCK);
  if (od_attribute_int(f, "features", 0) != (int64_t)d->features)
    return od_refuse(f, "its features are not those of its input");
  d->relu = (uint32_t)od_attribute_flag(f, "relu", 0);
  uint64_t padded = scaled ? od_padded(d->features, OD_FEATURE_GROUP) : d->features;
  d->weight = dense_array(f, 1, od_codecs[codec].dense_dtype, padded * d->padded_units);
  d->bias = dense_array(f, 2, OD_F32, d->padded_units);
  d->scale = scaled ? dense_array(f, 3, OD_F32, d->padded_units) : NULL;
  if (!d->weight || !d->bias || (scaled && !d->scale) ||
      f->node->input_count != (scaled ? 4u : 3u))
    return od_refuse(f, "its weights, bias or scales have a wrong type or size");
  return OD_OK;
}

od_status od_shape_dense(const od_inference *f) {
  const od_value *in = od_operand(f, 0);
  const od_json *name = od_json_member(f->attributes, "codec");
  int64_t units = od_attribute_int(f, "units", 0);
  od_codec codec;
  if (!name || name->kind != OD_J_TEXT) return od_refuse(f, "its codec is missing");
  if (!od_codec_find(name->text, &codec) || !od_codecs[codec].dense)
    return od_refuse(f, "unknown codec");
  if (!in || in->dtype != OD_F32 || !in->batched || !in->rank || in->size == 0 ||
      in->dims[in->rank - 1] > OD_MAX_DENSE_FEATURES || units < 1 || units > OD_MAX_DENSE_UNITS)
    return od_refuse(f, "1.." OD_DIGITS(OD_MAX_DENSE_FEATURES) " float32 features and 1.." OD_DIGITS(
                            OD_MAX_DENSE_UNITS) " units needed");
  OD_CHECK(read_dense(f, codec, in, (uint32_t)units));
  f->node->dense.repeated = -1;
  f->node->dense.vectors = in->size / f->node->dense.layer.features;
  uint32_t dims[OD_MAX_RANK];
  od_copy(dims, in->dims, sizeof dims);
  dims[in->rank - 1] = (uint32_t)units;
  return od_set_dims(f, 1, OD_F32, dims, in->rank);
}
