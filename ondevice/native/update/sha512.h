/* sha512.h: SHA-512 (FIPS 180-4) of a message that comes in pieces. */
#ifndef ONDEVICE_SHA512_H
#define ONDEVICE_SHA512_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
  uint64_t h[8];
  uint64_t size; /* bytes taken */
  uint8_t block[128];
} od_sha512;

void od_sha512_start(od_sha512 *state);
void od_sha512_add(od_sha512 *state, const void *data, size_t size);
void od_sha512_end(od_sha512 *state, uint8_t digest[64]);

#endif
