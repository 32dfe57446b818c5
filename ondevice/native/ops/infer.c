/* infer.c: shapes of every operator's result, and the loops that compute it.
 *
 * A batched value's rows must stay independent and stay its first axis: an operator that would
 * mix rows is refused, and the caller falls back to an engine that can.
 */
#include "core/model.h"

typedef struct {
  od_model *model;
  od_node *node;
  const char *op;
  const od_json *attributes;
  od_error *error;
  od_value *out;
} inference;

static od_status refuse(const inference *f, const char *why) {
  return od_fail(f->error, OD_E_UNSUPPORTED, "plan: node %u (%s): %s", (uint64_t)f->node->number,
                 f->op, why);
}

static const od_value *operand(const inference *f, uint32_t i) {
  if (i >= f->node->input_count || f->node->inputs[i] < 0) return NULL;
  return &f->model->values[f->node->inputs[i]];
}

static int64_t attribute_int(const inference *f, const char *name, int64_t fallback) {
  int64_t value = fallback;
  const od_json *found = od_json_member(f->attributes, name);
  if (found && !od_json_int(found, INT32_MIN, INT32_MAX, &value)) return fallback;
  return value;
}

static float attribute_real(const inference *f, const char *name, float fallback) {
  const od_json *found = od_json_member(f->attributes, name);
  if (!found || (found->kind != OD_J_INT && found->kind != OD_J_REAL)) return fallback;
  return (float)found->real;
}

static uint32_t full_rank(const od_value *v) { return v->rank + (v->batched ? 1u : 0u); }

/* The extent of a full axis; 0 stands for the rows. */
static uint32_t full_dim(const od_value *v, uint32_t axis) {
  if (!v->batched) return v->dims[axis];
  return axis == 0 ? 0 : v->dims[axis - 1];
}

/* A possibly negative axis among `rank`, or -1. */
static int32_t normal_axis(int64_t axis, uint32_t rank) {
  if (axis < 0) axis += rank;
  return axis < 0 || axis >= (int64_t)rank ? -1 : (int32_t)axis;
}

/* Constant int64 numbers: axes and shapes. */
static int constant_ints(const od_value *v, const int64_t **numbers, uint32_t *count) {
  if (!v || v->batched || v->dtype != OD_I64 || !v->data || v->rank > 1 || v->size > OD_MAX_RANK)
    return 0;
  *numbers = v->data;
  *count = v->size;
  return 1;
}

static od_status set_dims(const inference *f, int batched, od_dtype dtype, const uint32_t *dims,
                          uint32_t rank) {
  od_value *out = f->out;
  uint64_t size = 1;
  if (rank + (batched ? 1u : 0u) > OD_MAX_RANK) return refuse(f, "more than 8 axes");
  out->batched = (uint8_t)(batched != 0);
  out->dtype = dtype;
  out->rank = (uint8_t)rank;
  for (uint32_t i = 0; i < rank; i++) {
    if (dims[i] == 0) return refuse(f, "an axis of size 0");
    out->dims[i] = dims[i];
    size *= dims[i];
    if (size > (1u << 24)) return refuse(f, "too large a value");
  }
  out->size = (uint32_t)size;
  return OD_OK;
}

static od_status need_float(const inference *f, uint32_t count) {
  if (f->node->input_count < count) return refuse(f, "too few inputs");
  for (uint32_t i = 0; i < count; i++) {
    const od_value *v = operand(f, i);
    if (!v || v->dtype != OD_F32 || v->size == 0) return refuse(f, "float32 inputs needed");
  }
  return OD_OK;
}

/* Float32 or int64 values: what arithmetic is defined for. */
static od_status need_numbers(const inference *f, uint32_t count) {
  if (f->node->input_count < count) return refuse(f, "too few inputs");
  const od_value *first = operand(f, 0);
  for (uint32_t i = 0; i < count; i++) {
    const od_value *v = operand(f, i);
    if (!v || (v->dtype != OD_F32 && v->dtype != OD_I64) || v->dtype != first->dtype || !v->size)
      return refuse(f, "float32 or int64 inputs of one type needed");
  }
  return OD_OK;
}

/* float32, int64, or bool (one byte). */
static int is_plain(const od_value *v) {
  return v && v->size && (v->dtype == OD_F32 || v->dtype == OD_I64 || v->dtype == OD_U8);
}

static od_status same_as(const inference *f, const od_value *in) {
  return set_dims(f, in->batched, in->dtype, in->dims, in->rank);
}

/* Extents of `count` axes of an operand aligned to the right of `rank` axes; 1 where it has none.
 * Fails when its rows would fall on another axis than the result's first. */
static int aligned(const od_value *v, uint32_t rank, uint32_t *dims) {
  uint32_t own = full_rank(v);
  if (own > rank || (v->batched && own != rank)) return 0;
  for (uint32_t i = 0; i < rank; i++) dims[i] = i < rank - own ? 1 : full_dim(v, i - (rank - own));
  return 1;
}

/* Strides of an operand along the result's axes, 0 where it repeats. `dims` are its extents. */
static void strides_of(const uint32_t *dims, uint32_t rank, int32_t *strides) {
  uint32_t step = 1;
  for (uint32_t i = rank; i-- > 0;) {
    strides[i] = dims[i] == 1 ? 0 : (int32_t)step;
    step *= dims[i];
  }
}

/* Axes before, at and after a full axis; fails for the rows. */
static int split_at(const inference *f, const od_value *in, int64_t given, uint32_t *own) {
  int32_t axis = normal_axis(given, full_rank(in));
  if (axis < 0 || (in->batched && axis == 0)) return 0;
  *own = (uint32_t)axis - (in->batched ? 1u : 0u);
  f->node->outer = f->node->inner = 1;
  f->node->middle = in->dims[*own];
  for (uint32_t i = 0; i < in->rank; i++) {
    if (i < *own) f->node->outer *= in->dims[i];
    if (i > *own) f->node->inner *= in->dims[i];
  }
  return 1;
}

/* Elementwise operators on two or three values that repeat along axes of size 1. */
static od_status infer_elementwise(const inference *f, uint32_t count, od_dtype dtype) {
  uint32_t rank = 0, extents[3][OD_MAX_RANK], dims[OD_MAX_RANK];
  int batched = 0;
  for (uint32_t i = 0; i < count; i++) {
    const od_value *v = operand(f, i);
    if (full_rank(v) > rank) rank = full_rank(v);
    batched |= v->batched;
  }
  if (rank > OD_MAX_RANK) return refuse(f, "more than 8 axes");
  uint32_t first = batched ? 1 : 0;
  for (uint32_t i = 0; i < rank; i++) dims[i] = 1;
  for (uint32_t i = 0; i < count; i++) {
    const od_value *v = operand(f, i);
    if (!aligned(v, rank, extents[i])) return refuse(f, "its inputs' rows are not on the same axis");
    if (batched && !v->batched && extents[i][0] != 1)
      return refuse(f, "a constant has one value for every row of the request");
    for (uint32_t d = first; d < rank; d++) {
      if (extents[i][d] != dims[d] && extents[i][d] != 1 && dims[d] != 1)
        return refuse(f, "its inputs' shapes do not fit each other");
      if (dims[d] == 1) dims[d] = extents[i][d];
    }
  }
  f->node->rank = rank - first;
  f->node->plain = 1;
  od_copy(f->node->shape, dims + first, sizeof(uint32_t) * (rank - first));
  OD_CHECK(set_dims(f, batched, dtype, dims + first, rank - first));
  for (uint32_t i = 0; i < count; i++) {
    strides_of(extents[i] + first, rank - first, f->node->strides[i]);
    f->node->plain &= operand(f, i)->size == f->out->size;
  }
  return OD_OK;
}

static od_status infer_binary(const inference *f) {
  od_op op = f->node->op;
  f->node->flag = attribute_int(f, "fmod", 0) != 0;
  if (op >= OD_OP_AND || op == OD_OP_EQUAL) {
    if (f->node->input_count != 2 || !is_plain(operand(f, 0)) || !is_plain(operand(f, 1)) ||
        operand(f, 0)->dtype != operand(f, 1)->dtype)
      return refuse(f, "two inputs of one type needed");
  } else {
    OD_CHECK(need_numbers(f, 2));
  }
  od_dtype dtype = operand(f, 0)->dtype;
  if (dtype == OD_I64 && (op == OD_OP_POW || op == OD_OP_PRELU))
    return refuse(f, "float32 inputs needed");
  return infer_elementwise(f, 2, op >= OD_OP_EQUAL ? OD_U8 : dtype);
}

static od_status infer_where(const inference *f) {
  if (f->node->input_count != 3 || !is_plain(operand(f, 0)) || !is_plain(operand(f, 1)) ||
      !is_plain(operand(f, 2)) || operand(f, 1)->dtype != operand(f, 2)->dtype)
    return refuse(f, "a condition and two inputs of one type needed");
  return infer_elementwise(f, 3, operand(f, 1)->dtype);
}

static od_status infer_unary(const inference *f) {
  OD_CHECK(need_numbers(f, 1));
  od_op op = f->node->op;
  if (operand(f, 0)->dtype == OD_I64 && op != OD_OP_NEG && op != OD_OP_ABS && op != OD_OP_SIGN &&
      op != OD_OP_RELU)
    return refuse(f, "a float32 input needed");
  f->node->alpha = attribute_real(f, "alpha", op == OD_OP_LEAKY_RELU ? 0.01f : 1.0f);
  return same_as(f, operand(f, 0));
}

static od_status infer_cast(const inference *f) {
  const od_value *in = operand(f, 0);
  int64_t to = attribute_int(f, "to", 0);
  if (!is_plain(in) || (to != 1 && to != 6 && to != 7 && to != 9))
    return refuse(f, "only float32, int32, int64 and bool are cast");
  od_dtype dtype = to == 1 ? OD_F32 : to == 9 ? OD_U8 : OD_I64;
  return set_dims(f, in->batched, dtype, in->dims, in->rank);
}

static od_status infer_not(const inference *f) {
  const od_value *in = operand(f, 0);
  if (!is_plain(in)) return refuse(f, "an input is missing");
  return set_dims(f, in->batched, OD_U8, in->dims, in->rank);
}

static od_status infer_concat(const inference *f) {
  if (!f->node->input_count) return refuse(f, "too few inputs");
  const od_value *first = operand(f, 0);
  for (uint32_t i = 0; i < f->node->input_count; i++)
    if (!is_plain(operand(f, i)) || operand(f, i)->dtype != first->dtype)
      return refuse(f, "inputs of one type needed");
  uint32_t rank = full_rank(first), dims[OD_MAX_RANK];
  int32_t axis = normal_axis(attribute_int(f, "axis", INT32_MAX), rank);
  if (axis < 0 || (first->batched && axis == 0)) return refuse(f, "it joins rows, or no axis");
  uint32_t own = (uint32_t)axis - (first->batched ? 1u : 0u), total = 0;
  for (uint32_t i = 0; i < f->node->input_count; i++) {
    const od_value *v = operand(f, i);
    if (v->batched != first->batched || v->rank != first->rank)
      return refuse(f, "its inputs' shapes do not fit each other");
    for (uint32_t d = 0; d < v->rank; d++)
      if (d != own && v->dims[d] != first->dims[d])
        return refuse(f, "its inputs' shapes do not fit each other");
    if (v->dims[own] > (1u << 24) - total) return refuse(f, "too large a value");
    total += v->dims[own];
  }
  od_copy(dims, first->dims, sizeof dims);
  dims[own] = total;
  f->node->outer = f->node->inner = 1;
  for (uint32_t d = 0; d < first->rank; d++) {
    if (d < own) f->node->outer *= first->dims[d];
    if (d > own) f->node->inner *= first->dims[d];
  }
  f->node->middle = total;
  return set_dims(f, first->batched, first->dtype, dims, first->rank);
}

/* Views: the same elements under another shape. `full` holds the new axes, 0 for the rows. */
static od_status infer_reshape(const inference *f, const od_value *in, uint32_t *full,
                               uint32_t *rank) {
  const int64_t *target;
  uint32_t count, unknown = OD_MAX_RANK;
  uint64_t known = 1, size = in->size;
  if (!constant_ints(operand(f, 1), &target, &count)) return refuse(f, "a constant shape needed");
  int keep_zero = attribute_int(f, "allowzero", 0) != 0;
  for (uint32_t i = 0; i < count; i++) {
    if (target[i] == -1) {
      if (unknown != OD_MAX_RANK) return refuse(f, "two axes of unknown size");
      unknown = i;
    } else if (target[i] == 0 && !keep_zero) {
      if (i >= full_rank(in)) return refuse(f, "its shape does not fit its input");
      full[i] = full_dim(in, i);
      if (in->batched && i > 0) known *= full[i];
      if (!in->batched) known *= full[i];
    } else {
      if (target[i] < 1 || target[i] > (1 << 24)) return refuse(f, "a size out of range");
      if (in->batched && i == 0) return refuse(f, "a fixed number of rows");
      full[i] = (uint32_t)target[i];
      known *= full[i];
    }
    if (known > (1u << 24)) return refuse(f, "too large a value");
  }
  if (!known) return refuse(f, "its shape does not fit its input");
  if (in->batched) {
    if (count == 0 || (target[0] != -1 && (target[0] != 0 || keep_zero)))
      return refuse(f, "its rows would not stay its first axis");
    if (target[0] == -1) full[0] = 0;
    else if (unknown != OD_MAX_RANK) {
      if (size % known) return refuse(f, "its shape does not fit its input");
      full[unknown] = (uint32_t)(size / known);
      known = size;
    }
  } else if (unknown != OD_MAX_RANK) {
    if (size % known) return refuse(f, "its shape does not fit its input");
    full[unknown] = (uint32_t)(size / known);
    known = size;
  }
  if (known != size) return refuse(f, "its shape does not fit its input");
  *rank = count;
  return OD_OK;
}

static od_status infer_squeeze(const inference *f, const od_value *in, uint32_t *full,
                               uint32_t *rank) {
  const int64_t *axes;
  uint32_t count, gone = 0;
  if (!constant_ints(operand(f, 1), &axes, &count)) return refuse(f, "constant axes needed");
  for (uint32_t i = 0; i < count; i++) {
    int32_t axis = normal_axis(axes[i], full_rank(in));
    if (axis < 0 || full_dim(in, (uint32_t)axis) != 1) return refuse(f, "an axis not of size 1");
    gone |= 1u << axis;
  }
  *rank = 0;
  for (uint32_t i = 0; i < full_rank(in); i++)
    if (!(gone >> i & 1)) full[(*rank)++] = full_dim(in, i);
  return OD_OK;
}

static od_status infer_unsqueeze(const inference *f, const od_value *in, uint32_t *full,
                                 uint32_t *rank) {
  const int64_t *axes;
  uint32_t count, fresh = 0, from = 0;
  if (!constant_ints(operand(f, 1), &axes, &count)) return refuse(f, "constant axes needed");
  *rank = full_rank(in) + count;
  if (*rank > OD_MAX_RANK) return refuse(f, "more than 8 axes");
  for (uint32_t i = 0; i < count; i++) {
    int32_t axis = normal_axis(axes[i], *rank);
    if (axis < 0 || (fresh >> axis & 1)) return refuse(f, "an axis out of range, or twice");
    if (axis == 0 && in->batched) return refuse(f, "its rows would not stay its first axis");
    fresh |= 1u << axis;
  }
  for (uint32_t i = 0; i < *rank; i++) full[i] = fresh >> i & 1 ? 1 : full_dim(in, from++);
  return OD_OK;
}

static od_status infer_view(const inference *f) {
  const od_value *in = operand(f, 0);
  uint32_t full[OD_MAX_RANK] = {0}, rank = 0;
  if (!is_plain(in)) return refuse(f, "an input is missing, or of another type");
  if (od_equal(f->op, "Reshape")) {
    OD_CHECK(infer_reshape(f, in, full, &rank));
  } else if (od_equal(f->op, "Squeeze")) {
    OD_CHECK(infer_squeeze(f, in, full, &rank));
  } else if (od_equal(f->op, "Unsqueeze")) {
    OD_CHECK(infer_unsqueeze(f, in, full, &rank));
  } else if (od_equal(f->op, "Flatten")) {
    int64_t axis = attribute_int(f, "axis", 1);
    if (axis < 0) axis += full_rank(in);
    if (in->batched ? axis != 1 : axis < 0 || axis > (int64_t)full_rank(in))
      return refuse(f, "its rows would not stay its first axis");
    full[0] = 1, full[1] = in->batched ? in->size : 1, rank = 2;
    for (uint32_t i = 0; !in->batched && i < in->rank; i++)
      full[(int64_t)i >= axis] *= in->dims[i];
  } else {
    for (rank = 0; rank < full_rank(in); rank++) full[rank] = full_dim(in, rank);
  }
  uint32_t first = in->batched ? 1 : 0;
  f->out->parent = in->batched ? f->node->inputs[0] : -1;
  f->out->data = in->data;
  return set_dims(f, in->batched, in->dtype, full + first, rank - first);
}

static od_status infer_transpose(const inference *f) {
  const od_value *in = operand(f, 0);
  if (!is_plain(in)) return refuse(f, "an input is missing, or of another type");
  const od_json *perm = od_json_member(f->attributes, "perm");
  uint32_t rank = full_rank(in), order[OD_MAX_RANK], seen = 0, dims[OD_MAX_RANK];
  if (perm && (perm->kind != OD_J_LIST || perm->size != rank)) return refuse(f, "a bad perm");
  const od_json *item = perm ? perm->first : NULL;
  for (uint32_t i = 0; i < rank; i++, item = item ? item->next : NULL) {
    int64_t axis = rank - 1 - i;
    if (perm && !od_json_int(item, 0, rank - 1, &axis)) return refuse(f, "a bad perm");
    order[i] = (uint32_t)axis;
    seen |= 1u << axis;
  }
  if (seen != (1u << rank) - 1) return refuse(f, "a bad perm");
  uint32_t first = in->batched ? 1 : 0;
  if (first && order[0] != 0) return refuse(f, "its rows would not stay its first axis");
  uint32_t steps[OD_MAX_RANK], step = 1;
  for (uint32_t i = in->rank; i-- > 0;) {
    steps[i] = step;
    step *= in->dims[i];
  }
  for (uint32_t i = 0; i < in->rank; i++) {
    dims[i] = in->dims[order[i + first] - first];
    f->node->strides[0][i] = (int32_t)steps[order[i + first] - first];
  }
  f->node->rank = in->rank;
  od_copy(f->node->shape, dims, sizeof(uint32_t) * in->rank);
  return set_dims(f, in->batched, in->dtype, dims, in->rank);
}

/* Slices: constant starts, ends, axes and steps, as ONNX clamps them. */
static od_status infer_slice(const inference *f) {
  const od_value *in = operand(f, 0);
  const int64_t *starts, *ends, *axes = NULL, *steps = NULL;
  uint32_t count, others, dims[OD_MAX_RANK], first = in && in->batched ? 1 : 0, done = 0;
  if (!is_plain(in) || !constant_ints(operand(f, 1), &starts, &count) ||
      !constant_ints(operand(f, 2), &ends, &others) || others != count)
    return refuse(f, "constant starts and ends needed");
  if (operand(f, 3) && (!constant_ints(operand(f, 3), &axes, &others) || others != count))
    return refuse(f, "constant axes needed");
  if (operand(f, 4) && (!constant_ints(operand(f, 4), &steps, &others) || others != count))
    return refuse(f, "constant steps needed");
  od_copy(dims, in->dims, sizeof dims);
  strides_of(in->dims, in->rank, f->node->strides[0]);
  for (uint32_t i = 0; i < count; i++) {
    int32_t axis = normal_axis(axes ? axes[i] : (int64_t)i, full_rank(in));
    int64_t step = steps ? steps[i] : 1, start = starts[i], end = ends[i];
    if (axis < 0 || (done >> axis & 1)) return refuse(f, "an axis out of range, or twice");
    done |= 1u << axis;
    if (first && axis == 0) {
      if (start != 0 || end < INT32_MAX || step != 1) return refuse(f, "it selects rows");
      continue;
    }
    uint32_t own = (uint32_t)axis - first;
    int64_t size = in->dims[own], low = step < 0 ? -1 : 0, high = step < 0 ? size - 1 : size;
    if (step == 0 || step > INT32_MAX || step < -INT32_MAX) return refuse(f, "a bad step");
    if (start < 0) start = start < -size ? low : start + size;
    if (end < 0) end = end < -size ? low : end + size;
    start = start < low ? low : start > high ? high : start;
    end = end < low ? low : end > high ? high : end;
    int64_t length = step > 0 ? (end - start + step - 1) / step : (start - end - step - 1) / -step;
    if (length < 1) return refuse(f, "an axis of size 0");
    dims[own] = (uint32_t)length;
    f->node->offset += (uint32_t)(start * f->node->strides[0][own]);
    int64_t stride = length == 1 ? 0 : step * f->node->strides[0][own];
    f->node->strides[0][own] = (int32_t)stride;
  }
  f->node->rank = in->rank;
  od_copy(f->node->shape, dims, sizeof(uint32_t) * in->rank);
  return set_dims(f, in->batched, in->dtype, dims, in->rank);
}

static od_status expanded(const inference *f, const od_value *in, const uint32_t *from, int batched,
                          const uint32_t *dims, uint32_t rank) {
  OD_CHECK(set_dims(f, batched, in->dtype, dims, rank));
  strides_of(from, rank, f->node->strides[0]);
  f->node->rank = rank;
  od_copy(f->node->shape, dims, sizeof(uint32_t) * rank);
  return OD_OK;
}

static od_status infer_expand(const inference *f) {
  const od_value *in = operand(f, 0);
  const int64_t *target;
  uint32_t count, from[OD_MAX_RANK], dims[OD_MAX_RANK];
  if (!is_plain(in) || !constant_ints(operand(f, 1), &target, &count))
    return refuse(f, "a constant shape needed");
  uint32_t rank = full_rank(in) > count ? full_rank(in) : count, first = in->batched ? 1 : 0;
  if (rank > OD_MAX_RANK || !aligned(in, rank, from))
    return refuse(f, "its rows would not stay its first axis");
  if (first && count == rank && target[0] != 1) return refuse(f, "a fixed number of rows");
  for (uint32_t i = first; i < rank; i++) {
    int64_t wanted = i < rank - count ? 1 : target[i - (rank - count)];
    if (wanted < 1 || wanted > (1 << 24) || (wanted != 1 && from[i] != 1 && from[i] != wanted))
      return refuse(f, "its shape does not fit its input");
    dims[i] = from[i] == 1 ? (uint32_t)wanted : from[i];
  }
  return expanded(f, in, from + first, in->batched, dims + first, rank - first);
}

/* A constant [1, ...] for every row of a batched value, which itself is not read. */
static od_status infer_expand_rows(const inference *f) {
  const od_value *in = operand(f, 0), *like = operand(f, 1);
  if (!is_plain(in) || in->batched || !in->rank || in->dims[0] != 1 || !like || !like->batched)
    return refuse(f, "a constant [1, ...] and a value with rows needed");
  return expanded(f, in, in->dims + 1, 1, in->dims + 1, in->rank - 1u);
}

static od_status infer_copy(const inference *f) {
  if (od_equal(f->op, "Slice")) return infer_slice(f);
  if (od_equal(f->op, "Expand")) return infer_expand(f);
  if (od_equal(f->op, "ExpandRows")) return infer_expand_rows(f);
  return infer_transpose(f);
}

static od_status infer_pad(const inference *f) {
  const od_value *in = operand(f, 0), *counts = operand(f, 1), *fill = operand(f, 2);
  const od_json *mode = od_json_member(f->attributes, "mode");
  if (!is_plain(in) || !counts || counts->batched || counts->dtype != OD_I64 || !counts->data ||
      counts->size != 2 * full_rank(in) || f->node->input_count > 3 ||
      (mode && (mode->kind != OD_J_TEXT || !od_equal(mode->text, "constant"))))
    return refuse(f, "constant padding of every axis needed");
  if (fill && (fill->batched || fill->dtype != in->dtype || fill->size != 1))
    return refuse(f, "one constant value to pad with needed");
  const int64_t *pads = counts->data;
  uint32_t first = in->batched ? 1 : 0, rank = full_rank(in), dims[OD_MAX_RANK];
  if (first && (pads[0] || pads[rank])) return refuse(f, "it adds rows");
  for (uint32_t i = 0; i < in->rank; i++) {
    int64_t before = pads[i + first], after = pads[i + first + rank];
    if (before < -(1 << 24) || before > (1 << 24) || after < -(1 << 24) || after > (1 << 24) ||
        before + after + in->dims[i] < 1)
      return refuse(f, "padding out of range");
    dims[i] = (uint32_t)(before + after + in->dims[i]);
    f->node->pads[i] = (int32_t)before;
    f->node->extents[i] = in->dims[i];
  }
  strides_of(in->dims, in->rank, f->node->strides[1]);
  f->node->rank = in->rank;
  od_copy(f->node->shape, dims, sizeof(uint32_t) * in->rank);
  return set_dims(f, in->batched, in->dtype, dims, in->rank);
}

static int are_indices(const od_value *v) { return v && v->size && v->dtype == OD_I64; }

static od_status infer_gather(const inference *f) {
  const od_value *in = operand(f, 0), *indices = operand(f, 1);
  uint32_t own, dims[2 * OD_MAX_RANK], rank = 0;
  if (!is_plain(in) || !are_indices(indices)) return refuse(f, "data and int64 indices needed");
  if (!split_at(f, in, attribute_int(f, "axis", 0), &own)) return refuse(f, "it selects rows");
  if (indices->batched && (in->batched || own != 0))
    return refuse(f, "indices of every row select along the first axis of a constant only");
  for (uint32_t i = 0; i < own; i++) dims[rank++] = in->dims[i];
  for (uint32_t i = 0; i < indices->rank; i++) dims[rank++] = indices->dims[i];
  for (uint32_t i = own + 1; i < in->rank; i++) dims[rank++] = in->dims[i];
  f->node->n = indices->size;
  return set_dims(f, in->batched || indices->batched, in->dtype, dims, rank);
}

static od_status infer_gather_elements(const inference *f) {
  const od_value *in = operand(f, 0), *indices = operand(f, 1);
  uint32_t own;
  if (!is_plain(in) || !are_indices(indices)) return refuse(f, "data and int64 indices needed");
  if (in->batched != indices->batched || in->rank != indices->rank ||
      !split_at(f, in, attribute_int(f, "axis", 0), &own))
    return refuse(f, "data and indices of one rank, not along the rows, needed");
  for (uint32_t i = 0; i < in->rank; i++)
    if (i != own && indices->dims[i] > in->dims[i])
      return refuse(f, "its inputs' shapes do not fit each other");
  strides_of(in->dims, in->rank, f->node->strides[0]);
  f->node->strides[0][own] = 0;
  f->node->rank = in->rank;
  od_copy(f->node->shape, indices->dims, sizeof(uint32_t) * in->rank);
  return set_dims(f, in->batched, in->dtype, indices->dims, in->rank);
}

static od_status infer_gather_nd(const inference *f) {
  const od_value *in = operand(f, 0), *indices = operand(f, 1);
  if (!is_plain(in) || !are_indices(indices) || !indices->rank)
    return refuse(f, "data and int64 indices needed");
  int64_t shared = attribute_int(f, "batch_dims", 0) - in->batched;
  uint32_t depth = indices->dims[indices->rank - 1], dims[2 * OD_MAX_RANK], rank = 0;
  if ((in->batched && !indices->batched) || shared < 0 || shared >= indices->rank ||
      (indices->batched && !in->batched && shared) || shared + depth > in->rank)
    return refuse(f, "it mixes rows, or its inputs' shapes do not fit each other");
  f->node->outer = f->node->n = f->node->inner = 1;
  f->node->k = depth;
  for (uint32_t i = 0; i + 1u < indices->rank; i++) {
    if (i < shared && indices->dims[i] != in->dims[i])
      return refuse(f, "its inputs' shapes do not fit each other");
    if (i < shared) f->node->outer *= in->dims[i];
    else f->node->n *= indices->dims[i];
    dims[rank++] = indices->dims[i];
  }
  for (uint32_t i = 0; i < depth; i++) f->node->extents[i] = in->dims[(uint32_t)shared + i];
  for (uint32_t i = (uint32_t)shared + depth; i < in->rank; i++) {
    f->node->inner *= in->dims[i];
    dims[rank++] = in->dims[i];
  }
  return set_dims(f, indices->batched, in->dtype, dims, rank);
}

static od_status infer_arg(const inference *f) {
  OD_CHECK(need_numbers(f, 1));
  const od_value *in = operand(f, 0);
  uint32_t own, dims[OD_MAX_RANK], rank = 0;
  if (!split_at(f, in, attribute_int(f, "axis", 0), &own)) return refuse(f, "it compares rows");
  f->node->transposed = od_equal(f->op, "ArgMax") != 0;
  f->node->flag = attribute_int(f, "select_last_index", 0) != 0;
  for (uint32_t i = 0; i < in->rank; i++) {
    if (i != own) dims[rank++] = in->dims[i];
    else if (attribute_int(f, "keepdims", 1)) dims[rank++] = 1;
  }
  return set_dims(f, in->batched, OD_I64, dims, rank);
}

static od_status infer_top_k(const inference *f) {
  OD_CHECK(need_numbers(f, 1));
  const od_value *in = operand(f, 0);
  uint32_t own, dims[OD_MAX_RANK];
  int64_t k = attribute_int(f, "k", 0);
  if (!split_at(f, in, attribute_int(f, "axis", -1), &own)) return refuse(f, "it compares rows");
  if (k < 1 || k > in->dims[own]) return refuse(f, "k is out of range");
  f->node->transposed = attribute_int(f, "largest", 1) != 0;
  f->node->n = (uint32_t)k;
  od_copy(dims, in->dims, sizeof dims);
  dims[own] = (uint32_t)k;
  return set_dims(f, in->batched, OD_I64, dims, in->rank);
}

static od_status infer_cum_sum(const inference *f) {
  OD_CHECK(need_numbers(f, 1));
  const od_value *in = operand(f, 0);
  const int64_t *axis;
  uint32_t own, count;
  if (!constant_ints(operand(f, 1), &axis, &count) || count != 1)
    return refuse(f, "a constant axis needed");
  if (!split_at(f, in, axis[0], &own)) return refuse(f, "it sums over rows");
  f->node->flag = attribute_int(f, "reverse", 0) != 0;
  f->node->transposed = attribute_int(f, "exclusive", 0) != 0;
  return same_as(f, in);
}

/* Reduced axes must be neighbours: one loop before, at and after them. */
static od_status infer_reduce(const inference *f) {
  OD_CHECK(need_numbers(f, 1));
  const od_value *in = operand(f, 0);
  const int64_t *axes = NULL;
  uint32_t count = 0, gone = 0, rank = full_rank(in), dims[OD_MAX_RANK], left = 0;
  if (operand(f, 1) && !constant_ints(operand(f, 1), &axes, &count))
    return refuse(f, "constant axes needed");
  if (!count && !attribute_int(f, "noop_with_empty_axes", 0)) gone = (1u << rank) - 1;
  for (uint32_t i = 0; i < count; i++) {
    int32_t axis = normal_axis(axes[i], rank);
    if (axis < 0) return refuse(f, "an axis out of range");
    gone |= 1u << axis;
  }
  if (in->dtype == OD_I64 && f->node->op == OD_OP_REDUCE_MEAN)
    return refuse(f, "a float32 input needed");
  if (in->batched && (gone & 1)) return refuse(f, "it reduces over the rows");
  uint32_t first = in->batched ? 1 : 0, stage = 0;
  uint32_t extents[3] = {1, 1, 1};
  for (uint32_t i = 0; i < in->rank; i++) {
    uint32_t reduced = gone >> (i + first) & 1;
    if (reduced && stage == 2 && in->dims[i] != 1) return refuse(f, "reduced axes lie apart");
    if (stage < 2 && reduced != stage) stage = reduced ? 1 : (stage == 1 ? 2 : 0);
    extents[reduced ? 1 : stage == 2 ? 2 : 0] *= in->dims[i];
    if (!reduced) dims[left++] = in->dims[i];
    else if (attribute_int(f, "keepdims", 1)) dims[left++] = 1;
  }
  f->node->outer = extents[0], f->node->middle = extents[1], f->node->inner = extents[2];
  return set_dims(f, in->batched, in->dtype, dims, left);
}

static od_status infer_softmax(const inference *f) {
  OD_CHECK(need_float(f, 1));
  const od_value *in = operand(f, 0);
  uint32_t own;
  if (!split_at(f, in, attribute_int(f, "axis", -1), &own))
    return refuse(f, "it normalises over the rows");
  return same_as(f, in);
}

static od_status infer_gemm(const inference *f) {
  OD_CHECK(need_float(f, 2));
  const od_value *a = operand(f, 0), *b = operand(f, 1), *c = operand(f, 2);
  od_node *node = f->node;
  if (attribute_int(f, "transA", 0) || full_rank(a) != 2 || b->batched || b->rank != 2)
    return refuse(f, "rows times a constant matrix needed");
  node->transposed = attribute_int(f, "transB", 0) != 0;
  node->m = a->batched ? 1 : a->dims[0];
  node->k = a->batched ? a->dims[0] : a->dims[1];
  node->n = b->dims[node->transposed ? 0 : 1];
  if (b->dims[node->transposed ? 1 : 0] != node->k)
    return refuse(f, "its inputs' shapes do not fit each other");
  node->alpha = attribute_real(f, "alpha", 1);
  node->beta = attribute_real(f, "beta", 1);
  if (c && (c->batched || c->dtype != OD_F32 || !(c->size == node->n || c->size == 1) ||
            (c->rank && c->dims[c->rank - 1] != c->size)))
    return refuse(f, "a constant bias, one value an output, needed");
  uint32_t dims[2] = {node->m, node->n};
  return set_dims(f, a->batched, OD_F32, a->batched ? dims + 1 : dims, a->batched ? 1 : 2);
}

/* Matrix products. The leading axes repeat as in elementwise operators. */
static od_status infer_matmul(const inference *f) {
  OD_CHECK(need_float(f, 2));
  const od_value *a = operand(f, 0), *b = operand(f, 1);
  od_node *node = f->node;
  uint32_t ra = full_rank(a), rb = full_rank(b), rank = ra > rb ? ra : rb;
  uint32_t left[OD_MAX_RANK], right[OD_MAX_RANK], dims[OD_MAX_RANK];
  if (ra < 2 || rb < 2 || rank > OD_MAX_RANK) return refuse(f, "matrices needed");
  int batched = a->batched || b->batched;
  if (ra == 2 && a->batched) { /* rows times a matrix */
    if (b->batched || rb != 2 || b->dims[0] != a->dims[0])
      return refuse(f, "rows times a constant matrix needed");
    node->m = 1, node->k = b->dims[0], node->n = b->dims[1];
    node->rank = 0;
    return set_dims(f, 1, OD_F32, &node->n, 1);
  }
  if (rb == 2 && b->batched) return refuse(f, "its rows would not stay its first axis");
  if (!aligned(a, rank, left) || !aligned(b, rank, right))
    return refuse(f, "its inputs' rows are not on the same axis");
  uint32_t first = batched ? 1 : 0;
  if (batched && ((!a->batched && left[0] != 1) || (!b->batched && right[0] != 1)))
    return refuse(f, "a constant has one value for every row of the request");
  node->m = left[rank - 2], node->k = left[rank - 1], node->n = right[rank - 1];
  if (right[rank - 2] != node->k) return refuse(f, "its inputs' shapes do not fit each other");
  node->rank = rank - 2 - first;
  for (uint32_t i = 0; i < node->rank; i++) {
    uint32_t x = left[i + first], y = right[i + first];
    if (x != y && x != 1 && y != 1) return refuse(f, "its inputs' shapes do not fit each other");
    node->shape[i] = dims[i] = x == 1 ? y : x;
  }
  strides_of(left + first, node->rank, node->strides[0]);
  strides_of(right + first, node->rank, node->strides[1]);
  dims[node->rank] = node->m, dims[node->rank + 1] = node->n;
  return set_dims(f, batched, OD_F32, dims, node->rank + 2);
}

static const void *dense_array(const inference *f, uint32_t i, od_dtype dtype, uint64_t count) {
  const od_value *v = operand(f, i);
  if (!v || v->batched || v->dtype != dtype || v->size != count) return NULL;
  return v->data;
}

static od_status infer_dense(const inference *f) {
  static const char *const names[] = {"f32", "f16", "q8"};
  static const od_dtype dtypes[] = {OD_F32, OD_F16, OD_I8};
  const od_value *in = operand(f, 0);
  const od_json *codec = od_json_member(f->attributes, "codec");
  od_dense *d = &f->node->dense;
  int64_t units = attribute_int(f, "units", 0);
  unsigned found = 0;
  if (!codec || codec->kind != OD_J_TEXT) return refuse(f, "its codec is missing");
  while (found < 3 && !od_equal(names[found], codec->text)) found++;
  if (found == 3) return refuse(f, "unknown codec");
  if (!in || in->dtype != OD_F32 || !in->batched || !in->rank || in->size == 0 ||
      in->dims[in->rank - 1] > 65528 || units < 1 || units > 65536)
    return refuse(f, "1..65528 float32 features and 1..65536 units needed");
  d->codec = (od_codec)found;
  d->features = in->dims[in->rank - 1];
  d->units = (uint32_t)units;
  d->padded_units = ((uint32_t)units + 15) / 16 * 16;
  d->relu = attribute_int(f, "relu", 0) != 0;
  uint64_t padded = d->codec == OD_CODEC_Q8 ? (d->features + 3u) / 4 * 4 : d->features;
  d->weight = dense_array(f, 1, dtypes[found], padded * d->padded_units);
  d->bias = dense_array(f, 2, OD_F32, d->padded_units);
  d->scale = d->codec == OD_CODEC_Q8 ? dense_array(f, 3, OD_F32, d->padded_units) : NULL;
  if (!d->weight || !d->bias || (d->codec == OD_CODEC_Q8 && !d->scale) ||
      f->node->input_count != (d->codec == OD_CODEC_Q8 ? 4u : 3u))
    return refuse(f, "its weights, bias or scales have a wrong type or size");
  f->node->m = in->size / d->features; /* vectors a row */
  uint32_t dims[OD_MAX_RANK];
  od_copy(dims, in->dims, sizeof dims);
  dims[in->rank - 1] = d->units;
  return set_dims(f, 1, OD_F32, dims, in->rank);
}

od_status od_infer_node(od_model *model, od_node *node, const char *op, const od_json *attributes,
                        od_error *error) {
  inference f = {model, node, op, attributes, error, &model->values[node->output]};
  if (attributes && attributes->kind != OD_J_OBJECT)
    return od_fail(error, OD_E_FORMAT, "plan: node %u: attributes must be an object",
                   (uint64_t)node->number);
  switch (node->op) {
    case OD_OP_DENSE: return infer_dense(&f);
    case OD_OP_CONCAT: return infer_concat(&f);
    case OD_OP_VIEW: return infer_view(&f);
    case OD_OP_GEMM: return infer_gemm(&f);
    case OD_OP_MATMUL: return infer_matmul(&f);
    case OD_OP_REDUCE_SUM:
    case OD_OP_REDUCE_MEAN:
    case OD_OP_REDUCE_MAX:
    case OD_OP_REDUCE_MIN:
    case OD_OP_REDUCE_PROD: return infer_reduce(&f);
    case OD_OP_SOFTMAX: return infer_softmax(&f);
    case OD_OP_COPY: return infer_copy(&f);
    case OD_OP_PAD: return infer_pad(&f);
    case OD_OP_WHERE: return infer_where(&f);
    case OD_OP_CAST: return infer_cast(&f);
    case OD_OP_NOT: return infer_not(&f);
    case OD_OP_GATHER: return infer_gather(&f);
    case OD_OP_GATHER_ELEMENTS: return infer_gather_elements(&f);
    case OD_OP_GATHER_ND: return infer_gather_nd(&f);
    case OD_OP_ARG: return infer_arg(&f);
    case OD_OP_TOP_K: return infer_top_k(&f);
    case OD_OP_CUM_SUM: return infer_cum_sum(&f);
    default: return node->op < OD_OP_RELU ? infer_binary(&f) : infer_unary(&f);
  }
}
