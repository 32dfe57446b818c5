/* gather_body.h: lookups, compiled once for every instruction set by the kernel files beside it.
 *
 * The including file defines VW (lanes of a vector), the type vf and vf_load, vf_store, vf_set1,
 * vf_mul, vf_add, vf_keep (zero the lanes from a number on), vf_load_q8, vf_load_f16, vf_codes
 * (from the codes' bits), vf_levels (levels of codes, and zero in the lanes from a number on),
 * half_value and block_value. Values are code * scale, one multiplication, and rows are
 * added in block order, as in the numpy engine: results are the same bit by bit. With SMALL_GATHER
 * it takes the way of rare lookups for all, with RARE_FLOATS for sums of rows of floats.
 */

enum { JOBS = 128, ENTRIES = 512 };

typedef struct {
  const uint8_t *at; /* its index group, then its record */
  uint32_t row; /* then the bit of its first byte at which the record begins */
  uint32_t width; /* how many values the row keeps */
} entry;

typedef struct {
  const od_lookup *lookup;
  float *out;
  uint32_t first, count; /* its entries, which are summed */
} job;

typedef struct {
  job jobs[JOBS + OD_MAX_BLOCKS];
  float scales[JOBS + OD_MAX_BLOCKS]; /* of jobs that pool: what the sum so far is multiplied by */
  entry entries[ENTRIES];
  const od_table *sections[ENTRIES]; /* of entries of tables in sections */
  uint32_t job_count, entry_count;
  od_fault *fault;
} gather_state;

OD_INLINE vf load_part(const float *from, uint32_t count) {
  if (count >= VW) return vf_load(from);
  float whole[VW] = {0};
  for (uint32_t i = 0; i < count; i++) whole[i] = from[i];
  return vf_load(whole);
}

OD_INLINE void store_part(float *to, vf value, uint32_t count) {
  if (count >= VW) {
    vf_store(to, value);
    return;
  }
  float whole[VW];
  vf_store(whole, value);
  for (uint32_t i = 0; i < count; i++) to[i] = whole[i];
}

/* Bits from `shift` (0..7) of a byte on, `count` (up to 64) of them and whatever follows. */
OD_INLINE uint64_t bits_from(const uint8_t *at, uint32_t shift, uint32_t count) {
  uint64_t bits = od_load64(at) >> shift;
  return count <= 56 ? bits : bits | (uint64_t)at[8] << 1 << (63 - shift);
}

/* The same from a bit on that need not lie in the first byte. */
OD_INLINE uint64_t code_bits(const uint8_t *at, uint32_t bit, uint32_t count) {
  return bits_from(at + (bit >> 3), bit & 7, count);
}

/* Values [column, column + VW) of one record of codes of `size` bits, by their columns' levels. */
OD_INLINE vf level_part(const entry *e, const od_table *table, uint32_t column, uint32_t size) {
  if (e->width <= column) return vf_set1(0);
  uint64_t codes = code_bits(e->at, e->row + size * column, VW * size);
  return vf_levels(table->scales + ((size_t)column << size), codes, (int)size,
                   (int32_t)(e->width - column));
}

static __attribute__((noinline)) vf any_level_part(const entry *e, const od_table *table,
                                                   uint32_t column) {
  switch (table->codec) {
    case OD_CODEC_Q4: return level_part(e, table, column, 4);
    case OD_CODEC_Q3: return level_part(e, table, column, 3);
    case OD_CODEC_Q2: return level_part(e, table, column, 2);
    default: return level_part(e, table, column, 1);
  }
}

/* Values [column, column + VW) of one record. */
OD_INLINE vf record_part(const entry *e, const od_table *table, uint32_t column, od_codec codec) {
  if (column && e->width <= column) return vf_set1(0);
  const uint8_t *values = e->at + table->scale_bytes;
  vf part;
  if (codec == OD_CODEC_Q8) part = vf_load_q8(values + column);
  else if (codec == OD_CODEC_Q4 && VW * 4 > 56 && table->whole_bytes)
    part = vf_codes(od_load64(values + column / 2), 4);
  else if (codec == OD_CODEC_Q4)
    part = vf_codes(bits_from(values + column / 2, e->row, VW * 4), 4);
  else if (codec == OD_CODEC_Q3)
    part = vf_codes(code_bits(values, e->row + 3 * column, VW * 3), 3);
  else if (codec == OD_CODEC_Q2)
    part = vf_codes(bits_from(values + column / 4, e->row, VW * 2), 2);
  else if (codec == OD_CODEC_Q1)
    part = vf_codes(code_bits(values, e->row + column, VW), 1);
  else if (codec == OD_CODEC_F16) part = vf_load_f16(values + 2 * (size_t)column);
  else part = vf_load((const float *)(const void *)(values + 4 * (size_t)column));
  if (table->scale == OD_SCALE_ROW)
    part = vf_mul(part, vf_set1(half_value((uint16_t)(od_load32(e->at) >> e->row))));
  else if (table->scale == OD_SCALE_COLUMN)
    part = vf_mul(part, load_part(table->scales + column, table->dim - column));
  return e->width >= column + VW ? part : vf_keep(part, (int32_t)(e->width - column));
}

OD_INLINE void fuse(const job *j, const entry *entries, od_codec codec) {
  const od_lookup *lookup = j->lookup;
  const od_table *table = lookup->table;
  uint32_t count = j->count;
  for (uint32_t column = 0; column < lookup->row_dim; column += VW) {
    vf sum = record_part(entries, table, column, codec);
    for (uint32_t b = 1; b < count; b++)
      sum = vf_add(sum, record_part(entries + b, table, column, codec));
    if (lookup->fuse == OD_FUSE_MEAN) sum = vf_mul(sum, vf_set1(lookup->mean));
    store_part(j->out + column, sum, lookup->row_dim - column);
  }
}

/* The same of codes of `size` bits that count levels. */
OD_INLINE void fuse_levels(const job *j, const entry *entries, uint32_t size) {
  const od_lookup *lookup = j->lookup;
  const od_table *table = lookup->table;
  for (uint32_t column = 0; column < lookup->row_dim; column += VW) {
    vf sum = level_part(entries, table, column, size);
    for (uint32_t b = 1; b < j->count; b++)
      sum = vf_add(sum, level_part(entries + b, table, column, size));
    if (lookup->fuse == OD_FUSE_MEAN) sum = vf_mul(sum, vf_set1(lookup->mean));
    store_part(j->out + column, sum, lookup->row_dim - column);
  }
}

/* The same with everything that rare lookups may have; one copy for all codecs, to stay small. */
static __attribute__((noinline)) void fuse_rare(const job *j, const gather_state *state,
                                                float scale) {
  const od_lookup *lookup = j->lookup;
  const entry *entries = state->entries + j->first;
  const od_table *table = lookup->table;
  int product = lookup->fuse == OD_FUSE_MUL;
  for (uint32_t column = 0; column < lookup->row_dim; column += VW) {
    uint32_t left = lookup->row_dim - column;
    float *to = j->out + column;
    vf value = vf_set1(product ? 1 : 0);
    for (uint32_t b = 0; b < j->count; b++) {
      if (lookup->table->sections) table = state->sections[j->first + b];
      vf part = table->scale == OD_SCALE_LEVELS
                    ? any_level_part(entries + b, table, column)
                    : record_part(entries + b, table, column, table->codec);
      value = product ? vf_mul(value, part) : vf_add(value, part);
    }
    if (lookup->fuse == OD_FUSE_MEAN && j->count > 1) /* an ID of the head has one row */
      value = vf_mul(value, vf_set1(lookup->mean));
    if (lookup->pooling) /* add to what is summed so far */
      value = vf_mul(vf_add(load_part(to, left), value), vf_set1(scale));
    store_part(to, value, left);
  }
}

/* From the index group to the record: its offset follows from the widths before it. */
OD_INLINE void locate(entry *e, uint32_t count, const od_table *table, gather_state *state,
                      uint32_t bits) {
  for (const entry *end = e + count; e < end; e++) {
    uint64_t start = od_load32(e->at), codes = od_load64(e->at + 4);
    uint32_t place = e->row & (64 / bits - 1);
    uint64_t before = codes & (((uint64_t)1 << (bits * place)) - 1);
    if (bits == 1) before = (before & 0x5555555555555555u) + ((before >> 1) & 0x5555555555555555u);
    if (bits <= 2) before = (before & 0x3333333333333333u) + ((before >> 2) & 0x3333333333333333u);
    before = (before & 0x0f0f0f0f0f0f0f0fu) + ((before >> 4) & 0x0f0f0f0f0f0f0f0fu);
    before = (before * 0x0101010101010101u) >> 56;
    uint32_t code = (uint32_t)(codes >> (bits * place)) & (((uint32_t)1 << bits) - 1);
    uint64_t offset = 8 * start + (uint64_t)place * table->base_bits + before * table->step_bits;
    uint64_t end = offset + table->base_bits + code * table->step_bits;
    uint32_t width = table->width_base + code * table->width_step;
    e->width = width < table->dim ? width : table->dim;
    if (__builtin_expect(end > 8 * table->payload, 0)) {
      state->fault->kind = OD_FAULT_INDEX;
      offset = e->width = 0;
    }
    e->at = table->records + (offset >> 3);
    e->row = offset & 7;
    __builtin_prefetch(e->at);
  }
}

OD_INLINE void locate_rows(entry *e, uint32_t count, const od_table *table, gather_state *state) {
  if (!table->index) return;
  if (table->width_bits == 4) locate(e, count, table, state, 4);
  else if (table->width_bits == 2) locate(e, count, table, state, 2);
  else locate(e, count, table, state, 1);
}

static __attribute__((noinline)) void locate_in_sections(gather_state *state, const job *j) {
  for (uint32_t i = j->first; i < j->first + j->count; i++)
    locate_rows(state->entries + i, 1, state->sections[i], state);
}

static void flush(gather_state *state) {
  for (uint32_t i = 0; i < state->job_count; i++) {
    const job *j = &state->jobs[i];
    if (j->lookup->table->sections) locate_in_sections(state, j);
    else locate_rows(state->entries + j->first, j->count, j->lookup->table, state);
  }
  for (uint32_t i = 0; i < state->job_count; i++) {
    const job *j = &state->jobs[i];
    float scale = j->lookup->pooling ? state->scales[i] : 1;
#ifdef SMALL_GATHER
    fuse_rare(j, state, scale);
#else
    const entry *e = state->entries + j->first;
    switch (j->lookup->fuse_as) {
      case OD_CODEC_Q8: fuse(j, e, OD_CODEC_Q8); break;
      case OD_CODEC_Q4: fuse(j, e, OD_CODEC_Q4); break;
      case OD_CODEC_Q2: fuse(j, e, OD_CODEC_Q2); break;
#ifndef RARE_FLOATS
      case OD_CODEC_F16: fuse(j, e, OD_CODEC_F16); break;
      case OD_CODEC_F32: fuse(j, e, OD_CODEC_F32); break;
#endif
      case OD_FUSE_LEVELS + OD_CODEC_Q4: fuse_levels(j, e, 4); break;
      case OD_FUSE_LEVELS + OD_CODEC_Q2: fuse_levels(j, e, 2); break;
      default: fuse_rare(j, state, scale); break;
    }
#endif
  }
  state->job_count = state->entry_count = 0;
}

OD_INLINE void add_entry(gather_state *state, const od_table *table, uint32_t row) {
  if (table->sections) { /* the sections have as many rows as the table: the search ends */
    const od_table *section = table->sections;
    for (; row >= section->rows; section++) row -= section->rows;
    state->sections[state->entry_count] = table = section;
  }
  entry *e = &state->entries[state->entry_count++];
  e->width = table->width_base;
  if (table->index) {
    e->row = row;
    e->at = table->index + (size_t)(row >> table->group_shift) * 12;
  } else {
    uint64_t offset = (uint64_t)row * table->base_bits;
    e->row = offset & 7;
    e->at = table->records + (offset >> 3);
  }
  __builtin_prefetch(e->at);
}

/* A job for the next `count` entries, or one for each where rows are concatenated. */
OD_INLINE void add_jobs(gather_state *state, const od_lookup *lookup, float *out, uint32_t count) {
  uint32_t first = state->entry_count;
  if (__builtin_expect(lookup->fuse == OD_FUSE_CONCAT, 0))
    for (; count > 1; count--, first++, out += lookup->row_dim)
      state->jobs[state->job_count++] = (job){lookup, out, first, 1};
  state->jobs[state->job_count++] = (job){lookup, out, first, count};
}

/* Rows of binary codes and full tables. */
OD_INLINE void add_rows(gather_state *state, const od_lookup *lookup, int64_t id) {
  const od_table *table = lookup->table;
  if (lookup->blocks) {
    uint64_t code = (uint64_t)id * lookup->multiplier;
    for (uint32_t b = 0; b < lookup->block_count; b++) {
      const od_block *block = &lookup->blocks[b];
      uint32_t value = block->contiguous ? (uint32_t)(code >> block->shift) & block->low_mask
                                         : block_value(code, block->mask);
      add_entry(state, table, block->offset + value);
    }
  } else {
    uint64_t row = (uint64_t)id;
    if (__builtin_expect(row >= table->rows, 0)) {
      row = lookup->oov;
      if (!lookup->has_oov) {
        *state->fault = (od_fault){OD_FAULT_ID, lookup, id};
        row = 0;
      }
    }
    add_entry(state, table, (uint32_t)row);
  }
}

OD_INLINE void flush_if_full(gather_state *state) {
  if (state->job_count >= JOBS || state->entry_count > ENTRIES - OD_MAX_BLOCKS) flush(state);
}

/* One ID of a retrieval structure: its record is computed, and read at once. */
static __attribute__((noinline)) void retrieve(gather_state *state, const od_lookup *lookup,
                                               int64_t id, float *out, float scale) {
  uint8_t record[OD_RECORD_ROOM];
  od_retrieve(lookup, id, record);
  job j = {lookup, out, state->entry_count, 1};
  state->entries[j.first] = (entry){record, 0, lookup->dim}; /* not counted: nobody else reads it */
  fuse_rare(&j, state, scale);
}

/* One vector of one ID, or of `pooled` IDs: their sum, in order, or their mean. */
static __attribute__((noinline)) void add_rare(gather_state *state, const od_lookup *lookup,
                                               const int64_t *ids, float *out) {
  uint32_t left = 0, rows[OD_MAX_BLOCKS];
  for (uint32_t i = 0; i < lookup->pooled; i++)
    left += !lookup->has_padding || ids[i] != lookup->padding;
  if (lookup->pooling || !left)
    for (uint32_t i = 0; i < lookup->dim; i++) out[i] = 0;
  float share = lookup->pooling == OD_POOL_MEAN ? 1.0f / (float)left : 1.0f;
  for (uint32_t i = 0; left; i++) {
    if (lookup->has_padding && ids[i] == lookup->padding) continue;
    if (lookup->retrieval) {
      left--;
      retrieve(state, lookup, ids[i], out, left ? 1.0f : share);
      continue;
    }
    uint32_t count = od_rare_rows(lookup, ids[i], rows), first = state->job_count;
    add_jobs(state, lookup, out, count ? count : lookup->block_count);
    left--;
    for (uint32_t j = first; j < state->job_count; j++) state->scales[j] = left ? 1.0f : share;
    for (uint32_t b = 0; b < count; b++) add_entry(state, lookup->table, rows[b]);
    if (!count) add_rows(state, lookup, ids[i]);
    flush_if_full(state);
  }
}

OD_INLINE void add_vector(gather_state *state, const od_lookup *lookup, const int64_t *ids,
                          float *out) {
  uint32_t special = lookup->special;
  if (special) {
    if (__builtin_expect(special & OD_SPECIAL_RARE, 0)) {
      add_rare(state, lookup, ids, out);
      return;
    }
    if (*ids == lookup->padding) {
      for (uint32_t i = 0; i < lookup->dim; i++) out[i] = 0;
      return;
    }
  }
  add_jobs(state, lookup, out, lookup->block_count);
  add_rows(state, lookup, *ids);
  flush_if_full(state);
}

/* `count` vectors of a direct lookup: first all places, so that their memory comes meanwhile. */
OD_INLINE void gather_piece(const od_lookup *lookup, const uint8_t *const *at, uint32_t count,
                            float *out, size_t step, od_codec codec) {
  const od_table *table = lookup->table;
  int whole = codec == OD_CODEC_F32 && table->scale == OD_SCALE_NONE && lookup->dim % VW == 0 &&
              table->width_base == lookup->dim && lookup->row_dim == lookup->dim;
  for (uint32_t i = 0; i < count; i++, out += step) {
    if (whole && at[i]) {
      for (uint32_t column = 0; column < lookup->dim; column += VW)
        vf_store(out + column, vf_load((const float *)(const void *)at[i] + column));
      continue;
    }
    entry e = {at[i], 0, at[i] ? lookup->table->width_base : 0};
    job j = {lookup, out, 0, 1};
    if (at[i]) fuse(&j, &e, codec);
    else for (uint32_t column = 0; column < lookup->dim; column++) out[column] = 0;
  }
}

static __attribute__((noinline)) void gather_direct(const od_lookup *lookup, const int64_t *ids,
                                                    size_t ids_step, float *out, size_t step,
                                                    size_t count, od_fault *fault) {
  enum { PIECE = 64 };
  const od_table *table = lookup->table;
  const uint8_t *at[PIECE];
  size_t bytes = table->base_bits / 8;
  for (size_t done = 0; done < count; done += PIECE, out += PIECE * step) {
    uint32_t piece = count - done < PIECE ? (uint32_t)(count - done) : PIECE;
    for (uint32_t i = 0; i < piece; i++, ids += ids_step) {
      uint64_t row = (uint64_t)*ids;
      if (__builtin_expect(row >= table->rows, 0)) {
        if (!lookup->has_oov && !(lookup->has_padding && *ids == lookup->padding))
          *fault = (od_fault){OD_FAULT_ID, lookup, *ids};
        row = lookup->has_oov ? lookup->oov : 0;
      }
      at[i] = table->records + row * bytes;
      __builtin_prefetch(at[i]);
      if (lookup->has_padding && *ids == lookup->padding) at[i] = NULL;
    }
    switch (lookup->fuse_as) {
      case OD_CODEC_Q8: gather_piece(lookup, at, piece, out, step, OD_CODEC_Q8); break;
      default: gather_piece(lookup, at, piece, out, step, OD_CODEC_F32); break;
    }
  }
}

/* Whether so many vectors of this lookup are worth a pass of their own. */
OD_INLINE int is_direct(const od_lookup *lookup, size_t rows) {
  enum { ENOUGH = 8 };
#ifdef SMALL_GATHER
  return 0;
#endif
  return lookup->direct && rows * lookup->vectors_per_row >= ENOUGH;
}

static void gather_rows(const od_gather *g, size_t rows, od_fault *fault) {
  const od_lookup *lookup = g->lookup;
  size_t vectors = lookup->vectors_per_row, ids_step = g->ids_step, step = g->out_step;
  if (ids_step == vectors && step == vectors * lookup->dim) /* rows without gaps */
    vectors *= rows, rows = 1;
  if (vectors == 1) {
    gather_direct(lookup, g->ids, ids_step, g->out, step, rows, fault);
    return;
  }
  for (size_t row = 0; row < rows; row++)
    gather_direct(lookup, g->ids + row * ids_step, 1, g->out + row * step, lookup->dim, vectors,
                  fault);
}

KERNEL void KERNEL_NAME(gather)(const od_gather *gathers, size_t count, size_t rows, od_fault *fault) {
  gather_state state;
  state.job_count = state.entry_count = 0;
  state.fault = fault;
  size_t left = count; /* lookups without a pass of their own */
  for (size_t g = 0; g < count; g++)
    if (is_direct(gathers[g].lookup, rows)) gather_rows(&gathers[g], rows, fault), left--;
  for (size_t row = 0; left && row < rows; row++)
    for (size_t g = 0; g < count; g++) {
      const od_lookup *lookup = gathers[g].lookup;
      if (is_direct(lookup, rows)) continue;
      const int64_t *ids = gathers[g].ids + row * gathers[g].ids_step;
      float *out = gathers[g].out + row * gathers[g].out_step;
      for (uint32_t left = lookup->vectors_per_row; left; left--) {
        add_vector(&state, lookup, ids, out);
        ids += lookup->pooled, out += lookup->dim;
      }
    }
  flush(&state);
}
