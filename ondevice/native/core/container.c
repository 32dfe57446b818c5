/* container.c: checks a container's header: JSON, types, offsets without holes, checksums.
 *
 * Version 3 has its checksums in an array, and small arrays together in another, whose index is
 * deflated. */
#include "core/container.h"

#include "core/hash.h"
#include "core/inflate.h"

OD_FOR_SIZE

#define CHECKSUMS "ondevice.crc32"
#define INDEX "ondevice.index"
#define SMALL "ondevice.small"
#define HEADER_CRC "ondevice.header_crc32" /* of versions 1 and 2 */
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

/* Dtype and shape of an array, and how many bytes they take. */
static od_status read_type(const char *name, const od_json *dtype, const od_json *shape,
                           od_entry *entry, uint64_t *bytes, od_error *error) {
  if (dtype->kind != OD_J_TEXT) return bad_entry(error, name, "dtype must be a text");
  unsigned index = 0;
  while (index < OD_DTYPES && !od_equal(DTYPES[index].name, dtype->text)) index++;
  if (index == OD_DTYPES) return bad_entry(error, name, "unknown dtype");
  if (shape->kind != OD_J_LIST || shape->size > OD_MAX_RANK)
    return bad_entry(error, name, "shape must be a list of sizes");
  int64_t number;
  *bytes = DTYPES[index].size;
  for (const od_json *d = shape->first; d; d = d->next) {
    if (!od_json_int(d, 0, INT64_MAX, &number))
      return bad_entry(error, name, "shape must hold sizes");
    if (number && *bytes > UINT64_MAX / (uint64_t)number)
      return bad_entry(error, name, "shape is too large");
    *bytes *= (uint64_t)number;
    entry->dims[entry->rank++] = (uint64_t)number;
  }
  entry->name = name;
  entry->dtype = (od_dtype)index;
  return OD_OK;
}

static od_status read_entry(const od_json *item, uint64_t header, uint64_t file, od_entry *entry,
                            od_error *error) {
  const char *name = item->key;
  const od_json *dtype = od_json_member(item, "dtype"), *shape = od_json_member(item, "shape");
  const od_json *offsets = od_json_member(item, "data_offsets");
  if (!dtype || !shape || !offsets || item->size != 3)
    return bad_entry(error, name, "expected dtype, shape and data_offsets");
  if (offsets->kind != OD_J_LIST || offsets->size != 2)
    return bad_entry(error, name, "data_offsets must be two sizes");
  uint64_t bytes;
  int64_t range[2];
  OD_CHECK(read_type(name, dtype, shape, entry, &bytes, error));
  if (!od_json_int(offsets->first, 0, INT64_MAX, &range[0]) ||
      !od_json_int(offsets->first->next, 0, INT64_MAX, &range[1]) || range[0] > range[1] ||
      (uint64_t)range[1] > file - header || (uint64_t)(range[1] - range[0]) != bytes)
    return bad_entry(error, name, "its bytes do not fit its shape or the file; cut off?");
  entry->start = header + (uint64_t)range[0];
  entry->stop = header + (uint64_t)range[1];
  return OD_OK;
}

static od_status no_memory(od_error *error) {
  return od_fail(error, OD_E_MEMORY, "out of memory for the header");
}

static od_status too_many(od_error *error) {
  return od_fail(error, OD_E_FORMAT, "more than %u arrays", (uint64_t)OD_MAX_ARRAYS);
}

/* Sort all arrays by name, and refuse one that is there twice. */
static od_status sort_entries(od_container *c, od_error *error) {
  od_sort((void **)c->entries, c->count, by_name);
  for (size_t i = 1; i < c->count; i++)
    if (od_equal(c->entries[i - 1]->name, c->entries[i]->name))
      return bad_entry(error, c->entries[i]->name, "occurs twice");
  return OD_OK;
}

static od_status read_entries(od_container *c, const od_json *root, uint64_t header,
                              od_arena *arena, od_error *error) {
  if (root->size > OD_MAX_ARRAYS) return too_many(error);
  od_entry *entries = od_take(arena, root->size, sizeof *entries);
  c->stored = od_take(arena, root->size, sizeof *c->stored);
  c->entries = od_take(arena, root->size, sizeof *c->entries);
  if (!entries || !c->stored || !c->entries) return no_memory(error);
  for (const od_json *item = root->first; item; item = item->next) {
    if (od_equal(item->key, "__metadata__")) {
      if (c->metadata) return od_fail(error, OD_E_FORMAT, "__metadata__ occurs twice");
      c->metadata = item;
      continue;
    }
    OD_CHECK(read_entry(item, header, c->size, &entries[c->count], error));
    c->stored[c->count] = c->entries[c->count] = &entries[c->count];
    c->count++;
  }
  c->stored_count = c->count;
  od_sort((void **)c->stored, c->count, by_place);
  uint64_t position = header;
  for (size_t i = 0; i < c->count; i++) {
    if (c->stored[i]->start != position)
      return bad_entry(error, c->stored[i]->name, "leaves a hole or overlaps another");
    position = c->stored[i]->stop;
  }
  if (position != c->size)
    return od_fail(error, OD_E_FORMAT, "arrays end at byte %u, the file has %u; cut off?",
                   position, (uint64_t)c->size);
  return sort_entries(c, error);
}

/* Add the arrays that lie within the array of small ones, in the order of their index. */
static od_status read_small(od_container *c, const od_json *index, const od_entry *whole,
                            od_arena *arena, od_error *error) {
  size_t count = c->count + index->size;
  if (count > OD_MAX_ARRAYS) return too_many(error);
  od_entry *entry = od_take(arena, index->size, sizeof *entry);
  od_entry **all = od_take(arena, count, sizeof *all);
  if (!entry || !all) return no_memory(error);
  for (size_t i = 0; i < c->count; i++) all[i] = c->entries[i];
  c->entries = all;
  uint64_t position = whole->start, bytes;
  for (const od_json *item = index->first; item; item = item->next, entry++) {
    if (item->kind != OD_J_LIST || item->size != 2)
      return bad_entry(error, item->key, "expected a list of dtype and shape");
    OD_CHECK(read_type(item->key, item->first, item->first->next, entry, &bytes, error));
    uint64_t aligned = od_dtype_size(entry->dtype) == 8 ? 8 : 4; /* of records of wider values */
    position += (aligned - (position - whole->start) % aligned) % aligned;
    if (position > whole->stop || bytes > whole->stop - position)
      return bad_entry(error, item->key, "it leaves the array of small ones");
    entry->start = position;
    entry->stop = position += bytes;
    c->entries[c->count++] = entry;
  }
  if (whole->stop - position >= 8)
    return bad_entry(error, SMALL, "some of its bytes are no array's");
  return sort_entries(c, error);
}

static od_status read_index(od_container *c, od_arena *arena, od_error *error) {
  const od_entry *whole = od_container_find(c, SMALL, "", "");
  const char *text;
  size_t size;
  od_json *index;
  if (!od_container_find(c, INDEX, "", "")) return OD_OK; /* version 1 or 2 */
  OD_CHECK(od_container_text(c, INDEX, OD_MAX_PLAN_BYTES, arena, &text, &size, error));
  OD_CHECK(od_json_parse(text, size, INDEX, arena, &index, error));
  if (index->kind != OD_J_OBJECT)
    return od_fail(error, OD_E_FORMAT, INDEX " must be a JSON object");
  if (!whole) return bad_entry(error, SMALL, "is missing");
  return read_small(c, index, whole, arena, error);
}

static int starts_with(const char *text, const char *prefix) {
  while (*prefix && *text == *prefix) text++, prefix++;
  return *prefix == 0;
}

/* Whether an array has a checksum. */
static int is_checked(const od_entry *entry) {
  return !od_equal(entry->name, HEADER_CRC) && !od_equal(entry->name, CHECKSUMS) &&
         !starts_with(entry->name, PADDING);
}

/* Compare the header with its checksum, and count the others. */
static od_status check_header(od_container *c, size_t header, od_arena *arena, od_error *error) {
  const od_entry *sums = od_container_find(c, CHECKSUMS, "", "");
  uint64_t count = 1;
  if (sums) {
    for (size_t i = 0; i < c->stored_count; i++) count += (uint64_t)is_checked(c->stored[i]);
    c->checksums = c->data + sums->start;
  } else {
    sums = od_container_find(c, HEADER_CRC, "", "");
  }
  if (!sums) return od_fail(error, OD_E_FORMAT, "array '" HEADER_CRC "' is missing");
  if (sums->dtype != OD_U32 || sums->rank != 1 || sums->dims[0] != count)
    return od_fail(error, OD_E_FORMAT, "%s must be %u U32", sums->name, count);
  od_crc *tables = od_take(arena, 1, sizeof *tables);
  if (!tables) return no_memory(error);
  od_crc_prepare(tables);
  if (od_crc32(tables, c->data, header) != od_load32(c->data + sums->start))
    return od_fail(error, OD_E_FORMAT, "the header is damaged (CRC-32 differs)");
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
  OD_CHECK(check_header(c, 8 + (size_t)length, arena, error));
  return read_index(c, arena, error);
}

static od_status compare(const od_container *c, const od_crc *tables, const od_entry *entry,
                         uint32_t expected, od_error *error) {
  size_t size = (size_t)(entry->stop - entry->start);
  if (od_crc32(tables, c->data + entry->start, size) == expected) return OD_OK;
  return bad_entry(error, entry->name, "is damaged (CRC-32 differs)");
}

static int by_key(const void *a, const void *b) {
  return od_order(((const od_json *)a)->key, ((const od_json *)b)->key);
}

/* Versions 1 and 2: the checksums are JSON. */
static od_status verify_named(const od_container *c, const od_crc *tables, od_arena *arena,
                              od_error *error) {
  const od_json *text = od_json_member(c->metadata, "crc32");
  od_json *checksums;
  if (!text) return od_fail(error, OD_E_FORMAT, "no checksums in the header");
  OD_CHECK(od_json_parse(text->text, text->size, "checksums", arena, &checksums, error));
  if (checksums->kind != OD_J_OBJECT) return od_fail(error, OD_E_FORMAT, "no checksums in the header");
  const od_json **sorted = od_take(arena, checksums->size, sizeof *sorted);
  if (!sorted) return no_memory(error);
  size_t count = 0, at = 0; /* both lists are in the order of names */
  for (const od_json *sum = checksums->first; sum; sum = sum->next) sorted[count++] = sum;
  od_sort((void **)sorted, count, by_key);
  for (size_t i = 0; i < c->count; i++) {
    const od_entry *entry = c->entries[i];
    if (!is_checked(entry)) continue;
    while (at < count && od_order(sorted[at]->key, entry->name) < 0) at++;
    const od_json *stored = at < count && od_equal(sorted[at]->key, entry->name) ? sorted[at] : NULL;
    if (!stored) return bad_entry(error, entry->name, "has no checksum");
    int64_t expected;
    if (!od_json_int(stored, 0, UINT32_MAX, &expected))
      return bad_entry(error, entry->name, "its checksum is no number");
    OD_CHECK(compare(c, tables, entry, (uint32_t)expected, error));
  }
  return OD_OK;
}

od_status od_container_verify(const od_container *c, od_arena *arena, od_error *error) {
  od_crc *tables = od_take(arena, 1, sizeof *tables);
  if (!tables) return od_fail(error, OD_E_MEMORY, "out of memory for checksums");
  od_crc_prepare(tables);
  if (!c->checksums) return verify_named(c, tables, arena, error);
  const uint8_t *next = c->checksums;
  for (size_t i = 0; i < c->stored_count; i++)
    if (is_checked(c->stored[i]))
      OD_CHECK(compare(c, tables, c->stored[i], od_load32(next += 4), error));
  return OD_OK;
}

od_status od_container_text(const od_container *c, const char *name, uint32_t most,
                            od_arena *arena, const char **text, size_t *size, od_error *error) {
  const od_entry *entry = od_container_find(c, name, "", "");
  if (!entry) return bad_entry(error, name, "is missing");
  if (entry->dtype != OD_U8 || entry->rank != 1)
    return bad_entry(error, name, "must be bytes in one dimension");
  return od_inflate(c->data + entry->start, (size_t)(entry->stop - entry->start), name, most,
                    arena, text, size, error);
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
