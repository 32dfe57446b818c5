/* run.c: sessions, and the execution of a request in chunks of rows. */
#include "core/bfloat.h"
#include "core/id_limits.h"
#include "ops/ops.h"

OD_FOR_SIZE

typedef struct {
  od_rows chunk, context; /* in the rows' memory, in the context's memory */
} location;

struct od_session {
  const od_model *model;
  od_arena arena;
  char *rows, *single;
  location *locations; /* by value */
  od_rows *operands;
  od_gather *gathers; /* lookups of the model's inputs, for plain requests */
  uint32_t gather_count;
  od_gather *shared_gathers, *other_gathers;
  int32_t *gather_inputs; /* the values of their IDs */
  uint32_t *read_inputs; /* values: inputs, and views of them */
  uint32_t read_count;
  od_trouble trouble; /* of this request's operators, and in which node of the plan */
  uint32_t troubled;
  od_fault fault; /* of this request's lookups of computed IDs */
  uint8_t *shared; /* by value: rank() computes it once for all rows */
  od_range *ranges, *shared_ranges;
  float *partial; /* the context's share of a dense layer, [widest_units] */
  float **partials; /* by node: where that share is, or NULL */
  uint8_t *split; /* by node: a concatenation that only layers with such a share read */
  float *repeated; /* the share of the columns with which all vectors of a row begin: [widest_units] */
  uint32_t partial_count; /* dense layers that rank() may split */
  od_dense_scratch scratch;
  size_t vectors; /* rows of dense layers that the scratch memory has room for */
  od_profile *profile; /* NULL: nothing is timed */
};

static od_status out_of_memory(od_error *error) {
  return od_fail(error, OD_E_MEMORY, "out of memory for a session");
}

static void locate_values(od_session *s) {
  const od_model *model = s->model;
  for (uint32_t i = 0; i < model->value_count; i++) {
    const od_value *value = &model->values[i], *root = &model->values[value->root];
    location *l = &s->locations[i];
    if (!value->batched) {
      l->chunk = l->context = (od_rows){value->data, 0};
    } else if (root->node >= 0) {
      size_t bytes = od_dtype_size(root->dtype), before = value->root_offset * bytes;
      l->chunk = (od_rows){s->rows + root->place + before, root->size * bytes};
      l->context = (od_rows){s->single + root->single_place + before, 0};
    }
  }
}

/* The inputs, and views of inputs, that locate_inputs() must find. */
static void list_read_inputs(od_session *s) {
  const od_model *model = s->model;
  for (uint32_t i = 0; i < model->value_count; i++) {
    const od_value *value = &model->values[i];
    if (value->batched && model->values[value->root].input >= 0)
      s->read_inputs[s->read_count++] = i;
  }
}

/* In a debug build stale values become NaN (-1 as integers): a step that reads what no step of this
 * request wrote cannot pass for a right one. */
static void poison(void *memory, size_t size) {
#ifdef OD_POISON
  if (size) __builtin_memset(memory, 0xFF, size);
#else
  (void)memory, (void)size;
#endif
}

/* All scratch memory, but what od_session_open writes for good. */
static void poison_session(const od_session *s) {
  const od_model *model = s->model;
  size_t tiles = s->vectors / OD_TILE_ROWS + 1;
  poison(s->rows, model->rows_bytes);
  poison(s->single, model->single_bytes);
  poison(s->partial, (size_t)s->partial_count * model->widest_units * sizeof(float));
  poison(s->repeated, model->widest_units * sizeof(float));
  poison(s->scratch.codes, s->vectors * model->widest_codes);
  poison(s->scratch.scales, s->vectors * sizeof(float));
  poison(s->scratch.sums, s->vectors * sizeof(int32_t));
  poison(s->scratch.lists, tiles * OD_LIST_ROOM(model->widest_dense) * sizeof(uint16_t));
  poison(s->scratch.counts, tiles * sizeof(uint32_t));
  poison(s->scratch.positive, tiles);
}

enum { SOME_VECTORS = 10 * OD_TILE_ROWS };

static int make_scratch(od_session *s) {
  const od_model *model = s->model;
  size_t rows = model->chunk_rows, wide = model->widest_dense;
  uint32_t most = 1;
  for (uint32_t i = 0; i < model->node_count; i++) {
    const od_node *node = &model->nodes[i];
    if (node->op != OD_OP_DENSE) continue;
    if (node->dense.vectors > most) most = node->dense.vectors; /* several vectors a row */
    s->partial_count += node->dense.concat >= 0;
  }
  if (most > 1 && most < SOME_VECTORS) most = SOME_VECTORS; /* more than a row's at once */
  size_t vectors = s->vectors = od_padded(rows > most ? (uint32_t)rows : most, 8);
  size_t tiles = vectors / OD_TILE_ROWS + 1;
  s->scratch.codes = od_take(&s->arena, vectors * model->widest_codes + OD_TAIL_BYTES, 1);
  s->scratch.scales = od_take(&s->arena, vectors, sizeof(float));
  s->scratch.sums = od_take(&s->arena, vectors, sizeof(int32_t));
  s->scratch.lists = od_take(&s->arena, tiles * OD_LIST_ROOM(wide), sizeof(uint16_t));
  s->scratch.counts = od_take(&s->arena, tiles, sizeof(uint32_t));
  s->scratch.positive = od_take(&s->arena, tiles, 1);
  s->repeated = od_take(&s->arena, model->widest_units, sizeof(float));
  s->partial = od_take(&s->arena, (size_t)s->partial_count * model->widest_units, sizeof(float));
  return s->scratch.codes && s->scratch.scales && s->scratch.sums && s->scratch.lists &&
         s->scratch.counts && s->scratch.positive && s->partial && s->repeated;
}

OD_COLD od_status od_session_open(const od_model *model, od_session **session, od_error *error) {
  od_arena arena = {.allocator = model->allocator};
  *session = NULL;
  od_session *s = od_take(&arena, 1, sizeof *s);
  if (!s) return out_of_memory(error);
  s->model = model;
  uint32_t operands = 4;
  for (uint32_t i = 0; i < model->node_count; i++)
    if (model->nodes[i].input_count > operands) operands = model->nodes[i].input_count;
  s->arena = arena;
  s->rows = od_take(&s->arena, model->rows_bytes, 1);
  s->single = od_take(&s->arena, model->single_bytes, 1);
  s->locations = od_take(&s->arena, model->value_count, sizeof(location));
  s->operands = od_take(&s->arena, operands, sizeof(od_rows));
  s->gathers = od_take(&s->arena, model->lookup_count, sizeof(od_gather));
  s->gather_inputs = od_take(&s->arena, model->lookup_count, sizeof(int32_t));
  s->shared_gathers = od_take(&s->arena, model->lookup_count, sizeof(od_gather));
  s->other_gathers = od_take(&s->arena, model->lookup_count, sizeof(od_gather));
  s->shared = od_take(&s->arena, model->value_count, 1);
  s->read_inputs = od_take(&s->arena, model->value_count, sizeof(uint32_t));
  s->ranges = od_take(&s->arena, operands, sizeof(od_range));
  s->shared_ranges = od_take(&s->arena, operands, sizeof(od_range));
  s->partials = od_take(&s->arena, model->node_count, sizeof(float *));
  s->split = od_take(&s->arena, model->node_count, 1);
  if (!s->rows || !s->single || !s->locations || !s->operands || !s->gathers ||
      !s->gather_inputs || !s->shared_gathers || !s->other_gathers || !s->read_inputs ||
      !s->shared || !s->ranges || !s->shared_ranges || !s->partials || !s->split ||
      !make_scratch(s)) {
    arena = s->arena;
    od_arena_release(&arena);
    return out_of_memory(error);
  }
  locate_values(s);
  list_read_inputs(s);
  poison_session(s);
  for (uint32_t i = 0; i < model->lookup_count; i++) {
    if (model->lookups[i].computed) continue;
    od_rows out = s->locations[model->lookup_outputs[i]].chunk;
    s->gathers[s->gather_count] =
        (od_gather){&model->lookups[i], NULL, model->lookups[i].ids_per_row,
                    (float *)(void *)(uintptr_t)out.data, out.step / 4};
    s->gather_inputs[s->gather_count++] = model->lookup_inputs[i];
  }
  *session = s;
  return OD_OK;
}

void od_session_close(od_session *session) {
  if (!session) return;
  od_arena arena = session->arena; /* which also holds the session */
  od_arena_release(&arena);
}

void od_session_profile(od_session *session, od_profile *profile) {
  session->profile = profile;
  if (profile) od_profile_clear(session->model, profile);
}

/* What is rare is a function of its own: other requests pay a branch for it. */
#define OD_APART __attribute__((noinline, cold))

/* What a lookup refused, by the name of its input where the description states the limit. */
OD_APART static od_status report(const od_session *s, const od_fault *fault,
                                 const void *const *inputs, const uint8_t *is_context,
                                 size_t rows, od_error *error) {
  if (fault->kind == OD_FAULT_ID) {
    OD_CHECK(od_check_ids(s->model, inputs, is_context, rows, 1, error));
    return od_fail(error, OD_E_INPUT,
                   "ID %i is outside 0..%u and the table has no out-of-vocabulary row", fault->id,
                   (uint64_t)fault->lookup->table->rows - 1);
  }
  return od_fail(error, OD_E_FORMAT, "the index of a table does not match its records");
}

static od_rows place_of(const od_session *s, int32_t value) {
  if (value < 0) return (od_rows){NULL, 0};
  return s->shared[value] ? s->locations[value].context : s->locations[value].chunk;
}

OD_INLINE void round_columns(const float *restrict in, uint32_t *restrict out, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) out[i] = od_bfloat(od_load32(in + i));
}

/* The columns in the ranges as bfloat16, in the room of codes, for layers whose kernels round nothing. */
static __attribute__((noinline)) const float *round_rows(const od_session *s, uint32_t features, const float *in, size_t in_step,
                               size_t rows, const od_range *ranges, size_t count) {
  uint32_t *to = (uint32_t *)(void *)s->scratch.codes;
  for (size_t row = 0; row < rows; row++, in += in_step, to += features)
    for (size_t r = 0; r < count; r++)
      round_columns(in + ranges[r].start, to + ranges[r].start, ranges[r].stop - ranges[r].start);
  return (const float *)(const void *)s->scratch.codes;
}

#ifdef __wasm__ /* model.c */
enum { ROUNDS = 0 };
#else
enum { ROUNDS = 1 };
#endif

/* The kernel for a layer; out and scratch have room for so many rows. */
static void run_layer(const od_session *s, const od_node *node, const float *in, size_t in_step,
                      size_t rows, const od_range *ranges, size_t count, const float *initial,
                      uint32_t relu, float *out, size_t out_step) {
  const od_dense *layer = &node->dense.layer;
  if (ROUNDS && node->dense.rounded && layer->codec != OD_CODEC_PAIRS) {
    in = round_rows(s, layer->features, in, in_step, rows, ranges, count);
    in_step = layer->features;
  }
  s->model->kernels->dense(layer, in, in_step, rows, ranges, count, initial, relu, out, out_step,
                           &s->scratch);
}

/* A layer, and those that read the same rows after it (place.c), for as many vectors as there is room. */
static void run_chain(const od_session *s, const od_node *node, const float *in, size_t in_step,
                      size_t row, size_t first, size_t count, const od_range *ranges,
                      size_t range_count, const float *initial, uint32_t relu, float *out,
                      size_t out_step) {
  size_t units = node->dense.layer.units;
  run_layer(s, node, in, in_step, count, ranges, range_count, initial, relu, out + row * out_step + first * units,
            node->dense.vectors == 1 ? out_step : units);
  od_dense_scratch quantised = s->scratch;
  quantised.quantised = 1;
  while (node->dense.next) {
    node = &s->model->nodes[node->dense.next];
    od_rows to = place_of(s, node->output);
    const od_dense *layer = &node->dense.layer;
    float *at = (float *)(void *)(uintptr_t)to.data + row * (to.step / 4) + first * layer->units;
    s->model->kernels->dense(layer, in, in_step, count, ranges, range_count, layer->bias, layer->relu, at,
                             node->dense.vectors == 1 ? to.step / 4 : layer->units, &quantised);
  }
}

/* Whether the vectors of all rows follow one another in a layer's results and in those of its chain. */
static int are_dense(const od_session *s, const od_node *node, size_t out_step) {
  if (out_step != (size_t)node->dense.vectors * node->dense.layer.units) return 0;
  while (node->dense.next) {
    node = &s->model->nodes[node->dense.next];
    size_t row_size = (size_t)node->dense.vectors * node->dense.layer.units;
    if (place_of(s, node->output).step != row_size * sizeof(float)) return 0;
  }
  return 1;
}

static void run_dense(const od_session *s, const od_node *node, od_rows in, size_t rows,
                      const od_range *ranges, size_t count, const float *initial, uint32_t relu,
                      float *out, size_t out_step) {
  const od_dense *layer = &node->dense.layer;
  const float *from = (const float *)(const void *)in.data;
  if (node->dense.vectors == 1) {
    run_chain(s, node, from, in.step / 4, 0, 0, rows, ranges, count, initial, relu, out, out_step);
    return;
  }
  size_t vectors = node->dense.vectors; /* several a row */
  size_t most = s->vectors - s->vectors % OD_TILE_ROWS; /* whole tiles, as there is room for some */
  if (in.step == vectors * layer->features * 4 && are_dense(s, node, out_step))
    vectors *= rows, rows = 1; /* without gaps: rows need not end a tile */
  for (size_t row = 0; row < rows; row++)
    for (size_t first = 0; first < vectors; first += most) {
      size_t left = vectors - first;
      run_chain(s, node, from + row * (in.step / 4) + first * layer->features, layer->features, row, first,
                left < most ? left : most, ranges, count, initial, relu, out, out_step);
    }
}

/* A dense layer whose vectors begin with the same columns in every row. */
static void run_repeated(const od_session *s, const od_node *node, od_rows in, size_t rows,
                         float *out, size_t out_step) {
  const od_dense *layer = &node->dense.layer;
  od_rows same = place_of(s, node->dense.repeated);
  uint32_t columns = s->model->values[node->dense.repeated].size;
  od_range first = {0, columns}, rest = {columns, layer->features};
  for (size_t row = 0; row < rows; row++) {
    run_layer(s, node, (const float *)(const void *)(same.data + row * same.step), 0, 1, &first, 1,
              layer->bias, 0, s->repeated, 0);
    for (uint32_t u = layer->units; u < layer->padded_units; u++) s->repeated[u] = 0;
    od_rows one = {in.data + row * in.step, in.step};
    run_dense(s, node, one, 1, &rest, 1, s->repeated, layer->relu, out + row * out_step, out_step);
  }
}

/* Columns of a concatenation that do, or do not, depend only on the context. */
static size_t column_ranges(const od_session *s, const od_node *parts, int shared,
                            od_range *ranges) {
  size_t count = 0;
  uint32_t start = 0;
  for (uint32_t i = 0; i < parts->input_count; i++) {
    int32_t input = parts->inputs[i];
    uint32_t stop = start + s->model->values[input].size;
    if (s->shared[input] == shared) {
      if (count && ranges[count - 1].stop == start) ranges[count - 1].stop = stop;
      else ranges[count++] = (od_range){start, stop};
    }
    start = stop;
  }
  return count;
}

/* Inputs that nodes other than lookups read: where the rows from `start` on are. */
static void locate_inputs(od_session *s, const void *const *inputs, size_t start) {
  const od_model *model = s->model;
  for (uint32_t i = 0; i < s->read_count; i++) {
    const od_value *value = &model->values[s->read_inputs[i]];
    const od_value *root = &model->values[value->root];
    location *l = &s->locations[s->read_inputs[i]];
    const char *values = inputs[root->input];
    size_t bytes = od_dtype_size(root->dtype), step = root->size * bytes;
    values += value->root_offset * bytes;
    l->context = (od_rows){values, 0};
    l->chunk = (od_rows){values + start * step, step};
  }
}

/* A lookup whose IDs other operators made. */
static void look_up(od_session *s, const od_node *node, size_t rows) {
  od_rows ids = place_of(s, node->inputs[0]), out = place_of(s, node->output);
  const int64_t *first = (const int64_t *)(const void *)ids.data;
  od_gather gather = {&s->model->lookups[node->lookup.index], first, ids.step / 8,
                      (float *)(void *)(uintptr_t)out.data, out.step / 4};
  od_fault fault = {OD_FAULT_NONE, NULL, 0};
  s->model->kernels->gather(&gather, 1, rows, &fault);
  if (fault.kind && !s->fault.kind) s->fault = fault;
}

/* Of a concatenation that only split layers read, the context's columns stay unwritten: its shared
 * parts get the places of parts that are computed in place. */
static void omit_shared_parts(od_session *s, const od_node *concat, od_rows out) {
  size_t before = 0, bytes = od_dtype_size(s->model->values[concat->output].dtype);
  for (uint32_t i = 0; i < concat->input_count; i++) {
    int32_t part = concat->inputs[i];
    if (s->shared[part]) s->operands[i] = (od_rows){out.data + before, out.step};
    before += s->model->values[part].size * bytes;
  }
}

static void execute(od_session *s, uint32_t index, size_t rows) {
  const od_model *model = s->model;
  const od_node *node = &model->nodes[index];
  od_rows out = place_of(s, node->output);
  char *to = (char *)(uintptr_t)out.data;
  if (node->op == OD_OP_LOOKUP) {
    look_up(s, node, rows);
    return;
  }
  if (node->op == OD_OP_DENSE) {
    if (node->dense.after) return; /* the first of its chain ran it */
    od_range all = {0, node->dense.layer.features};
    const od_range *ranges = &all;
    const float *initial = node->dense.layer.bias;
    size_t count = 1;
    if (node->dense.repeated >= 0) {
      run_repeated(s, node, place_of(s, node->inputs[0]), rows, (float *)(void *)to, out.step / 4);
      return;
    }
    if (s->partials[index]) {
      initial = s->partials[index];
      count = column_ranges(s, &model->nodes[node->dense.concat], 0, s->ranges);
      ranges = s->ranges;
    }
    run_dense(s, node, place_of(s, node->inputs[0]), rows, ranges, count, initial,
              node->dense.layer.relu, (float *)(void *)to, out.step / 4);
    return;
  }
  for (uint32_t i = 0; i < node->input_count; i++)
    s->operands[i] = place_of(s, node->inputs[i]);
  if (s->split[index]) omit_shared_parts(s, node, out);
  od_trouble trouble = od_execute(node, model->values, s->operands, to, out.step, rows);
  if (trouble && !s->trouble) s->trouble = trouble, s->troubled = node->number;
}

/* The same steps with a profile. */
OD_APART static void execute_timed(od_session *s, uint32_t index, size_t rows) {
  uint64_t begun = s->profile->clock();
  execute(s, index, rows);
  od_profile_node(s->profile, begun, s->model, index, rows);
}

OD_APART static void gather_timed(const od_session *s, const od_gather *gathers, size_t count,
                                  size_t rows, od_fault *fault) {
  uint64_t begun = s->profile->clock();
  s->model->kernels->gather(gathers, count, rows, fault);
  od_profile_lookups(s->profile, begun, gathers, count, rows);
}

OD_INLINE void step(od_session *s, uint32_t index, size_t rows) {
  if (s->profile) execute_timed(s, index, rows);
  else execute(s, index, rows);
}

OD_INLINE void gather(const od_session *s, const od_gather *gathers, size_t count, size_t rows,
                      od_fault *fault) {
  if (s->profile) gather_timed(s, gathers, count, rows, fault);
  else s->model->kernels->gather(gathers, count, rows, fault);
}

OD_APART static od_status report_trouble(const od_session *s, od_error *error) {
  static const char *const texts[] = {
      [OD_TROUBLE_NONE] = "",
      [OD_TROUBLE_INDEX] = "an index is outside what it selects from",
      [OD_TROUBLE_ZERO] = "an integer divided by zero",
      [OD_TROUBLE_DEPTH] = "a tree has paths of more than " OD_DIGITS(OD_MAX_TREE_DEPTH) " branches",
  };
  return od_fail(error, OD_E_INPUT, "node %u: %s", (uint64_t)s->troubled, texts[s->trouble]);
}

static int runs(const od_model *model, const od_node *node) {
  if (node->op == OD_OP_LOOKUP) return model->lookups[node->lookup.index].computed;
  return !node->view && !node->constant && !node->omitted;
}

/* Gathers of shared or of other lookups, rows starting at `start`. */
static size_t collect(od_session *s, const void *const *inputs, size_t start, int shared,
                      od_gather *gathers) {
  const od_model *model = s->model;
  size_t count = 0;
  for (uint32_t i = 0; i < model->lookup_count; i++) {
    int32_t output = model->lookup_outputs[i];
    const od_lookup *lookup = &model->lookups[i];
    if (s->shared[output] != shared || lookup->computed) continue;
    od_rows out = place_of(s, output);
    const int64_t *ids = inputs[model->values[model->lookup_inputs[i]].input];
    gathers[count++] =
        (od_gather){lookup, ids + start * lookup->ids_per_row, lookup->ids_per_row,
                    (float *)(void *)(uintptr_t)out.data, out.step / 4};
  }
  return count;
}

static void copy_outputs(const od_session *s, size_t start, size_t rows, float *const *outputs) {
  const od_model *model = s->model;
  for (uint32_t i = 0; i < model->output_count; i++) {
    if (!outputs[i]) continue;
    od_rows from = place_of(s, model->output_values[i]);
    uint32_t size = model->outputs[i].row_size;
    float *to = outputs[i] + start * size;
    if (size == 1)
      for (size_t row = 0; row < rows; row++)
        to[row] = *(const float *)(const void *)(from.data + row * from.step);
    else
      for (size_t row = 0; row < rows; row++)
        od_copy(to + row * size, from.data + row * from.step, (size_t)size * 4);
  }
}

static od_status run_rows(od_session *s, const void *const *inputs, size_t rows,
                          float *const *outputs, od_error *error) {
  const od_model *model = s->model;
  if (model->unguarded_inputs) OD_CHECK(od_check_ids(model, inputs, NULL, rows, 0, error));
  s->trouble = OD_TROUBLE_NONE;
  s->fault.kind = OD_FAULT_NONE;
  poison_session(s);
  for (size_t start = 0; start < rows; start += model->chunk_rows) {
    size_t chunk_rows = rows - start < model->chunk_rows ? rows - start : model->chunk_rows;
    od_fault fault = {OD_FAULT_NONE, NULL, 0};
    poison(s->rows, model->rows_bytes);
    for (uint32_t i = 0; i < s->gather_count; i++)
      s->gathers[i].ids = (const int64_t *)inputs[model->values[s->gather_inputs[i]].input] +
                          start * s->gathers[i].ids_step;
    gather(s, s->gathers, s->gather_count, chunk_rows, &fault);
    if (fault.kind) return report(s, &fault, inputs, NULL, rows, error);
    if (s->read_count) locate_inputs(s, inputs, start);
    for (uint32_t i = 0; i < model->node_count; i++)
      if (runs(model, &model->nodes[i])) step(s, i, chunk_rows);
    if (s->fault.kind) return report(s, &s->fault, inputs, NULL, rows, error);
    if (s->trouble) return report_trouble(s, error);
    copy_outputs(s, start, chunk_rows, outputs);
  }
  return OD_OK;
}

/* A value is shared when all it depends on is constant or context, by the graph. */
static void mark_shared(od_session *s, const uint8_t *is_context) {
  const od_model *model = s->model;
  for (uint32_t i = 0; i < model->value_count; i++) {
    const od_value *value = &model->values[i];
    s->shared[i] = value->input >= 0 && is_context[value->input];
  }
  for (uint32_t i = 0; i < model->node_count; i++) { /* in plan order: inputs come first */
    const od_node *node = &model->nodes[i];
    if (node->omitted) continue;
    int shared = model->values[node->output].batched;
    for (uint32_t j = 0; j < node->input_count; j++)
      if (node->inputs[j] >= 0 && model->values[node->inputs[j]].batched)
        shared &= s->shared[node->inputs[j]];
    s->shared[node->output] = (uint8_t)shared;
  }
}

/* The one row of a concatenation in the context's memory, with the columns of its shared parts. */
static const float *join_shared(const od_session *s, const od_node *concat) {
  char *to = (char *)(uintptr_t)s->locations[concat->output].context.data;
  size_t before = 0;
  for (uint32_t i = 0; i < concat->input_count; i++) {
    int32_t part = concat->inputs[i];
    size_t bytes = s->model->values[part].size * sizeof(float);
    const char *from = s->locations[part].context.data;
    if (s->shared[part] && from != to + before) od_copy(to + before, from, bytes);
    before += bytes;
  }
  return (const float *)(const void *)to;
}

/* The context's share of the dense layers that read a concatenation of both kinds of columns. */
static void run_partials(od_session *s) {
  const od_model *model = s->model;
  float *room = s->partial;
  for (uint32_t i = 0; i < model->node_count; i++) {
    const od_node *node = &model->nodes[i];
    s->partials[i] = NULL;
    if (node->op != OD_OP_DENSE || node->dense.concat < 0 || s->shared[node->output]) continue;
    const od_node *parts = &model->nodes[node->dense.concat];
    size_t count = column_ranges(s, parts, 1, s->shared_ranges);
    if (!count) continue;
    uint64_t begun = s->profile ? s->profile->clock() : 0;
    const od_dense *layer = &node->dense.layer;
    run_layer(s, node, join_shared(s, parts), 0, 1, s->shared_ranges, count, layer->bias, 0, room, 0);
    for (uint32_t u = layer->units; u < layer->padded_units; u++) room[u] = 0;
    if (s->profile) od_profile_node(s->profile, begun, model, i, 1);
    s->partials[i] = room;
    room += model->widest_units;
  }
}

/* Whether every reader of a whole concatenation is a dense layer that takes the context's columns
 * apart, so that they need not be repeated for every candidate. */
static int only_split(const od_session *s, uint32_t concat) {
  const od_model *model = s->model;
  int32_t output = model->nodes[concat].output;
  uint32_t root = model->values[output].root;
  if (root != (uint32_t)output || model->nodes[concat].concat.outer != 1)
    return 0; /* part of a larger value, or its parts are not whole columns */
  for (uint32_t i = concat + 1; i < model->node_count; i++) {
    const od_node *node = &model->nodes[i];
    for (uint32_t j = 0; runs(model, node) && j < node->input_count; j++)
      if (node->inputs[j] >= 0 && model->values[node->inputs[j]].batched &&
          model->values[node->inputs[j]].root == root && !s->partials[i]) {
        /* readers of a part, which is computed in place, do not need the whole */
        int32_t value = node->inputs[j];
        while (value != output && model->values[value].node < 0) value = model->values[value].parent;
        if (value == output) return 0;
      }
  }
  for (uint32_t i = 0; i < model->output_count; i++)
    if (model->values[model->output_values[i]].root == root) return 0;
  return 1;
}

static od_status rank_rows(od_session *s, const void *const *inputs, const uint8_t *is_context,
                           size_t rows, float *const *outputs, od_error *error) {
  const od_model *model = s->model;
  od_fault fault = {OD_FAULT_NONE, NULL, 0};
  if (model->unguarded_inputs) OD_CHECK(od_check_ids(model, inputs, is_context, rows, 0, error));
  mark_shared(s, is_context);
  s->trouble = OD_TROUBLE_NONE;
  s->fault.kind = OD_FAULT_NONE;
  poison_session(s);
  if (s->read_count) locate_inputs(s, inputs, 0);
  size_t count = collect(s, inputs, 0, 1, s->shared_gathers);
  gather(s, s->shared_gathers, count, 1, &fault);
  for (uint32_t i = 0; i < model->node_count; i++)
    if (runs(model, &model->nodes[i]) && s->shared[model->nodes[i].output]) step(s, i, 1);
  run_partials(s);
  for (uint32_t i = 0; i < model->node_count; i++)
    s->split[i] = model->nodes[i].op == OD_OP_CONCAT && only_split(s, i);
  for (size_t start = 0; !fault.kind && start < rows; start += model->chunk_rows) {
    size_t chunk_rows = rows - start < model->chunk_rows ? rows - start : model->chunk_rows;
    poison(s->rows, model->rows_bytes);
    count = collect(s, inputs, start, 0, s->other_gathers);
    gather(s, s->other_gathers, count, chunk_rows, &fault);
    if (fault.kind) break;
    if (s->read_count) locate_inputs(s, inputs, start);
    for (uint32_t i = 0; i < model->node_count; i++)
      if (runs(model, &model->nodes[i]) && !s->shared[model->nodes[i].output])
        step(s, i, chunk_rows);
    copy_outputs(s, start, chunk_rows, outputs);
  }
  od_zero(s->shared, model->value_count);
  od_zero(s->split, model->node_count);
  od_zero(s->partials, model->node_count * sizeof *s->partials);
  if (fault.kind) return report(s, &fault, inputs, is_context, rows, error);
  if (s->fault.kind) return report(s, &s->fault, inputs, is_context, rows, error);
  return s->trouble ? report_trouble(s, error) : OD_OK;
}

/* What a request returns: where the file changed meanwhile, its scores may be of two models. */
static od_status unless_changed(const od_session *s, od_status status, od_error *error) {
  const od_model *model = s->model;
  if (!model->changed || !model->changed(model->source)) return status;
  return od_fail(error, OD_E_FORMAT,
                 "the file was truncated or overwritten while it was in use: open it again");
}

od_status od_run(od_session *s, const void *const *inputs, size_t rows, float *const *outputs,
                 od_error *error) {
  return unless_changed(s, run_rows(s, inputs, rows, outputs, error), error);
}

od_status od_rank(od_session *s, const void *const *inputs, const uint8_t *is_context,
                  size_t rows, float *const *outputs, od_error *error) {
  return unless_changed(s, rank_rows(s, inputs, is_context, rows, outputs, error), error);
}
