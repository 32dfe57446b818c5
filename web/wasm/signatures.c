/* signatures.c: what checks signed sets of files, as a WebAssembly module without imports, called by signatures.js. */
#include "memory.h"
#include "update/signed.h"

static od_signers signers;
static od_root root;
static od_manifest *manifest;
static const od_file_record *file;
static od_sha256 hash;
static uint8_t digest[32];
static od_error error;

EXPORT("reset") void reset(void) {
  memory_reset();
  signers = (od_signers){.threshold = 1};
  manifest = NULL;
  file = NULL;
}

/* The text of the last error. */
EXPORT("error_text") const char *error_text(void) { return error.text; }

/* Whether a signature of a message is that of a key. */
EXPORT("verify")
int32_t verify(const uint8_t *signature, const void *message, uint32_t size, const uint8_t *key) {
  return od_ed25519_verify(signature, message, size, key);
}

/* Trust a key: one of those that are added must have signed. */
EXPORT("add_key") int32_t add_key(const uint8_t *key) {
  if (!od_ed25519_key_valid(key))
    return (int32_t)od_fail(&error, OD_E_FORMAT, "not an Ed25519 public key");
  for (uint32_t i = 0; i < signers.count; i++)
    if (od_same(signers.keys[i], key, 32)) return OD_OK;
  if (signers.count == OD_MAX_SIGNERS)
    return (int32_t)od_fail(&error, OD_E_INPUT, "more than %u keys", (uint64_t)OD_MAX_SIGNERS);
  for (int i = 0; i < 32; i++) signers.keys[signers.count][i] = key[i];
  signers.count++;
  return OD_OK;
}

/* Trust the models' keys of a root document; `replaces`: of the one that follows on the last. */
EXPORT("add_root") int32_t add_root(const char *text, uint32_t size, int32_t replaces) {
  od_status status = replaces ? od_root_next(text, size, &memory_allocator, &root, &error)
                              : od_root_first(text, size, &memory_allocator, &root, &error);
  if (status == OD_OK) signers = root.models;
  return (int32_t)status;
}

/* Whether the root holds at a time, in seconds since 1970. */
EXPORT("check_root") int32_t check_root(double now) {
  if ((int64_t)now <= root.expires) return OD_OK;
  return (int32_t)od_fail(&error, OD_E_UNTRUSTED, "version %u of the root has expired", root.version);
}

/* Read a manifest that the trusted keys must have signed. `version` and `sha256` (32 bytes, or NULL)
 * are those of the newest set that was used. The numbers are whole, below 2^53. */
EXPORT("open_manifest")
int32_t open_manifest(const char *text, uint32_t size, double version, const uint8_t *sha256,
                      double now) {
  od_seen seen = {.version = (uint64_t)version, .has_sha256 = sha256 != NULL};
  if (sha256) od_copy(seen.sha256, sha256, sizeof seen.sha256);
  return (int32_t)od_manifest_open(text, size, &signers, &seen, (int64_t)now, &memory_allocator,
                                   &manifest, &error);
}
EXPORT("manifest_version") double manifest_version(void) {
  return (double)od_manifest_version(manifest);
}
EXPORT("manifest_sha256") const uint8_t *manifest_sha256(void) {
  od_copy(digest, od_manifest_seen(manifest).sha256, sizeof digest);
  return digest;
}

/* Find a file in the manifest; its bytes come by hash_add. */
EXPORT("find_file") int32_t find_file(const char *name) {
  od_sha256_start(&hash);
  return (int32_t)od_manifest_record(manifest, name, &file, &error);
}
EXPORT("check_file") int32_t check_file(void) {
  return (int32_t)od_record_check(file, hash.size, &hash, &error);
}

/* SHA-256 of bytes that come in pieces. */
EXPORT("hash_start") void hash_start(void) { od_sha256_start(&hash); }
EXPORT("hash_add") void hash_add(const void *data, uint32_t size) {
  od_sha256_add(&hash, data, size);
}
EXPORT("hash_end") const uint8_t *hash_end(void) {
  od_sha256_end(&hash, digest);
  return digest;
}
