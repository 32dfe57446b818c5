/* plan_tables.c: reads the descriptions of a plan's tables and checks their arrays' sizes. */
#include "core/codecs.h"
#include "core/plan.h"

OD_FOR_SIZE

static od_status bad_table(od_planner *p, const char *name, const char *what) {
  return od_fail(p->error, OD_E_FORMAT, "table '%s': %s", name, what);
}

static uint32_t value_bits(od_codec codec, uint32_t count, int whole_bytes) {
  uint32_t bits = count * od_codecs[codec].bits;
  return whole_bytes ? (bits + 7) / 8 * 8 : bits;
}

/* Codec and scale axis, which must fit each other. */
static od_status read_codec(od_planner *p, const od_json *item, od_table *table) {
  const od_json *codec = od_json_member(item, "codec"), *axis = od_json_member(item, "scale_axis");
  if (!codec || codec->kind != OD_J_TEXT) return bad_table(p, table->name, "codec is missing");
  if (!od_codec_find(codec->text, &table->codec)) return bad_table(p, table->name, "unknown codec");
  if (!axis) return bad_table(p, table->name, "scale_axis is missing");
  table->scale = OD_SCALE_NONE;
  if (axis->kind == OD_J_TEXT && od_equal(axis->text, "row")) table->scale = OD_SCALE_ROW;
  else if (axis->kind == OD_J_TEXT && od_equal(axis->text, "column"))
    table->scale = OD_SCALE_COLUMN;
  else if (axis->kind == OD_J_TEXT && od_equal(axis->text, "levels"))
    table->scale = OD_SCALE_LEVELS;
  else if (axis->kind != OD_J_NULL) return bad_table(p, table->name, "unknown scale axis");
  if ((table->scale != OD_SCALE_NONE) != od_codecs[table->codec].scaled ||
      (table->scale == OD_SCALE_LEVELS && od_codecs[table->codec].bits > OD_MAX_LEVEL_BITS))
    return bad_table(p, table->name, "codec and scale axis do not fit each other");
  return OD_OK;
}

static od_status read_sizes(od_planner *p, const od_json *item, od_table *table) {
  int64_t rows, dim, base, step;
  if (!od_json_int(od_json_member(item, "rows"), 1, OD_MAX_ROWS, &rows) ||
      !od_json_int(od_json_member(item, "dim"), 1, OD_MAX_DIM, &dim) ||
      !od_json_int(od_json_member(item, "width_base"), 0, dim, &base) ||
      !od_json_int(od_json_member(item, "width_step"), 0, dim + 1, &step))
    return bad_table(p, table->name, "rows, dim, width_base, width_step missing or out of range");
  table->rows = (uint32_t)rows;
  table->dim = (uint32_t)dim;
  table->width_base = (uint32_t)base;
  table->width_step = (uint32_t)step;
  return OD_OK;
}

/* Without width_bits, format version 1: codes of 4 bits, records of whole bytes. The description
 * has `more` members that are read elsewhere. */
static od_status read_layout(od_planner *p, const od_json *item, od_table *table, uint32_t more) {
  const od_json *width_bits = od_json_member(item, "width_bits");
  int64_t bits = 4;
  if (item->kind != OD_J_OBJECT || item->size != (width_bits ? 7u : 6u) + more)
    return bad_table(p, table->name, "its description has too many or too few members");
  OD_CHECK(read_codec(p, item, table));
  OD_CHECK(read_sizes(p, item, table));
  uint32_t base = table->width_base, step = table->width_step;
  if (!width_bits && (table->codec >= OD_CODEC_Q3 || table->scale == OD_SCALE_LEVELS ||
                      (table->codec == OD_CODEC_Q4 && step && ((step | base) & 1))))
    return bad_table(p, table->name, "rows of version 1 grow by whole bytes");
  if (width_bits && (!od_json_int(width_bits, 0, 4, &bits) || bits == 3 || !bits != !step))
    return bad_table(p, table->name, "width_bits does not fit");
  table->bits = od_codecs[table->codec].bits;
  table->scale_bytes = table->scale == OD_SCALE_ROW ? 2 : 0;
  table->width_bits = (uint32_t)bits;
  table->group_shift = bits == 4 ? 4 : bits == 2 ? 5 : 6;
  table->base_bits = 8 * table->scale_bytes + value_bits(table->codec, base, !width_bits);
  table->step_bits = value_bits(table->codec, step, !width_bits);
  table->whole_bytes = (table->base_bits | table->step_bits) % 8 == 0;
  return OD_OK;
}

static od_status table_part(od_planner *p, const od_table *table, const char *suffix, od_dtype dtype,
                            const uint8_t **data, uint64_t *bytes) {
  const od_entry *entry = od_container_find(p->file, "table.", table->name, suffix);
  if (!entry) return bad_table(p, table->name, "an array is missing");
  if (entry->dtype != dtype || entry->rank != 1 || entry->start % od_dtype_size(dtype))
    return bad_table(p, table->name, "an array has a wrong type or is not aligned");
  *data = p->file->data + entry->start;
  *bytes = entry->stop - entry->start;
  return OD_OK;
}

static uint64_t index_bytes(const od_table *table) {
  return table->width_step ? (((uint64_t)table->rows - 1) >> table->group_shift) * 12 + 12 : 0;
}

/* Numbers beside the records: column scales, or the levels of all columns. */
static uint64_t scale_count(const od_table *table) {
  if (table->scale == OD_SCALE_COLUMN) return table->dim;
  if (table->scale == OD_SCALE_LEVELS) return (uint64_t)table->dim << od_codecs[table->codec].bits;
  return 0;
}

/* The arrays of a table whose records, index groups and scales must take so many bytes. */
static od_status read_arrays(od_planner *p, od_table *table, uint64_t groups, uint64_t scales) {
  const uint8_t *numbers;
  uint64_t bytes;
  OD_CHECK(table_part(p, table, ".records", OD_U8, &table->records, &bytes));
  /* vectors read on behind the records: versions 1 and 2 have zeros there for every table */
  uint64_t behind = p->file->checksums
                        ? p->file->size - (uint64_t)(table->records + bytes - p->file->data)
                        : bytes;
  if (behind < OD_TAIL_BYTES)
    return bad_table(p, table->name,
                     "records lack their " OD_DIGITS(OD_TAIL_BYTES) " tail bytes");
  table->payload = p->file->checksums ? bytes : bytes - OD_TAIL_BYTES;
  if (groups) {
    OD_CHECK(table_part(p, table, ".index", OD_U8, &table->index, &bytes));
    if (bytes != groups) return bad_table(p, table->name, "its index has a wrong size");
  }
  if (scales) {
    OD_CHECK(table_part(p, table, ".scales", OD_F32, &numbers, &bytes));
    if (bytes != scales * sizeof(float))
      return bad_table(p, table->name, "its column scales or levels have a wrong size");
    table->scales = (const float *)(const void *)numbers;
  }
  table->stored = table->payload + groups + scales * sizeof(float);
  return OD_OK;
}

static od_status check_payload(od_planner *p, const od_table *table) {
  if (!table->width_step && table->payload != ((uint64_t)table->rows * table->base_bits + 7) / 8)
    return bad_table(p, table->name, "its records have a wrong size");
  return OD_OK;
}

/* The layouts of a table's sections, and the sizes of its arrays. */
static od_status read_layouts(od_planner *p, const od_json *list, od_table *table,
                              od_table *sections, uint64_t *records, uint64_t *groups,
                              uint64_t *scales) {
  uint64_t rows = 0;
  for (const od_json *item = list->first; item; item = item->next) {
    od_table *section = &sections[table->section_count++];
    int64_t bytes;
    section->name = table->name;
    OD_CHECK(read_layout(p, item, section, 1));
    if (!od_json_member(item, "width_bits") || section->dim > table->dim)
      return bad_table(p, table->name, "a section lacks width_bits, or is wider than the table");
    if (!od_json_int(od_json_member(item, "bytes"), 0, INT64_MAX / 64, &bytes))
      return bad_table(p, table->name, "the bytes of a section are missing or out of range");
    section->payload = (uint64_t)bytes;
    OD_CHECK(check_payload(p, section));
    rows += section->rows;
    *records += (section->payload + 3) / 4 * 4;
    *groups += index_bytes(section);
    *scales += scale_count(section);
  }
  if (rows > OD_MAX_ROWS) return bad_table(p, table->name, "too many rows");
  table->rows = (uint32_t)rows;
  return OD_OK;
}

/* Sections: consecutive rows, each with a layout of its own; their arrays lie one after another. */
static od_status read_sections(od_planner *p, const od_json *item, od_table *table) {
  const od_json *list = od_json_member(item, "sections");
  int64_t dim;
  if (list->kind != OD_J_LIST || list->size < 1 || list->size > OD_MAX_SECTIONS ||
      item->size != 2 || !od_json_int(od_json_member(item, "dim"), 1, OD_MAX_DIM, &dim))
    return bad_table(p, table->name,
                     "needs a dim and 1 to " OD_DIGITS(OD_MAX_SECTIONS) " sections");
  table->dim = (uint32_t)dim;
  od_table *sections = od_take(&p->model->arena, list->size, sizeof *sections);
  if (!sections) return od_plan_no_memory(p);
  uint64_t record_bytes = 0, groups = 0, scales = 0;
  OD_CHECK(read_layouts(p, list, table, sections, &record_bytes, &groups, &scales));
  OD_CHECK(read_arrays(p, table, groups, scales));
  if (table->payload != record_bytes)
    return bad_table(p, table->name, "its records have a wrong size");
  const uint8_t *records = table->records, *index = table->index;
  const float *numbers = table->scales;
  for (uint32_t i = 0; i < table->section_count; i++) {
    od_table *section = &sections[i];
    section->records = records;
    section->index = section->width_step ? index : NULL;
    section->scales = scale_count(section) ? numbers : NULL;
    records += (section->payload + 3) / 4 * 4;
    if (index) index += index_bytes(section);
    if (numbers) numbers += scale_count(section);
  }
  table->sections = sections;
  table->index = NULL; /* that of the first section */
  return OD_OK;
}

static od_status read_table(od_planner *p, const od_json *item, od_table *table) {
  table->name = od_take_text(&p->model->arena, item->key, od_length(item->key));
  if (!table->name) return od_plan_no_memory(p);
  if (item->kind == OD_J_OBJECT && od_json_member(item, "sections"))
    return read_sections(p, item, table);
  OD_CHECK(read_layout(p, item, table, 0));
  OD_CHECK(read_arrays(p, table, index_bytes(table), scale_count(table)));
  return check_payload(p, table);
}

static int by_key(const void *a, const void *b) {
  return od_order(((const od_json *)a)->key, ((const od_json *)b)->key);
}

od_status od_plan_tables(od_planner *p, const od_json *plan) {
  const od_json *tables = NULL;
  OD_CHECK(od_plan_need(p, plan, "tables", OD_J_OBJECT, &tables));
  const od_json **sorted = od_take(p->scratch, tables->size, sizeof *sorted);
  p->model->tables = od_take(&p->model->arena, tables->size, sizeof(od_table));
  if (!sorted || !p->model->tables) return od_plan_no_memory(p);
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

const od_table *od_find_table(const od_model *model, const char *name) {
  size_t low = 0, high = model->table_count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    int order = od_order(model->tables[middle].name, name);
    if (order == 0) return &model->tables[middle];
    if (order < 0) low = middle + 1;
    else high = middle;
  }
  return NULL;
}
