/* plan_lookups.c: the shape rule of Lookup: its specification, checked against its table. */
#include "core/codecs.h"
#include "core/plan.h"
#include "ops/ops.h"

OD_FOR_SIZE

static od_status bad_lookup(const od_inference *f, const char *what) {
  return od_fail(f->error, OD_E_FORMAT, "plan: node %u (Lookup): %s", (uint64_t)f->node->number,
                 what);
}

static od_status no_memory(const od_inference *f) {
  return od_fail(f->error, OD_E_MEMORY, "out of memory for the plan");
}

/* The number of the text among `names`, or -1. */
static int chosen(const od_json *value, const char *const *names, int count) {
  for (int i = 0; value->kind == OD_J_TEXT && i < count; i++)
    if (od_equal(names[i], value->text)) return i;
  return -1;
}

static int optional_int(const od_json *value, int64_t low, int64_t high, int64_t *out,
                        uint8_t *present) {
  *present = 0;
  if (!value || value->kind == OD_J_NULL) return 1;
  *present = 1;
  return od_json_int(value, low, high, out);
}

/* Blocks of a code's bits */

static int read_block(const od_json *item, int64_t code_bits, uint32_t rows, od_block *block) {
  int64_t start, stride, bits, offset;
  if (item->size != 4 ||
      !od_json_int(od_json_member(item, "start"), 0, OD_MAX_CODE_BITS - 1, &start) ||
      !od_json_int(od_json_member(item, "stride"), 1, OD_MAX_CODE_BITS, &stride) ||
      !od_json_int(od_json_member(item, "bits"), 1, OD_HIGH_BITS, &bits) ||
      !od_json_int(od_json_member(item, "offset"), 0, OD_MAX_ROWS, &offset) ||
      start + (bits - 1) * stride >= code_bits || offset + ((int64_t)1 << bits) > (int64_t)rows)
    return 0;
  for (int64_t i = 0; i < bits; i++) block->mask |= (uint64_t)1 << (start + i * stride);
  block->contiguous = stride == 1 || bits == 1;
  block->shift = (uint32_t)start;
  block->low_mask = (uint32_t)(((uint64_t)1 << bits) - 1);
  block->offset = (uint32_t)offset;
  return 1;
}

static od_status read_blocks(const od_inference *f, const od_json *list, int64_t code_bits,
                             od_lookup *lookup) {
  if (!list || list->kind != OD_J_LIST || list->size < 1 || list->size > OD_MAX_BLOCKS)
    return bad_lookup(f, "1.." OD_DIGITS(OD_MAX_BLOCKS) " blocks needed");
  lookup->block_count = (uint32_t)list->size;
  lookup->blocks = od_take(&f->model->arena, list->size, sizeof(od_block));
  if (!lookup->blocks) return no_memory(f);
  od_block *block = lookup->blocks;
  for (const od_json *item = list->first; item; item = item->next, block++)
    if (!read_block(item, code_bits, lookup->table->rows, block))
      return bad_lookup(f, "a block is malformed or reaches beyond the code or the table");
  return OD_OK;
}

/* Residues of a hash */

static int read_residue(const od_json *item, uint32_t rows, od_residue *residue, int *high) {
  const od_json *multiplier = od_json_member(item, "multiplier");
  int64_t modulus, divisor, offset, bits;
  if (item->size != 5 || !multiplier || multiplier->kind != OD_J_INT || multiplier->negative ||
      !(multiplier->magnitude & 1) ||
      !od_json_int(od_json_member(item, "modulus"), 1, OD_MAX_ROWS, &modulus) ||
      !od_json_int(od_json_member(item, "divisor"), 1, modulus, &divisor) ||
      !od_json_int(od_json_member(item, "offset"), 0, OD_MAX_ROWS, &offset) ||
      !od_json_int(od_json_member(item, "bits"), OD_HIGH_BITS, OD_MAX_CODE_BITS, &bits) ||
      (bits != OD_HIGH_BITS && bits != OD_MAX_CODE_BITS) ||
      offset + (modulus + divisor - 1) / divisor > (int64_t)rows)
    return 0;
  *high = bits == OD_HIGH_BITS;
  *residue = (od_residue){multiplier->magnitude, (uint32_t)modulus, (uint32_t)divisor,
                          (uint32_t)offset};
  return 1;
}

static od_status read_residues(const od_inference *f, const od_json *list, od_lookup *lookup) {
  if (!list || list->kind != OD_J_LIST || list->size < 1 || list->size > OD_MAX_BLOCKS)
    return bad_lookup(f, "1.." OD_DIGITS(OD_MAX_BLOCKS) " residues needed");
  lookup->block_count = (uint32_t)list->size;
  lookup->residues = od_take(&f->model->arena, list->size, sizeof(od_residue));
  if (!lookup->residues) return no_memory(f);
  od_residue *residue = lookup->residues;
  for (const od_json *item = list->first; item; item = item->next, residue++) {
    int high; /* the same for all */
    if (!read_residue(item, lookup->table->rows, residue, &high) ||
        (item != list->first && lookup->high != high))
      return bad_lookup(f, "a residue is malformed or reaches beyond the table");
    lookup->high = (uint8_t)high;
  }
  return OD_OK;
}

/* Retrieval structures */

static int fits_cells(const od_table *table, int64_t bits) {
  return !table->sections && od_codecs[table->codec].scaled && (int64_t)table->bits == bits && !table->width_step &&
         table->width_base == table->dim && table->scale != OD_SCALE_ROW;
}

static od_status read_retrieval(const od_inference *f, const od_json *item, int64_t rows,
                                od_lookup *lookup) {
  int64_t hashes, window, starts, bits, seed, fingerprints, cells = rows - lookup->has_oov;
  if (!item || item->kind != OD_J_OBJECT || item->size != 6 ||
      !od_json_int(od_json_member(item, "hashes"), 1, OD_MAX_HASHES, &hashes) ||
      !od_json_int(od_json_member(item, "window"), 1, OD_MAX_ROWS, &window) ||
      !od_json_int(od_json_member(item, "starts"), 1, cells, &starts) ||
      !od_json_int(od_json_member(item, "bits"), 1, 8, &bits) ||
      !od_json_int(od_json_member(item, "seed"), 0, INT32_MAX, &seed) ||
      !od_json_int(od_json_member(item, "fingerprints"), 0, OD_MAX_FINGERPRINTS, &fingerprints))
    return bad_lookup(f, "retrieval is malformed");
  if (lookup->has_oov != (fingerprints > 0) || (lookup->has_oov && lookup->oov != cells))
    return bad_lookup(f, "the last row is for unknown IDs where there are fingerprints");
  if (hashes * window > cells || starts + hashes * window > OD_MAX_ROWS)
    return bad_lookup(f, "its windows do not fit the cells");
  if (!fits_cells(lookup->table, bits))
    return bad_lookup(f, "cells must be whole rows of codes of its bits with column scales or "
                         "levels");
  od_retrieval *r = lookup->retrieval = od_take(&f->model->arena, 1, sizeof *r);
  if (!r) return no_memory(f);
  r->hashes = (uint32_t)hashes, r->window = (uint32_t)window;
  r->fingerprints = (uint32_t)fingerprints;
  r->starts = (uint32_t)starts, r->cells = (uint32_t)cells;
  lookup->block_count = r->hashes;
  for (uint8_t i = 0; i <= hashes + fingerprints; i++) {
    uint8_t number[8] = {i};
    r->multipliers[i] = od_hash(number, sizeof number, (uint64_t)seed) | 1;
  }
  return OD_OK;
}

/* The specification */

typedef struct {
  int64_t rows, code_bits, head;
} sizes;

/* A key that this release does not know may change what an ID reads. */
static od_status check_keys(const od_inference *f, const od_json *item) {
  static const char *const keys[] = {"scheme",  "rows",       "dim",    "padding_id", "oov_row",
                                     "fuse",    "code_bits",  "blocks", "multiplier", "residues",
                                     "pooling", "head",       "retrieval"};
  for (const od_json *member = item->first; member; member = member->next) {
    size_t i = 0;
    while (i < sizeof keys / sizeof *keys && !od_equal(keys[i], member->key)) i++;
    if (i == sizeof keys / sizeof *keys)
      return od_fail(f->error, OD_E_FORMAT, "plan: node %u (Lookup): unknown key '%s'",
                     (uint64_t)f->node->number, member->key);
  }
  return OD_OK;
}

static od_status read_sizes(const od_inference *f, const od_json *item, od_lookup *lookup,
                            sizes *s) {
  const od_json *stored_head = od_json_member(item, "head");
  int64_t dim, oov = 0, bits = 0, head = 0;
  if (!od_json_int(od_json_member(item, "rows"), 1, OD_MAX_ROWS, &s->rows) ||
      !od_json_int(od_json_member(item, "dim"), 1, OD_MAX_DIM, &dim) ||
      !optional_int(od_json_member(item, "padding_id"), INT64_MIN, INT64_MAX, &lookup->padding,
                    &lookup->has_padding) ||
      !optional_int(od_json_member(item, "oov_row"), 0, s->rows - 1, &oov, &lookup->has_oov) ||
      (stored_head && !od_json_int(stored_head, 0, s->rows, &head)))
    return bad_lookup(f, "scheme, rows, dim, padding_id, oov_row or head is wrong");
  if (od_json_member(item, "code_bits") &&
      !od_json_int(od_json_member(item, "code_bits"), 0, OD_MAX_CODE_BITS, &bits))
    return bad_lookup(f, "code_bits must be 0.." OD_DIGITS(OD_MAX_CODE_BITS));
  lookup->dim = (uint32_t)dim;
  lookup->oov = (uint32_t)oov;
  lookup->head = (uint32_t)head;
  s->code_bits = bits, s->head = head;
  return OD_OK;
}

/* How rows become a vector, and vectors one: fuse, pooling, and the code's multiplier. */
static od_status read_ways(const od_inference *f, const od_json *item, od_lookup *lookup) {
  static const char *const fuses[] = {[OD_FUSE_SUM] = "sum", [OD_FUSE_MEAN] = "mean",
                                      [OD_FUSE_CONCAT] = "concat", [OD_FUSE_MUL] = "mul"};
  static const char *const poolings[] = {
      [OD_POOL_NONE] = "none", [OD_POOL_SUM] = "sum", [OD_POOL_MEAN] = "mean"};
  const od_json *fuse = od_json_member(item, "fuse"), *pooling = od_json_member(item, "pooling");
  const od_json *multiplier = od_json_member(item, "multiplier");
  int way = fuse ? chosen(fuse, fuses, sizeof fuses / sizeof *fuses) : OD_FUSE_SUM;
  if (way < 0) return bad_lookup(f, "fuse must be sum, concat, mean or mul");
  lookup->fuse = (od_fuse)way;
  way = pooling ? chosen(pooling, poolings, sizeof poolings / sizeof *poolings) : OD_POOL_NONE;
  if (way < 0) return bad_lookup(f, "pooling must be none, sum or mean");
  lookup->pooling = (od_pooling)way;
  if (lookup->pooling && !lookup->has_padding)
    return bad_lookup(f, "pooling needs a padding_id");
  lookup->multiplier = 1;
  if (!multiplier) return OD_OK;
  if (multiplier->kind != OD_J_INT || multiplier->negative || !(multiplier->magnitude & 1))
    return bad_lookup(f, "multiplier must be odd and fit 64 bits");
  lookup->multiplier = multiplier->magnitude;
  return OD_OK;
}

/* What each scheme needs and takes. */
static od_status read_scheme(const od_inference *f, const od_json *item, const sizes *s,
                             od_lookup *lookup) {
  const od_json *scheme = od_json_member(item, "scheme");
  const od_json *blocks = od_json_member(item, "blocks");
  const od_json *residues = od_json_member(item, "residues");
  const od_json *retrieval = od_json_member(item, "retrieval");
  int has_blocks = blocks && (blocks->kind != OD_J_LIST || blocks->size);
  int has_residues = residues && (residues->kind != OD_J_LIST || residues->size);
  lookup->block_count = 1;
  if (retrieval && retrieval->kind != OD_J_NULL && !od_equal(scheme->text, "retrieval"))
    return bad_lookup(f, "only the scheme retrieval takes a retrieval");
  if (od_equal(scheme->text, "binary_code")) {
    if (s->code_bits < 1 || lookup->has_oov || has_residues)
      return bad_lookup(f, "a binary code needs 1.." OD_DIGITS(
                               OD_MAX_CODE_BITS) " bits and takes no oov_row or residues");
    return read_blocks(f, blocks, s->code_bits, lookup);
  }
  if (od_equal(scheme->text, "hash")) {
    if (s->code_bits || lookup->has_oov || has_blocks || lookup->multiplier != 1)
      return bad_lookup(f, "a hash takes no code_bits, multiplier, blocks or oov_row");
    return read_residues(f, residues, lookup);
  }
  if (od_equal(scheme->text, "retrieval")) {
    if (has_blocks || has_residues || s->code_bits || s->head || lookup->multiplier != 1 ||
        lookup->fuse != OD_FUSE_SUM)
      return bad_lookup(f, "a retrieval structure takes no code_bits, multiplier, blocks, residues, "
                           "head or fuse");
    return read_retrieval(f, retrieval, s->rows, lookup);
  }
  if (!od_equal(scheme->text, "full")) return bad_lookup(f, "unknown scheme");
  if (has_blocks || s->code_bits || lookup->multiplier != 1 || lookup->fuse != OD_FUSE_SUM ||
      has_residues || s->head)
    return bad_lookup(f, "a full table takes no code_bits, multiplier, blocks, residues, head or "
                         "fuse");
  return OD_OK;
}

static od_status check_table(const od_inference *f, const sizes *s, od_lookup *lookup) {
  lookup->row_dim = lookup->dim;
  if (lookup->fuse == OD_FUSE_CONCAT) {
    if (lookup->dim % lookup->block_count)
      return bad_lookup(f, "concat needs dim divisible by the number of blocks");
    lookup->row_dim = lookup->dim / lookup->block_count;
  }
  uint32_t table_dim = lookup->row_dim;
  if (lookup->retrieval) table_dim += lookup->retrieval->fingerprints;
  int64_t head_rows = s->head * (lookup->fuse == OD_FUSE_CONCAT ? lookup->block_count : 1);
  if (head_rows > s->rows || (s->head && lookup->fuse == OD_FUSE_MUL))
    return bad_lookup(f, "its head does not fit the table, or its fuse");
  if (lookup->table->rows != (uint64_t)s->rows || lookup->table->dim != table_dim)
    return bad_lookup(f, "its table has other sizes than it expects");
  return OD_OK;
}

static od_status read_lookup(const od_inference *f, const od_json *item, const char *table,
                             od_lookup *lookup) {
  const od_json *scheme = od_json_member(item, "scheme");
  sizes s;
  lookup->table = od_find_table(f->model, table);
  if (!lookup->table)
    return od_fail(f->error, OD_E_FORMAT, "plan: node %u (Lookup): table '%s' is missing",
                   (uint64_t)f->node->number, table);
  if (!scheme || scheme->kind != OD_J_TEXT)
    return bad_lookup(f, "scheme, rows, dim, padding_id, oov_row or head is wrong");
  OD_CHECK(check_keys(f, item));
  OD_CHECK(read_sizes(f, item, lookup, &s));
  OD_CHECK(read_ways(f, item, lookup));
  OD_CHECK(read_scheme(f, item, &s, lookup));
  OD_CHECK(check_table(f, &s, lookup));
  lookup->mean = (float)(1.0 / (double)lookup->block_count);
  if (lookup->has_padding) lookup->special |= OD_SPECIAL_PADDING;
  if (lookup->residues || lookup->retrieval || lookup->head || lookup->fuse == OD_FUSE_MUL || lookup->pooling)
    lookup->special |= OD_SPECIAL_RARE;
  int rare = (lookup->special & OD_SPECIAL_RARE) || lookup->table->sections;
  uint32_t codec = lookup->table->codec;
  if (lookup->table->scale == OD_SCALE_LEVELS) codec += OD_FUSE_LEVELS;
  lookup->fuse_as = rare ? OD_FUSE_RARE : codec;
  lookup->direct = !rare && !lookup->blocks && !lookup->table->index && lookup->table->whole_bytes &&
                   lookup->fuse != OD_FUSE_CONCAT &&
                   (codec == OD_CODEC_F32 || codec == OD_CODEC_Q8);
  return OD_OK;
}

od_status od_shape_lookup(const od_inference *f) {
  od_model *model = f->model;
  const od_json *table = od_json_member(f->item, "table");
  const od_value *ids = od_operand(f, 0);
  if (!table || table->kind != OD_J_TEXT || f->node->input_count != 1 || !ids)
    return bad_lookup(f, "one table and one input needed");
  od_lookup *lookup = &model->lookups[model->lookup_count];
  OD_CHECK(read_lookup(f, od_json_member(f->item, "lookup"), table->text, lookup));
  if (lookup->pooling && !ids->rank)
    return bad_lookup(f, "pooling needs IDs with a sequence axis");
  if (ids->dtype != OD_I64 || !ids->batched || !ids->size || ids->rank + 2 > OD_MAX_RANK ||
      (uint64_t)ids->size * lookup->dim > OD_MAX_ROW_ELEMENTS)
    return od_refuse(f, "reads IDs that are not int64 or the same for all rows, or makes too "
                        "large a value");
  uint32_t axes = ids->rank - (lookup->pooling != OD_POOL_NONE); /* that keep their sizes */
  uint32_t dims[OD_MAX_RANK];
  od_copy(dims, ids->dims, sizeof dims);
  lookup->ids_per_row = ids->size;
  lookup->pooled = lookup->pooling ? ids->dims[axes] : 1;
  lookup->vectors_per_row = ids->size / lookup->pooled;
  lookup->computed = ids->input < 0;
  dims[axes] = lookup->dim;
  model->lookup_inputs[model->lookup_count] = f->node->inputs[0];
  model->lookup_outputs[model->lookup_count] = f->node->output;
  f->node->lookup.index = (int32_t)model->lookup_count++;
  return od_set_dims(f, 1, OD_F32, dims, axes + 1);
}
