/* encode.c: raw values of a feature to IDs: hashes, vocabularies, buckets, sequences. */
#include "features/specification.h"

enum { PADDING_ID = 0, OOV_ID = 1, FIRST_VOCABULARY_ID = 2 };
enum { MISSING_BUCKET_ID = 1, FIRST_BUCKET_ID = 2 };
enum { SHOWN_BYTES = 40 };

static const char *const TYPES[] = {"no value", "text", "integer", "number", "boolean"};

/* The beginning of a text for an error, where it is printable ASCII; other bytes as '?'. */
static const char *shown(const od_raw_value *value, char *room) {
  size_t size = value->type == OD_RAW_TEXT ? value->size : 0, i = 0;
  if (value->type != OD_RAW_TEXT) return "";
  room[0] = ' ';
  room[1] = '\'';
  for (; i < size && i < SHOWN_BYTES; i++) {
    char c = value->text[i];
    room[i + 2] = c >= ' ' && c <= '~' ? c : '?';
  }
  od_copy(room + i + 2, i < size ? "...'" : "'", i < size ? 5 : 2);
  return room;
}

static od_status refuse(const od_feature *feature, size_t place, const char *expected,
                        const od_raw_value *value, od_error *error) {
  char room[SHOWN_BYTES + 8];
  if (!feature->length)
    return od_fail(error, OD_E_INPUT, "feature '%s': expected %s, got %s%s", feature->name,
                   expected, TYPES[value->type], shown(value, room));
  return od_fail(error, OD_E_INPUT, "feature '%s', value %u of a sequence: expected %s, got %s%s",
                 feature->name, (uint64_t)place, expected, TYPES[value->type], shown(value, room));
}

/* 2 + how many boundaries are less than or equal to the number. */
static od_status bucket(const od_feature *feature, const od_raw_value *value, int64_t *id,
                        od_error *error) {
  size_t low = 0, high = feature->boundary_count;
  if (!feature->boundaries)
    return od_fail(error, OD_E_INPUT, "feature '%s': its bucket boundaries are not in this file",
                   feature->name);
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (feature->boundaries[middle] <= value->number) low = middle + 1;
    else high = middle;
  }
  *id = value->type == OD_RAW_MISSING ? MISSING_BUCKET_ID : (int64_t)low + FIRST_BUCKET_ID;
  return OD_OK;
}

/* How many hashes of a group are less than the key. */
static size_t place_of(const od_hash_group *group, int64_t key) {
  size_t low = 0, high = group->count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (group->hashes[middle] < key) low = middle + 1;
    else high = middle;
  }
  return low;
}

static od_status vocabulary_id(const od_feature *feature, int64_t hash, int64_t *id,
                               od_error *error) {
  int64_t first = FIRST_VOCABULARY_ID, key = hash >> (64 - feature->hash_bits);
  if (!feature->vocabulary)
    return od_fail(error, OD_E_INPUT,
                   "feature '%s': its vocabulary is not in this file; give IDs, or convert with "
                   "the vocabulary included",
                   feature->name);
  for (uint32_t i = 0; i < feature->group_count; i++) {
    const od_hash_group *group = &feature->vocabulary[i];
    size_t place = place_of(group, key);
    if (place < group->count && group->hashes[place] == key) {
      *id = first + (int64_t)place;
      return OD_OK;
    }
    first += (int64_t)group->count;
  }
  *id = feature->keeps_unknown ? hash : OOV_ID;
  return OD_OK;
}

/* The ID of the value at `place` of a sequence, or of the only one. */
static od_status encode_value(const od_feature *feature, size_t place, od_raw_value value,
                              int64_t *id, od_error *error) {
  od_raw_value read = value;
  const char *expected = od_cell_read(feature->cells, feature->kind, &read);
  if (expected) return refuse(feature, place, expected, &value, error);
  if (feature->kind == OD_KIND_NUMBER) return bucket(feature, &read, id, error);
  if (read.type == OD_RAW_MISSING) {
    *id = PADDING_ID;
    return OD_OK;
  }
  if (feature->encoding == OD_ENCODE_ID) {
    *id = read.integer;
    return OD_OK;
  }
  int64_t hash = (int64_t)(feature->kind == OD_KIND_INTEGER
                               ? od_hash(&read.integer, sizeof read.integer, feature->seed)
                               : od_hash(read.text, read.size, feature->seed));
  if (feature->encoding == OD_ENCODE_VOCABULARY) return vocabulary_id(feature, hash, id, error);
  *id = hash;
  return OD_OK;
}

static void fill(const od_feature *feature, size_t from, int64_t *ids) {
  for (size_t i = from; i < feature->length; i++) ids[i] = PADDING_ID;
}

/* The end of the part that begins at p: where the separator is, or the end of the text. */
static const char *part_end(od_bytes separator, const char *p, const char *end) {
  for (; (size_t)(end - p) >= separator.size; p++)
    if (od_same(p, separator.text, separator.size)) return p;
  return end;
}

static od_status encode_parts(const od_feature *feature, od_bytes text, int64_t *ids,
                              od_error *error) {
  od_bytes separator = feature->cells->separator;
  const char *end = text.text + text.size, *p = text.text, *stop;
  size_t count = 1;
  while ((stop = part_end(separator, p, end)) != end) {
    count++;
    p = stop + separator.size;
  }
  size_t skipped = count > feature->length ? count - feature->length : 0;
  p = text.text;
  for (size_t i = 0; i < count; i++) {
    stop = part_end(separator, p, end);
    od_raw_value part = od_raw_text(p, (size_t)(stop - p));
    if (i >= skipped) /* the last ones count */
      OD_CHECK(encode_value(feature, i, part, &ids[i - skipped], error));
    if (stop != end) p = stop + separator.size;
  }
  fill(feature, count - skipped, ids);
  return OD_OK;
}

od_status od_feature_encode(const od_feature *feature, od_raw_value value, int64_t *ids,
                            od_error *error) {
  if (!feature->length) return encode_value(feature, 0, value, ids, error);
  od_bytes text = {value.text, value.size};
  int is_text = value.type == OD_RAW_TEXT && feature->cells;
  int is_missing = value.type == OD_RAW_MISSING ||
                   (value.type == OD_RAW_NUMBER && value.number != value.number) ||
                   (is_text && od_is_marker(feature->cells, text));
  if (is_missing) {
    fill(feature, 0, ids);
    return OD_OK;
  }
  if (!is_text)
    return od_fail(error, OD_E_INPUT, "feature '%s': expected a list of values, got %s",
                   feature->name, TYPES[value.type]);
  if (!od_is_utf8(text)) return refuse(feature, 0, "valid UTF-8", &value, error);
  return encode_parts(feature, text, ids, error);
}

od_status od_feature_encode_list(const od_feature *feature, const od_raw_value *values,
                                 size_t count, int64_t *ids, od_error *error) {
  if (!feature->length)
    return od_fail(error, OD_E_INPUT, "feature '%s': expected one value, got a list",
                   feature->name);
  size_t skipped = count > feature->length ? count - feature->length : 0;
  for (size_t i = skipped; i < count; i++)
    OD_CHECK(encode_value(feature, i, values[i], &ids[i - skipped], error));
  fill(feature, count - skipped, ids);
  return OD_OK;
}
