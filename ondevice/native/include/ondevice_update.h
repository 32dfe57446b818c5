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

#ifdef __cplusplus
}
#endif

#endif
