/* root.c: root documents: which keys may sign, and which documents may replace which. */
#include "update/signed.h"

_Static_assert(OD_MAX_SIGNERS == OD_MAX_MANIFEST_SIGNATURES, "a role has as many keys");

/* The key of an identifier, which must be its SHA-256. */
static od_status read_key(const od_json *keys, const od_json *keyid, uint8_t key[32],
                          od_error *error) {
  uint8_t digest[32], named[32];
  od_sha256 hash;
  if (!keyid || keyid->kind != OD_J_TEXT || !od_read_hex(keyid, named, 32) ||
      !od_json_member(keys, keyid->text))
    return od_fail(error, OD_E_FORMAT, "signed: a role names a key that is not there");
  if (!od_read_hex(od_json_member(keys, keyid->text), key, 32) || !od_ed25519_key_valid(key))
    return od_fail(error, OD_E_FORMAT, "signed: not an Ed25519 public key: %s", keyid->text);
  od_sha256_start(&hash);
  od_sha256_add(&hash, key, 32);
  od_sha256_end(&hash, digest);
  if (od_same(digest, named, 32)) return OD_OK;
  return od_fail(error, OD_E_FORMAT, "signed: %s is not the SHA-256 of its key", keyid->text);
}

static od_status read_role(const od_json *roles, const char *name, const od_json *keys,
                           od_signers *signers, od_error *error) {
  const od_json *role = od_json_member(roles, name), *list = od_json_member(role, "keyids");
  int64_t threshold;
  if (!list || role->size != 2 || list->kind != OD_J_LIST || !list->size ||
      list->size > OD_MAX_SIGNERS)
    return od_fail(error, OD_E_FORMAT, "signed: role %s: expected 1 to %u keyids, a threshold",
                   name, (uint64_t)OD_MAX_SIGNERS);
  signers->count = 0;
  for (const od_json *keyid = list->first; keyid; keyid = keyid->next) {
    OD_CHECK(read_key(keys, keyid, signers->keys[signers->count], error));
    for (uint32_t i = 0; i < signers->count; i++)
      if (od_same(signers->keys[i], signers->keys[signers->count], 32))
        return od_fail(error, OD_E_FORMAT, "signed: role %s: a key is named twice", name);
    signers->count++;
  }
  if (!od_json_int(od_json_member(role, "threshold"), 1, signers->count, &threshold))
    return od_fail(error, OD_E_FORMAT, "signed: role %s: threshold must be 1..%u", name,
                   (uint64_t)signers->count);
  signers->threshold = (uint32_t)threshold;
  return OD_OK;
}

static od_status read_root(const od_json *value, od_root *root, od_error *error) {
  uint8_t key[32];
  OD_CHECK(od_signed_head(value, "ondevice root", 6, &root->version, &root->expires, error));
  const od_json *keys = od_json_member(value, "keys"), *roles = od_json_member(value, "roles");
  if (!keys || keys->kind != OD_J_OBJECT || keys->size > 2 * OD_MAX_SIGNERS)
    return od_fail(error, OD_E_FORMAT, "signed: keys must be an object of up to %u keys",
                   (uint64_t)2 * OD_MAX_SIGNERS);
  for (const od_json *item = keys->first; item; item = item->next) {
    const od_json keyid = {.kind = OD_J_TEXT, .text = item->key, .size = od_length(item->key)};
    OD_CHECK(read_key(keys, &keyid, key, error));
  }
  if (!roles || roles->kind != OD_J_OBJECT || roles->size != 2)
    return od_fail(error, OD_E_FORMAT, "signed: expected the roles root and models");
  OD_CHECK(read_role(roles, "root", keys, &root->root, error));
  return read_role(roles, "models", keys, &root->models, error);
}

/* `before` NULL: the root that a device is delivered with. */
static od_status read_signed(const char *text, size_t size, const od_root *before, od_arena *arena,
                             od_root *root, od_error *error) {
  od_signed document;
  od_json *value;
  OD_CHECK(od_signed_parse(text, size, arena, &document, error));
  if (before) OD_CHECK(od_signed_check(&document, &before->root, error));
  OD_CHECK(od_signed_value(&document, arena, &value, error));
  OD_CHECK(read_root(value, root, error));
  if (before && root->version != before->version + 1)
    return od_fail(error, OD_E_UNTRUSTED, "version %u of the root, expected %u", root->version,
                   before->version + 1);
  return od_signed_check(&document, &root->root, error);
}

static od_status open_root(const char *text, size_t size, const od_root *before,
                           const od_allocator *allocator, od_root *root, od_error *error) {
  od_arena arena = {.allocator = allocator};
  od_root read;
  od_status status = read_signed(text, size, before, &arena, &read, error);
  od_arena_release(&arena);
  if (status == OD_OK) *root = read;
  return status;
}

od_status od_root_first(const char *text, size_t size, const od_allocator *allocator,
                        od_root *root, od_error *error) {
  return open_root(text, size, NULL, allocator, root, error);
}

od_status od_root_next(const char *text, size_t size, const od_allocator *allocator, od_root *root,
                       od_error *error) {
  const od_root before = *root;
  return open_root(text, size, &before, allocator, root, error);
}
