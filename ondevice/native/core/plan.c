/* plan.c: reads the plan (JSON) of a native file: its values by name, inputs, weights and outputs.
 *
 * plan_tables.c reads its tables, plan_nodes.c its nodes, plan_lookups.c those that look up tables.
 */
#include "core/id_limits.h"

OD_FOR_SIZE

od_status od_plan_no_memory(od_planner *p) {
  return od_fail(p->error, OD_E_MEMORY, "out of memory for the plan");
}

static uint32_t name_hash(const char *name) {
  uint32_t h = 2166136261u;
  for (; *name; name++) h = (h ^ (unsigned char)*name) * 16777619u;
  return h;
}

/* The slot where `name` is or belongs. */
static uint32_t slot_of(const od_planner *p, const char *name) {
  uint32_t slot = name_hash(name) & p->slot_mask;
  while (p->slots[slot] >= 0 && !od_equal(p->slots_names[slot], name))
    slot = (slot + 1) & p->slot_mask;
  return slot;
}

int32_t od_plan_find_value(const od_planner *p, const char *name) {
  return p->slots[slot_of(p, name)];
}

od_status od_plan_add_value(od_planner *p, const char *name, int32_t *index) {
  uint32_t slot = slot_of(p, name);
  if (p->slots[slot] >= 0)
    return od_fail(p->error, OD_E_FORMAT, "plan: '%s' is written twice", name);
  if (p->model->value_count == p->value_room) return od_plan_no_memory(p);
  *index = (int32_t)p->model->value_count++;
  p->slots[slot] = *index;
  p->slots_names[slot] = name;
  od_value *value = &p->model->values[*index];
  value->input = value->node = value->parent = -1;
  value->dtype = OD_F32;
  return OD_OK;
}

od_status od_plan_need(od_planner *p, const od_json *object, const char *key, od_kind kind,
                           const od_json **out) {
  const od_json *value = od_json_member(object, key);
  if (!value || value->kind != kind)
    return od_fail(p->error, OD_E_FORMAT, "plan: '%s' is missing or of a wrong type", key);
  if (kind == OD_J_LIST && !od_equal(key, "nodes") && !od_equal(key, "blocks"))
    for (const od_json *item = value->first; item; item = item->next)
      if (item->kind != OD_J_TEXT)
        return od_fail(p->error, OD_E_FORMAT, "plan: '%s' must hold names", key);
  *out = value;
  return OD_OK;
}

od_status od_plan_keys(const od_planner *p, const od_json *object, const char *what,
                       const char *const *keys, size_t count) {
  if (object->kind != OD_J_OBJECT)
    return od_fail(p->error, OD_E_FORMAT, "%s must be an object", what);
  for (const od_json *member = object->first; member; member = member->next) {
    size_t i = 0;
    while (i < count && !od_equal(keys[i], member->key)) i++;
    if (i == count)
      return od_fail(p->error, OD_E_FORMAT, "%s: unknown key '%s'", what, member->key);
  }
  return OD_OK;
}

/* Inputs, weights, outputs */

static od_status read_weights(od_planner *p, const od_json *plan) {
  const od_json *names;
  OD_CHECK(od_plan_need(p, plan, "weights", OD_J_LIST, &names));
  for (const od_json *name = names->first; name; name = name->next) {
    const od_entry *entry = od_container_find(p->file, "weight.", name->text, "");
    int32_t index;
    OD_CHECK(od_plan_add_value(p, name->text, &index));
    if (!entry)
      return od_fail(p->error, OD_E_FORMAT, "array 'weight.%s' is missing", name->text);
    od_value *value = &p->model->values[index];
    if (entry->start % od_dtype_size(entry->dtype))
      return od_fail(p->error, OD_E_FORMAT, "array 'weight.%s' is not aligned", name->text);
    value->dtype = entry->dtype;
    value->rank = (uint8_t)entry->rank;
    uint64_t count = (entry->stop - entry->start) / od_dtype_size(entry->dtype);
    if (count > UINT32_MAX)
      return od_fail(p->error, OD_E_UNSUPPORTED, "weight '%s' is too large", name->text);
    for (uint32_t i = 0; i < entry->rank; i++) {
      if (entry->dims[i] > UINT32_MAX)
        return od_fail(p->error, OD_E_UNSUPPORTED, "weight '%s' is too large", name->text);
      value->dims[i] = (uint32_t)entry->dims[i];
    }
    value->size = (uint32_t)count;
    value->data = p->file->data + entry->start;
    const uint8_t *bools = value->data;
    for (uint32_t i = 0; entry->dtype == OD_U8 && i < value->size; i++)
      if (bools[i] > 1)
        return od_fail(p->error, OD_E_FORMAT, "array 'weight.%s' is not bool", name->text);
    if ((uintptr_t)value->data % od_dtype_size(entry->dtype)) { /* 8-byte numbers, 4-byte place */
      void *moved = od_take(&p->model->arena, value->size, od_dtype_size(entry->dtype));
      if (!moved) return od_plan_no_memory(p);
      od_copy(moved, value->data, (size_t)(entry->stop - entry->start));
      value->data = moved;
    }
  }
  return OD_OK;
}

static od_status read_tensor_name(od_planner *p, const char *name, od_tensor *tensor) {
  tensor->name = od_take_text(&p->model->arena, name, od_length(name));
  return tensor->name ? OD_OK : od_plan_no_memory(p);
}

/* The size of an axis: a number, or the name of a free one, which the options give. 0: neither. */
static int64_t axis_size(const od_planner *p, const od_json *axis) {
  int64_t size;
  if (od_json_int(axis, 1, OD_MAX_ROW_ELEMENTS, &size)) return size;
  for (size_t i = 0; p->options && axis->kind == OD_J_TEXT && i < p->options->size_count; i++)
    if (od_equal(p->options->sizes[i].name, axis->text)) return p->options->sizes[i].size;
  return 0;
}

/* An input's shape: the rows, whose number is free, and other axes. */
static od_status read_shape(od_planner *p, const od_json *shape, od_tensor *tensor,
                            od_value *value) {
  value->size = tensor->rank = 1;
  if (shape->first->kind != OD_J_TEXT)
    return od_fail(p->error, OD_E_UNSUPPORTED, "input '%s' has a fixed number of rows",
                   tensor->name);
  for (const od_json *d = shape->first->next; d; d = d->next) {
    int64_t size = axis_size(p, d);
    if (!size && d->kind == OD_J_TEXT)
      return od_fail(p->error, OD_E_UNSUPPORTED,
                     "input '%s' has a free axis beside its rows, '%s', whose size is not given",
                     tensor->name, d->text);
    if (!size || (uint64_t)size * value->size > OD_MAX_ROW_ELEMENTS)
      return od_fail(p->error, OD_E_UNSUPPORTED, "input '%s' has an axis of too large a size",
                     tensor->name);
    value->dims[value->rank++] = tensor->dims[tensor->rank++] = (uint32_t)size;
    value->size *= (uint32_t)size;
  }
  tensor->row_size = value->size;
  return OD_OK;
}

static od_status read_input(od_planner *p, const od_json *names, const od_json *item) {
  static const char *const keys[] = {"name", "shape", "id_limit", "dtype", "id_low", "id_computed"};
  OD_CHECK(od_plan_keys(p, item, "model description: an input", keys, sizeof keys / sizeof *keys));
  const od_json *name = od_json_member(item, "name"), *shape = od_json_member(item, "shape");
  const od_json *dtype = od_json_member(item, "dtype");
  if (!name || name->kind != OD_J_TEXT || !shape || shape->kind != OD_J_LIST || !shape->size ||
      shape->size > OD_MAX_RANK)
    return od_fail(p->error, OD_E_FORMAT, "model description: an input lacks name or shape");
  const od_json *listed = names->first;
  while (listed && !od_equal(listed->text, name->text)) listed = listed->next;
  if (!listed)
    return od_fail(p->error, OD_E_FORMAT, "the description's inputs differ from the plan's");
  od_tensor *tensor = &p->model->inputs[p->model->input_count];
  int32_t index;
  OD_CHECK(od_plan_add_value(p, name->text, &index));
  OD_CHECK(read_tensor_name(p, name->text, tensor));
  if (dtype && (dtype->kind != OD_J_TEXT ||
                !(od_equal(dtype->text, "float32") || od_equal(dtype->text, "int64"))))
    return od_fail(p->error, OD_E_FORMAT, "input '%s' is neither int64 nor float32", name->text);
  od_value *value = &p->model->values[index];
  tensor->is_float = dtype && od_equal(dtype->text, "float32");
  value->dtype = tensor->is_float ? OD_F32 : OD_I64;
  value->batched = 1;
  value->input = (int32_t)p->model->input_count++;
  OD_CHECK(read_shape(p, shape, tensor, value));
  return od_plan_id_limits(p, item, tensor, &p->model->id_limits[value->input]);
}

/* The description lists the inputs in the order of the public interface, with their shapes. */
static od_status read_inputs(od_planner *p, const od_json *plan, const od_json *info) {
  const od_json *names, *list = od_json_member(info, "inputs");
  OD_CHECK(od_plan_need(p, plan, "inputs", OD_J_LIST, &names));
  if (!list || list->kind != OD_J_LIST || list->size != names->size)
    return od_fail(p->error, OD_E_FORMAT, "the description's inputs differ from the plan's");
  if (list->size > OD_MAX_INPUTS)
    return od_fail(p->error, OD_E_FORMAT, "plan: more than " OD_DIGITS(OD_MAX_INPUTS) " inputs");
  p->model->inputs = od_take(&p->model->arena, list->size, sizeof(od_tensor));
  p->model->id_limits = od_take(&p->model->arena, list->size, sizeof(od_id_limits));
  if (!p->model->inputs || !p->model->id_limits) return od_plan_no_memory(p);
  for (const od_json *item = list->first; item; item = item->next)
    OD_CHECK(read_input(p, names, item));
  return OD_OK;
}

static od_status read_outputs(od_planner *p, const od_json *plan, const od_json *info) {
  const od_json *names, *described = od_json_member(info, "outputs");
  od_model *model = p->model;
  OD_CHECK(od_plan_need(p, plan, "outputs", OD_J_LIST, &names));
  if (names->size > OD_MAX_INPUTS)
    return od_fail(p->error, OD_E_FORMAT, "plan: more than " OD_DIGITS(OD_MAX_INPUTS) " outputs");
  model->outputs = od_take(&model->arena, names->size, sizeof(od_tensor));
  model->output_values = od_take(&model->arena, names->size, sizeof(int32_t));
  if (!model->outputs || !model->output_values) return od_plan_no_memory(p);
  const od_json *other = described && described->kind == OD_J_LIST ? described->first : NULL;
  for (const od_json *name = names->first; name; name = name->next) {
    if (!other || other->kind != OD_J_TEXT || !od_equal(other->text, name->text))
      return od_fail(p->error, OD_E_FORMAT, "the description's outputs differ from the plan's");
    other = other->next;
    int32_t index = od_plan_find_value(p, name->text);
    if (index < 0)
      return od_fail(p->error, OD_E_FORMAT, "plan: output '%s' is never computed", name->text);
    const od_value *value = &model->values[index];
    if (!value->batched || value->dtype != OD_F32 || value->rank + 1 > OD_MAX_RANK)
      return od_fail(p->error, OD_E_UNSUPPORTED, "output '%s' is not one float32 array per row",
                     name->text);
    od_tensor *tensor = &model->outputs[model->output_count];
    OD_CHECK(read_tensor_name(p, name->text, tensor));
    tensor->rank = value->rank + 1u;
    tensor->is_float = 1;
    for (uint32_t i = 0; i < value->rank; i++) tensor->dims[i + 1] = value->dims[i];
    tensor->row_size = value->size;
    model->output_values[model->output_count++] = index;
  }
  if (other || !model->output_count)
    return od_fail(p->error, OD_E_FORMAT, "the description's outputs differ from the plan's");
  return OD_OK;
}

/* Room for the values: inputs, weights, and one a node. */
static od_status make_names(od_planner *p, const od_json *plan) {
  static const char *const keys[] = {"inputs", "outputs", "weights", "tables", "nodes"};
  const od_json *nodes, *names;
  OD_CHECK(od_plan_keys(p, plan, "plan", keys, sizeof keys / sizeof *keys));
  OD_CHECK(od_plan_need(p, plan, "nodes", OD_J_LIST, &nodes));
  if (nodes->size > OD_MAX_NODES)
    return od_fail(p->error, OD_E_FORMAT, "plan: more than %u nodes", (uint64_t)OD_MAX_NODES);
  size_t room = nodes->size;
  OD_CHECK(od_plan_need(p, plan, "inputs", OD_J_LIST, &names));
  room += names->size;
  OD_CHECK(od_plan_need(p, plan, "weights", OD_J_LIST, &names));
  room += names->size;
  uint32_t slots = 64;
  while (slots < 2 * room) slots *= 2;
  p->value_room = (uint32_t)room;
  p->slot_mask = slots - 1;
  p->slots = od_take(p->scratch, slots, sizeof *p->slots);
  p->slots_names = od_take(p->scratch, slots, sizeof *p->slots_names);
  p->model->values = od_take(&p->model->arena, room, sizeof(od_value));
  if (!p->slots || !p->slots_names || !p->model->values) return od_plan_no_memory(p);
  for (uint32_t i = 0; i < slots; i++) p->slots[i] = -1;
  return OD_OK;
}

static od_status need_text(const od_container *file, const char *key, const od_json **out,
                           od_error *error) {
  *out = od_json_member(file->metadata, key);
  if (*out) return OD_OK;
  return od_fail(error, OD_E_FORMAT, "a safetensors file, but not a native model ('%s' is missing)",
                 key);
}

typedef struct {
  const char *text;
  size_t size;
} text_span;

/* Plan and description; the description stays, in the model's arena. */
static od_status read_texts(od_planner *p, const char *version, text_span *plan, text_span *info) {
  const od_json *plan_text, *info_text;
  if (od_equal(version, "3")) {
    OD_CHECK(od_container_text(p->file, "ondevice.plan", OD_MAX_PLAN_BYTES, p->scratch, &plan->text,
                               &plan->size, p->error));
    return od_container_text(p->file, "ondevice.info", OD_MAX_HEADER_BYTES, &p->model->arena,
                             &info->text, &info->size, p->error);
  }
  OD_CHECK(need_text(p->file, "plan", &plan_text, p->error));
  OD_CHECK(need_text(p->file, "info", &info_text, p->error));
  *plan = (text_span){plan_text->text, plan_text->size};
  info->text = od_take_text(&p->model->arena, info_text->text, info_text->size);
  info->size = info_text->size;
  return info->text ? OD_OK : od_plan_no_memory(p);
}

od_status od_plan_read(od_model *model, const od_container *file, const od_options *options,
                       od_arena *scratch, od_error *error) {
  const od_json *format, *version, *number;
  text_span plan_text = {NULL, 0}, info_text = {NULL, 0};
  od_json *plan, *info;
  od_planner p = {.model = model, .file = file, .scratch = scratch, .error = error,
                  .options = options};
  OD_CHECK(need_text(file, "format", &format, error));
  if (!od_equal(format->text, "ondevice.odm"))
    return od_fail(error, OD_E_FORMAT, "a safetensors file, but not a native model");
  OD_CHECK(need_text(file, "format_version", &version, error));
  if (!od_equal(version->text, "1") && !od_equal(version->text, "2") &&
      !od_equal(version->text, "3"))
    return od_fail(error, OD_E_FORMAT, "format version %s; this release reads versions 1, 2 and 3",
                   version->text);
  OD_CHECK(read_texts(&p, version->text, &plan_text, &info_text));
  OD_CHECK(od_json_parse(plan_text.text, plan_text.size, "plan", scratch, &plan, error));
  /* behind a zero byte follow the arrays that the description refers to */
  OD_CHECK(od_json_parse(info_text.text, od_length(info_text.text), "model description", scratch,
                         &info, error));
  number = od_json_member(info, "version");
  int64_t info_version;
  if (!od_json_int(number, 1, 2, &info_version))
    return od_fail(error, OD_E_FORMAT, "model description: this release reads versions 1 and 2");
  model->info = info_text.text;
  model->info_size = info_text.size;
  OD_CHECK(make_names(&p, plan));
  OD_CHECK(read_inputs(&p, plan, info));
  OD_CHECK(read_weights(&p, plan));
  OD_CHECK(od_plan_tables(&p, plan));
  OD_CHECK(od_plan_nodes(&p, plan));
  OD_CHECK(read_outputs(&p, plan, info));
  return od_fold_nodes(model, scratch, error);
}
