/* reductions.c: sums, means, products and extremes along axes, and softmax. */
#include "ops/maths.h"
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
    if (axis < 0) return od_refuse(f, "an axis out of range");
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
  od_axis *axis = &f->node->reduction;
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

static float reduce_floats(od_op op, const od_axis *axis, const float *from) {
  float value = op == OD_OP_REDUCE_PROD ? 1.0f : 0.0f;
  if (op == OD_OP_REDUCE_MAX || op == OD_OP_REDUCE_MIN) value = *from;
  for (uint32_t j = 0; j < axis->length; j++, from += axis->inner) {
    float x = *from;
    if (op == OD_OP_REDUCE_PROD) value *= x;
    else if (op == OD_OP_REDUCE_MAX) value = x > value || x != x ? x : value;
    else if (op == OD_OP_REDUCE_MIN) value = x < value || x != x ? x : value;
    else value += x;
  }
  return op == OD_OP_REDUCE_MEAN ? value / (float)axis->length : value;
}

static int64_t reduce_ints(od_op op, const od_axis *axis, const int64_t *from) {
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

od_trouble od_loop_reduce(const od_node *node, const od_value *values, const char *const *in,
                          char *out) {
  const od_axis *axis = &node->reduction;
  int whole = values[node->output].dtype == OD_I64;
  for (uint32_t o = 0; o < axis->outer; o++)
    for (uint32_t i = 0; i < axis->inner; i++) {
      size_t from = (size_t)o * axis->length * axis->inner + i, to = (size_t)o * axis->inner + i;
      if (whole)
        ((int64_t *)(void *)out)[to] = reduce_ints(node->op, axis, OD_INTS(in[0]) + from);
      else ((float *)(void *)out)[to] = reduce_floats(node->op, axis, OD_FLOATS(in[0]) + from);
    }
  return OD_TROUBLE_NONE;
}

od_status od_shape_softmax(const od_inference *f) {
  OD_CHECK(od_need_floats(f, 1));
  const od_value *in = od_operand(f, 0);
  uint32_t dim;
  if (!od_split_at(in, od_attribute_int(f, "axis", -1), &f->node->reduction, &dim))
    return od_refuse(f, "it normalises over the rows");
  return od_same_as(f, in);
}

od_trouble od_loop_softmax(const od_node *node, const od_value *values, const char *const *operands,
                           char *result) {
  const od_axis *axis = &node->reduction;
  const float *in = OD_FLOATS(operands[0]);
  float *out = (float *)(void *)result;
  (void)values;
  for (uint32_t o = 0; o < axis->outer; o++)
    for (uint32_t i = 0; i < axis->inner; i++) {
      size_t first = (size_t)o * axis->length * axis->inner + i;
      float largest = in[first], sum = 0;
      for (uint32_t j = 1; j < axis->length; j++) {
        float x = in[first + (size_t)j * axis->inner];
        largest = x > largest ? x : largest;
      }
      for (uint32_t j = 0; j < axis->length; j++) {
        size_t at = first + (size_t)j * axis->inner;
        out[at] = od_exp(in[at] - largest);
        sum += out[at];
      }
      for (uint32_t j = 0; j < axis->length; j++) out[first + (size_t)j * axis->inner] /= sum;
    }
  return OD_TROUBLE_NONE;
}
