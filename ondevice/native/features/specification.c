/* specification.c: reads the features of a model's description (JSON) and checks every setting. */
#include "features/specification.h"

#include "core/json.h"
#include "core/model.h"
#include "features/arrays.h"
#include "features/base64.h"

enum { MOST_OFFSET = 24 * 60 - 1 }; /* minutes of a time zone */
static const char *const KINDS[] = {"string", "integer", "number", NULL};
static const char *const ENCODINGS[] = {"hash", "vocabulary", "id", "bucket", NULL};
static const char *const UNKNOWNS[] = {"oov", "hash", NULL};
static const char *const FORMS[] = {"", "boolean", "iso", "seconds", "milliseconds", NULL};
static const char *const PARTS[] = {"", "hour", "weekday", "day", "month", NULL};
static const char *const FIELD_KEYS[] = {"name",       "kind",          "encoding",   "seed",
                                         "vocabulary", "vocabulary_of", "hash_bits",  "boundaries",
                                         "length",     "unknown",       "cells",      NULL};
static const char *const CELL_KEYS[] = {"missing", "separator",  "column", "part",
                                        "form",    "utc_offset", NULL};

typedef struct {
  od_features *features;
  const char *name; /* of the feature that is read */
  od_attached attached;
  od_error *error;
} spec_reader;

static od_status wrong(const spec_reader *r, const char *what) {
  return od_fail(r->error, OD_E_FORMAT, "feature '%s': %s", r->name, what);
}

static od_status no_memory(const spec_reader *r) {
  return od_fail(r->error, OD_E_MEMORY, "features: out of memory");
}

/* The member that is there and not null. */
static const od_json *setting(const od_json *object, const char *key) {
  const od_json *value = od_json_member(object, key);
  return value && value->kind != OD_J_NULL ? value : NULL;
}

static int is_text(const od_json *value) {
  return value && value->kind == OD_J_TEXT && value->size > 0;
}

static int position_of(const char *name, const char *const *names) {
  for (int i = 0; names[i]; i++)
    if (od_equal(names[i], name)) return i;
  return -1;
}

static od_status check_keys(const spec_reader *r, const od_json *object, const char *const *keys) {
  for (const od_json *member = object->first; member; member = member->next)
    if (position_of(member->key, keys) < 0)
      return od_fail(r->error, OD_E_FORMAT, "feature '%s': unknown key '%s'", r->name, member->key);
  return OD_OK;
}

/* The position of a setting among the names; 0 where it is left out. */
static od_status choose(const spec_reader *r, const od_json *object, const char *key,
                        const char *const *names, int *choice) {
  const od_json *value = od_json_member(object, key);
  int is_optional = !names[0][0]; /* null means left out, as Python writes None */
  *choice = 0;
  if (!value || (is_optional && value->kind == OD_J_NULL)) return OD_OK;
  *choice = is_text(value) ? position_of(value->text, names) : -1;
  if (*choice < 0)
    return od_fail(r->error, OD_E_FORMAT, "feature '%s': its %s is not one this release knows",
                   r->name, key);
  return OD_OK;
}

/* Cells */

static od_status copy_bytes(const spec_reader *r, const od_json *text, od_bytes *bytes) {
  bytes->size = text->size;
  bytes->text = od_take_text(&r->features->arena, text->text, text->size);
  return bytes->text ? OD_OK : no_memory(r);
}

static od_status read_markers(const spec_reader *r, const od_json *object, od_cells *cells) {
  const od_json *list = od_json_member(object, "missing");
  if (!list || list->kind != OD_J_LIST) return wrong(r, "its cells need a list 'missing'");
  od_bytes *markers = od_take(&r->features->arena, list->size, sizeof *markers);
  if (!markers) return no_memory(r);
  size_t count = 0;
  for (const od_json *item = list->first; item; item = item->next) {
    if (item->kind != OD_J_TEXT) return wrong(r, "'missing' must hold texts");
    OD_CHECK(copy_bytes(r, item, &markers[count++]));
  }
  cells->missing = markers;
  cells->missing_count = count;
  return OD_OK;
}

static od_status check_cells(const spec_reader *r, const od_cells *cells, od_raw_kind kind) {
  int is_time = cells->form > OD_FORM_BOOLEAN;
  if (cells->form == OD_FORM_NONE && cells->part > OD_PART_WEEKDAY)
    return wrong(r, "of YYMMDDHH there are only hours and weekdays");
  if (cells->form == OD_FORM_BOOLEAN && cells->part != OD_PART_NONE)
    return wrong(r, "a boolean has no part of a time");
  if (cells->utc_offset && (cells->part == OD_PART_NONE || cells->form == OD_FORM_NONE))
    return wrong(r, "utc_offset is for a part of a time that has a form");
  if (kind != OD_KIND_INTEGER && (cells->part != OD_PART_NONE || cells->form == OD_FORM_BOOLEAN))
    return wrong(r, "a boolean or a part of a time needs kind 'integer'");
  if (kind == OD_KIND_STRING && is_time) return wrong(r, "a time needs kind 'integer' or 'number'");
  return OD_OK;
}

static od_status read_cells(const spec_reader *r, const od_json *object, od_feature *feature) {
  if (object->kind != OD_J_OBJECT) return wrong(r, "its cells must be an object");
  OD_CHECK(check_keys(r, object, CELL_KEYS));
  od_cells *cells = od_take(&r->features->arena, 1, sizeof *cells);
  if (!cells) return no_memory(r);
  int form, part;
  const od_json *separator = od_json_member(object, "separator");
  const od_json *column = setting(object, "column");
  const od_json *offset = od_json_member(object, "utc_offset");
  OD_CHECK(read_markers(r, object, cells));
  OD_CHECK(choose(r, object, "form", FORMS, &form));
  OD_CHECK(choose(r, object, "part", PARTS, &part));
  cells->form = (od_form)form;
  cells->part = (od_part)part;
  cells->separator = (od_bytes){"|", 1};
  if ((separator && !is_text(separator)) || (column && !is_text(column)))
    return wrong(r, "a separator or column must be a text that is not empty");
  if (separator) OD_CHECK(copy_bytes(r, separator, &cells->separator));
  if (offset && !od_json_int(offset, -MOST_OFFSET, MOST_OFFSET, &cells->utc_offset))
    return wrong(r, "utc_offset must be within -1439..1439 minutes");
  feature->cells = cells;
  return check_cells(r, cells, feature->kind);
}

/* Arrays */

static od_status read_group(const spec_reader *r, const od_json *item, uint32_t bits,
                            od_hash_group *group) {
  int64_t *hashes;
  void *words;
  if (item->kind == OD_J_OBJECT) {
    OD_CHECK(od_attached_hashes(item, bits, r->attached, &r->features->arena, &hashes,
                                &group->count, r->error));
    group->hashes = hashes;
  } else {
    if (item->kind != OD_J_TEXT) return wrong(r, "its vocabulary must be base64 or an array");
    OD_CHECK(od_base64_words(item->text, item->size, &r->features->arena, &words, &group->count,
                             r->error));
    group->hashes = words;
  }
  for (size_t i = 1; i < group->count; i++)
    if (group->hashes[i] <= group->hashes[i - 1])
      return wrong(r, "its vocabulary is not ascending");
  return OD_OK;
}

/* Whether the ends of ascending hashes are signed numbers of so many bits. */
static int fits_bits(const od_hash_group *group, uint32_t bits) {
  if (!group->count || bits == 64) return 1;
  int64_t most = (int64_t)1 << (bits - 1);
  return group->hashes[0] >= -most && group->hashes[group->count - 1] < most;
}

static int share_a_hash(const od_hash_group *a, const od_hash_group *b) {
  for (size_t i = 0, j = 0; i < a->count && j < b->count;) {
    if (a->hashes[i] == b->hashes[j]) return 1;
    if (a->hashes[i] < b->hashes[j]) i++;
    else j++;
  }
  return 0;
}

/* One group of hashes, or a list of groups that are not empty. */
static od_status read_groups(const spec_reader *r, const od_json *item, od_feature *feature) {
  int is_list = item->kind == OD_J_LIST;
  uint32_t count = 0;
  if (is_list && (item->size < 1 || item->size > OD_MAX_SECTIONS))
    return wrong(r, "its vocabulary must have 1 to " OD_DIGITS(OD_MAX_SECTIONS) " groups");
  od_hash_group *groups = od_take(&r->features->arena, is_list ? item->size : 1, sizeof *groups);
  if (!groups) return no_memory(r);
  for (item = is_list ? item->first : item; item; item = is_list ? item->next : NULL, count++) {
    OD_CHECK(read_group(r, item, feature->hash_bits, &groups[count]));
    if (is_list && !groups[count].count) return wrong(r, "a group of its vocabulary is empty");
    for (uint32_t i = 0; i < count; i++)
      if (share_a_hash(&groups[i], &groups[count]))
        return wrong(r, "a hash is in two groups of its vocabulary");
  }
  feature->vocabulary = groups;
  feature->group_count = count;
  return OD_OK;
}

static od_status read_vocabulary(const spec_reader *r, const od_json *object, od_feature *feature) {
  const od_json *stored = setting(object, "vocabulary");
  const od_json *size = od_json_member(object, "hash_bits");
  const od_json *owner = setting(object, "vocabulary_of");
  int64_t bits = 64;
  if (size && !od_json_int(size, 1, 64, &bits)) return wrong(r, "its hash_bits must be 1..64");
  feature->hash_bits = (uint8_t)bits;
  if (owner) {
    const od_feature *other =
        owner->kind == OD_J_TEXT ? od_feature_find(r->features, owner->text) : NULL;
    if (!other || stored) return wrong(r, "no earlier feature to take the vocabulary of");
    feature->vocabulary = other->vocabulary;
    feature->group_count = other->group_count;
  } else if (stored) {
    OD_CHECK(read_groups(r, stored, feature));
  }
  if (feature->vocabulary && feature->encoding != OD_ENCODE_VOCABULARY)
    return wrong(r, "only the encoding 'vocabulary' has one");
  for (uint32_t i = 0; i < feature->group_count; i++)
    if (!fits_bits(&feature->vocabulary[i], feature->hash_bits))
      return wrong(r, "its vocabulary has more than its hash_bits");
  return OD_OK;
}

static od_status read_boundaries(const spec_reader *r, const od_json *object, od_feature *feature) {
  const od_json *text = setting(object, "boundaries");
  void *words;
  double *values;
  if (!text) return OD_OK;
  if (feature->encoding != OD_ENCODE_BUCKET) return wrong(r, "only buckets have boundaries");
  if (text->kind == OD_J_OBJECT) {
    OD_CHECK(od_attached_doubles(text, r->attached, &r->features->arena, &values,
                                 &feature->boundary_count, r->error));
  } else {
    if (text->kind != OD_J_TEXT) return wrong(r, "its boundaries must be base64 or an array");
    OD_CHECK(od_base64_words(text->text, text->size, &r->features->arena, &words,
                             &feature->boundary_count, r->error));
    values = words;
  }
  feature->boundaries = values;
  for (size_t i = 0; i < feature->boundary_count; i++)
    if (!(values[i] - values[i] == 0) || (i && !(values[i] > values[i - 1])))
      return wrong(r, "its boundaries are not finite and ascending");
  return OD_OK;
}

/* Features */

static od_status read_settings(const spec_reader *r, const od_json *object, od_feature *feature) {
  int kind, encoding, unknown;
  int64_t length;
  const od_json *seed = od_json_member(object, "seed"), *size = setting(object, "length");
  OD_CHECK(choose(r, object, "kind", KINDS, &kind));
  OD_CHECK(choose(r, object, "encoding", ENCODINGS, &encoding));
  OD_CHECK(choose(r, object, "unknown", UNKNOWNS, &unknown));
  feature->kind = (od_raw_kind)kind;
  feature->encoding = (od_encoding)encoding;
  feature->keeps_unknown = unknown == 1;
  if (feature->encoding == OD_ENCODE_ID && feature->kind != OD_KIND_INTEGER)
    return wrong(r, "the encoding 'id' needs kind 'integer'");
  if ((feature->encoding == OD_ENCODE_BUCKET) != (feature->kind == OD_KIND_NUMBER))
    return wrong(r, "kind 'number' and encoding 'bucket' need each other");
  if (feature->keeps_unknown && feature->encoding != OD_ENCODE_VOCABULARY)
    return wrong(r, "unknown 'hash' is for the encoding 'vocabulary'");
  if (seed && (seed->kind != OD_J_INT || (seed->negative && seed->magnitude)))
    return wrong(r, "its seed must be an integer of 64 bits without a sign");
  feature->seed = seed ? seed->magnitude : 0;
  if (!size) return OD_OK;
  if (!od_json_int(size, 1, OD_MAX_LENGTH, &length))
    return wrong(r, "its length must be within 1.." OD_DIGITS(OD_MAX_LENGTH));
  feature->length = (uint32_t)length;
  return feature->encoding == OD_ENCODE_BUCKET ? wrong(r, "a sequence of numbers") : OD_OK;
}

static od_status read_feature(spec_reader *r, const od_json *object, od_feature *feature) {
  const od_json *name = od_json_member(object, "name");
  if (!is_text(name))
    return od_fail(r->error, OD_E_FORMAT, "features: each must be an object with a name");
  r->name = name->text;
  if (od_feature_find(r->features, name->text)) return wrong(r, "named twice");
  feature->name = od_take_text(&r->features->arena, name->text, name->size);
  if (!feature->name) return no_memory(r);
  OD_CHECK(check_keys(r, object, FIELD_KEYS));
  OD_CHECK(read_settings(r, object, feature));
  OD_CHECK(read_vocabulary(r, object, feature));
  OD_CHECK(read_boundaries(r, object, feature));
  const od_json *cells = setting(object, "cells");
  return cells ? read_cells(r, cells, feature) : OD_OK;
}

/* A list of features, or an object that holds it as `fields` beside the layout of the log. */
static od_status read_all(od_features *features, const char *description, size_t size,
                          od_arena *scratch, od_error *error) {
  od_json *root;
  int64_t version;
  size_t text = 0; /* behind a zero byte follow the arrays */
  while (text < size && description[text]) text++;
  spec_reader r = {features, "", {NULL, 0}, error};
  if (text < size)
    r.attached = (od_attached){(const uint8_t *)description + text + 1, size - text - 1};
  OD_CHECK(od_json_parse(description, text, "model description", scratch, &root, error));
  if (!od_json_int(od_json_member(root, "version"), 1, 2, &version))
    return od_fail(error, OD_E_FORMAT, "model description: this release reads versions 1 and 2");
  const od_json *list = od_json_member(root, "features");
  if (list && list->kind == OD_J_OBJECT) list = od_json_member(list, "fields");
  if (!list || list->kind != OD_J_LIST)
    return od_fail(error, OD_E_FORMAT, "features: expected a list, or an object with 'fields'");
  if (list->size > OD_MAX_FEATURES)
    return od_fail(error, OD_E_UNSUPPORTED, "features: more than " OD_DIGITS(OD_MAX_FEATURES));
  features->all = od_take(&features->arena, list->size, sizeof *features->all);
  if (!features->all) return no_memory(&r);
  for (const od_json *item = list->first; item; item = item->next, features->count++)
    OD_CHECK(read_feature(&r, item, &features->all[features->count]));
  return OD_OK;
}

od_status od_features_open(const char *description, size_t size, const od_allocator *allocator,
                           od_features **out, od_error *error) {
  *out = NULL;
#ifndef ONDEVICE_FREESTANDING
  if (!allocator) allocator = od_default_allocator();
#endif
  if (!allocator) return od_fail(error, OD_E_MEMORY, "an allocator is needed");
  od_features *features = allocator->allocate(allocator->user, sizeof *features);
  if (!features) return od_fail(error, OD_E_MEMORY, "features: out of memory");
  od_zero(features, sizeof *features);
  features->allocator = *allocator;
  features->arena.allocator = &features->allocator;
  uint64_t left = (uint64_t)OD_MAX_LOAD_BYTES + size;
  od_arena scratch = {.allocator = &features->allocator, .left = &left};
  features->arena.left = &left;
  od_status status = read_all(features, description, size, &scratch, error);
  features->arena.left = NULL;
  od_arena_release(&scratch);
  if (status == OD_E_MEMORY && !left)
    status = od_fail(error, OD_E_FORMAT, "features: they take more than %u bytes beside their own",
                     (uint64_t)OD_MAX_LOAD_BYTES);
  if (status == OD_OK) *out = features;
  else od_features_close(features);
  return status;
}

void od_features_close(od_features *features) {
  if (!features) return;
  od_allocator allocator = features->allocator;
  od_arena_release(&features->arena);
  allocator.release(allocator.user, features);
}

size_t od_feature_count(const od_features *features) { return features->count; }

const od_feature *od_feature_at(const od_features *features, size_t index) {
  return index < features->count ? &features->all[index] : NULL;
}

const od_feature *od_feature_find(const od_features *features, const char *name) {
  for (uint32_t i = 0; i < features->count; i++)
    if (od_equal(features->all[i].name, name)) return &features->all[i];
  return NULL;
}

const char *od_feature_name(const od_feature *feature) { return feature->name; }

size_t od_feature_length(const od_feature *feature) {
  return feature->length ? feature->length : 1;
}
