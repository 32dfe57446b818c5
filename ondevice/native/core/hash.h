/* hash.h: XXH64 is public (od_hash); CRC-32 with its tables, made where they are needed. */
#ifndef ONDEVICE_HASH_H
#define ONDEVICE_HASH_H

#include "core/base.h"

typedef struct {
  uint32_t table[8][256];
} od_crc;

void od_crc_prepare(od_crc *crc);
uint32_t od_crc32(const od_crc *crc, const void *data, size_t size);

#endif
