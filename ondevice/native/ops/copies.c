/* copies.c: operators that copy elements to other places: transposes, slices, padding, joins. */
#include "ops/ops.h"

static void walk_over(od_walk *walk, const uint32_t *dims, uint32_t rank) {
  walk->rank = rank;
  od_copy(walk->shape, dims, sizeof(uint32_t) * rank);
}

/* What a span's loop copies: elements of so many bytes. */
typedef struct {
  const od_node *node;
  uint32_t bytes;
} copied;

static void copy_span(const od_span *span, void *context) {
  const copied *c = context;
  uint32_t words = c->bytes / 4;
  if (span->n0 == 1) { /* steps as in transposes */
    for (size_t i = 0; i < span->n1; i++)
      od_move(c->bytes, span->out, (int64_t)i * span->out1, span->in[0], (int64_t)i * span->in1[0]);
  } else if (words == 1 || (words && span->in0[0])) {
    od_span floats = *span;
    floats.n0 *= words, floats.in1[0] *= words, floats.out1 *= words;
    c->node->kernels->vectors->maps(OD_MAP_COPY, 0, &floats);
  } else {
    for (size_t i1 = 0; i1 < span->n1; i1++)
      for (size_t i = 0; i < span->n0; i++)
        od_move(c->bytes, span->out, (int64_t)i1 * span->out1 + (int64_t)i, span->in[0],
                (int64_t)i1 * span->in1[0] + (int64_t)i * span->in0[0]);
  }
}

/* Transpose, Slice, Expand, ExpandRows: a walk over the operand. */
od_trouble od_loop_copy(const od_node *node, const od_value *values, const od_rows *in, char *out,
                        size_t out_step, size_t rows) {
  uint32_t bytes = (uint32_t)od_dtype_size(values[node->output].dtype);
  copied context = {node, bytes};
  od_rows from = {in[0].data + (size_t)node->copied.start * bytes, in[0].step};
  od_each_span(&node->copied.walk, (uint32_t[]){bytes, 0, 0, bytes}, &from, out, out_step, rows,
               copy_span, &context);
  return OD_TROUBLE_NONE;
}

od_status od_shape_transpose(const od_inference *f) {
  const od_value *in = od_operand(f, 0);
  if (!od_is_plain(in)) return od_refuse(f, "an input is missing, or of another type");
  const od_json *perm = od_json_member(f->attributes, "perm");
  uint32_t rank = od_full_rank(in), order[OD_MAX_RANK], seen = 0, dims[OD_MAX_RANK];
  if (perm && (perm->kind != OD_J_LIST || perm->size != rank)) return od_refuse(f, "a bad perm");
  const od_json *item = perm ? perm->first : NULL;
  for (uint32_t i = 0; i < rank; i++, item = item ? item->next : NULL) {
    int64_t axis = rank - 1 - i;
    if (perm && !od_json_int(item, 0, rank - 1, &axis)) return od_refuse(f, "a bad perm");
    order[i] = (uint32_t)axis;
    seen |= 1u << axis;
  }
  if (seen != (1u << rank) - 1) return od_refuse(f, "a bad perm");
  uint32_t first = in->batched ? 1 : 0;
  if (first && order[0] != 0) return od_refuse(f, "its rows would not stay its first axis");
  uint32_t steps[OD_MAX_RANK], step = 1;
  for (uint32_t i = in->rank; i-- > 0;) {
    steps[i] = step;
    step *= in->dims[i];
  }
  od_walk *walk = &f->node->copied.walk;
  for (uint32_t i = 0; i < in->rank; i++) {
    dims[i] = in->dims[order[i + first] - first];
    walk->strides[0][i] = (int32_t)steps[order[i + first] - first];
  }
  walk_over(walk, dims, in->rank);
  return od_set_dims(f, in->batched, in->dtype, dims, in->rank);
}

/* Constant starts, ends, axes and steps of a slice; axes and steps may be left out. */
typedef struct {
  uint32_t count;
  const int64_t *starts, *ends, *axes, *steps;
} slices;

static od_status read_slices(const od_inference *f, slices *s) {
  uint32_t others;
  if (!od_is_plain(od_operand(f, 0)) ||
      !od_constant_ints(od_operand(f, 1), &s->starts, &s->count) ||
      !od_constant_ints(od_operand(f, 2), &s->ends, &others) || others != s->count)
    return od_refuse(f, "constant starts and ends needed");
  if (od_operand(f, 3) &&
      (!od_constant_ints(od_operand(f, 3), &s->axes, &others) || others != s->count))
    return od_refuse(f, "constant axes needed");
  if (od_operand(f, 4) &&
      (!od_constant_ints(od_operand(f, 4), &s->steps, &others) || others != s->count))
    return od_refuse(f, "constant steps needed");
  return OD_OK;
}

/* One axis, clamped as ONNX does; `size` becomes what is left of it. */
static od_status slice_axis(const od_inference *f, int64_t start, int64_t end, int64_t step,
                            uint32_t *size, int32_t *stride) {
  int64_t all = *size, low = step < 0 ? -1 : 0, high = step < 0 ? all - 1 : all;
  if (step == 0 || step > INT32_MAX || step < -INT32_MAX) return od_refuse(f, "a bad step");
  if (start < 0) start = start < -all ? low : start + all;
  if (end < 0) end = end < -all ? low : end + all;
  start = start < low ? low : start > high ? high : start;
  end = end < low ? low : end > high ? high : end;
  int64_t length = step > 0 ? (end - start + step - 1) / step : (start - end - step - 1) / -step;
  if (length < 1) return od_refuse(f, "an axis of size 0");
  *size = (uint32_t)length;
  f->node->copied.start += (uint32_t)(start * *stride);
  *stride = length == 1 ? 0 : (int32_t)(step * *stride);
  return OD_OK;
}

/* Whether a walk's elements are neighbours in memory, in order. */
static int without_gaps(const od_walk *walk) {
  int64_t step = 1;
  for (uint32_t i = walk->rank; i-- > 0; step *= walk->shape[i])
    if (walk->shape[i] != 1 && walk->strides[0][i] != step) return 0;
  return 1;
}

od_status od_shape_slice(const od_inference *f) {
  const od_value *in = od_operand(f, 0);
  slices s = {0, NULL, NULL, NULL, NULL};
  OD_CHECK(read_slices(f, &s));
  od_walk *walk = &f->node->copied.walk;
  uint32_t dims[OD_MAX_RANK], first = in->batched ? 1 : 0, done = 0;
  od_copy(dims, in->dims, sizeof dims);
  od_strides(in->dims, in->rank, walk->strides[0]);
  for (uint32_t i = 0; i < s.count; i++) {
    int32_t axis = od_normal_axis(s.axes ? s.axes[i] : (int64_t)i, od_full_rank(in));
    int64_t step = s.steps ? s.steps[i] : 1;
    if (axis < 0 || (done >> axis & 1)) return od_refuse(f, "an axis out of range, or twice");
    done |= 1u << axis;
    if (first && axis == 0) {
      if (s.starts[i] != 0 || s.ends[i] < INT32_MAX || step != 1)
        return od_refuse(f, "it selects rows");
      continue;
    }
    uint32_t dim = (uint32_t)axis - first;
    OD_CHECK(slice_axis(f, s.starts[i], s.ends[i], step, &dims[dim], &walk->strides[0][dim]));
  }
  walk_over(walk, dims, in->rank);
  if (in->batched && without_gaps(walk)) {
    f->node->view = 1;
    f->out->parent = f->node->inputs[0];
    f->out->offset = f->node->copied.start;
  }
  return od_set_dims(f, in->batched, in->dtype, dims, in->rank);
}

static od_status expanded(const od_inference *f, const od_value *in, const uint32_t *from,
                          int batched, const uint32_t *dims, uint32_t rank) {
  OD_CHECK(od_set_dims(f, batched, in->dtype, dims, rank));
  od_strides(from, rank, f->node->copied.walk.strides[0]);
  walk_over(&f->node->copied.walk, dims, rank);
  return OD_OK;
}

od_status od_shape_expand(const od_inference *f) {
  const od_value *in = od_operand(f, 0);
  const int64_t *target;
  uint32_t count, from[OD_MAX_RANK], dims[OD_MAX_RANK];
  if (!od_is_plain(in) || !od_constant_ints(od_operand(f, 1), &target, &count))
    return od_refuse(f, "a constant shape needed");
  uint32_t in_rank = od_full_rank(in), rank = in_rank > count ? in_rank : count;
  int per_row = od_operand(f, 1)->counts_rows && count == rank; /* also of a constant */
  if (rank > OD_MAX_RANK || !od_align(in, rank, from) || (per_row && !in->batched && from[0] != 1))
    return od_refuse(f, "its rows would not stay its first axis");
  uint32_t first = in->batched || per_row ? 1 : 0;
  if (first && count == rank && target[0] != 1 && !per_row)
    return od_refuse(f, "a fixed number of rows");
  for (uint32_t i = first; i < rank; i++) {
    int64_t wanted = i < rank - count ? 1 : target[i - (rank - count)];
    if (wanted < 1 || wanted > OD_MAX_ROW_ELEMENTS ||
        (wanted != 1 && from[i] != 1 && from[i] != wanted))
      return od_refuse(f, "its shape does not fit its input");
    dims[i] = from[i] == 1 ? (uint32_t)wanted : from[i];
  }
  return expanded(f, in, from + first, (int)first, dims + first, rank - first);
}

/* A constant [1, ...] for every row of a batched value, which itself is not read. */
od_status od_shape_expand_rows(const od_inference *f) {
  const od_value *in = od_operand(f, 0), *like = od_operand(f, 1);
  if (!od_is_plain(in) || in->batched || !in->rank || in->dims[0] != 1 || !like || !like->batched)
    return od_refuse(f, "a constant [1, ...] and a value with rows needed");
  return expanded(f, in, in->dims + 1, 1, in->dims + 1, in->rank - 1u);
}

od_status od_shape_pad(const od_inference *f) {
  const od_value *in = od_operand(f, 0), *counts = od_operand(f, 1), *fill = od_operand(f, 2);
  const od_json *mode = od_json_member(f->attributes, "mode");
  od_pad *pad = &f->node->pad;
  if (!od_is_plain(in) || !counts || counts->batched || counts->dtype != OD_I64 || !counts->data ||
      counts->size != 2 * od_full_rank(in) || f->node->input_count > 3 ||
      (mode && (mode->kind != OD_J_TEXT || !od_equal(mode->text, "constant"))))
    return od_refuse(f, "constant padding of every axis needed");
  if (fill && (fill->batched || fill->dtype != in->dtype || fill->size != 1))
    return od_refuse(f, "one constant value to pad with needed");
  const int64_t *pads = counts->data;
  uint32_t first = in->batched ? 1 : 0, rank = od_full_rank(in), dims[OD_MAX_RANK];
  if (first && (pads[0] || pads[rank])) return od_refuse(f, "it adds rows");
  for (uint32_t i = 0; i < in->rank; i++) {
    int64_t before = pads[i + first], after = pads[i + first + rank];
    if (before < -OD_MAX_ROW_ELEMENTS || before > OD_MAX_ROW_ELEMENTS || after < -OD_MAX_ROW_ELEMENTS ||
        after > OD_MAX_ROW_ELEMENTS || before + after + in->dims[i] < 1)
      return od_refuse(f, "padding out of range");
    dims[i] = (uint32_t)(before + after + in->dims[i]);
    pad->before[i] = (int32_t)before;
    pad->extents[i] = in->dims[i];
  }
  od_strides(in->dims, in->rank, pad->strides);
  walk_over(&pad->walk, dims, in->rank);
  return od_set_dims(f, in->batched, in->dtype, dims, in->rank);
}

OD_COLD od_trouble od_loop_pad(const od_node *node, const od_value *values, const char *const *in,
                       char *out) {
  static const uint64_t zero = 0;
  const od_pad *pad = &node->pad;
  const char *fill = in[2] ? in[2] : (const char *)&zero;
  uint32_t size = values[node->output].size;
  uint32_t bytes = (uint32_t)od_dtype_size(values[node->output].dtype);
  od_walker w = {{0}, {0, 0, 0}};
  for (uint32_t i = 0; i < size; i++, od_step_on(&w, &pad->walk)) {
    int64_t place = 0;
    int inside = 1;
    for (uint32_t axis = 0; axis < pad->walk.rank; axis++) {
      int64_t at = (int64_t)w.at[axis] - pad->before[axis];
      inside &= at >= 0 && at < pad->extents[axis];
      place += at * pad->strides[axis];
    }
    if (inside) od_move(bytes, out, i, in[0], place);
    else od_move(bytes, out, i, fill, 0);
  }
  return OD_TROUBLE_NONE;
}

/* Extent of the joined axis of the result. */
static od_status joined_extent(const od_inference *f, const od_value *first, uint32_t dim,
                               uint32_t *total) {
  *total = 0;
  for (uint32_t i = 0; i < f->node->input_count; i++) {
    const od_value *v = od_operand(f, i);
    if (v->batched != first->batched || v->rank != first->rank)
      return od_refuse(f, "its inputs' shapes do not fit each other");
    for (uint32_t d = 0; d < v->rank; d++)
      if (d != dim && v->dims[d] != first->dims[d])
        return od_refuse(f, "its inputs' shapes do not fit each other");
    if (v->dims[dim] > OD_MAX_ROW_ELEMENTS - *total) return od_refuse(f, "too large a value");
    *total += v->dims[dim];
  }
  return OD_OK;
}

od_status od_shape_concat(const od_inference *f) {
  if (!f->node->input_count) return od_refuse(f, "too few inputs");
  const od_value *first = od_operand(f, 0);
  for (uint32_t i = 0; i < f->node->input_count; i++)
    if (!od_is_plain(od_operand(f, i)) || od_operand(f, i)->dtype != first->dtype)
      return od_refuse(f, "inputs of one type needed");
  od_axis *axis = &f->node->concat;
  uint32_t dim, dims[OD_MAX_RANK];
  if (!od_split_at(first, od_attribute_int(f, "axis", INT32_MAX), axis, &dim))
    return od_refuse(f, "it joins rows, or no axis");
  OD_CHECK(joined_extent(f, first, dim, &axis->length));
  od_copy(dims, first->dims, sizeof dims);
  dims[dim] = axis->length;
  return od_set_dims(f, first->batched, first->dtype, dims, first->rank);
}

/* Parts that were computed in place are not copied, nor is what nobody reads (fold.c). */
od_trouble od_loop_concat(const od_node *node, const od_value *values, const od_rows *in, char *out,
                          size_t out_step, size_t rows) {
  const od_axis *axis = &node->concat;
  uint32_t bytes = (uint32_t)od_dtype_size(values[node->output].dtype), before = 0;
  uint32_t whole = axis->length * axis->inner;
  copied context = {node, bytes};
  for (uint32_t i = 0; i < node->input_count; i++) {
    uint32_t part = values[node->inputs[i]].size / axis->outer;
    char *to = out + (size_t)before * bytes;
    before += part;
    if (!in[i].data || (in[i].data == to && in[i].step == out_step)) continue;
    for (size_t row = 0; row < rows; row++) {
      od_span span = {{in[i].data + row * in[i].step}, to + row * out_step, axis->outer, part,
                      {part}, whole, {1}};
      copy_span(&span, &context);
    }
  }
  return OD_TROUBLE_NONE;
}
