/* module.c: the engine as a WebAssembly module without imports: one model per instance, called by ondevice.js.
 *
 * A request's arrays lie above everything else in memory. */
#include "core/model.h"
#include "memory.h"
#include "ondevice_features.h"

enum { MOST_TENSORS = OD_MAX_INPUTS + 1024 };

static od_model *model;
static od_session *session;
static od_features *features;
static od_error error;
static const void *inputs[OD_MAX_INPUTS];
static float *outputs[MOST_TENSORS];
static uint8_t is_context[OD_MAX_INPUTS];
static uint32_t addresses[OD_MAX_INPUTS + MOST_TENSORS];

/* Forget the model and all memory but the first pages. */
EXPORT("reset") void reset(void) {
  memory_reset();
  model = NULL;
  session = NULL;
  features = NULL;
}

/* The text of the last error. */
EXPORT("error_text") const char *error_text(void) { return error.text; }

static od_status open_session(void) {
  if (od_input_count(model) > OD_MAX_INPUTS || od_output_count(model) > MOST_TENSORS)
    return od_fail(&error, OD_E_UNSUPPORTED, "a model of too many inputs or outputs");
  return od_session_open(model, &session, &error);
}

/* Open the model in memory that allocate() gave. `names` and `values`: sizes of free axes. */
EXPORT("open") int32_t open_model(const uint8_t *data, uint32_t size, const od_axis_size *sizes,
                                  uint32_t count) {
  od_options options = {.allocator = &memory_allocator, .full_check = -1, .sizes = sizes,
                        .size_count = count};
  od_status status = od_open_memory(data, size, &options, &model, &error);
  return status == OD_OK ? (int32_t)open_session() : (int32_t)status;
}

/* Open the model again with other sizes of its free axes; the one before stays in memory. */
EXPORT("resize") int32_t resize(const od_axis_size *sizes, uint32_t count) {
  od_options options = {.allocator = &memory_allocator, .sizes = sizes, .size_count = count};
  od_status status = od_open_again(model, &options, &model, &error);
  return status == OD_OK ? (int32_t)open_session() : (int32_t)status;
}

static const char *described;
static size_t described_size;

/* Find the description of a file that was not opened, such as one of free axes. */
EXPORT("describe") int32_t describe(const uint8_t *data, uint32_t size) {
  od_arena arena = {.allocator = &memory_allocator};
  od_container file;
  od_status status = od_container_open(data, size, &arena, &file, &error);
  if (status != OD_OK) return (int32_t)status;
  const od_json *text = od_json_member(file.metadata, "info"); /* format versions 1 and 2 */
  if (!text || text->kind != OD_J_TEXT)
    return (int32_t)od_container_text(&file, "ondevice.info", OD_MAX_HEADER_BYTES, &arena, &described, &described_size,
                                      &error);
  described = text->text;
  described_size = text->size;
  return OD_OK;
}
EXPORT("described") const char *description(void) { return described; }
EXPORT("described_size") uint32_t description_size(void) { return (uint32_t)described_size; }

EXPORT("kernels") const char *kernels(void) { return od_kernels_in_use(model); }

EXPORT("info_size") uint32_t info_size(void) {
  size_t size;
  od_info(model, &size);
  return (uint32_t)size;
}
EXPORT("info") const char *info(void) {
  size_t size;
  return od_info(model, &size);
}

EXPORT("input_count") uint32_t input_count(void) { return (uint32_t)od_input_count(model); }
EXPORT("output_count") uint32_t output_count(void) { return (uint32_t)od_output_count(model); }
EXPORT("input") const od_tensor *input(uint32_t index) { return od_input(model, index); }
EXPORT("output") const od_tensor *output(uint32_t index) { return od_output(model, index); }

static uint64_t place(uint64_t at, uint64_t rows, const od_tensor *tensor, uint32_t element) {
  return (at + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + rows * tensor->row_size * element;
}

EXPORT("table_count") uint32_t table_count(void) { return model->table_count; }
EXPORT("table_name") const char *table_name(uint32_t index) { return model->tables[index].name; }

/* What a table takes: rows, dim, and bytes in the file (records, index of widths, scales). */
EXPORT("table_sizes") const uint32_t *table_sizes(uint32_t index) {
  static uint32_t sizes[3];
  const od_table *table = &model->tables[index];
  sizes[0] = table->rows;
  sizes[1] = table->dim;
  sizes[2] = (uint32_t)table->stored;
  return sizes;
}

/* Lay out a request of `rows` rows: the addresses of all inputs, then of all outputs, 64-byte
 * aligned; NULL where memory ends. `shared`: a byte for each input, 1 for a single row, or NULL. */
EXPORT("lay_out") const uint32_t *lay_out(uint32_t rows, const uint8_t *shared) {
  uint64_t at = memory_top();
  uint32_t count = input_count();
  for (uint32_t i = 0; i < count; i++) {
    const od_tensor *tensor = od_input(model, i);
    uint32_t element = tensor->is_float ? 4 : 8;
    is_context[i] = shared && shared[i];
    uint64_t own = is_context[i] ? 1 : rows, end = place(at, own, tensor, element);
    if (end > UINT32_MAX) return NULL; /* at each step, or a sum of many could wrap around */
    addresses[i] = (uint32_t)(end - own * tensor->row_size * element);
    inputs[i] = (const void *)(uintptr_t)addresses[i];
    at = end;
  }
  for (uint32_t i = 0; i < output_count(); i++) {
    const od_tensor *tensor = od_output(model, i);
    uint64_t end = place(at, rows, tensor, 4);
    if (end > UINT32_MAX) return NULL;
    addresses[count + i] = (uint32_t)(end - (uint64_t)rows * tensor->row_size * 4);
    outputs[i] = (float *)(uintptr_t)addresses[count + i];
    at = end;
  }
  return memory_reaches(at + ALIGNMENT) ? addresses : NULL;
}

/* Score what was laid out. */
EXPORT("run") int32_t run(uint32_t rows) {
  return (int32_t)od_run(session, inputs, rows, outputs, &error);
}
EXPORT("rank") int32_t rank(uint32_t rows) {
  return (int32_t)od_rank(session, inputs, is_context, rows, outputs, &error);
}

/* Read the feature specification. */
EXPORT("open_features") int32_t open_features(void) {
  size_t size;
  const char *description = od_info(model, &size);
  return (int32_t)od_features_open(description, size, &memory_allocator, &features, &error);
}
EXPORT("feature_count") uint32_t feature_count(void) {
  return (uint32_t)od_feature_count(features);
}
EXPORT("feature_name") const char *feature_name(uint32_t index) {
  return od_feature_name(od_feature_at(features, index));
}
EXPORT("feature_length") uint32_t feature_length(uint32_t index) {
  return (uint32_t)od_feature_length(od_feature_at(features, index));
}

/* IDs of a value or of a list of values, as ondevice_features.h says. */
EXPORT("encode") int32_t encode(uint32_t index, const od_raw_value *value, int64_t *ids) {
  return (int32_t)od_feature_encode(od_feature_at(features, index), *value, ids, &error);
}
EXPORT("encode_list")
int32_t encode_list(uint32_t index, const od_raw_value *values, uint32_t count, int64_t *ids) {
  return (int32_t)od_feature_encode_list(od_feature_at(features, index), values, count, ids,
                                         &error);
}
