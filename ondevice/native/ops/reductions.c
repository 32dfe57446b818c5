/* reductions.c: sums, means, products and extremes along axes, and softmax. */
#include "ops/ops.h"

/* Which of the operand's full axes go, as bits. */
static od_status reduced_axes(const od_inference *f, const od_value *in, uint32_t *gone) {
  const int64_t *axes = NULL;
  uint32_t count = 0, rank = od_full_rank(in);
  *gone = 0;
  if (od_operand(f, 1) && !od_constant_ints(od_operand(f, 1), &axes, &count))
    return od_refuse(f, "constant axes needed");
  if (!count && !od_attribute_flag(f, "noop_with_empty_axes", 0)) *gone = (1u << rank) - 1;
  for (uint32_t i = 0; i < count; i++) {
    int32_t axis = od_normal_axis(axes[i], rank);
    if (axis < 0 || (*gone >> axis & 1)) return od_refuse(f, "an axis out of range, or twice");
    *gone |= 1u << axis;
  }
  return OD_OK;
}

/* Reduced axes must be neighbours: one loop before, at and after them. */
od_status od_shape_reduce(const od_inference *f) {
  OD_CHECK(od_need_numbers(f, 1));
  const od_value *in = od_operand(f, 0);
  uint32_t gone, dims[OD_MAX_RANK], left = 0, first = in->batched ? 1 : 0;
  OD_CHECK(reduced_axes(f, in, &gone));
  if (in->batched && (gone & 1)) return od_refuse(f, "it reduces over the rows");
  enum { BEFORE, AT, BEHIND } stage = BEFORE;
  od_axis *axis = &f->node->reduction.axis;
  *axis = (od_axis){1, 1, 1};
  for (uint32_t i = 0; i < in->rank; i++) {
    int reduced = gone >> (i + first) & 1;
    if (reduced && stage == BEHIND && in->dims[i] != 1)
      return od_refuse(f, "reduced axes lie apart");
    if (stage == BEFORE && reduced) stage = AT;
    else if (stage == AT && !reduced) stage = BEHIND;
    *(reduced ? &axis->length : stage == BEHIND ? &axis->inner : &axis->outer) *= in->dims[i];
    if (!reduced) dims[left++] = in->dims[i];
    else if (od_attribute_flag(f, "keepdims", 1)) dims[left++] = 1;
  }
  return od_set_dims(f, in->batched, in->dtype, dims, left);
}

od_status od_shape_reduce_mean(const od_inference *f) {
  OD_CHECK(od_need_numbers(f, 1));
  if (od_operand(f, 0)->dtype == OD_I64) return od_refuse(f, "a float32 input needed");
  return od_shape_reduce(f);
}

/* What kernels do not have. */
OD_COLD static float reduce_rarely(od_op op, const od_axis *axis, const float *from) {
  float value = op == OD_OP_REDUCE_PROD ? 1.0f : *from;
  for (uint32_t j = 0; j < axis->length; j++, from += axis->inner) {
    float x = *from;
    value = op == OD_OP_REDUCE_PROD ? value * x : x < value || x != x ? x : value;
  }
  return value;
}

OD_COLD static int64_t reduce_ints(od_op op, const od_axis *axis, const int64_t *from) {
  uint64_t sum = 0, product = 1;
  int64_t most = *from, least = *from;
  for (uint32_t j = 0; j < axis->length; j++, from += axis->inner) {
    sum += (uint64_t)*from;
    product *= (uint64_t)*from;
    most = *from > most ? *from : most;
    least = *from < least ? *from : least;
  }
  switch (op) {
    case OD_OP_REDUCE_MAX: return most;
    case OD_OP_REDUCE_MIN: return least;
    case OD_OP_REDUCE_PROD: return (int64_t)product;
    default: return (int64_t)sum;
  }
}

/* Of rows that follow each other without gaps, all are one: how many outer axes there are then. */
static size_t joined_rows(size_t *rows, size_t in_step, size_t in_bytes, size_t out_step,
                          size_t out_bytes) {
  size_t outer = *rows;
  if (*rows == 1 || in_step != in_bytes || out_step != out_bytes) return 1;
  *rows = 1;
  return outer;
}

static void reduce_row(const od_node *node, const od_axis *axis, size_t outer, int whole,
                       const char *in, char *out) {
  const od_vectors *vectors = node->kernels->vectors;
  const float *floats = OD_FLOATS(in);
  float *to = (float *)(void *)out;
  if (!whole && node->op != OD_OP_REDUCE_PROD && node->op != OD_OP_REDUCE_MIN) {
    od_fold fold = node->op == OD_OP_REDUCE_MAX ? OD_FOLD_MAX : OD_FOLD_SUM;
    float divisor = node->op == OD_OP_REDUCE_MEAN ? (float)axis->length : 1;
    vectors->folds(fold, floats, outer, axis->length, axis->inner, divisor, to);
    return;
  }
  for (size_t o = 0; o < outer; o++)
    for (uint32_t i = 0; i < axis->inner; i++) {
      size_t from = o * axis->length * axis->inner + i, at = o * axis->inner + i;
      if (whole) ((int64_t *)(void *)out)[at] = reduce_ints(node->op, axis, OD_INTS(in) + from);
      else to[at] = reduce_rarely(node->op, axis, floats + from);
    }
}

/* Sums of products, which are not written down. */
static void sum_products(const od_node *node, const od_rows *in, char *out, size_t out_step,
                         size_t rows) {
  const od_reduction *r = &node->reduction;
  size_t bytes = (size_t)r->axis.outer * r->axis.length * 4, count = r->axis.outer;
  if (!r->indices[0] && !r->indices[1] && in[0].step == bytes && in[1].step == bytes)
    count *= joined_rows(&rows, bytes, bytes, out_step, (size_t)r->axis.outer * 4);
  for (size_t row = 0; row < rows; row++)
    node->kernels->vectors->dots(OD_FLOATS(in[0].data + row * in[0].step), r->indices[0],
                                 OD_FLOATS(in[1].data + row * in[1].step), r->indices[1],
                                 count, r->axis.length,
                                 (float *)(void *)(out + row * out_step));
}

od_trouble od_loop_reduce(const od_node *node, const od_value *values, const od_rows *in, char *out,
                          size_t out_step, size_t rows) {
  const od_axis *axis = &node->reduction.axis;
  int whole = values[node->output].dtype == OD_I64;
  if (node->reduction.products) {
    sum_products(node, in, out, out_step, rows);
    return OD_TROUBLE_NONE;
  }
  size_t bytes = whole ? 8 : 4, size = (size_t)axis->outer * axis->inner * bytes;
  size_t outer = axis->outer * joined_rows(&rows, in[0].step, size * axis->length, out_step, size);
  for (size_t row = 0; row < rows; row++)
    reduce_row(node, axis, outer, whole, in[0].data + row * in[0].step, out + row * out_step);
  return OD_TROUBLE_NONE;
}

od_status od_shape_softmax(const od_inference *f) {
  OD_CHECK(od_need_floats(f, 1));
  const od_value *in = od_operand(f, 0);
  uint32_t dim;
  if (!od_split_at(in, od_attribute_int(f, "axis", -1), &f->node->reduction.axis, &dim))
    return od_refuse(f, "it normalises over the rows");
  return od_same_as(f, in);
}

od_trouble od_loop_softmax(const od_node *node, const od_value *values, const od_rows *in,
                           char *out, size_t out_step, size_t rows) {
  const od_axis *axis = &node->reduction.axis;
  size_t size = (size_t)values[node->output].size * 4;
  size_t outer = axis->outer * joined_rows(&rows, in[0].step, size, out_step, size);
  for (size_t row = 0; row < rows; row++)
    node->kernels->vectors->softmax(OD_FLOATS(in[0].data + row * in[0].step), outer, axis->length,
                                    axis->inner, (float *)(void *)(out + row * out_step));
  return OD_TROUBLE_NONE;
}
