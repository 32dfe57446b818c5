/* inference.c: helpers of shape rules and loops: operands, attributes, axes, results. */
#include "ops/ops.h"

OD_FOR_SIZE

od_status od_refuse(const od_inference *f, const char *why) {
  return od_fail(f->error, OD_E_UNSUPPORTED, "plan: node %u (%s): %s", (uint64_t)f->node->number,
                 od_operators[f->node->op].name, why);
}

const od_value *od_operand(const od_inference *f, uint32_t i) {
  if (i >= f->node->input_count || f->node->inputs[i] < 0) return NULL;
  return &f->model->values[f->node->inputs[i]];
}

int64_t od_attribute_int(const od_inference *f, const char *name, int64_t fallback) {
  int64_t value = fallback;
  od_json_int(od_json_member(f->attributes, name), INT32_MIN, INT32_MAX, &value);
  return value;
}

int od_attribute_flag(const od_inference *f, const char *name, int fallback) {
  return od_attribute_int(f, name, fallback) != 0;
}

float od_attribute_real(const od_inference *f, const char *name, float fallback) {
  const od_json *attribute = od_json_member(f->attributes, name);
  return attribute ? (float)attribute->real : fallback;
}

int od_constant_ints(const od_value *v, const int64_t **numbers, uint32_t *count) {
  if (!v || v->batched || v->dtype != OD_I64 || !v->data || v->rank > 1 || v->size > OD_MAX_RANK)
    return 0;
  *numbers = v->data;
  *count = v->size;
  return 1;
}

uint32_t od_full_rank(const od_value *v) { return v->rank + (v->batched ? 1u : 0u); }

uint32_t od_full_dim(const od_value *v, uint32_t axis) {
  if (!v->batched) return v->dims[axis];
  return axis == 0 ? 0 : v->dims[axis - 1];
}

int32_t od_normal_axis(int64_t axis, uint32_t rank) {
  if (axis < 0) axis += rank;
  return axis < 0 || axis >= (int64_t)rank ? -1 : (int32_t)axis;
}

int od_is_plain(const od_value *v) {
  return v && v->size && (v->dtype == OD_F32 || v->dtype == OD_I64 || v->dtype == OD_U8);
}

int od_align(const od_value *v, uint32_t rank, uint32_t *dims) {
  uint32_t full_rank = od_full_rank(v);
  if (full_rank > rank || (v->batched && full_rank != rank)) return 0;
  for (uint32_t i = 0; i < rank; i++)
    dims[i] = i < rank - full_rank ? 1 : od_full_dim(v, i - (rank - full_rank));
  return 1;
}

void od_strides(const uint32_t *dims, uint32_t rank, int32_t *strides) {
  uint32_t step = 1;
  for (uint32_t i = rank; i-- > 0;) {
    strides[i] = dims[i] == 1 ? 0 : (int32_t)step;
    step *= dims[i];
  }
}

int od_split_at(const od_value *in, int64_t full_axis, od_axis *axis, uint32_t *dim) {
  int32_t at = od_normal_axis(full_axis, od_full_rank(in));
  if (at < 0 || (in->batched && at == 0)) return 0;
  *dim = (uint32_t)at - (in->batched ? 1u : 0u);
  *axis = (od_axis){1, in->dims[*dim], 1};
  for (uint32_t i = 0; i < in->rank; i++) {
    if (i < *dim) axis->outer *= in->dims[i];
    if (i > *dim) axis->inner *= in->dims[i];
  }
  return 1;
}

od_status od_need_floats(const od_inference *f, uint32_t count) {
  if (f->node->input_count < count) return od_refuse(f, "too few inputs");
  for (uint32_t i = 0; i < count; i++) {
    const od_value *v = od_operand(f, i);
    if (!v || v->dtype != OD_F32 || v->size == 0) return od_refuse(f, "float32 inputs needed");
  }
  return OD_OK;
}

od_status od_need_numbers(const od_inference *f, uint32_t count) {
  if (f->node->input_count < count) return od_refuse(f, "too few inputs");
  const od_value *first = od_operand(f, 0);
  for (uint32_t i = 0; i < count; i++) {
    const od_value *v = od_operand(f, i);
    if (!v || (v->dtype != OD_F32 && v->dtype != OD_I64) || v->dtype != first->dtype || !v->size)
      return od_refuse(f, "float32 or int64 inputs of one type needed");
  }
  return OD_OK;
}

od_status od_set_dims(const od_inference *f, int batched, od_dtype dtype, const uint32_t *dims,
                      uint32_t rank) {
  od_value *out = f->out;
  uint64_t size = 1;
  if (rank + (batched ? 1u : 0u) > OD_MAX_RANK)
    return od_refuse(f, "more than " OD_DIGITS(OD_MAX_RANK) " axes");
  out->batched = (uint8_t)(batched != 0);
  out->dtype = dtype;
  out->rank = (uint8_t)rank;
  for (uint32_t i = 0; i < rank; i++) {
    if (dims[i] == 0) return od_refuse(f, "an axis of size 0");
    out->dims[i] = dims[i];
    size *= dims[i];
    if (size > OD_MAX_ROW_ELEMENTS) return od_refuse(f, "too large a value");
  }
  out->size = (uint32_t)size;
  return OD_OK;
}

od_status od_same_as(const od_inference *f, const od_value *in) {
  return od_set_dims(f, in->batched, in->dtype, in->dims, in->rank);
}

od_status od_broadcast(const od_inference *f, uint32_t count, od_dtype dtype, od_walk *walk) {
  uint32_t rank = 0, extents[3][OD_MAX_RANK], dims[OD_MAX_RANK] = {0};
  int batched = 0;
  for (uint32_t i = 0; i < count; i++) {
    const od_value *v = od_operand(f, i);
    if (od_full_rank(v) > rank) rank = od_full_rank(v);
    batched |= v->batched;
  }
  if (rank > OD_MAX_RANK) return od_refuse(f, "more than " OD_DIGITS(OD_MAX_RANK) " axes");
  uint32_t first = batched ? 1 : 0;
  for (uint32_t i = 0; i < rank; i++) dims[i] = 1;
  for (uint32_t i = 0; i < count; i++) {
    const od_value *v = od_operand(f, i);
    if (!od_align(v, rank, extents[i]))
      return od_refuse(f, "its inputs' rows are not on the same axis");
    if (batched && !v->batched && extents[i][0] != 1)
      return od_refuse(f, "a constant has one value for every row of the request");
    for (uint32_t d = first; d < rank; d++) {
      if (extents[i][d] != dims[d] && extents[i][d] != 1 && dims[d] != 1)
        return od_refuse(f, "its inputs' shapes do not fit each other");
      if (dims[d] == 1) dims[d] = extents[i][d];
    }
  }
  walk->rank = rank - first;
  od_copy(walk->shape, dims + first, sizeof(uint32_t) * (rank - first));
  for (uint32_t i = 0; i < count; i++)
    od_strides(extents[i] + first, rank - first, walk->strides[i]);
  return od_set_dims(f, batched, dtype, dims + first, rank - first);
}

int od_truth(od_dtype dtype, const char *data, int64_t at) {
  if (dtype == OD_F32) return OD_FLOATS(data)[at] != 0;
  return dtype == OD_I64 ? OD_INTS(data)[at] != 0 : OD_BYTES(data)[at] != 0;
}
