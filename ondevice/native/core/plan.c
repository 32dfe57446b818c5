/* plan.c: reads the plan (JSON) of a native file and checks it against the arrays of the file. */
#include "core/model.h"

enum { MAX_NODES = 65536, MAX_DIM = 1024, MAX_BLOCKS = 64, TAIL = 64 };
#define MAX_VALUE_SIZE (1u << 24) /* elements a row */

typedef struct {
  od_model *model;
  const od_container *file;
  od_arena *scratch;
  od_error *error;
  const char **slots_names; /* hash table: names of values */
  int32_t *slots;
  uint32_t slot_mask;
  uint32_t value_room;
} planner;

static od_status no_memory(planner *p) {
  return od_fail(p->error, OD_E_MEMORY, "out of memory for the plan");
}

static uint32_t name_hash(const char *name) {
  uint32_t h = 2166136261u;
  for (; *name; name++) h = (h ^ (unsigned char)*name) * 16777619u;
  return h;
}

/* The slot where `name` is or belongs. */
static uint32_t slot_of(const planner *p, const char *name) {
  uint32_t slot = name_hash(name) & p->slot_mask;
  while (p->slots[slot] >= 0 && !od_equal(p->slots_names[slot], name))
    slot = (slot + 1) & p->slot_mask;
  return slot;
}

static int32_t find_value(const planner *p, const char *name) { return p->slots[slot_of(p, name)]; }

static od_status add_value(planner *p, const char *name, int32_t *index) {
  uint32_t slot = slot_of(p, name);
  if (p->slots[slot] >= 0)
    return od_fail(p->error, OD_E_FORMAT, "plan: '%s' is written twice", name);
  if (p->model->value_count == p->value_room) return no_memory(p);
  *index = (int32_t)p->model->value_count++;
  p->slots[slot] = *index;
  p->slots_names[slot] = name;
  od_value *value = &p->model->values[*index];
  value->input = value->node = value->parent = -1;
  value->dtype = OD_F32;
  return OD_OK;
}

static od_status need_list(planner *p, const od_json *object, const char *key, od_kind kind,
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

/* Tables */

static od_status bad_table(planner *p, const char *name, const char *what) {
  return od_fail(p->error, OD_E_FORMAT, "table '%s': %s", name, what);
}

static uint32_t value_bits(od_codec codec, uint32_t count, int whole_bytes) {
  static const uint8_t bits[] = {32, 16, 8, 4, 2};
  return whole_bytes ? (count * bits[codec] + 7) / 8 * 8 : count * bits[codec];
}

static od_status read_layout(planner *p, const od_json *item, od_table *table) {
  static const char *const codecs[] = {"f32", "f16", "q8", "q4", "q2"};
  const od_json *codec = od_json_member(item, "codec"), *axis = od_json_member(item, "scale_axis");
  const od_json *width_bits = od_json_member(item, "width_bits");
  int64_t rows, dim, base, step, bits = 4;
  table->name = od_take_text(&p->model->arena, item->key, od_length(item->key));
  if (!table->name) return no_memory(p);
  unsigned found = 0;
  if (!codec || codec->kind != OD_J_TEXT) return bad_table(p, item->key, "codec is missing");
  while (found < 5 && !od_equal(codecs[found], codec->text)) found++;
  if (found == 5) return bad_table(p, item->key, "unknown codec");
  if (item->size != (width_bits ? 7 : 6) || !axis || !od_json_int(od_json_member(item, "rows"), 1, INT32_MAX, &rows) ||
      !od_json_int(od_json_member(item, "dim"), 1, MAX_DIM, &dim) ||
      !od_json_int(od_json_member(item, "width_base"), 0, dim, &base) ||
      !od_json_int(od_json_member(item, "width_step"), 0, dim + 1, &step))
    return bad_table(p, item->key, "rows, dim, width_base, width_step missing or out of range");
  table->codec = (od_codec)found;
  table->scale = OD_SCALE_NONE;
  if (axis->kind == OD_J_TEXT && od_equal(axis->text, "row")) table->scale = OD_SCALE_ROW;
  else if (axis->kind == OD_J_TEXT && od_equal(axis->text, "column"))
    table->scale = OD_SCALE_COLUMN;
  else if (axis->kind != OD_J_NULL) return bad_table(p, item->key, "unknown scale axis");
  if ((table->scale == OD_SCALE_NONE) != (table->codec <= OD_CODEC_F16))
    return bad_table(p, item->key, "codec and scale axis do not fit each other");
  /* without width_bits, format version 1: codes of 4 bits, records of whole bytes */
  if (!width_bits && (table->codec == OD_CODEC_Q2 ||
                      (table->codec == OD_CODEC_Q4 && step && ((step | base) & 1))))
    return bad_table(p, item->key, "rows of version 1 grow by whole bytes");
  if (width_bits && (!od_json_int(width_bits, 0, 4, &bits) || bits == 3 || !bits != !step))
    return bad_table(p, item->key, "width_bits does not fit");
  table->rows = (uint32_t)rows;
  table->dim = (uint32_t)dim;
  table->width_base = (uint32_t)base;
  table->width_step = (uint32_t)step;
  table->scale_bytes = table->scale == OD_SCALE_ROW ? 2 : 0;
  table->width_bits = (uint32_t)bits;
  table->group_shift = bits == 4 ? 4 : bits == 2 ? 5 : 6;
  table->base_bits =
      8 * table->scale_bytes + value_bits(table->codec, (uint32_t)base, !width_bits);
  table->step_bits = value_bits(table->codec, (uint32_t)step, !width_bits);
  table->whole_bytes = (table->base_bits | table->step_bits) % 8 == 0;
  return OD_OK;
}

static od_status table_part(planner *p, const od_table *table, const char *suffix, od_dtype dtype,
                            const uint8_t **data, uint64_t *bytes) {
  const od_entry *entry = od_container_find(p->file, "table.", table->name, suffix);
  if (!entry) return bad_table(p, table->name, "an array is missing");
  if (entry->dtype != dtype || entry->rank != 1 || entry->start % od_dtype_size(dtype))
    return bad_table(p, table->name, "an array has a wrong type or is not aligned");
  *data = p->file->data + entry->start;
  *bytes = entry->stop - entry->start;
  return OD_OK;
}

static od_status read_table(planner *p, const od_json *item, od_table *table) {
  uint64_t bytes;
  OD_CHECK(read_layout(p, item, table));
  OD_CHECK(table_part(p, table, ".records", OD_U8, &table->records, &bytes));
  if (bytes < TAIL) return bad_table(p, table->name, "records lack their 64 tail bytes");
  table->payload = bytes - TAIL;
  if (table->width_step) {
    OD_CHECK(table_part(p, table, ".index", OD_U8, &table->index, &bytes));
    if (bytes != (((uint64_t)table->rows - 1) >> table->group_shift) * 12 + 12)
      return bad_table(p, table->name, "its index has a wrong size");
  } else if (table->payload != ((uint64_t)table->rows * table->base_bits + 7) / 8) {
    return bad_table(p, table->name, "its records have a wrong size");
  }
  if (table->scale == OD_SCALE_COLUMN) {
    const uint8_t *scales;
    OD_CHECK(table_part(p, table, ".scales", OD_F32, &scales, &bytes));
    if (bytes != (uint64_t)table->dim * 4)
      return bad_table(p, table->name, "its column scales have a wrong size");
    table->scales = (const float *)(const void *)scales;
  }
  return OD_OK;
}

static int by_key(const void *a, const void *b) {
  return od_order(((const od_json *)a)->key, ((const od_json *)b)->key);
}

static od_status read_tables(planner *p, const od_json *plan) {
  const od_json *tables = NULL;
  OD_CHECK(need_list(p, plan, "tables", OD_J_OBJECT, &tables));
  const od_json **sorted = od_take(p->scratch, tables->size, sizeof *sorted);
  p->model->tables = od_take(&p->model->arena, tables->size, sizeof(od_table));
  if (!sorted || !p->model->tables) return no_memory(p);
  size_t count = 0;
  for (const od_json *item = tables->first; item; item = item->next) sorted[count++] = item;
  od_sort((void **)sorted, count, by_key);
  for (size_t i = 0; i < count; i++) {
    if (i && by_key(sorted[i - 1], sorted[i]) == 0)
      return bad_table(p, sorted[i]->key, "occurs twice");
    OD_CHECK(read_table(p, sorted[i], &p->model->tables[i]));
  }
  p->model->table_count = (uint32_t)count;
  return OD_OK;
}

static const od_table *find_table(const planner *p, const char *name) {
  size_t low = 0, high = p->model->table_count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    int order = od_order(p->model->tables[middle].name, name);
    if (order == 0) return &p->model->tables[middle];
    if (order < 0) low = middle + 1;
    else high = middle;
  }
  return NULL;
}

/* Lookups */

static od_status bad_lookup(planner *p, uint32_t node, const char *what) {
  return od_fail(p->error, OD_E_FORMAT, "plan: node %u (Lookup): %s", (uint64_t)node, what);
}

static od_status read_blocks(planner *p, const od_json *list, uint32_t number, int64_t code_bits,
                             od_lookup *lookup) {
  if (!list || list->kind != OD_J_LIST || list->size < 1 || list->size > MAX_BLOCKS)
    return bad_lookup(p, number, "1..64 blocks needed");
  lookup->block_count = (uint32_t)list->size;
  lookup->blocks = od_take(&p->model->arena, list->size, sizeof(od_block));
  if (!lookup->blocks) return no_memory(p);
  od_block *block = lookup->blocks;
  for (const od_json *item = list->first; item; item = item->next, block++) {
    int64_t start, stride, bits, offset;
    if (item->size != 4 || !od_json_int(od_json_member(item, "start"), 0, 63, &start) ||
        !od_json_int(od_json_member(item, "stride"), 1, 64, &stride) ||
        !od_json_int(od_json_member(item, "bits"), 1, 31, &bits) ||
        !od_json_int(od_json_member(item, "offset"), 0, INT32_MAX, &offset) ||
        start + (bits - 1) * stride >= code_bits ||
        offset + ((int64_t)1 << bits) > (int64_t)lookup->table->rows)
      return bad_lookup(p, number, "a block is malformed or reaches beyond the code or the table");
    for (int64_t i = 0; i < bits; i++) block->mask |= (uint64_t)1 << (start + i * stride);
    block->contiguous = stride == 1 || bits == 1;
    block->shift = (uint32_t)start;
    block->low_mask = (uint32_t)(((uint64_t)1 << bits) - 1);
    block->offset = (uint32_t)offset;
  }
  return OD_OK;
}

static od_status read_residues(planner *p, const od_json *list, uint32_t number,
                               od_lookup *lookup) {
  if (!list || list->kind != OD_J_LIST || list->size < 1 || list->size > MAX_BLOCKS)
    return bad_lookup(p, number, "1..64 residues needed");
  lookup->block_count = (uint32_t)list->size;
  lookup->residues = od_take(&p->model->arena, list->size, sizeof(od_residue));
  if (!lookup->residues) return no_memory(p);
  od_residue *residue = lookup->residues;
  for (const od_json *item = list->first; item; item = item->next, residue++) {
    const od_json *multiplier = od_json_member(item, "multiplier");
    int64_t modulus, divisor, offset, bits;
    if (item->size != 5 || !multiplier || multiplier->kind != OD_J_INT || multiplier->negative ||
        !(multiplier->magnitude & 1) ||
        !od_json_int(od_json_member(item, "modulus"), 1, INT32_MAX, &modulus) ||
        !od_json_int(od_json_member(item, "divisor"), 1, modulus, &divisor) ||
        !od_json_int(od_json_member(item, "offset"), 0, INT32_MAX, &offset) ||
        !od_json_int(od_json_member(item, "bits"), 31, 64, &bits) || (bits != 31 && bits != 64) ||
        (item != list->first && lookup->high != (bits == 31)) ||
        offset + (modulus + divisor - 1) / divisor > (int64_t)lookup->table->rows)
      return bad_lookup(p, number, "a residue is malformed or reaches beyond the table");
    lookup->high = bits == 31;
    *residue = (od_residue){multiplier->magnitude, (uint32_t)modulus, (uint32_t)divisor,
                            (uint32_t)offset};
  }
  return OD_OK;
}

static int optional_int(const od_json *value, int64_t low, int64_t high, int64_t *out,
                        uint8_t *present) {
  *present = 0;
  if (!value || value->kind == OD_J_NULL) return 1;
  *present = 1;
  return od_json_int(value, low, high, out);
}

static od_status read_lookup(planner *p, const od_json *item, const char *table_name,
                             uint32_t number, od_lookup *lookup) {
  const od_json *scheme = od_json_member(item, "scheme"), *fuse = od_json_member(item, "fuse");
  const od_json *multiplier = od_json_member(item, "multiplier");
  const od_json *blocks = od_json_member(item, "blocks");
  const od_json *residues = od_json_member(item, "residues");
  const od_json *pooling = od_json_member(item, "pooling");
  int64_t rows, dim, bits = 0, oov = 0, head = 0;
  uint8_t has_head;
  lookup->table = find_table(p, table_name);
  if (!lookup->table)
    return od_fail(p->error, OD_E_FORMAT, "plan: node %u (Lookup): table '%s' is missing",
                   (uint64_t)number, table_name);
  if (!scheme || scheme->kind != OD_J_TEXT ||
      !od_json_int(od_json_member(item, "rows"), 1, INT32_MAX, &rows) ||
      !od_json_int(od_json_member(item, "dim"), 1, MAX_DIM, &dim) ||
      !optional_int(od_json_member(item, "padding_id"), INT64_MIN, INT64_MAX, &lookup->padding,
                    &lookup->has_padding) ||
      !optional_int(od_json_member(item, "oov_row"), 0, rows - 1, &oov, &lookup->has_oov) ||
      !optional_int(od_json_member(item, "head"), 0, rows, &head, &has_head))
    return bad_lookup(p, number, "scheme, rows, dim, padding_id, oov_row or head is wrong");
  lookup->oov = (uint32_t)oov;
  lookup->head = (uint32_t)head;
  lookup->fuse = OD_FUSE_SUM;
  if (fuse && fuse->kind == OD_J_TEXT && od_equal(fuse->text, "mean")) lookup->fuse = OD_FUSE_MEAN;
  else if (fuse && fuse->kind == OD_J_TEXT && od_equal(fuse->text, "concat"))
    lookup->fuse = OD_FUSE_CONCAT;
  else if (fuse && fuse->kind == OD_J_TEXT && od_equal(fuse->text, "mul"))
    lookup->fuse = OD_FUSE_MUL;
  else if (fuse && (fuse->kind != OD_J_TEXT || !od_equal(fuse->text, "sum")))
    return bad_lookup(p, number, "fuse must be sum, concat, mean or mul");
  if (pooling) {
    if (pooling->kind == OD_J_TEXT && od_equal(pooling->text, "sum")) lookup->pooling = OD_POOL_SUM;
    else if (pooling->kind == OD_J_TEXT && od_equal(pooling->text, "mean"))
      lookup->pooling = OD_POOL_MEAN;
    else if (pooling->kind != OD_J_TEXT || !od_equal(pooling->text, "none"))
      return bad_lookup(p, number, "pooling must be none, sum or mean");
    if (lookup->pooling && !lookup->has_padding)
      return bad_lookup(p, number, "pooling needs a padding_id");
  }
  lookup->multiplier = 1;
  if (multiplier) {
    if (multiplier->kind != OD_J_INT || multiplier->negative || !(multiplier->magnitude & 1))
      return bad_lookup(p, number, "multiplier must be odd and fit 64 bits");
    lookup->multiplier = multiplier->magnitude;
  }
  if (od_json_member(item, "code_bits") &&
      !od_json_int(od_json_member(item, "code_bits"), 0, 64, &bits))
    return bad_lookup(p, number, "code_bits must be 0..64");
  lookup->block_count = 1;
  lookup->dim = (uint32_t)dim;
  int has_blocks = blocks && (blocks->kind != OD_J_LIST || blocks->size);
  int has_residues = residues && (residues->kind != OD_J_LIST || residues->size);
  if (od_equal(scheme->text, "binary_code")) {
    if (bits < 1 || lookup->has_oov || has_residues)
      return bad_lookup(p, number, "a binary code needs 1..64 bits and takes no oov_row or residues");
    OD_CHECK(read_blocks(p, blocks, number, bits, lookup));
  } else if (od_equal(scheme->text, "hash")) {
    if (bits || lookup->has_oov || has_blocks || lookup->multiplier != 1)
      return bad_lookup(p, number, "a hash takes no code_bits, multiplier, blocks or oov_row");
    OD_CHECK(read_residues(p, residues, number, lookup));
  } else if (!od_equal(scheme->text, "full")) {
    return bad_lookup(p, number, "unknown scheme");
  } else if (has_blocks || bits || lookup->multiplier != 1 || lookup->fuse != OD_FUSE_SUM ||
             has_residues || head) {
    return bad_lookup(p, number,
                      "a full table takes no code_bits, multiplier, blocks, residues, head or fuse");
  }
  lookup->row_dim = lookup->dim;
  if (lookup->fuse == OD_FUSE_CONCAT) {
    if (lookup->dim % lookup->block_count)
      return bad_lookup(p, number, "concat needs dim divisible by the number of blocks");
    lookup->row_dim = lookup->dim / lookup->block_count;
  }
  if (head * (lookup->fuse == OD_FUSE_CONCAT ? (int64_t)lookup->block_count : 1) > rows ||
      (head && lookup->fuse == OD_FUSE_MUL))
    return bad_lookup(p, number, "its head does not fit the table, or its fuse");
  if (lookup->table->rows != (uint64_t)rows || lookup->table->dim != lookup->row_dim)
    return bad_lookup(p, number, "its table has other sizes than it expects");
  lookup->mean = (float)(1.0 / (double)lookup->block_count);
  if (lookup->has_padding) lookup->special |= OD_SPECIAL_PADDING;
  if (lookup->residues || head || lookup->fuse == OD_FUSE_MUL || lookup->pooling)
    lookup->special |= OD_SPECIAL_RARE;
  lookup->fuse_as = lookup->special & OD_SPECIAL_RARE ? OD_FUSE_RARE : lookup->table->codec;
  return OD_OK;
}

/* Inputs, weights, outputs */

static od_status read_weights(planner *p, const od_json *plan) {
  const od_json *names;
  OD_CHECK(need_list(p, plan, "weights", OD_J_LIST, &names));
  for (const od_json *name = names->first; name; name = name->next) {
    const od_entry *entry = od_container_find(p->file, "weight.", name->text, "");
    int32_t index;
    OD_CHECK(add_value(p, name->text, &index));
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
    if ((uintptr_t)value->data % od_dtype_size(entry->dtype)) { /* 8-byte numbers, 4-byte place */
      void *moved = od_take(&p->model->arena, value->size, od_dtype_size(entry->dtype));
      if (!moved) return no_memory(p);
      od_copy(moved, value->data, (size_t)(entry->stop - entry->start));
      value->data = moved;
    }
  }
  return OD_OK;
}

static od_status read_tensor_name(planner *p, const char *name, od_tensor *tensor) {
  tensor->name = od_take_text(&p->model->arena, name, od_length(name));
  return tensor->name ? OD_OK : no_memory(p);
}

/* The description lists the inputs in the order of the public interface, with their shapes. */
static od_status read_inputs(planner *p, const od_json *plan, const od_json *info) {
  const od_json *names, *list = od_json_member(info, "inputs");
  OD_CHECK(need_list(p, plan, "inputs", OD_J_LIST, &names));
  if (!list || list->kind != OD_J_LIST || list->size != names->size)
    return od_fail(p->error, OD_E_FORMAT, "the description's inputs differ from the plan's");
  od_model *model = p->model;
  model->inputs = od_take(&model->arena, list->size, sizeof(od_tensor));
  if (!model->inputs) return no_memory(p);
  for (const od_json *item = list->first; item; item = item->next) {
    const od_json *name = od_json_member(item, "name"), *shape = od_json_member(item, "shape");
    if (!name || name->kind != OD_J_TEXT || !shape || shape->kind != OD_J_LIST || !shape->size ||
        shape->size > OD_MAX_RANK)
      return od_fail(p->error, OD_E_FORMAT, "model description: an input lacks name or shape");
    const od_json *listed = names->first;
    while (listed && !od_equal(listed->text, name->text)) listed = listed->next;
    if (!listed)
      return od_fail(p->error, OD_E_FORMAT, "the description's inputs differ from the plan's");
    od_tensor *tensor = &model->inputs[model->input_count];
    int32_t index;
    OD_CHECK(add_value(p, name->text, &index));
    OD_CHECK(read_tensor_name(p, name->text, tensor));
    od_value *value = &model->values[index];
    const od_json *dtype = od_json_member(item, "dtype");
    if (dtype && (dtype->kind != OD_J_TEXT ||
                  !(od_equal(dtype->text, "float32") || od_equal(dtype->text, "int64"))))
      return od_fail(p->error, OD_E_FORMAT, "input '%s' is neither int64 nor float32", name->text);
    tensor->is_float = dtype && od_equal(dtype->text, "float32");
    value->dtype = tensor->is_float ? OD_F32 : OD_I64;
    value->batched = 1;
    value->input = (int32_t)model->input_count++;
    value->size = 1;
    tensor->rank = 1;
    if (shape->first->kind != OD_J_TEXT)
      return od_fail(p->error, OD_E_UNSUPPORTED, "input '%s' has a fixed number of rows",
                     name->text);
    for (const od_json *d = shape->first->next; d; d = d->next) {
      int64_t size;
      if (!od_json_int(d, 1, MAX_VALUE_SIZE, &size) ||
          (uint64_t)size * value->size > MAX_VALUE_SIZE)
        return od_fail(p->error, OD_E_UNSUPPORTED,
                       "input '%s' has an axis of free or too large size beside its rows",
                       name->text);
      value->dims[value->rank++] = tensor->dims[tensor->rank++] = (uint32_t)size;
      value->size *= (uint32_t)size;
    }
    tensor->row_size = value->size;
  }
  return OD_OK;
}

static od_status read_outputs(planner *p, const od_json *plan, const od_json *info) {
  const od_json *names, *described = od_json_member(info, "outputs");
  od_model *model = p->model;
  OD_CHECK(need_list(p, plan, "outputs", OD_J_LIST, &names));
  model->outputs = od_take(&model->arena, names->size, sizeof(od_tensor));
  model->output_values = od_take(&model->arena, names->size, sizeof(int32_t));
  if (!model->outputs || !model->output_values) return no_memory(p);
  const od_json *other = described && described->kind == OD_J_LIST ? described->first : NULL;
  for (const od_json *name = names->first; name; name = name->next) {
    if (!other || other->kind != OD_J_TEXT || !od_equal(other->text, name->text))
      return od_fail(p->error, OD_E_FORMAT, "the description's outputs differ from the plan's");
    other = other->next;
    int32_t index = find_value(p, name->text);
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

/* Nodes */

static const struct {
  const char *name;
  od_op op;
} OPERATORS[] = {
    {"Lookup", OD_OP_LOOKUP},
    {"Dense", OD_OP_DENSE},
    {"Abs", OD_OP_ABS},
    {"Add", OD_OP_ADD},
    {"And", OD_OP_AND},
    {"ArgMax", OD_OP_ARG},
    {"ArgMin", OD_OP_ARG},
    {"Cast", OD_OP_CAST},
    {"Ceil", OD_OP_CEIL},
    {"Concat", OD_OP_CONCAT},
    {"CumSum", OD_OP_CUM_SUM},
    {"Div", OD_OP_DIV},
    {"Elu", OD_OP_ELU},
    {"Equal", OD_OP_EQUAL},
    {"Erf", OD_OP_ERF},
    {"Exp", OD_OP_EXP},
    {"Expand", OD_OP_COPY},
    {"ExpandRows", OD_OP_COPY},
    {"Flatten", OD_OP_VIEW},
    {"Floor", OD_OP_FLOOR},
    {"Gather", OD_OP_GATHER},
    {"GatherElements", OD_OP_GATHER_ELEMENTS},
    {"GatherND", OD_OP_GATHER_ND},
    {"Gemm", OD_OP_GEMM},
    {"Greater", OD_OP_GREATER},
    {"GreaterOrEqual", OD_OP_GREATER_EQUAL},
    {"Identity", OD_OP_VIEW},
    {"LeakyRelu", OD_OP_LEAKY_RELU},
    {"Less", OD_OP_LESS},
    {"LessOrEqual", OD_OP_LESS_EQUAL},
    {"Log", OD_OP_LOG},
    {"MatMul", OD_OP_MATMUL},
    {"Max", OD_OP_MAX},
    {"Min", OD_OP_MIN},
    {"Mod", OD_OP_MOD},
    {"Mul", OD_OP_MUL},
    {"Neg", OD_OP_NEG},
    {"Not", OD_OP_NOT},
    {"Or", OD_OP_OR},
    {"PRelu", OD_OP_PRELU},
    {"Pad", OD_OP_PAD},
    {"Pow", OD_OP_POW},
    {"Reciprocal", OD_OP_RECIPROCAL},
    {"ReduceMax", OD_OP_REDUCE_MAX},
    {"ReduceMean", OD_OP_REDUCE_MEAN},
    {"ReduceMin", OD_OP_REDUCE_MIN},
    {"ReduceProd", OD_OP_REDUCE_PROD},
    {"ReduceSum", OD_OP_REDUCE_SUM},
    {"Relu", OD_OP_RELU},
    {"Reshape", OD_OP_VIEW},
    {"Round", OD_OP_ROUND},
    {"Sigmoid", OD_OP_SIGMOID},
    {"Sign", OD_OP_SIGN},
    {"Slice", OD_OP_COPY},
    {"Softmax", OD_OP_SOFTMAX},
    {"Softplus", OD_OP_SOFTPLUS},
    {"Sqrt", OD_OP_SQRT},
    {"Squeeze", OD_OP_VIEW},
    {"Sub", OD_OP_SUB},
    {"Tanh", OD_OP_TANH},
    {"TopKIndices", OD_OP_TOP_K},
    {"Transpose", OD_OP_COPY},
    {"Unsqueeze", OD_OP_VIEW},
    {"Where", OD_OP_WHERE},
    {"Xor", OD_OP_XOR},
};

static od_status read_node(planner *p, const od_json *item, uint32_t number) {
  od_model *model = p->model;
  const od_json *op = od_json_member(item, "op"), *table = od_json_member(item, "table");
  const od_json *lookup = od_json_member(item, "lookup"), *inputs, *outputs;
  if (!op || op->kind != OD_J_TEXT)
    return od_fail(p->error, OD_E_FORMAT, "plan: node %u has no op", (uint64_t)number);
  OD_CHECK(need_list(p, item, "inputs", OD_J_LIST, &inputs));
  OD_CHECK(need_list(p, item, "outputs", OD_J_LIST, &outputs));
  size_t found = 0, known = sizeof OPERATORS / sizeof *OPERATORS;
  while (found < known && !od_equal(OPERATORS[found].name, op->text)) found++;
  if (found == known)
    return od_fail(p->error, OD_E_UNSUPPORTED, "plan: node %u: unknown operator '%s'",
                   (uint64_t)number, op->text);
  od_node *node = &model->nodes[model->node_count];
  od_zero(node, sizeof *node);
  node->op = OPERATORS[found].op;
  node->number = number;
  node->parts = node->lookup = -1;
  node->input_count = (uint32_t)inputs->size;
  node->inputs = od_take(&model->arena, inputs->size, sizeof(int32_t));
  if (!node->inputs) return no_memory(p);
  uint32_t count = 0;
  for (const od_json *name = inputs->first; name; name = name->next) {
    int32_t index = name->size ? find_value(p, name->text) : -1;
    if (name->size && index < 0)
      return od_fail(p->error, OD_E_FORMAT, "plan: node %u (%s) reads '%s' before it exists",
                     (uint64_t)number, op->text, name->text);
    node->inputs[count++] = index;
  }
  if (outputs->size != 1)
    return od_fail(p->error, OD_E_UNSUPPORTED, "plan: node %u (%s) has %u outputs",
                   (uint64_t)number, op->text, (uint64_t)outputs->size);
  OD_CHECK(add_value(p, outputs->first->text, &node->output));
  if ((node->op == OD_OP_LOOKUP) != (lookup && lookup->kind == OD_J_OBJECT))
    return bad_lookup(p, number, "exactly the Lookup nodes have a lookup specification");
  if (node->op == OD_OP_LOOKUP) {
    if (!table || table->kind != OD_J_TEXT || node->input_count != 1 || node->inputs[0] < 0)
      return bad_lookup(p, number, "one table and one input needed");
    const od_value *ids = &model->values[node->inputs[0]];
    od_value *vectors = &model->values[node->output];
    node->lookup = (int32_t)model->lookup_count;
    od_lookup *spec = &model->lookups[model->lookup_count];
    OD_CHECK(read_lookup(p, lookup, table->text, number, spec));
    if (spec->pooling && !ids->rank)
      return bad_lookup(p, number, "pooling needs IDs with a sequence axis");
    if (ids->dtype != OD_I64 || !ids->batched || !ids->size || ids->rank + 2 > OD_MAX_RANK ||
        (uint64_t)ids->size * spec->dim > MAX_VALUE_SIZE)
      return od_fail(p->error, OD_E_UNSUPPORTED,
                     "plan: node %u (Lookup) reads IDs that are not int64 or the same for all "
                     "rows, or makes too large a value",
                     (uint64_t)number);
    uint32_t axes = ids->rank - (spec->pooling != OD_POOL_NONE); /* that keep their sizes */
    spec->ids_per_row = ids->size;
    spec->pooled = spec->pooling ? ids->dims[axes] : 1;
    spec->vectors_per_row = ids->size / spec->pooled;
    spec->computed = ids->input < 0;
    vectors->batched = 1;
    vectors->rank = (uint8_t)(axes + 1);
    od_copy(vectors->dims, ids->dims, sizeof vectors->dims);
    vectors->dims[axes] = spec->dim;
    vectors->size = spec->vectors_per_row * spec->dim;
    vectors->node = (int32_t)model->node_count;
    model->lookup_inputs[model->lookup_count] = node->inputs[0];
    model->lookup_outputs[model->lookup_count] = node->output;
    model->lookup_count++;
  } else {
    OD_CHECK(
        od_infer_node(model, node, op->text, od_json_member(item, "attributes"), p->error));
    od_value *out = &model->values[node->output];
    if (node->op != OD_OP_VIEW) out->node = (int32_t)model->node_count;
    if (out->size > MAX_VALUE_SIZE)
      return od_fail(p->error, OD_E_UNSUPPORTED, "plan: node %u (%s) makes too large a value",
                     (uint64_t)number, op->text);
    if (!out->batched && node->op != OD_OP_VIEW) {
      out->data = od_take(&model->arena, out->size, od_dtype_size(out->dtype));
      if (!out->data) return no_memory(p);
      node->constant = 1;
    }
  }
  model->node_count++;
  return OD_OK;
}

static od_status make_names(planner *p, const od_json *plan) {
  const od_json *nodes, *names;
  OD_CHECK(need_list(p, plan, "nodes", OD_J_LIST, &nodes));
  if (nodes->size > MAX_NODES)
    return od_fail(p->error, OD_E_FORMAT, "plan: more than %u nodes", (uint64_t)MAX_NODES);
  size_t room = nodes->size;
  OD_CHECK(need_list(p, plan, "inputs", OD_J_LIST, &names));
  room += names->size;
  OD_CHECK(need_list(p, plan, "weights", OD_J_LIST, &names));
  room += names->size;
  uint32_t slots = 64;
  while (slots < 2 * room) slots *= 2;
  p->value_room = (uint32_t)room;
  p->slot_mask = slots - 1;
  p->slots = od_take(p->scratch, slots, sizeof *p->slots);
  p->slots_names = od_take(p->scratch, slots, sizeof *p->slots_names);
  od_model *model = p->model;
  model->values = od_take(&model->arena, room, sizeof(od_value));
  model->nodes = od_take(&model->arena, nodes->size, sizeof(od_node));
  size_t lookups = 0;
  for (const od_json *node = nodes->first; node; node = node->next) {
    const od_json *op = od_json_member(node, "op");
    lookups += op && op->kind == OD_J_TEXT && od_equal(op->text, "Lookup");
  }
  model->lookups = od_take(&model->arena, lookups, sizeof(od_lookup));
  model->lookup_inputs = od_take(&model->arena, lookups, sizeof(int32_t));
  model->lookup_outputs = od_take(&model->arena, lookups, sizeof(int32_t));
  if (!p->slots || !p->slots_names || !model->values || !model->nodes || !model->lookups ||
      !model->lookup_inputs || !model->lookup_outputs)
    return no_memory(p);
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

od_status od_plan_read(od_model *model, const od_container *file, od_arena *scratch,
                       od_error *error) {
  const od_json *format, *version, *plan_text, *info_text, *number;
  od_json *plan, *info;
  planner p = {model, file, scratch, error, NULL, NULL, 0, 0};
  OD_CHECK(need_text(file, "format", &format, error));
  if (!od_equal(format->text, "ondevice.odm"))
    return od_fail(error, OD_E_FORMAT, "a safetensors file, but not a native model");
  OD_CHECK(need_text(file, "format_version", &version, error));
  if (!od_equal(version->text, "1") && !od_equal(version->text, "2"))
    return od_fail(error, OD_E_FORMAT, "format version %s; this release reads versions 1 and 2",
                   version->text);
  OD_CHECK(need_text(file, "plan", &plan_text, error));
  OD_CHECK(need_text(file, "info", &info_text, error));
  OD_CHECK(od_json_parse(plan_text->text, plan_text->size, "plan", scratch, &plan, error));
  OD_CHECK(
      od_json_parse(info_text->text, info_text->size, "model description", scratch, &info, error));
  number = od_json_member(info, "version");
  int64_t one;
  if (!od_json_int(number, 1, 1, &one))
    return od_fail(error, OD_E_FORMAT, "model description: this release reads version 1");
  model->info = od_take_text(&model->arena, info_text->text, info_text->size);
  if (!model->info) return no_memory(&p);
  model->info_size = info_text->size;
  OD_CHECK(make_names(&p, plan));
  OD_CHECK(read_inputs(&p, plan, info));
  OD_CHECK(read_weights(&p, plan));
  OD_CHECK(read_tables(&p, plan));
  const od_json *nodes = od_json_member(plan, "nodes");
  uint32_t node_number = 0;
  for (const od_json *node = nodes->first; node; node = node->next)
    OD_CHECK(read_node(&p, node, node_number++));
  return read_outputs(&p, plan, info);
}
