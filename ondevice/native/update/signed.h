/* signed.h: the frame of signed documents, and what manifests and roots have in common. */
#ifndef ONDEVICE_SIGNED_H
#define ONDEVICE_SIGNED_H

#include "core/json.h"
#include "ondevice_update.h"

/* {"signed":VALUE,"signatures":[...]}: VALUE is not read, nothing is known of the signatures. */
typedef struct {
  const char *text; /* of VALUE, as it stands in the document */
  size_t size;
  const od_json *signatures;
} od_signed;

od_status od_signed_parse(const char *text, size_t size, od_arena *arena, od_signed *document,
                          od_error *error);

/* Read VALUE: after od_signed_check where that can be, so that strangers cannot make it large. */
od_status od_signed_value(const od_signed *document, od_arena *arena, od_json **value,
                          od_error *error);

/* OD_E_UNTRUSTED unless as many of the signers have signed as must. */
od_status od_signed_check(const od_signed *document, const od_signers *signers, od_error *error);

/* The value's kind, format and version, which are the same in all documents, and its expiry in
 * seconds since 1970, INT64_MAX: never. It must have exactly `count` members. */
od_status od_signed_head(const od_json *value, const char *kind, size_t count, uint64_t *version,
                         int64_t *expires, od_error *error);

/* Whether a JSON value is a text of 2 * `size` digits 0-9, a-f; they are read into `bytes`. */
int od_read_hex(const od_json *value, uint8_t *bytes, size_t size);

/* What a manifest says of a file: OD_E_UNTRUSTED if it does not list it. */
od_status od_manifest_record(const od_manifest *manifest, const char *name,
                             const od_file_record **file, od_error *error);

/* Whether a file of `size` bytes, all of which `hash` has taken, is the one of a record. */
od_status od_record_check(const od_file_record *file, uint64_t size, od_sha256 *hash,
                          od_error *error);

#endif
