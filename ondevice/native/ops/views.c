/* views.c: operators that give the same elements another shape, which run nothing; Shape. */
#include "ops/ops.h"

OD_FOR_SIZE

/* The result has the operand's memory; `full`: its axes, 0 for the rows. */
static od_status view(const od_inference *f, const od_value *in, const uint32_t *full,
                      uint32_t rank) {
  uint32_t first = in->batched ? 1 : 0;
  f->out->parent = in->batched ? f->node->inputs[0] : -1;
  f->out->data = in->data;
  return od_set_dims(f, in->batched, in->dtype, full + first, rank - first);
}

static od_status need_plain(const od_inference *f, const od_value *in) {
  return od_is_plain(in) ? OD_OK : od_refuse(f, "an input is missing, or of another type");
}

od_status od_shape_identity(const od_inference *f) {
  const od_value *in = od_operand(f, 0);
  uint32_t full[OD_MAX_RANK], rank;
  OD_CHECK(need_plain(f, in));
  for (rank = 0; rank < od_full_rank(in); rank++) full[rank] = od_full_dim(in, rank);
  return view(f, in, full, rank);
}

/* The target's sizes; `unknown`: which of them is -1; `known`: elements of the others, in a row. */
static od_status read_target(const od_inference *f, const od_value *in, const int64_t *target,
                             uint32_t count, uint32_t *full, uint32_t *unknown, uint64_t *known) {
  int literal_zero = od_attribute_flag(f, "allowzero", 0);
  for (uint32_t i = 0; i < count; i++) {
    if (target[i] == -1) {
      if (*unknown != OD_MAX_RANK) return od_refuse(f, "two axes of unknown size");
      *unknown = i;
    } else if (target[i] == 0 && !literal_zero) {
      if (i >= od_full_rank(in)) return od_refuse(f, "its shape does not fit its input");
      full[i] = od_full_dim(in, i);
      if (!in->batched || i > 0) *known *= full[i];
    } else {
      if (target[i] < 1 || target[i] > OD_MAX_ROW_ELEMENTS) return od_refuse(f, "a size out of range");
      if (in->batched && i == 0) return od_refuse(f, "a fixed number of rows");
      full[i] = (uint32_t)target[i];
      *known *= full[i];
    }
    if (*known > OD_MAX_ROW_ELEMENTS) return od_refuse(f, "too large a value");
  }
  if (!*known) return od_refuse(f, "its shape does not fit its input");
  if (in->batched && (count == 0 || (target[0] != -1 && (target[0] != 0 || literal_zero))))
    return od_refuse(f, "its rows would not stay its first axis");
  return OD_OK;
}

od_status od_shape_reshape(const od_inference *f) {
  const od_value *in = od_operand(f, 0);
  const int64_t *target;
  uint32_t full[OD_MAX_RANK] = {0}, count, unknown = OD_MAX_RANK;
  uint64_t known = 1;
  OD_CHECK(need_plain(f, in));
  if (!od_constant_ints(od_operand(f, 1), &target, &count))
    return od_refuse(f, "a constant shape needed");
  OD_CHECK(read_target(f, in, target, count, full, &unknown, &known));
  if (in->batched && unknown == 0) { /* the rows */
    full[0] = 0;
  } else if (unknown != OD_MAX_RANK) {
    if (in->size % known) return od_refuse(f, "its shape does not fit its input");
    full[unknown] = (uint32_t)(in->size / known);
    known = in->size;
  }
  if (known != in->size) return od_refuse(f, "its shape does not fit its input");
  return view(f, in, full, count);
}

od_status od_shape_squeeze(const od_inference *f) {
  const od_value *in = od_operand(f, 0);
  const int64_t *axes;
  uint32_t full[OD_MAX_RANK], rank = 0, count, gone = 0;
  OD_CHECK(need_plain(f, in));
  if (!od_constant_ints(od_operand(f, 1), &axes, &count))
    return od_refuse(f, "constant axes needed");
  for (uint32_t i = 0; i < count; i++) {
    int32_t axis = od_normal_axis(axes[i], od_full_rank(in));
    if (axis < 0 || od_full_dim(in, (uint32_t)axis) != 1 || (gone >> axis & 1))
      return od_refuse(f, "an axis not of size 1, or twice");
    gone |= 1u << axis;
  }
  for (uint32_t i = 0; i < od_full_rank(in); i++)
    if (!(gone >> i & 1)) full[rank++] = od_full_dim(in, i);
  return view(f, in, full, rank);
}

od_status od_shape_unsqueeze(const od_inference *f) {
  const od_value *in = od_operand(f, 0);
  const int64_t *axes;
  uint32_t full[OD_MAX_RANK], count, fresh = 0, from = 0;
  OD_CHECK(need_plain(f, in));
  if (!od_constant_ints(od_operand(f, 1), &axes, &count))
    return od_refuse(f, "constant axes needed");
  uint32_t rank = od_full_rank(in) + count;
  if (rank > OD_MAX_RANK) return od_refuse(f, "more than " OD_DIGITS(OD_MAX_RANK) " axes");
  for (uint32_t i = 0; i < count; i++) {
    int32_t axis = od_normal_axis(axes[i], rank);
    if (axis < 0 || (fresh >> axis & 1)) return od_refuse(f, "an axis out of range, or twice");
    if (axis == 0 && in->batched) return od_refuse(f, "its rows would not stay its first axis");
    fresh |= 1u << axis;
  }
  for (uint32_t i = 0; i < rank; i++) full[i] = fresh >> i & 1 ? 1 : od_full_dim(in, from++);
  return view(f, in, full, rank);
}

od_status od_shape_flatten(const od_inference *f) {
  const od_value *in = od_operand(f, 0);
  OD_CHECK(need_plain(f, in));
  int64_t axis = od_attribute_int(f, "axis", 1);
  if (axis < 0) axis += od_full_rank(in);
  if (in->batched ? axis != 1 : axis < 0 || axis > (int64_t)od_full_rank(in))
    return od_refuse(f, "its rows would not stay its first axis");
  uint32_t full[2] = {1, in->batched ? in->size : 1};
  for (uint32_t i = 0; !in->batched && i < in->rank; i++) full[(int64_t)i >= axis] *= in->dims[i];
  return view(f, in, full, 2);
}

static uint32_t clamped(int64_t axis, uint32_t rank) {
  if (axis < 0) axis += rank;
  return axis < 0 ? 0 : axis > (int64_t)rank ? rank : (uint32_t)axis;
}

/* Sizes of an operand's axes: a constant, in which 0 stands for the rows. */
od_status od_shape_shape(const od_inference *f) {
  const od_value *in = od_operand(f, 0);
  OD_CHECK(need_plain(f, in));
  uint32_t rank = od_full_rank(in);
  uint32_t start = clamped(od_attribute_int(f, "start", 0), rank);
  uint32_t end = clamped(od_attribute_int(f, "end", rank), rank);
  if (end <= start) return od_refuse(f, "no axis");
  f->node->shape_part.start = start;
  f->out->counts_rows = (uint8_t)(in->batched && start == 0);
  return od_set_dims(f, 0, OD_I64, (uint32_t[]){end - start}, 1);
}

od_trouble od_loop_shape(const od_node *node, const od_value *values, const char *const *in,
                         char *out) {
  const od_value *of = &values[node->inputs[0]];
  (void)in;
  for (uint32_t i = 0; i < values[node->output].size; i++)
    ((int64_t *)(void *)out)[i] = od_full_dim(of, node->shape_part.start + i);
  return OD_TROUBLE_NONE;
}
