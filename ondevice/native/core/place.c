/* place.c: decides where every value lies, so that requests need no allocation and no copies.
 *
 * Views share their source's memory. Parts of a concatenation are computed in place, at their
 * offset inside it. What is left gets buffers, shared by values that never live at once.
 */
#include "core/model.h"

OD_FOR_SIZE

enum { ALIGN = 64 };

/* The value whose memory a value lies in, following views and concatenations. */
static uint32_t root_of(const od_model *model, uint32_t index, uint32_t *offset) {
  *offset = 0;
  while (model->values[index].parent >= 0) {
    *offset += model->values[index].offset;
    index = (uint32_t)model->values[index].parent;
  }
  return index;
}

static void place_parts(od_model *model, const od_node *node) {
  const od_value *whole = &model->values[node->output];
  uint32_t offset = 0;
  if (node->concat.outer != 1 || !whole->batched) return;
  for (uint32_t i = 0; i < node->input_count; i++) {
    uint32_t inner, index = (uint32_t)node->inputs[i];
    uint32_t size = model->values[index].size;
    uint32_t root = root_of(model, index, &inner);
    od_value *part = &model->values[root];
    if (part->batched && part->node >= 0 && part->size == size &&
        root != (uint32_t)node->output) {
      part->parent = node->output;
      part->offset = offset;
    }
    offset += size;
  }
}

typedef struct {
  uint32_t first, last; /* nodes between which a root's memory is in use */
} lifetime;

static void live(const od_model *model, lifetime *lives, int32_t value, uint32_t when) {
  if (value < 0) return;
  lifetime *l = &lives[model->values[value].root];
  if (when < l->first) l->first = when;
  if (when > l->last) l->last = when;
}

static uint64_t aligned(uint64_t bytes) { return (bytes + ALIGN - 1) / ALIGN * ALIGN; }

static uint64_t value_bytes(const od_value *value) {
  return aligned(value->size * (uint64_t)od_dtype_size(value->dtype));
}

/* Lowest place for roots in order of definition, where no living root is in the way. */
static od_status assign(od_model *model, const uint32_t *roots, uint32_t count,
                        const lifetime *lives, od_error *error) {
  uint64_t row_bytes = 0, single = 0;
  if (count > OD_MAX_PLACED_VALUES)
    return od_fail(error, OD_E_UNSUPPORTED, "more than %u intermediate values",
                   (uint64_t)OD_MAX_PLACED_VALUES);
  for (uint32_t i = 0; i < count; i++) {
    od_value *value = &model->values[roots[i]];
    uint64_t bytes = value_bytes(value), place = 0;
    for (int moved = 1, pass = 0; moved && pass <= OD_MAX_PLACINGS; pass++) {
      moved = 0;
      if (pass == OD_MAX_PLACINGS) place = row_bytes; /* above all others */
      for (uint32_t j = 0; j < i; j++) {
        const od_value *other = &model->values[roots[j]];
        uint64_t end = other->place + value_bytes(other);
        if (lives[roots[j]].last >= lives[roots[i]].first &&
            lives[roots[j]].first <= lives[roots[i]].last && other->place < place + bytes &&
            place < end)
          place = end, moved = 1;
      }
    }
    value->place = place; /* in bytes a row; scaled by the rows below */
    value->single_place = single;
    single += bytes;
    if (place + bytes > row_bytes) row_bytes = place + bytes;
    if (single > OD_MAX_SESSION_BYTES)
      return od_fail(error, OD_E_UNSUPPORTED, "a row needs more than %u bytes",
                     (uint64_t)OD_MAX_SESSION_BYTES);
  }
  uint64_t rows = row_bytes ? OD_CHUNK_BYTES / row_bytes : OD_MAX_CHUNK_ROWS;
  if (rows > OD_MAX_CHUNK_ROWS) rows = OD_MAX_CHUNK_ROWS;
  if (rows < OD_MIN_CHUNK_ROWS) rows = OD_MIN_CHUNK_ROWS;
  if (row_bytes * OD_MIN_CHUNK_ROWS > OD_MAX_SESSION_BYTES) rows = 1;
  model->chunk_rows = (uint32_t)rows;
  for (uint32_t i = 0; i < count; i++) model->values[roots[i]].place *= rows;
  model->rows_bytes = row_bytes * rows;
  model->single_bytes = single;
  return OD_OK;
}

/* The concatenation that a dense layer's input is, so that rank() can split the layer. */
static int32_t parts_of(const od_model *model, const od_node *dense) {
  int32_t index = dense->inputs[0];
  while (index >= 0) {
    const od_value *value = &model->values[index];
    if (value->node >= 0) {
      const od_node *node = &model->nodes[value->node];
      int joined = node->op == OD_OP_CONCAT && node->concat.outer == 1 &&
                   dense->dense.vectors == 1 && value->size == dense->dense.layer.features;
      return joined ? value->node : -1;
    }
    index = value->parent; /* through views */
  }
  return -1;
}

/* Chain q8 layers that read the same value, for whose rows codes and lists are the same.
 * `last`: zeros, by value. */
static void chain_layers(od_model *model, uint32_t *last) {
  for (uint32_t i = 0; i < model->node_count; i++) {
    const od_node *node = &model->nodes[i];
    if (node->op != OD_OP_DENSE || node->constant || node->omitted) continue;
    od_dense_node *dense = &model->nodes[i].dense, *before;
    if (dense->layer.codec != OD_CODEC_Q8 || dense->layer.units == 1 || dense->concat >= 0) continue;
    uint32_t *place = &last[node->inputs[0]], wide = OD_NARROW * OD_UNIT_BLOCK;
    before = *place ? &model->nodes[*place - 1].dense : NULL;
    if (before && (before->layer.padded_units > wide) == (dense->layer.padded_units > wide)) {
      dense->after = before->after ? before->after : *place;
      before->next = i;
    }
    *place = i + 1;
  }
}

od_status od_place(od_model *model, od_arena *scratch, od_error *error) {
  lifetime *lives = od_take(scratch, model->value_count, sizeof *lives);
  uint32_t *roots = od_take(scratch, model->value_count, sizeof *roots);
  uint32_t *last = od_take(scratch, model->value_count, sizeof *last);
  if (!lives || !roots || !last) return od_fail(error, OD_E_MEMORY, "out of memory for the plan");
  for (uint32_t i = 0; i < model->node_count; i++)
    if (model->nodes[i].op == OD_OP_DENSE) {
      od_dense_node *dense = &model->nodes[i].dense;
      const od_dense *d = &dense->layer;
      uint32_t padded = od_padded(d->features, OD_FEATURE_GROUP);
      dense->concat = parts_of(model, &model->nodes[i]);
      if (padded > model->widest_dense) model->widest_dense = padded;
      if (dense->rounded) padded = od_padded(d->features, OD_PANEL) * (uint32_t)sizeof(float);
      if (padded > model->widest_codes) model->widest_codes = padded;
      if (d->padded_units > model->widest_units) model->widest_units = d->padded_units;
    }
  chain_layers(model, last);
  for (uint32_t i = 0; i < model->node_count; i++)
    if (model->nodes[i].op == OD_OP_CONCAT) place_parts(model, &model->nodes[i]);
  for (uint32_t i = 0; i < model->value_count; i++) {
    lives[i].first = UINT32_MAX;
    model->values[i].root = root_of(model, i, &model->values[i].root_offset);
  }
  for (uint32_t i = 0; i < model->node_count; i++) {
    const od_node *node = &model->nodes[i];
    if (node->omitted) continue;
    /* lookups of the model's inputs run before all others */
    int early = node->op == OD_OP_LOOKUP && !model->lookups[node->lookup.index].computed;
    uint32_t written = early ? 0 : i + 1;
    if (node->op == OD_OP_DENSE && node->dense.after) written = node->dense.after;
    live(model, lives, node->output, written);
    for (uint32_t j = 0; j < node->input_count; j++) live(model, lives, node->inputs[j], i + 1);
  }
  for (uint32_t i = 0; i < model->output_count; i++)
    live(model, lives, model->output_values[i], UINT32_MAX);
  uint32_t count = 0;
  for (uint32_t i = 0; i < model->value_count; i++) {
    const od_value *value = &model->values[i];
    if (value->batched && value->parent < 0 && value->node >= 0) roots[count++] = i;
  }
  return assign(model, roots, count, lives, error);
}
