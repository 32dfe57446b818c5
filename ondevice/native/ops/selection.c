/* selection.c: operators that pick elements by a condition or by indices. */
#include "ops/ops.h"

od_status od_shape_where(const od_inference *f) {
  const od_value *a = od_operand(f, 1), *b = od_operand(f, 2);
  if (f->node->input_count != 3 || !od_is_plain(od_operand(f, 0)) || !od_is_plain(a) ||
      !od_is_plain(b) || a->dtype != b->dtype)
    return od_refuse(f, "a condition and two inputs of one type needed");
  return od_broadcast(f, 3, a->dtype, &f->node->where.walk);
}

typedef struct {
  od_dtype test;
  uint32_t bytes; /* of a chosen element */
} chooser;

/* The usual types: a byte decides about float32. */
static void choose_floats(const od_span *span) {
  for (size_t i1 = 0; i1 < span->n1; i1++) {
    const uint8_t *test = (const uint8_t *)span->in[0] + (int64_t)i1 * span->in1[0];
    const float *yes = (const float *)span->in[1] + (int64_t)i1 * span->in1[1];
    const float *no = (const float *)span->in[2] + (int64_t)i1 * span->in1[2];
    float *out = (float *)span->out + (int64_t)i1 * span->out1;
    int64_t t = span->in0[0], y = span->in0[1], n = span->in0[2];
    for (size_t i = 0; i < span->n0; i++, test += t, yes += y, no += n) {
      float a = *yes, b = *no;
      out[i] = *test ? a : b;
    }
  }
}

OD_COLD static void choose(const od_span *span, void *context) {
  const chooser *c = context;
  if (c->test == OD_U8 && c->bytes == 4) {
    choose_floats(span);
    return;
  }
  for (size_t i1 = 0; i1 < span->n1; i1++) {
    int64_t at[3], i = (int64_t)i1 * span->out1;
    for (int p = 0; p < 3; p++) at[p] = (int64_t)i1 * span->in1[p];
    for (size_t i0 = 0; i0 < span->n0; i0++, i++) {
      int which = od_truth(c->test, span->in[0], at[0]) ? 1 : 2;
      od_move(c->bytes, span->out, i, span->in[which], at[which]);
      for (int p = 0; p < 3; p++) at[p] += span->in0[p];
    }
  }
}

od_trouble od_loop_where(const od_node *node, const od_value *values, const od_rows *in, char *out,
                         size_t out_step, size_t rows) {
  chooser context = {values[node->inputs[0]].dtype,
                     (uint32_t)od_dtype_size(values[node->output].dtype)};
  uint32_t bytes[4] = {(uint32_t)od_dtype_size(context.test), context.bytes, context.bytes,
                       context.bytes};
  od_each_span(&node->where.walk, bytes, in, out, out_step, rows, choose, &context);
  return OD_TROUBLE_NONE;
}

/* Indices */

static int are_indices(const od_value *v) { return v && v->size && v->dtype == OD_I64; }

/* An index may count from the end. One outside is noted, and place 0 read. */
static uint32_t checked(int64_t index, uint32_t size, od_trouble *trouble) {
  if (index < 0) index += size;
  if (index >= 0 && index < (int64_t)size) return (uint32_t)index;
  *trouble = OD_TROUBLE_INDEX;
  return 0;
}

od_status od_shape_gather(const od_inference *f) {
  const od_value *in = od_operand(f, 0), *indices = od_operand(f, 1);
  uint32_t dim, dims[2 * OD_MAX_RANK], rank = 0;
  if (!od_is_plain(in) || !are_indices(indices))
    return od_refuse(f, "data and int64 indices needed");
  if (!od_split_at(in, od_attribute_int(f, "axis", 0), &f->node->selection.axis, &dim))
    return od_refuse(f, "it selects rows");
  if (indices->batched && (in->batched || dim != 0))
    return od_refuse(f, "indices of every row select along the first axis of a constant only");
  for (uint32_t i = 0; i < dim; i++) dims[rank++] = in->dims[i];
  for (uint32_t i = 0; i < indices->rank; i++) dims[rank++] = indices->dims[i];
  for (uint32_t i = dim + 1; i < in->rank; i++) dims[rank++] = in->dims[i];
  f->node->selection.count = indices->size;
  return od_set_dims(f, in->batched || indices->batched, in->dtype, dims, rank);
}

od_trouble od_loop_gather(const od_node *node, const od_value *values, const char *const *in,
                          char *out) {
  const od_axis *axis = &node->selection.axis;
  size_t block = (size_t)axis->inner * od_dtype_size(values[node->output].dtype);
  od_trouble trouble = OD_TROUBLE_NONE;
  for (uint32_t o = 0; o < axis->outer; o++)
    for (uint32_t i = 0; i < node->selection.count; i++, out += block) {
      uint32_t index = checked(OD_INTS(in[1])[i], axis->length, &trouble);
      od_copy_few(out, in[0] + ((size_t)o * axis->length + index) * block, block);
    }
  return trouble;
}

od_status od_shape_gather_elements(const od_inference *f) {
  const od_value *in = od_operand(f, 0), *indices = od_operand(f, 1);
  od_element_selection *elements = &f->node->elements;
  od_axis axis;
  uint32_t dim;
  if (!od_is_plain(in) || !are_indices(indices))
    return od_refuse(f, "data and int64 indices needed");
  if (in->batched != indices->batched || in->rank != indices->rank ||
      !od_split_at(in, od_attribute_int(f, "axis", 0), &axis, &dim))
    return od_refuse(f, "data and indices of one rank, not along the rows, needed");
  for (uint32_t i = 0; i < in->rank; i++)
    if (i != dim && indices->dims[i] > in->dims[i])
      return od_refuse(f, "its inputs' shapes do not fit each other");
  elements->length = axis.length;
  elements->stride = axis.inner;
  od_strides(in->dims, in->rank, elements->walk.strides[0]);
  elements->walk.strides[0][dim] = 0;
  elements->walk.rank = in->rank;
  od_copy(elements->walk.shape, indices->dims, sizeof(uint32_t) * in->rank);
  return od_set_dims(f, in->batched, in->dtype, indices->dims, in->rank);
}

OD_COLD od_trouble od_loop_gather_elements(const od_node *node, const od_value *values,
                                   const char *const *in, char *out) {
  const od_element_selection *elements = &node->elements;
  uint32_t size = values[node->output].size;
  uint32_t bytes = (uint32_t)od_dtype_size(values[node->output].dtype);
  od_trouble trouble = OD_TROUBLE_NONE;
  od_walker w = {{0}, {0, 0, 0}};
  for (uint32_t i = 0; i < size; i++, od_step_on(&w, &elements->walk)) {
    uint32_t index = checked(OD_INTS(in[1])[i], elements->length, &trouble);
    od_move(bytes, out, i, in[0], w.places[0] + (int64_t)index * elements->stride);
  }
  return trouble;
}

od_status od_shape_gather_nd(const od_inference *f) {
  const od_value *in = od_operand(f, 0), *indices = od_operand(f, 1);
  od_deep_selection *deep = &f->node->deep;
  if (!od_is_plain(in) || !are_indices(indices) || !indices->rank)
    return od_refuse(f, "data and int64 indices needed");
  int64_t shared = od_attribute_int(f, "batch_dims", 0) - in->batched;
  uint32_t depth = indices->dims[indices->rank - 1], dims[2 * OD_MAX_RANK], rank = 0;
  if ((in->batched && !indices->batched) || shared < 0 || shared >= indices->rank ||
      (indices->batched && !in->batched && shared) || shared + depth > in->rank)
    return od_refuse(f, "it mixes rows, or its inputs' shapes do not fit each other");
  deep->outer = deep->count = deep->inner = 1;
  deep->depth = depth;
  for (uint32_t i = 0; i + 1u < indices->rank; i++) {
    if (i < shared && indices->dims[i] != in->dims[i])
      return od_refuse(f, "its inputs' shapes do not fit each other");
    if (i < shared) deep->outer *= in->dims[i];
    else deep->count *= indices->dims[i];
    dims[rank++] = indices->dims[i];
  }
  for (uint32_t i = 0; i < depth; i++) deep->extents[i] = in->dims[(uint32_t)shared + i];
  for (uint32_t i = (uint32_t)shared + depth; i < in->rank; i++) {
    deep->inner *= in->dims[i];
    dims[rank++] = in->dims[i];
  }
  return od_set_dims(f, indices->batched, in->dtype, dims, rank);
}

OD_COLD od_trouble od_loop_gather_nd(const od_node *node, const od_value *values, const char *const *in,
                             char *out) {
  const od_deep_selection *deep = &node->deep;
  const int64_t *indices = OD_INTS(in[1]);
  size_t block = (size_t)deep->inner * od_dtype_size(values[node->output].dtype);
  od_trouble trouble = OD_TROUBLE_NONE;
  for (uint32_t o = 0; o < deep->outer; o++)
    for (uint32_t i = 0; i < deep->count; i++, indices += deep->depth, out += block) {
      size_t place = o;
      for (uint32_t j = 0; j < deep->depth; j++)
        place = place * deep->extents[j] + checked(indices[j], deep->extents[j], &trouble);
      od_copy(out, in[0] + place * block, block);
    }
  return trouble;
}
