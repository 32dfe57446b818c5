/* inflate.c: decodes DEFLATE (RFC 1951) into memory of a known size; every read is checked. */
#include "core/inflate.h"

OD_FOR_SIZE

enum { MOST_BITS = 15, LITERALS = 288, DISTANCES = 32, CODE_LENGTHS = 19, END = 256 };
enum { MOST_EXPANSION = 1032 }; /* no stream stands for more bytes per byte */

/* A canonical Huffman code: how many codes have each length, and their symbols in order. */
typedef struct {
  uint16_t counts[MOST_BITS + 1];
  uint16_t symbols[LITERALS];
} huffman;

typedef struct {
  const uint8_t *in;
  size_t in_size, in_place;
  uint32_t held, held_bits;
  uint8_t *out;
  size_t out_size, out_place;
  int failed; /* a read beyond the end, or anything that the format forbids */
  huffman literals, distances;
} inflater;

static const uint16_t LENGTH_BASE[] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                       31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
static const uint8_t LENGTH_BITS[] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                      2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
static const uint16_t DISTANCE_BASE[] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,
                                         33,  49,  65,  97,  129, 193,  257,  385,  513,  769,
                                         1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
static const uint8_t DISTANCE_BITS[] = {0, 0, 0, 0, 1, 1, 2, 2,  3,  3,  4,  4,  5,  5,  6,
                                        6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};
static const uint8_t LENGTH_ORDER[CODE_LENGTHS] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                                   11, 4,  12, 3, 13, 2, 14, 1, 15};

static uint32_t take_bits(inflater *z, uint32_t count) {
  while (z->held_bits < count) {
    if (z->in_place == z->in_size) {
      z->failed = 1;
      return 0;
    }
    z->held |= (uint32_t)z->in[z->in_place++] << z->held_bits;
    z->held_bits += 8;
  }
  uint32_t bits = z->held & ((1u << count) - 1);
  z->held >>= count;
  z->held_bits -= count;
  return bits;
}

/* The next symbol of a code, bit by bit; on failure any symbol. */
static uint32_t take_symbol(inflater *z, const huffman *code) {
  int32_t value = 0, first = 0, index = 0;
  for (int length = 1; length <= MOST_BITS; length++) {
    value |= (int32_t)take_bits(z, 1);
    int32_t count = code->counts[length];
    if (value - count < first) return code->symbols[index + (value - first)];
    index += count;
    first = (first + count) << 1;
    value <<= 1;
  }
  z->failed = 1;
  return END;
}

/* Build a code from the length of every symbol's. Its lengths must use all room that they have, no
 * more and, as in zlib, no less, unless no code is longer than `spare` bits. */
static void build(inflater *z, huffman *code, const uint8_t *lengths, int count, int spare) {
  uint16_t offsets[MOST_BITS + 1];
  od_zero(code->counts, sizeof code->counts);
  for (int symbol = 0; symbol < count; symbol++) code->counts[lengths[symbol]]++;
  code->counts[0] = 0;
  int32_t room = 1, longest = 0;
  for (int length = 1; length <= MOST_BITS && room >= 0; length++) {
    room = (room << 1) - code->counts[length];
    if (code->counts[length]) longest = length;
  }
  if (room < 0 || (room > 0 && longest > spare)) {
    z->failed = 1;
    return;
  }
  offsets[1] = 0;
  for (int length = 1; length < MOST_BITS; length++)
    offsets[length + 1] = (uint16_t)(offsets[length] + code->counts[length]);
  for (int symbol = 0; symbol < count; symbol++)
    if (lengths[symbol]) code->symbols[offsets[lengths[symbol]]++] = (uint16_t)symbol;
}

static void build_fixed(inflater *z) {
  uint8_t lengths[LITERALS];
  for (int symbol = 0; symbol < LITERALS; symbol++)
    lengths[symbol] = symbol < 144 ? 8 : symbol < 256 ? 9 : symbol < 280 ? 7 : 8;
  build(z, &z->literals, lengths, LITERALS, 0);
  for (int symbol = 0; symbol < DISTANCES; symbol++) lengths[symbol] = 5;
  build(z, &z->distances, lengths, DISTANCES, 0);
}

/* The codes of a block that brings its own. */
static void read_codes(inflater *z) {
  uint8_t lengths[LITERALS + DISTANCES + 1] = {0};
  uint32_t literals = take_bits(z, 5) + 257, distances = take_bits(z, 5) + 1;
  uint32_t listed = take_bits(z, 4) + 4, place = 0;
  for (uint32_t i = 0; i < listed; i++) lengths[LENGTH_ORDER[i]] = (uint8_t)take_bits(z, 3);
  build(z, &z->literals, lengths, CODE_LENGTHS, 0);
  od_zero(lengths, sizeof lengths);
  if (literals > 286 || distances > 30) z->failed = 1;
  while (!z->failed && place < literals + distances) {
    uint32_t symbol = take_symbol(z, &z->literals), repeat = 1, length = symbol;
    if (symbol == 16) {
      if (!place) z->failed = 1;
      else length = lengths[place - 1];
      repeat = 3 + take_bits(z, 2);
    } else if (symbol > 16) {
      length = 0;
      repeat = symbol == 17 ? 3 + take_bits(z, 3) : 11 + take_bits(z, 7);
    }
    if (z->failed || place + repeat > literals + distances) {
      z->failed = 1;
      return;
    }
    while (repeat--) lengths[place++] = (uint8_t)length;
  }
  if (z->failed) return;
  if (!lengths[END]) z->failed = 1; /* the block would have no end */
  build(z, &z->literals, lengths, (int)literals, 1);
  build(z, &z->distances, lengths + literals, (int)distances, 1);
}

static void copy_back(inflater *z, uint32_t symbol) {
  uint32_t length = symbol - END - 1;
  if (length > 28) {
    z->failed = 1;
    return;
  }
  length = LENGTH_BASE[length] + take_bits(z, LENGTH_BITS[length]);
  uint32_t distance = take_symbol(z, &z->distances);
  if (z->failed || distance > 29) {
    z->failed = 1;
    return;
  }
  distance = DISTANCE_BASE[distance] + take_bits(z, DISTANCE_BITS[distance]);
  if (z->failed || distance > z->out_place || length > z->out_size - z->out_place) {
    z->failed = 1;
    return;
  }
  for (; length; length--, z->out_place++) z->out[z->out_place] = z->out[z->out_place - distance];
}

static void read_block(inflater *z) {
  for (;;) {
    uint32_t symbol = take_symbol(z, &z->literals);
    if (z->failed || symbol == END) return;
    if (symbol > END) copy_back(z, symbol);
    else if (z->out_place < z->out_size) z->out[z->out_place++] = (uint8_t)symbol;
    else z->failed = 1;
    if (z->failed) return;
  }
}

static void copy_stored(inflater *z) {
  z->held = z->held_bits = 0; /* the rest of a byte */
  uint32_t length = take_bits(z, 16), check = take_bits(z, 16);
  if (z->failed || (length ^ check) != 0xffff || length > z->in_size - z->in_place ||
      length > z->out_size - z->out_place) {
    z->failed = 1;
    return;
  }
  od_copy(z->out + z->out_place, z->in + z->in_place, length);
  z->in_place += length;
  z->out_place += length;
}

static void inflate_all(inflater *z) {
  uint32_t is_last = 0;
  while (!is_last && !z->failed) {
    is_last = take_bits(z, 1);
    switch (take_bits(z, 2)) {
      case 0: copy_stored(z); break;
      case 1:
        build_fixed(z);
        read_block(z);
        break;
      case 2:
        read_codes(z);
        if (!z->failed) read_block(z);
        break;
      default: z->failed = 1;
    }
  }
  if (z->out_place != z->out_size || z->in_place != z->in_size) z->failed = 1;
}

int od_inflate_into(const uint8_t *stream, size_t size, uint8_t *out, size_t out_size,
                    void *scratch) {
  inflater *z = (inflater *)(((uintptr_t)scratch + 15) & ~(uintptr_t)15);
  _Static_assert(sizeof(inflater) + 15 <= OD_INFLATE_BYTES, "the scratch holds an inflater");
  od_zero(z, sizeof *z);
  z->in = stream;
  z->in_size = size;
  z->out = out;
  z->out_size = out_size;
  inflate_all(z);
  return z->failed;
}

od_status od_inflate(const uint8_t *stored, size_t size, const char *what, uint32_t most,
                     od_arena *arena, const char **text, size_t *text_size, od_error *error) {
  size_t stream = size < 4 ? 0 : size - 4, all = size < 4 ? 0 : od_load32(stored);
  if (!stream || all > most || all / MOST_EXPANSION > stream)
    return od_fail(error, OD_E_FORMAT, "%s: %u bytes are too many, or cannot come from a stream of %u", what,
                   (uint64_t)all, (uint64_t)stream);
  void *z = od_take(arena, 1, OD_INFLATE_BYTES);
  uint8_t *out = od_take(arena, all + 1, 1);
  if (!z || !out) return od_fail(error, OD_E_MEMORY, "%s: out of memory", what);
  if (od_inflate_into(stored + 4, stream, out, all, z))
    return od_fail(error, OD_E_FORMAT, "%s: its DEFLATE stream is damaged or not %u bytes long",
                   what, (uint64_t)all);
  *text = (const char *)out;
  *text_size = all;
  return OD_OK;
}
