/* container.c: checks a container's header: JSON, types, offsets without holes, checksums. */
#include "core/container.h"

#include "core/hash.h"

#define HEADER_CRC "ondevice.header_crc32"
#define PADDING "ondevice.padding."

static const struct {
  const char *name;
  uint8_t size;
} DTYPES[OD_DTYPES] = {
    [OD_U8] = {"U8", 1},   [OD_I8] = {"I8", 1},   [OD_U16] = {"U16", 2}, [OD_I16] = {"I16", 2},
    [OD_F16] = {"F16", 2}, [OD_U32] = {"U32", 4}, [OD_I32] = {"I32", 4}, [OD_F32] = {"F32", 4},
    [OD_U64] = {"U64", 8}, [OD_I64] = {"I64", 8}, [OD_F64] = {"F64", 8},
};

size_t od_dtype_size(od_dtype dtype) { return DTYPES[dtype].size; }

static int by_name(const void *a, const void *b) {
  return od_order(((const od_entry *)a)->name, ((const od_entry *)b)->name);
}

static int by_place(const void *a, const void *b) {
  const od_entry *x = a, *y = b;
  if (x->start != y->start) return x->start < y->start ? -1 : 1;
  return x->stop < y->stop ? -1 : x->stop > y->stop;
}

static od_status bad_entry(od_error *error, const char *name, const char *expected) {
  return od_fail(error, OD_E_FORMAT, "array '%s': %s", name, expected);
}

static od_status read_entry(const od_json *item, uint64_t header, uint64_t file, od_entry *entry,
                            od_error *error) {
  const char *name = item->key;
  const od_json *dtype = od_json_member(item, "dtype"), *shape = od_json_member(item, "shape");
  const od_json *offsets = od_json_member(item, "data_offsets");
  if (!dtype || !shape || !offsets || item->size != 3)
    return bad_entry(error, name, "expected dtype, shape and data_offsets");
  if (dtype->kind != OD_J_TEXT) return bad_entry(error, name, "dtype must be a text");
  unsigned index = 0;
  while (index < OD_DTYPES && !od_equal(DTYPES[index].name, dtype->text)) index++;
  if (index == OD_DTYPES) return bad_entry(error, name, "unknown dtype");
  if (shape->kind != OD_J_LIST || shape->size > OD_MAX_RANK || offsets->kind != OD_J_LIST ||
      offsets->size != 2)
    return bad_entry(error, name, "shape and data_offsets must be lists of sizes");
  uint64_t bytes = DTYPES[index].size;
  int64_t number, range[2];
  for (const od_json *d = shape->first; d; d = d->next) {
    if (!od_json_int(d, 0, INT64_MAX, &number))
      return bad_entry(error, name, "shape must hold sizes");
    if (number && bytes > UINT64_MAX / (uint64_t)number)
      return bad_entry(error, name, "shape is too large");
    bytes *= (uint64_t)number;
    entry->dims[entry->rank++] = (uint64_t)number;
  }
  if (!od_json_int(offsets->first, 0, INT64_MAX, &range[0]) ||
      !od_json_int(offsets->first->next, 0, INT64_MAX, &range[1]) || range[0] > range[1] ||
      (uint64_t)range[1] > file - header || (uint64_t)(range[1] - range[0]) != bytes)
    return bad_entry(error, name, "its bytes do not fit its shape or the file; cut off?");
  entry->name = name;
  entry->dtype = (od_dtype)index;
  entry->start = header + (uint64_t)range[0];
  entry->stop = header + (uint64_t)range[1];
  return OD_OK;
}

static od_status read_entries(od_container *c, const od_json *root, uint64_t header,
                              od_arena *arena, od_error *error) {
  od_entry *entries = od_take(arena, root->size, sizeof *entries);
  od_entry **order = od_take(arena, root->size, sizeof *order);
  c->entries = od_take(arena, root->size, sizeof *c->entries);
  if (!entries || !order || !c->entries)
    return od_fail(error, OD_E_MEMORY, "out of memory for the header");
  for (const od_json *item = root->first; item; item = item->next) {
    if (od_equal(item->key, "__metadata__")) {
      if (c->metadata) return od_fail(error, OD_E_FORMAT, "__metadata__ occurs twice");
      c->metadata = item;
      continue;
    }
    OD_CHECK(read_entry(item, header, c->size, &entries[c->count], error));
    order[c->count] = c->entries[c->count] = &entries[c->count];
    c->count++;
  }
  od_sort((void **)order, c->count, by_place);
  uint64_t position = header;
  for (size_t i = 0; i < c->count; i++) {
    if (order[i]->start != position)
      return bad_entry(error, order[i]->name, "leaves a hole or overlaps another");
    position = order[i]->stop;
  }
  if (position != c->size)
    return od_fail(error, OD_E_FORMAT, "arrays end at byte %u, the file has %u; cut off?",
                   position, (uint64_t)c->size);
  od_sort((void **)c->entries, c->count, by_name);
  for (size_t i = 1; i < c->count; i++)
    if (od_equal(c->entries[i - 1]->name, c->entries[i]->name))
      return bad_entry(error, c->entries[i]->name, "occurs twice");
  return OD_OK;
}

od_status od_container_open(const void *data, size_t size, od_arena *arena,
                            od_container *container, od_error *error) {
  od_container *c = container;
  od_zero(c, sizeof *c);
  c->data = data;
  c->size = size;
  if (size < 8)
    return od_fail(error, OD_E_FORMAT, "%u bytes is too short for a model file", (uint64_t)size);
  uint64_t length = od_load64(data);
  if (length > OD_MAX_HEADER_BYTES || length > size - 8)
    return od_fail(error, OD_E_FORMAT,
                   "header length %u exceeds the file (%u bytes) or the format's limit; not a "
                   "model file, or cut off",
                   length, (uint64_t)size);
  od_json *root;
  OD_CHECK(od_json_parse((const char *)c->data + 8, (size_t)length, "header", arena, &root, error));
  if (root->kind != OD_J_OBJECT)
    return od_fail(error, OD_E_FORMAT, "the header must be a JSON object");
  OD_CHECK(read_entries(c, root, 8 + length, arena, error));
  if (c->metadata && c->metadata->kind != OD_J_OBJECT)
    return od_fail(error, OD_E_FORMAT, "__metadata__ must map names to texts");
  for (const od_json *m = c->metadata ? c->metadata->first : NULL; m; m = m->next)
    if (m->kind != OD_J_TEXT)
      return od_fail(error, OD_E_FORMAT, "__metadata__ must map names to texts");
  const od_entry *crc = od_container_find(c, HEADER_CRC, "", "");
  if (!crc) return od_fail(error, OD_E_FORMAT, "array '" HEADER_CRC "' is missing");
  if (crc->dtype != OD_U32 || crc->rank != 1 || crc->dims[0] != 1)
    return od_fail(error, OD_E_FORMAT, HEADER_CRC " must be one U32");
  od_crc *tables = od_take(arena, 1, sizeof *tables);
  if (!tables) return od_fail(error, OD_E_MEMORY, "out of memory for the header");
  od_crc_prepare(tables);
  if (od_crc32(tables, data, 8 + (size_t)length) != od_load32(c->data + crc->start))
    return od_fail(error, OD_E_FORMAT, "the header is damaged (CRC-32 differs)");
  return OD_OK;
}

static int starts_with(const char *text, const char *prefix) {
  while (*prefix && *text == *prefix) text++, prefix++;
  return *prefix == 0;
}

od_status od_container_verify(const od_container *c, od_arena *arena, od_error *error) {
  const od_json *text = od_json_member(c->metadata, "crc32");
  od_json *checksums;
  if (!text) return od_fail(error, OD_E_FORMAT, "no checksums in the header");
  OD_CHECK(od_json_parse(text->text, text->size, "checksums", arena, &checksums, error));
  od_crc *tables = od_take(arena, 1, sizeof *tables);
  if (!tables) return od_fail(error, OD_E_MEMORY, "out of memory for checksums");
  od_crc_prepare(tables);
  const od_json *next = checksums->first; /* written in the order of names, nearly always */
  for (size_t i = 0; i < c->count; i++) {
    const od_entry *entry = c->entries[i];
    if (od_equal(entry->name, HEADER_CRC) || starts_with(entry->name, PADDING)) continue;
    const od_json *stored = next;
    if (!stored || checksums->kind != OD_J_OBJECT || !od_equal(stored->key, entry->name))
      stored = od_json_member(checksums, entry->name);
    if (!stored) return bad_entry(error, entry->name, "has no checksum");
    next = stored->next;
    int64_t expected;
    size_t size = (size_t)(entry->stop - entry->start);
    if (!od_json_int(stored, 0, UINT32_MAX, &expected) ||
        od_crc32(tables, c->data + entry->start, size) != (uint32_t)expected)
      return bad_entry(error, entry->name, "is damaged (CRC-32 differs)");
  }
  return OD_OK;
}

/* Compare `name` with the concatenation of three texts. */
static int order_parts(const char *name, const char *const *parts) {
  for (int i = 0; i < 3; i++)
    for (const char *p = parts[i]; *p; p++, name++)
      if (*name != *p) return (int)(unsigned char)*name - (int)(unsigned char)*p;
  return *name ? 1 : 0;
}

const od_entry *od_container_find(const od_container *c, const char *prefix, const char *name,
                                  const char *suffix) {
  const char *parts[3] = {prefix, name, suffix};
  size_t low = 0, high = c->count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    int order = order_parts(c->entries[middle]->name, parts);
    if (order == 0) return c->entries[middle];
    if (order < 0) low = middle + 1;
    else high = middle;
  }
  return NULL;
}
