/* module.c: the engine as a WebAssembly module without imports: one model per instance, called by ondevice.js.
 *
 * Memory is handed out upwards and never taken back one by one: the instance goes, or starts again
 * by reset(). A request's arrays lie above everything else, from `top` on. */
#include "core/model.h"
#include "ondevice_features.h"

#define EXPORT(name) __attribute__((export_name(name)))

enum { PAGE = 65536, ALIGNMENT = 64, MOST_TENSORS = OD_MAX_INPUTS + 1024 };

extern unsigned char __heap_base; /* from the linker: the first byte behind data and stack */

static uintptr_t top;
static od_model *model;
static od_session *session;
static od_features *features;
static od_error error;
static const void *inputs[OD_MAX_INPUTS];
static float *outputs[MOST_TENSORS];
static uint8_t is_context[OD_MAX_INPUTS];
static uint32_t addresses[OD_MAX_INPUTS + MOST_TENSORS];

/* Whether memory reaches up to `end`, grown if need be. */
static int reach(uint64_t end) {
  uint64_t have = (uint64_t)__builtin_wasm_memory_size(0) * PAGE;
  if (end <= have) return 1;
  uint64_t pages = (end - have + PAGE - 1) / PAGE;
  return pages <= 65536 && __builtin_wasm_memory_grow(0, (size_t)pages) != (size_t)-1;
}

static void *take(void *user, size_t size) {
  (void)user;
  uint64_t start = ((uint64_t)top + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT, end = start + size;
  if (!reach(end)) return NULL;
  top = (uintptr_t)end;
  return (void *)(uintptr_t)start;
}

static void keep(void *user, void *memory) { (void)user, (void)memory; }

static const od_allocator allocator = {take, keep, NULL};

/* Forget the model and all memory but the first pages. */
EXPORT("reset") void reset(void) {
  top = (uintptr_t)&__heap_base;
  model = NULL;
  session = NULL;
  features = NULL;
}

/* Room for the bytes of a file, or 0. */
EXPORT("allocate") uint32_t allocate(uint32_t size) { return (uint32_t)(uintptr_t)take(NULL, size); }

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
  od_options options = {.allocator = &allocator, .full_check = -1, .sizes = sizes,
                        .size_count = count};
  od_status status = od_open_memory(data, size, &options, &model, &error);
  return status == OD_OK ? (int32_t)open_session() : (int32_t)status;
}

/* Open the model again with other sizes of its free axes; the one before stays in memory. */
EXPORT("resize") int32_t resize(const od_axis_size *sizes, uint32_t count) {
  od_options options = {.allocator = &allocator, .sizes = sizes, .size_count = count};
  od_status status = od_open_again(model, &options, &model, &error);
  return status == OD_OK ? (int32_t)open_session() : (int32_t)status;
}

static const char *described;
static size_t described_size;

/* Find the description of a file that was not opened, such as one of free axes. */
EXPORT("describe") int32_t describe(const uint8_t *data, uint32_t size) {
  od_arena arena = {.allocator = &allocator};
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
  uint64_t at = top;
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
  return reach(at + ALIGNMENT) ? addresses : NULL;
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
  return (int32_t)od_features_open(description, size, &allocator, &features, &error);
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

/* Products of 128 bits, which clang leaves to a library. */
typedef unsigned __int128 wide;
__attribute__((used)) wide __multi3(wide a, wide b) {
  uint64_t a_low = (uint64_t)a, b_low = (uint64_t)b;
  uint64_t a0 = (uint32_t)a_low, a1 = a_low >> 32, b0 = (uint32_t)b_low, b1 = b_low >> 32;
  uint64_t low = a0 * b0, middle = a1 * b0 + (low >> 32), other = a0 * b1 + (uint32_t)middle;
  uint64_t high = a1 * b1 + (middle >> 32) + (other >> 32);
  high += a_low * (uint64_t)(b >> 64) + (uint64_t)(a >> 64) * b_low;
  return (wide)high << 64 | (uint64_t)(other << 32 | (uint32_t)low);
}
