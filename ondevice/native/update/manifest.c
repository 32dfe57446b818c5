/* manifest.c: manifests of sets of files: read and checked in one, so that none is used unchecked. */
#include "update/signed.h"

struct od_manifest {
  od_arena arena;
  uint64_t version;
  uint8_t sha256[32]; /* of the signed content */
  size_t count;
  od_file_record *files;
};

/* Whether a text is a file name that stays in its folder on every system. */
static int is_plain_name(const char *name) {
  size_t size = od_length(name);
  if (!size || size > 255 || od_equal(name, ".") || od_equal(name, "..") ||
      od_equal(name, "manifest.json"))
    return 0;
  for (const unsigned char *p = (const unsigned char *)name; *p; p++) {
    if (*p < 0x20 || *p == 0x7f || (*p == 0xc2 && p[1] < 0xa0)) return 0; /* control characters */
    for (const char *q = "/\\:*?\"<>|"; *q; q++)
      if (*p == (unsigned char)*q) return 0;
  }
  return 1;
}

static int by_name(const void *a, const void *b) {
  return od_order(((const od_file_record *)a)->name, ((const od_file_record *)b)->name);
}

static od_status read_file(const od_json *item, od_file_record *file, od_error *error) {
  int64_t length;
  file->name = item->key;
  if (!is_plain_name(item->key))
    return od_fail(error, OD_E_FORMAT, "signed: '%s' is not a plain file name", item->key);
  if (item->kind != OD_J_OBJECT || item->size != 2)
    return od_fail(error, OD_E_FORMAT, "signed: file '%s': expected 2 keys", item->key);
  if (!od_json_int(od_json_member(item, "length"), 0, INT64_MAX, &length))
    return od_fail(error, OD_E_FORMAT, "signed: file '%s': length must be 0..%u", item->key,
                   (uint64_t)INT64_MAX);
  file->length = (uint64_t)length;
  if (!od_read_hex(od_json_member(item, "sha256"), file->sha256, 32))
    return od_fail(error, OD_E_FORMAT, "signed: file '%s': sha256 must be 64 digits 0-9, a-f",
                   item->key);
  return OD_OK;
}

/* The parser compares the names of small objects only. */
static od_status check_names(od_manifest *manifest, od_error *error) {
  void **sorted = od_take(&manifest->arena, manifest->count, sizeof *sorted);
  if (!sorted) return od_fail(error, OD_E_MEMORY, "out of memory");
  for (size_t i = 0; i < manifest->count; i++) sorted[i] = &manifest->files[i];
  od_sort(sorted, manifest->count, by_name);
  for (size_t i = 1; i < manifest->count; i++)
    if (by_name(sorted[i - 1], sorted[i]) == 0)
      return od_fail(error, OD_E_FORMAT, "signed: the file '%s' occurs twice",
                     ((od_file_record *)sorted[i])->name);
  return OD_OK;
}

static od_status read_files(const od_json *files, od_manifest *manifest, od_error *error) {
  if (!files || files->kind != OD_J_OBJECT || !files->size || files->size > OD_MAX_MANIFEST_FILES)
    return od_fail(error, OD_E_FORMAT, "signed: files must be an object of 1 to %u files",
                   (uint64_t)OD_MAX_MANIFEST_FILES);
  manifest->count = files->size;
  manifest->files = od_take(&manifest->arena, files->size, sizeof *manifest->files);
  if (!manifest->files) return od_fail(error, OD_E_MEMORY, "out of memory");
  od_file_record *file = manifest->files;
  for (const od_json *item = files->first; item; item = item->next)
    OD_CHECK(read_file(item, file++, error));
  return check_names(manifest, error);
}

static od_status read_manifest(const char *text, size_t size, const od_signers *signers,
                               const od_seen *seen, int64_t now, od_manifest *manifest,
                               od_error *error) {
  od_signed document;
  od_json *value;
  int64_t expires;
  OD_CHECK(od_signed_parse(text, size, &manifest->arena, &document, error));
  OD_CHECK(od_signed_check(&document, signers, error));
  OD_CHECK(od_signed_value(&document, &manifest->arena, &value, error));
  OD_CHECK(od_signed_head(value, "ondevice model set", 5, &manifest->version, &expires, error));
  OD_CHECK(read_files(od_json_member(value, "files"), manifest, error));
  if (now > expires) return od_fail(error, OD_E_UNTRUSTED, "the set of files has expired");
  od_sha256 hash;
  od_sha256_start(&hash);
  od_sha256_add(&hash, document.text, document.size);
  od_sha256_end(&hash, manifest->sha256);
  if (seen && manifest->version < seen->version)
    return od_fail(error, OD_E_UNTRUSTED, "version %u is older than %u, which was used",
                   manifest->version, seen->version);
  if (seen && seen->has_sha256 && manifest->version == seen->version &&
      !od_same(manifest->sha256, seen->sha256, 32))
    return od_fail(error, OD_E_UNTRUSTED, "another set of version %u was used", seen->version);
  return OD_OK;
}

od_status od_manifest_open(const char *text, size_t size, const od_signers *signers,
                           const od_seen *seen, int64_t now, const od_allocator *allocator,
                           od_manifest **manifest, od_error *error) {
  od_arena arena = {.allocator = allocator};
  *manifest = NULL;
  od_manifest *opened = od_take(&arena, 1, sizeof *opened);
  if (!opened) return od_fail(error, OD_E_MEMORY, "out of memory");
  opened->arena = arena;
  od_status status = read_manifest(text, size, signers, seen, now, opened, error);
  if (status == OD_OK)
    *manifest = opened;
  else
    od_manifest_close(opened);
  return status;
}

void od_manifest_close(od_manifest *manifest) {
  if (!manifest) return;
  od_arena arena = manifest->arena; /* the manifest lies in it */
  od_arena_release(&arena);
}

uint64_t od_manifest_version(const od_manifest *manifest) { return manifest->version; }

od_seen od_manifest_seen(const od_manifest *manifest) {
  od_seen seen = {.version = manifest->version, .has_sha256 = 1};
  od_copy(seen.sha256, manifest->sha256, 32);
  return seen;
}

size_t od_manifest_count(const od_manifest *manifest) { return manifest->count; }

const od_file_record *od_manifest_file(const od_manifest *manifest, size_t index) {
  return index < manifest->count ? &manifest->files[index] : NULL;
}

const od_file_record *od_manifest_find(const od_manifest *manifest, const char *name) {
  for (size_t i = 0; i < manifest->count; i++)
    if (od_equal(manifest->files[i].name, name)) return &manifest->files[i];
  return NULL;
}

od_status od_manifest_record(const od_manifest *manifest, const char *name,
                             const od_file_record **file, od_error *error) {
  *file = od_manifest_find(manifest, name);
  if (*file) return OD_OK;
  return od_fail(error, OD_E_UNTRUSTED, "%s: the signed manifest does not list it", name);
}

od_status od_record_check(const od_file_record *file, uint64_t size, od_sha256 *hash,
                          od_error *error) {
  uint8_t digest[32];
  if (file->length != size)
    return od_fail(error, OD_E_FORMAT, "%s: has %u bytes, its manifest says %u", file->name, size,
                   file->length);
  od_sha256_end(hash, digest);
  if (od_same(digest, file->sha256, 32)) return OD_OK;
  return od_fail(error, OD_E_FORMAT, "%s: has another SHA-256 than its manifest says", file->name);
}

od_status od_manifest_check(const od_manifest *manifest, const char *name, const void *data,
                            size_t size, od_error *error) {
  const od_file_record *file;
  od_sha256 hash;
  OD_CHECK(od_manifest_record(manifest, name, &file, error));
  od_sha256_start(&hash);
  if (file->length == size) od_sha256_add(&hash, data, size);
  return od_record_check(file, size, &hash, error);
}
