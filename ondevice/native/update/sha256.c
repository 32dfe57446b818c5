/* sha256.c: SHA-256 (FIPS 180-4, section 6.2), of a message that comes in pieces. */
#include "ondevice_update.h"

#include "core/base.h"

/* Bits of the fractions of the square roots of 8 primes (5.3), and of the cube roots of 64 (4.2). */
static const uint32_t START[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t turned(uint32_t x, int bits) { return x >> bits | x << (32 - bits); }

/* A word of the message, whose bytes come highest first. */
static uint32_t read_word(const uint8_t *from) {
  uint32_t word = 0;
  for (int i = 0; i < 4; i++) word = word << 8 | from[i];
  return word;
}

static void take_block(uint32_t h[8], const uint8_t *block) {
  uint32_t w[64], v[8];
  for (int t = 0; t < 16; t++) w[t] = read_word(block + 4 * t);
  for (int t = 16; t < 64; t++) {
    uint32_t x = w[t - 15], y = w[t - 2];
    w[t] = w[t - 16] + w[t - 7] + (turned(x, 7) ^ turned(x, 18) ^ x >> 3) +
           (turned(y, 17) ^ turned(y, 19) ^ y >> 10);
  }
  od_copy(v, h, sizeof v);
  for (int t = 0; t < 64; t++) { /* v: the standard's a to h */
    uint32_t a = v[0], e = v[4];
    uint32_t first = v[7] + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) +
                     ((e & v[5]) ^ (~e & v[6])) + K[t] + w[t];
    uint32_t second = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) +
                      ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
    for (int i = 7; i > 0; i--) v[i] = v[i - 1];
    v[4] += first;
    v[0] = first + second;
  }
  for (int i = 0; i < 8; i++) h[i] += v[i];
}

void od_sha256_start(od_sha256 *state) {
  od_copy(state->h, START, sizeof START);
  state->size = 0;
}

void od_sha256_add(od_sha256 *state, const void *data, size_t size) {
  const uint8_t *from = data;
  size_t held = (size_t)(state->size % 64);
  state->size += size;
  if (held) {
    size_t piece = 64 - held < size ? 64 - held : size;
    od_copy(state->block + held, from, piece);
    if (held + piece < 64) return;
    take_block(state->h, state->block);
    from += piece;
    size -= piece;
  }
  for (; size >= 64; from += 64, size -= 64) take_block(state->h, from);
  od_copy(state->block, from, size);
}

void od_sha256_end(od_sha256 *state, uint8_t digest[32]) {
  uint64_t bits = state->size * 8; /* a message of 2^61 bytes is longer than any file */
  uint8_t end[64 + 8] = {0x80};
  size_t held = (size_t)(state->size % 64);
  size_t zeros = (held < 64 - 8 ? 64 - 8 : 2 * 64 - 8) - held; /* and the 0x80 */
  for (int i = 0; i < 8; i++) end[zeros + 8 - 1 - (size_t)i] = (uint8_t)(bits >> 8 * i);
  od_sha256_add(state, end, zeros + 8);
  for (int i = 0; i < 8; i++)
    for (int j = 0; j < 4; j++)
      digest[4 * i + j] = (uint8_t)(state->h[i] >> (32 - 8 - 8 * j));
}
