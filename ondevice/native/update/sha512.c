/* sha512.c: SHA-512 (FIPS 180-4, section 6.4), of a message that comes in pieces. */
#include "update/sha512.h"

#include "core/base.h"

/* Bits of the fractions of the square roots of 8 primes (5.3), and of the cube roots of 80 (4.2). */
static const uint64_t START[8] = {
    0x6a09e667f3bcc908u, 0xbb67ae8584caa73bu, 0x3c6ef372fe94f82bu, 0xa54ff53a5f1d36f1u,
    0x510e527fade682d1u, 0x9b05688c2b3e6c1fu, 0x1f83d9abfb41bd6bu, 0x5be0cd19137e2179u};
static const uint64_t K[80] = {
    0x428a2f98d728ae22u, 0x7137449123ef65cdu, 0xb5c0fbcfec4d3b2fu, 0xe9b5dba58189dbbcu,
    0x3956c25bf348b538u, 0x59f111f1b605d019u, 0x923f82a4af194f9bu, 0xab1c5ed5da6d8118u,
    0xd807aa98a3030242u, 0x12835b0145706fbeu, 0x243185be4ee4b28cu, 0x550c7dc3d5ffb4e2u,
    0x72be5d74f27b896fu, 0x80deb1fe3b1696b1u, 0x9bdc06a725c71235u, 0xc19bf174cf692694u,
    0xe49b69c19ef14ad2u, 0xefbe4786384f25e3u, 0x0fc19dc68b8cd5b5u, 0x240ca1cc77ac9c65u,
    0x2de92c6f592b0275u, 0x4a7484aa6ea6e483u, 0x5cb0a9dcbd41fbd4u, 0x76f988da831153b5u,
    0x983e5152ee66dfabu, 0xa831c66d2db43210u, 0xb00327c898fb213fu, 0xbf597fc7beef0ee4u,
    0xc6e00bf33da88fc2u, 0xd5a79147930aa725u, 0x06ca6351e003826fu, 0x142929670a0e6e70u,
    0x27b70a8546d22ffcu, 0x2e1b21385c26c926u, 0x4d2c6dfc5ac42aedu, 0x53380d139d95b3dfu,
    0x650a73548baf63deu, 0x766a0abb3c77b2a8u, 0x81c2c92e47edaee6u, 0x92722c851482353bu,
    0xa2bfe8a14cf10364u, 0xa81a664bbc423001u, 0xc24b8b70d0f89791u, 0xc76c51a30654be30u,
    0xd192e819d6ef5218u, 0xd69906245565a910u, 0xf40e35855771202au, 0x106aa07032bbd1b8u,
    0x19a4c116b8d2d0c8u, 0x1e376c085141ab53u, 0x2748774cdf8eeb99u, 0x34b0bcb5e19b48a8u,
    0x391c0cb3c5c95a63u, 0x4ed8aa4ae3418acbu, 0x5b9cca4f7763e373u, 0x682e6ff3d6b2b8a3u,
    0x748f82ee5defb2fcu, 0x78a5636f43172f60u, 0x84c87814a1f0ab72u, 0x8cc702081a6439ecu,
    0x90befffa23631e28u, 0xa4506cebde82bde9u, 0xbef9a3f7b2c67915u, 0xc67178f2e372532bu,
    0xca273eceea26619cu, 0xd186b8c721c0c207u, 0xeada7dd6cde0eb1eu, 0xf57d4f7fee6ed178u,
    0x06f067aa72176fbau, 0x0a637dc5a2c898a6u, 0x113f9804bef90daeu, 0x1b710b35131c471bu,
    0x28db77f523047d84u, 0x32caab7b40c72493u, 0x3c9ebe0a15c9bebcu, 0x431d67c49c100d4cu,
    0x4cc5d4becb3e42b6u, 0x597f299cfc657e2au, 0x5fcb6fab3ad6faecu, 0x6c44198c4a475817u};

static uint64_t turned(uint64_t x, int bits) { return x >> bits | x << (64 - bits); }

/* A word of the message, whose bytes come highest first. */
static uint64_t read_word(const uint8_t *from) {
  uint64_t word = 0;
  for (int i = 0; i < 8; i++) word = word << 8 | from[i];
  return word;
}

static void take_block(uint64_t h[8], const uint8_t *block) {
  uint64_t w[80], v[8];
  for (int t = 0; t < 16; t++) w[t] = read_word(block + 8 * t);
  for (int t = 16; t < 80; t++) {
    uint64_t x = w[t - 15], y = w[t - 2];
    w[t] = w[t - 16] + w[t - 7] + (turned(x, 1) ^ turned(x, 8) ^ x >> 7) +
           (turned(y, 19) ^ turned(y, 61) ^ y >> 6);
  }
  od_copy(v, h, sizeof v);
  for (int t = 0; t < 80; t++) { /* v: the standard's a to h */
    uint64_t a = v[0], e = v[4];
    uint64_t first = v[7] + (turned(e, 14) ^ turned(e, 18) ^ turned(e, 41)) +
                     ((e & v[5]) ^ (~e & v[6])) + K[t] + w[t];
    uint64_t second = (turned(a, 28) ^ turned(a, 34) ^ turned(a, 39)) +
                      ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
    for (int i = 7; i > 0; i--) v[i] = v[i - 1];
    v[4] += first;
    v[0] = first + second;
  }
  for (int i = 0; i < 8; i++) h[i] += v[i];
}

void od_sha512_start(od_sha512 *state) {
  od_copy(state->h, START, sizeof START);
  state->size = 0;
}

void od_sha512_add(od_sha512 *state, const void *data, size_t size) {
  const uint8_t *from = data;
  size_t held = (size_t)(state->size % 128);
  state->size += size;
  if (held) {
    size_t piece = 128 - held < size ? 128 - held : size;
    od_copy(state->block + held, from, piece);
    if (held + piece < 128) return;
    take_block(state->h, state->block);
    from += piece;
    size -= piece;
  }
  for (; size >= 128; from += 128, size -= 128) take_block(state->h, from);
  od_copy(state->block, from, size);
}

void od_sha512_end(od_sha512 *state, uint8_t digest[64]) {
  uint64_t bits = state->size * 8; /* a message of 2^61 bytes is longer than any file */
  uint8_t end[128 + 16] = {0x80};
  size_t held = (size_t)(state->size % 128);
  size_t zeros = (held < 128 - 16 ? 128 - 16 : 2 * 128 - 16) - held; /* and the 0x80 */
  for (int i = 0; i < 8; i++) end[zeros + 16 - 1 - (size_t)i] = (uint8_t)(bits >> 8 * i);
  od_sha512_add(state, end, zeros + 16);
  for (int i = 0; i < 8; i++)
    for (int j = 0; j < 8; j++)
      digest[8 * i + j] = (uint8_t)(state->h[i] >> (64 - 8 - 8 * j));
}
