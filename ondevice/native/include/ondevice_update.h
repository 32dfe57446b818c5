/* ondevice_update.h: the small library beside the engine that tells who wrote a set of files. */
#ifndef ONDEVICE_UPDATE_H
#define ONDEVICE_UPDATE_H

#include "ondevice.h"

#ifdef __cplusplus
extern "C" {
#endif

/* SHA-256 (FIPS 180-4) of bytes that come in pieces. */
typedef struct {
  uint32_t h[8];
  uint64_t size; /* bytes taken */
  uint8_t block[64];
} od_sha256;

OD_API void od_sha256_start(od_sha256 *state);
OD_API void od_sha256_add(od_sha256 *state, const void *data, size_t size);
OD_API void od_sha256_end(od_sha256 *state, uint8_t digest[32]);

/* Whether an Ed25519 signature (RFC 8032, without cofactor) of a message is that of a public key.
 * Nothing is allocated. A key of small order never fits. */
OD_API int od_ed25519_verify(const uint8_t signature[64], const void *message, size_t size,
                             const uint8_t key[32]);

/* Whether 32 bytes are the encoding of a public key: a point of the curve, not of small order. */
OD_API int od_ed25519_key_valid(const uint8_t key[32]);

/* Signed documents (docs/signing.md). What is wrong with one is OD_E_FORMAT; one that is in order,
 * but not signed as it must be, expired or too old, is OD_E_UNTRUSTED. */

enum { OD_MAX_SIGNERS = 16 };

/* Different keys, of which `threshold` must have signed. */
typedef struct {
  uint8_t keys[OD_MAX_SIGNERS][32];
  uint32_t count, threshold;
} od_signers;

/* What a root document says. Who checks a manifest by it first compares `expires` with the time. */
typedef struct {
  uint64_t version;
  int64_t expires; /* seconds since 1970; INT64_MAX: never */
  od_signers root, models;
} od_root;

/* Read the root that a device is delivered with: its own root keys must have signed it. Memory is
 * taken from `allocator`, and given back before the call returns. */
OD_API od_status od_root_first(const char *text, size_t size, const od_allocator *allocator,
                               od_root *root, od_error *error);

/* Put the next version in place of `root`: the root keys of both must have signed it. On an error
 * `root` stays as it was. */
OD_API od_status od_root_next(const char *text, size_t size, const od_allocator *allocator,
                              od_root *root, od_error *error);

/* A set of files that may be used once each file is as its record says. */
typedef struct od_manifest od_manifest;
typedef struct {
  const char *name; /* UTF-8, zero-terminated, no path */
  uint64_t length;
  uint8_t sha256[32];
} od_file_record;

/* The newest set that the caller has used: its version, and od_manifest_seen of it. */
typedef struct {
  uint64_t version;
  int has_sha256;
  uint8_t sha256[32]; /* of its signed content */
} od_seen;

/* Read a manifest.json that `signers` must have signed, that has not expired `now` (seconds since
 * 1970), and that is not older than `seen` (NULL: none yet), nor another one of the same version.
 * The text may go afterwards; the allocator must stay. */
OD_API od_status od_manifest_open(const char *text, size_t size, const od_signers *signers,
                                  const od_seen *seen, int64_t now,
                                  const od_allocator *allocator, od_manifest **manifest,
                                  od_error *error);
OD_API od_seen od_manifest_seen(const od_manifest *manifest);
OD_API void od_manifest_close(od_manifest *manifest);
OD_API uint64_t od_manifest_version(const od_manifest *manifest);
OD_API size_t od_manifest_count(const od_manifest *manifest);
OD_API const od_file_record *od_manifest_file(const od_manifest *manifest, size_t index);
OD_API const od_file_record *od_manifest_find(const od_manifest *manifest, const char *name);

/* Whether bytes in memory are the file of that name. They must be memory that nobody else can
 * change, and the same that is used afterwards: no file that is mapped and can be written. */
OD_API od_status od_manifest_check(const od_manifest *manifest, const char *name,
                                   const void *data, size_t size, od_error *error);

/* Deltas (.odd; docs/updates.md): what makes a new file of the one that a device has. */

/* The first 92 bytes of a delta; `manifest_bytes` of the new set's manifest.json follow. */
enum { OD_DELTA_HEADER_BYTES = 92 };
typedef struct {
  uint64_t old_bytes, new_bytes;
  uint8_t old_sha256[32], new_sha256[32];
  uint32_t manifest_bytes;
} od_delta_header;

/* Files as the caller reads and writes them. Functions return 0, or anything else where they cannot
 * do all that is asked. */
typedef struct {
  int (*read_old)(void *user, uint64_t at, void *to, size_t size);
  int (*read_delta)(void *user, void *to, size_t size); /* the next bytes */
  int (*write_new)(void *user, const void *bytes, size_t size);
  /* a raw DEFLATE stream of exactly these sizes, such as zlib's; NULL: the library's */
  int (*inflate)(void *user, const void *stream, size_t size, void *out, size_t out_size);
  void *user;
} od_delta_files;

/* Read the beginning of a delta; nothing in it is trusted before it is checked. */
OD_API od_status od_delta_read(const uint8_t *bytes, size_t size, od_delta_header *header,
                               od_error *error);

/* Bytes of memory that applying takes, whatever the sizes of the files: less than 300 kB. */
OD_API size_t od_delta_memory(void);

/* Write the new file. `read_delta` gives what follows header and manifest; the length of the old
 * file must be `old_bytes`. The new file is complete and right only after OD_OK. OD_E_INPUT: the old
 * file is another; OD_E_FORMAT: the delta is damaged; OD_E_SYSTEM: a file cannot be read or
 * written. `memory`: od_delta_memory() bytes. */
OD_API od_status od_delta_apply(const od_delta_header *header, const od_delta_files *files,
                                void *memory, size_t memory_size, od_error *error);

#ifdef __cplusplus
}
#endif

#endif
