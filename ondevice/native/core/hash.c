/* hash.c: XXH64 (IDs from raw values) and CRC-32 (the container's checksums).
 *
 * XXH64: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md. CRC-32: as in zlib, eight
 * bytes a step ("slicing-by-8").
 */
#include "core/hash.h"

#define P1 0x9E3779B185EBCA87u
#define P2 0xC2B2AE3D27D4EB4Fu
#define P3 0x165667B19E3779F9u
#define P4 0x85EBCA77C2B2AE63u
#define P5 0x27D4EB2F165667C5u

static uint64_t turn(uint64_t v, int bits) { return (v << bits) | (v >> (64 - bits)); }
static uint64_t mix(uint64_t lane, uint64_t word) { return turn(lane + word * P2, 31) * P1; }

uint64_t od_hash(const void *data, size_t size, uint64_t seed) {
  const unsigned char *p = data;
  size_t left = size;
  uint64_t h;
  if (size >= 32) {
    uint64_t lanes[4] = {seed + P1 + P2, seed + P2, seed, seed - P1};
    for (; left >= 32; left -= 32)
      for (int i = 0; i < 4; i++, p += 8) lanes[i] = mix(lanes[i], od_load64(p));
    h = turn(lanes[0], 1) + turn(lanes[1], 7) + turn(lanes[2], 12) + turn(lanes[3], 18);
    for (int i = 0; i < 4; i++) h = (h ^ mix(0, lanes[i])) * P1 + P4;
  } else {
    h = seed + P5;
  }
  h += size;
  for (; left >= 8; left -= 8, p += 8) h = turn(h ^ mix(0, od_load64(p)), 27) * P1 + P4;
  if (left >= 4) {
    h = turn(h ^ od_load32(p) * P1, 23) * P2 + P3;
    left -= 4, p += 4;
  }
  for (; left; left--, p++) h = turn(h ^ *p * P5, 11) * P1;
  h = (h ^ (h >> 33)) * P2;
  h = (h ^ (h >> 29)) * P3;
  return h ^ (h >> 32);
}

void od_crc_prepare(od_crc *crc) {
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; bit++) value = (value >> 1) ^ (0xEDB88320u & (0u - (value & 1)));
    crc->table[0][i] = value;
  }
  for (int k = 1; k < 8; k++)
    for (uint32_t i = 0; i < 256; i++) {
      uint32_t before = crc->table[k - 1][i];
      crc->table[k][i] = (before >> 8) ^ crc->table[0][before & 255];
    }
}

uint32_t od_crc32(const od_crc *crc, const void *data, size_t size) {
  const unsigned char *p = data;
  const uint32_t(*t)[256] = crc->table;
  uint32_t value = ~0u;
  for (; size >= 8; size -= 8, p += 8) {
    uint32_t a = od_load32(p) ^ value, b = od_load32(p + 4);
    value = t[7][a & 255] ^ t[6][(a >> 8) & 255] ^ t[5][(a >> 16) & 255] ^ t[4][a >> 24] ^
            t[3][b & 255] ^ t[2][(b >> 8) & 255] ^ t[1][(b >> 16) & 255] ^ t[0][b >> 24];
  }
  for (; size; size--, p++) value = (value >> 8) ^ t[0][(value ^ *p) & 255];
  return ~value;
}
