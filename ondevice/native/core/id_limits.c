/* id_limits.c: the limits of IDs that the description states: read at load, checked in requests.
 *
 * A lookup refuses an ID outside its table by itself. Where a model computes with its IDs, or its
 * inputs are columns of one matrix, nothing else would: another field's row would be read. These
 * inputs are checked before every request; the others only to say which of them a lookup refused.
 */
#include "core/id_limits.h"

static od_status bad_limits(od_planner *p, const od_tensor *input) {
  return od_fail(p->error, OD_E_FORMAT, "input '%s': id_limit or id_low is no bound of its IDs",
                 input->name);
}

/* One interval of legal IDs; a limit of null sets none. 0: not integers of 64 bits. */
static int read_bound(const od_json *limit, const od_json *low, od_id_bound *bound) {
  bound->low = 0;
  if (low && !od_json_int(low, INT64_MIN, INT64_MAX, &bound->low)) return 0;
  if (limit->kind == OD_J_NULL) return 1;
  bound->limited = 1;
  if (limit->kind == OD_J_INT && !limit->negative && limit->magnitude == (uint64_t)INT64_MAX + 1) {
    bound->high = INT64_MAX;
  } else if (od_json_int(limit, INT64_MIN + 1, INT64_MAX, &bound->high)) {
    bound->high--;
  } else {
    return 0;
  }
  bound->below = (float)bound->low - 1.0f; /* a fraction is dropped: -0.5 is ID 0 */
  bound->above = (float)bound->high + 1.0f;
  return 1;
}

od_status od_plan_id_limits(od_planner *p, const od_json *item, const od_tensor *input,
                            od_id_limits *limits) {
  const od_json *limit = od_json_member(item, "id_limit"), *low = od_json_member(item, "id_low");
  const od_json *computed = od_json_member(item, "id_computed");
  if (!limit || (computed && computed->kind != OD_J_BOOL)) return bad_limits(p, input);
  int listed = limit->kind == OD_J_LIST, lows = low && low->kind == OD_J_LIST;
  if ((listed && limit->size != input->row_size) || (lows && low->size != input->row_size))
    return bad_limits(p, input);
  limits->count = listed || lows ? input->row_size : 1;
  limits->bounds = od_take(&p->model->arena, limits->count, sizeof *limits->bounds);
  if (!limits->bounds) return od_plan_no_memory(p);
  const od_json *next = listed ? limit->first : limit, *next_low = lows ? low->first : low;
  int limited = 0;
  for (uint32_t i = 0; i < limits->count; i++) {
    if (!read_bound(next, next_low, &limits->bounds[i])) return bad_limits(p, input);
    limited |= limits->bounds[i].limited;
    if (listed) next = next->next;
    if (lows) next_low = next_low->next;
  }
  if (!limited) limits->count = 0;
  limits->unguarded = limited && (listed || (computed && computed->magnitude));
  p->model->unguarded_inputs += limits->unguarded;
  return OD_OK;
}

static int legal(const od_id_bound *bound, const void *values, uint32_t is_float, size_t index) {
  if (!bound->limited) return 1;
  if (is_float) {
    float value = ((const float *)values)[index];
    return value > bound->below && value < bound->above; /* NaN is never an ID */
  }
  int64_t id = ((const int64_t *)values)[index];
  return id >= bound->low && id <= bound->high;
}

/* The first element outside its limits; `count` if there is none. */
static size_t first_illegal(const od_id_limits *limits, const void *values, uint32_t is_float,
                            size_t count) {
  const od_id_bound *bounds = limits->bounds;
  size_t i = 0;
  if (limits->count == 1) {
    while (i < count && legal(bounds, values, is_float, i)) i++;
    return i;
  }
  for (; i < count; i += limits->count)
    for (uint32_t column = 0; column < limits->count; column++)
      if (!legal(&bounds[column], values, is_float, i + column)) return i + column;
  return count;
}

static od_status refuse(const od_tensor *input, const od_id_limits *limits, const void *values,
                        size_t index, od_error *error) {
  uint64_t row = index / input->row_size, element = index % input->row_size;
  const od_id_bound *bound = &limits->bounds[limits->count == 1 ? 0 : element];
  if (input->is_float)
    return od_fail(error, OD_E_INPUT,
                   "input '%s': the ID in row %u, element %u is outside %i..%i, and the model has "
                   "no out-of-vocabulary row for it",
                   input->name, row, element, bound->low, bound->high);
  return od_fail(error, OD_E_INPUT,
                 "input '%s': ID %i in row %u, element %u is outside %i..%i, and the model has no "
                 "out-of-vocabulary row for it",
                 input->name, ((const int64_t *)values)[index], row, element, bound->low,
                 bound->high);
}

od_status od_check_ids(const od_model *model, const void *const *inputs, const uint8_t *is_context,
                       size_t rows, int all, od_error *error) {
  for (uint32_t i = 0; i < model->input_count; i++) {
    const od_id_limits *limits = &model->id_limits[i];
    if (!limits->count || !(all || limits->unguarded)) continue;
    const od_tensor *input = &model->inputs[i];
    size_t count = (is_context && is_context[i] ? 1 : rows) * input->row_size;
    size_t index = first_illegal(limits, inputs[i], input->is_float, count);
    if (index < count) return refuse(input, limits, inputs[i], index, error);
  }
  return OD_OK;
}
