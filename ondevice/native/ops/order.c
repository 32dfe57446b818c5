/* order.c: operators that compare or add up the elements along an axis in order. */
#include "ops/ops.h"

/* Whether place j holds a value that comes before the one at `best`. */
static int before(od_dtype dtype, const char *in, int64_t j, int64_t best, int largest) {
  if (dtype == OD_I64)
    return largest ? OD_INTS(in)[j] > OD_INTS(in)[best] : OD_INTS(in)[j] < OD_INTS(in)[best];
  return largest ? OD_FLOATS(in)[j] > OD_FLOATS(in)[best] : OD_FLOATS(in)[j] < OD_FLOATS(in)[best];
}

od_status od_shape_arg(const od_inference *f) {
  OD_CHECK(od_need_numbers(f, 1));
  const od_value *in = od_operand(f, 0);
  od_arg *arg = &f->node->arg;
  uint32_t dim, dims[OD_MAX_RANK], rank = 0;
  if (!od_split_at(in, od_attribute_int(f, "axis", 0), &arg->axis, &dim))
    return od_refuse(f, "it compares rows");
  arg->largest = f->node->op == OD_OP_ARG_MAX;
  arg->last = od_attribute_flag(f, "select_last_index", 0) != 0;
  for (uint32_t i = 0; i < in->rank; i++) {
    if (i != dim) dims[rank++] = in->dims[i];
    else if (od_attribute_flag(f, "keepdims", 1)) dims[rank++] = 1;
  }
  return od_set_dims(f, in->batched, OD_I64, dims, rank);
}

OD_COLD od_trouble od_loop_arg(const od_node *node, const od_value *values, const char *const *in,
                       char *out) {
  const od_arg *arg = &node->arg;
  const od_axis *axis = &arg->axis;
  od_dtype dtype = values[node->inputs[0]].dtype;
  for (uint32_t o = 0; o < axis->outer; o++)
    for (uint32_t i = 0; i < axis->inner; i++) {
      int64_t first = (int64_t)o * axis->length * axis->inner + i, best = 0;
      for (uint32_t j = 1; j < axis->length; j++) {
        int64_t at = first + (int64_t)j * axis->inner, chosen = first + best * axis->inner;
        if (before(dtype, in[0], at, chosen, arg->largest) ||
            (arg->last && !before(dtype, in[0], chosen, at, arg->largest)))
          best = j;
      }
      ((int64_t *)(void *)out)[(size_t)o * axis->inner + i] = best;
    }
  return OD_TROUBLE_NONE;
}

od_status od_shape_top_k(const od_inference *f) {
  OD_CHECK(od_need_numbers(f, 1));
  const od_value *in = od_operand(f, 0);
  od_top_k *top = &f->node->top_k;
  uint32_t dim, dims[OD_MAX_RANK];
  int64_t k = od_attribute_int(f, "k", 0);
  if (!od_split_at(in, od_attribute_int(f, "axis", -1), &top->axis, &dim))
    return od_refuse(f, "it compares rows");
  if (k < 1 || k > in->dims[dim]) return od_refuse(f, "k is out of range");
  top->largest = od_attribute_flag(f, "largest", 1) != 0;
  top->count = (uint32_t)k;
  od_copy(dims, in->dims, sizeof dims);
  dims[dim] = (uint32_t)k;
  return od_set_dims(f, in->batched, OD_I64, dims, in->rank);
}

/* The place that follows `last` (-1: none yet) in order; ties by lower place. */
static int64_t next_place(const od_top_k *top, od_dtype dtype, const char *in, int64_t first,
                          int64_t last) {
  const od_axis *axis = &top->axis;
  int64_t best = -1, done = first + last * axis->inner;
  for (uint32_t j = 0; j < axis->length; j++) {
    int64_t at = first + (int64_t)j * axis->inner;
    int taken = last >= 0 && (before(dtype, in, at, done, top->largest) ||
                              (!before(dtype, in, done, at, top->largest) && (int64_t)j <= last));
    if (!taken &&
        (best < 0 || before(dtype, in, at, first + best * axis->inner, top->largest)))
      best = j;
  }
  return best < 0 ? 0 : best;
}

/* Each place takes one pass: k is small. */
OD_COLD od_trouble od_loop_top_k(const od_node *node, const od_value *values, const char *const *in,
                         char *out) {
  const od_top_k *top = &node->top_k;
  const od_axis *axis = &top->axis;
  od_dtype dtype = values[node->inputs[0]].dtype;
  for (uint32_t o = 0; o < axis->outer; o++)
    for (uint32_t i = 0; i < axis->inner; i++) {
      int64_t first = (int64_t)o * axis->length * axis->inner + i, last = -1;
      for (uint32_t k = 0; k < top->count; k++) {
        last = next_place(top, dtype, in[0], first, last);
        ((int64_t *)(void *)out)[((size_t)o * top->count + k) * axis->inner + i] = last;
      }
    }
  return OD_TROUBLE_NONE;
}

od_status od_shape_cum_sum(const od_inference *f) {
  OD_CHECK(od_need_numbers(f, 1));
  const od_value *in = od_operand(f, 0);
  od_cum_sum *sum = &f->node->cum_sum;
  const int64_t *axis;
  uint32_t dim, count;
  if (!od_constant_ints(od_operand(f, 1), &axis, &count) || count != 1)
    return od_refuse(f, "a constant axis needed");
  if (!od_split_at(in, axis[0], &sum->axis, &dim)) return od_refuse(f, "it sums over rows");
  sum->reverse = od_attribute_flag(f, "reverse", 0) != 0;
  sum->exclusive = od_attribute_flag(f, "exclusive", 0) != 0;
  return od_same_as(f, in);
}

OD_COLD od_trouble od_loop_cum_sum(const od_node *node, const od_value *values, const char *const *in,
                           char *out) {
  const od_cum_sum *sum = &node->cum_sum;
  const od_axis *axis = &sum->axis;
  int ints = values[node->output].dtype == OD_I64;
  for (uint32_t o = 0; o < axis->outer; o++)
    for (uint32_t i = 0; i < axis->inner; i++) {
      float so_far = 0;
      uint64_t whole = 0;
      for (uint32_t j = 0; j < axis->length; j++) {
        uint32_t step = sum->reverse ? axis->length - 1 - j : j;
        size_t at = ((size_t)o * axis->length + step) * axis->inner + i;
        if (ints) {
          uint64_t next = whole + (uint64_t)OD_INTS(in[0])[at];
          ((int64_t *)(void *)out)[at] = (int64_t)(sum->exclusive ? whole : next);
          whole = next;
        } else {
          float next = so_far + OD_FLOATS(in[0])[at];
          ((float *)(void *)out)[at] = sum->exclusive ? so_far : next;
          so_far = next;
        }
      }
    }
  return OD_TROUBLE_NONE;
}
