/* model.c: opens and closes a model: container, plan, places. */
#include "core/model.h"

OD_FOR_SIZE

/* Every group of an index starts where the records before it end. */
OD_COLD static int index_matches(const od_table *table) {
  for (uint32_t i = 0; i < table->section_count; i++)
    if (!index_matches(&table->sections[i])) return 0;
  uint64_t expected = 0, mask = ((uint64_t)1 << table->width_bits) - 1;
  uint32_t size = (uint32_t)1 << table->group_shift;
  for (uint32_t first = 0; table->index && first < table->rows; first += size) {
    const uint8_t *group = table->index + (size_t)(first >> table->group_shift) * 12;
    uint32_t count = table->rows - first < size ? table->rows - first : size;
    uint64_t codes = od_load64(group + 4), bits = 0;
    if (od_load32(group) != expected) return 0;
    for (uint32_t i = 0; i < count; i++, codes >>= table->width_bits)
      bits += table->base_bits + (codes & mask) * table->step_bits;
    expected += (bits + 7) / 8;
  }
  return !table->index || expected == table->payload;
}

static od_status check_indexes(const od_model *model, od_error *error) {
  for (uint32_t i = 0; i < model->table_count; i++)
    if (!index_matches(&model->tables[i]))
      return od_fail(error, OD_E_FORMAT, "table '%s': the index does not match the records",
                     model->tables[i].name);
  return OD_OK;
}

static od_status read_all(od_model *model, const void *data, size_t size,
                          const od_options *options, od_arena *scratch, od_error *error) {
  od_container file;
  int full_check = options ? options->full_check : -1;
  int check = full_check > 0 || (full_check < 0 && size <= OD_FULL_CHECK_BYTES);
  OD_CHECK(od_container_open(data, size, scratch, &file, error));
  /* bytes before their meaning: a damaged file is called damaged, not unsupported */
  if (check) OD_CHECK(od_container_verify(&file, scratch, error));
  OD_CHECK(od_plan_read(model, &file, options, scratch, error));
  if (check) OD_CHECK(check_indexes(model, error));
#ifndef __wasm__ /* the module of browsers has no such option, and is smaller without */
  model->bfloat = options && options->dense;
  if (model->bfloat && !od_equal(options->dense, "bf16"))
    return od_fail(error, OD_E_INPUT, "dense layers compute in 'bf16' or as they are stored, not in '%s'",
                   options->dense);
  if (model->bfloat) OD_CHECK(od_round_dense(model, scratch, error));
#endif
  return od_place(model, scratch, error);
}

static od_status open_locked(const void *data, size_t size, od_options options, od_model **out,
                             od_error *error) {
#ifdef ONDEVICE_FREESTANDING
  (void)data, (void)size, (void)options, (void)out;
  return od_fail(error, OD_E_UNSUPPORTED, "a freestanding build cannot lock memory");
#else
  void *copy;
  OD_CHECK(od_lock_copy(data, size, &copy, error));
  options.lock = 0;
  od_status status = od_open_memory(copy, size, &options, out, error);
  if (status != OD_OK) {
    od_lock_release(copy, size);
    return status;
  }
  (*out)->unmap = od_lock_release;
  (*out)->mapped = copy;
  (*out)->mapped_size = size;
  return OD_OK;
#endif
}

OD_COLD od_status od_open_memory(const void *data, size_t size, const od_options *options,
                         od_model **out, od_error *error) {
  const char *kernels = options ? options->kernels : NULL;
  const od_allocator *allocator = options && options->allocator ? options->allocator : NULL;
  *out = NULL;
#ifndef ONDEVICE_FREESTANDING
  if (!allocator) allocator = od_default_allocator();
#endif
  if (!allocator) return od_fail(error, OD_E_MEMORY, "an allocator is needed");
  if ((uintptr_t)data % 4) return od_fail(error, OD_E_INPUT, "the model is not aligned to 4 bytes");
  if (options && options->lock) return open_locked(data, size, *options, out, error);
  od_model *model = allocator->allocate(allocator->user, sizeof *model);
  if (!model) return od_fail(error, OD_E_MEMORY, "out of memory for the model");
  od_zero(model, sizeof *model);
  model->own_allocator = *allocator;
  model->file = data;
  model->file_size = size;
  model->allocator = &model->own_allocator;
  model->arena.allocator = &model->own_allocator;
  model->kernels = od_kernels_choose(kernels);
  od_status status;
  if (!model->kernels) {
    status = od_fail(error, OD_E_UNSUPPORTED, "this processor has no kernels '%s'", kernels);
  } else {
    uint64_t left = (uint64_t)OD_MAX_LOAD_BYTES + size;
    od_arena scratch = {.allocator = &model->own_allocator, .left = &left};
    model->arena.left = &left;
    status = read_all(model, data, size, options, &scratch, error);
    model->arena.left = NULL;
    od_arena_release(&scratch);
    if (status == OD_E_MEMORY && !left)
      status = od_fail(error, OD_E_FORMAT, "opening it takes more than %u bytes beside its own",
                       (uint64_t)OD_MAX_LOAD_BYTES);
  }
  if (status != OD_OK) {
    od_close(model);
    return status;
  }
  *out = model;
  return OD_OK;
}

OD_COLD od_status od_open_again(const od_model *model, const od_options *options, od_model **again,
                        od_error *error) {
  od_options same = options ? *options : (od_options){.kernels = NULL};
  same.full_check = 0;
  if (!same.allocator) same.allocator = model->allocator;
  if (!same.kernels) same.kernels = model->kernels->name;
  if (!same.dense && model->bfloat) same.dense = "bf16";
  od_status status = od_open_memory(model->file, model->file_size, &same, again, error);
  if (status == OD_OK) {
    (*again)->changed = model->changed;
    (*again)->source = model->source;
  }
  return status;
}

OD_COLD od_status od_check(const od_model *model, od_error *error) {
  od_container file;
  uint64_t left = (uint64_t)OD_MAX_LOAD_BYTES + model->file_size;
  od_arena scratch = {.allocator = model->allocator, .left = &left};
  od_status status = od_container_open(model->file, model->file_size, &scratch, &file, error);
  if (status == OD_OK) status = od_container_verify(&file, &scratch, error);
  if (status == OD_OK) status = check_indexes(model, error);
  od_arena_release(&scratch);
  if (model->changed && model->changed(model->source))
    return od_fail(error, OD_E_FORMAT,
                   "the file was truncated or overwritten while it was in use: open it again");
  return status;
}

OD_COLD void od_close(od_model *model) {
  if (!model) return;
  od_allocator allocator = model->own_allocator;
  if (model->unmap) model->unmap(model->mapped, model->mapped_size);
  od_arena_release(&model->arena);
  allocator.release(allocator.user, model);
}

size_t od_input_count(const od_model *model) { return model->input_count; }
const od_tensor *od_input(const od_model *model, size_t index) {
  return index < model->input_count ? &model->inputs[index] : NULL;
}
size_t od_output_count(const od_model *model) { return model->output_count; }
const od_tensor *od_output(const od_model *model, size_t index) {
  return index < model->output_count ? &model->outputs[index] : NULL;
}
const char *od_info(const od_model *model, size_t *size) {
  *size = model->info_size;
  return model->info;
}
const char *od_kernels_in_use(const od_model *model) { return model->kernels->name; }
