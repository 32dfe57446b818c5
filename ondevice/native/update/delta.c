/* delta.c: applies a delta file (.odd; ondevice/delta/layout.py), a block at a time. */
#include "core/base.h"
#include "core/inflate.h"
#include "ondevice_update.h"

enum {
  HEADER_BYTES = 92,
  BLOCK_HEADER_BYTES = 12,
  MOST_OVERHEAD = 1024, /* of DEFLATE where nothing shrinks */
  NUMBER_BYTES = 9,
  PIECE = 4096 /* bytes of the old file that are read at once */
};
enum { COPY, ADD, XOR, NEW, WORDS, HALVES, SPARSE };
enum { LONG_RUN = 255, ZEROS = LONG_RUN / 3 }; /* of the codes of SPARSE */
#define LARGEST (((uint64_t)1 << 58) - 1)

/* All memory that applying takes; the caller's. */
typedef struct {
  uint8_t packed[2 * OD_MAX_DELTA_BYTES + MOST_OVERHEAD];
  uint8_t raw[2 * OD_MAX_DELTA_BYTES];
  uint8_t old[PIECE + 8], new_bytes[PIECE];
  uint8_t scratch[OD_INFLATE_BYTES];
} delta_memory;

typedef struct {
  const od_delta_files *files;
  delta_memory *memory;
  uint64_t old_size, left; /* bytes of the old file; bytes that the new one lacks */
  uint64_t place;          /* the bit of the old file at which the last operation stopped */
  od_sha256 digest;
  od_error *error;
} delta_state;

typedef struct {
  uint32_t kind;
  uint64_t size;
  const uint8_t *data;  /* of kinds that have any: `size` bytes; of SPARSE its codes */
  const uint8_t *large; /* of SPARSE: the differences behind the codes */
  uint32_t zeros;       /* of SPARSE: bytes of difference 0 that the last code still stands for */
  int differs;          /* of SPARSE: whether a difference follows those */
} operation;

static od_status damaged(const delta_state *s, const char *what) {
  return od_fail(s->error, OD_E_FORMAT, "the delta is damaged: %s", what);
}

static od_status take(delta_state *s, void *to, size_t size) {
  if (s->files->read_delta(s->files->user, to, size) != 0)
    return damaged(s, "it ends before the new file is complete");
  return OD_OK;
}

static od_status read_old(delta_state *s, uint64_t at, void *to, size_t size) {
  if (s->files->read_old(s->files->user, at, to, size) != 0)
    return od_fail(s->error, OD_E_SYSTEM, "the old file cannot be read at byte %u", at);
  return OD_OK;
}

static od_status put(delta_state *s, const void *bytes, size_t size) {
  od_sha256_add(&s->digest, bytes, size);
  if (s->files->write_new(s->files->user, bytes, size) != 0)
    return od_fail(s->error, OD_E_SYSTEM, "the new file cannot be written");
  s->left -= size;
  return OD_OK;
}

od_status od_delta_read(const uint8_t *bytes, size_t size, od_delta_header *header,
                        od_error *error) {
  if (size < HEADER_BYTES || !od_same(bytes, "ondelta1", 8))
    return od_fail(error, OD_E_FORMAT, "not a delta file (.odd), or cut off");
  header->old_bytes = od_load64(bytes + 8);
  header->new_bytes = od_load64(bytes + 16);
  od_copy(header->old_sha256, bytes + 24, 32);
  od_copy(header->new_sha256, bytes + 56, 32);
  header->manifest_bytes = od_load32(bytes + 88);
  uint64_t most = LARGEST;
  if (header->old_bytes <= (LARGEST - OD_MAX_DELTA_ADDED) / OD_MAX_DELTA_GROWTH)
    most = header->old_bytes * OD_MAX_DELTA_GROWTH + OD_MAX_DELTA_ADDED;
  if (header->old_bytes > LARGEST || header->new_bytes > most ||
      header->manifest_bytes > OD_MAX_MANIFEST_BYTES)
    return od_fail(error, OD_E_FORMAT, "the delta makes %u bytes of %u, with a manifest of %u",
                   header->new_bytes, header->old_bytes, (uint64_t)header->manifest_bytes);
  return OD_OK;
}

static od_status check_base(delta_state *s, const od_delta_header *header) {
  od_sha256 digest;
  uint8_t actual[32];
  od_sha256_start(&digest);
  for (uint64_t at = 0; at < header->old_bytes;) {
    uint64_t rest = header->old_bytes - at;
    size_t size = rest < PIECE ? (size_t)rest : PIECE;
    OD_CHECK(read_old(s, at, s->memory->old, size));
    od_sha256_add(&digest, s->memory->old, size);
    at += size;
  }
  od_sha256_end(&digest, actual);
  if (!od_same(actual, header->old_sha256, 32))
    return od_fail(s->error, OD_E_INPUT, "the delta was computed from another file");
  return OD_OK;
}

static od_status take_number(const delta_state *s, const uint8_t **at, const uint8_t *end,
                             uint64_t *number) {
  *number = 0;
  for (int i = 0; i < NUMBER_BYTES && *at < end; i++) {
    uint8_t byte = *(*at)++;
    *number |= (uint64_t)(byte & 0x7f) << 7 * i;
    if (byte < 0x80) return OD_OK;
  }
  return damaged(s, "a number is cut off, or has more than 9 bytes");
}

/* Where the codes of SPARSE end, and how many bytes follow them, checked. */
static od_status take_sparse(const delta_state *s, const uint8_t **data, const uint8_t *data_end,
                             operation *op) {
  const uint8_t *at = *data;
  uint64_t size = 0, large = 0;
  if (op->size > OD_MAX_DELTA_BYTES) return damaged(s, "too many bytes of differences");
  while (size < op->size && at < data_end) {
    uint8_t code = *at++;
    size += code == LONG_RUN ? ZEROS : code / 3 + 1u;
    large += code != LONG_RUN && code % 3 == 2;
    if (size > op->size && code != LONG_RUN)
      return damaged(s, "a difference leaves its operation");
  }
  if (size < op->size || large > (uint64_t)(data_end - at))
    return damaged(s, "operations use more than their data");
  op->large = at;
  *data = at + large;
  return OD_OK;
}

/* The next operation of a block, checked against both files and its data. */
static od_status take_operation(delta_state *s, const uint8_t **at, const uint8_t *end,
                                const uint8_t **data, const uint8_t *data_end, operation *op) {
  uint64_t first, moved;
  OD_CHECK(take_number(s, at, end, &first));
  op->kind = first & 7;
  op->size = first >> 4;
  op->data = op->large = *data;
  op->zeros = 0;
  op->differs = 0;
  if (op->kind > SPARSE) return damaged(s, "an operation of an unknown kind");
  if (first & 8) {
    if (op->kind == NEW) return damaged(s, "an operation moves, but does not read the old file");
    OD_CHECK(take_number(s, at, end, &moved));
    /* modulo 2^64: a place before the first bit becomes one far behind the last */
    s->place += moved & 1 ? (uint64_t)0 - (moved >> 1) - 1 : moved >> 1;
  }
  if (op->size < 1 || op->size > s->left) return damaged(s, "an operation leaves the new file");
  if (op->kind == SPARSE) {
    OD_CHECK(take_sparse(s, data, data_end, op));
  } else if (op->kind != COPY) {
    if (op->size > (uint64_t)(data_end - *data))
      return damaged(s, "operations use more than their data");
    *data += op->size;
  }
  uint64_t bits = 8 * s->old_size;
  if (op->kind != NEW && (8 * op->size > bits || s->place > bits - 8 * op->size))
    return damaged(s, "an operation leaves the old file");
  if ((op->kind == WORDS && op->size % 4) || (op->kind == HALVES && op->size % 2))
    return damaged(s, "an operation on parts of numbers");
  return OD_OK;
}

/* `size` bytes of the old file from the current bit on, into memory->old. */
static od_status read_bits(delta_state *s, size_t size) {
  uint8_t *old = s->memory->old;
  uint32_t shift = s->place % 8;
  OD_CHECK(read_old(s, s->place / 8, old, size + (shift ? 1 : 0)));
  if (shift)
    for (size_t i = 0; i < size; i++) old[i] = (uint8_t)(old[i] >> shift | old[i + 1] << (8 - shift));
  s->place += 8 * (uint64_t)size;
  return OD_OK;
}

/* Little-endian numbers of `unit` bytes plus zigzag differences, whose bytes lie `apart`. */
static void add_numbers(uint8_t *to, const uint8_t *old, const uint8_t *data, size_t size,
                        uint32_t unit, size_t apart) {
  for (size_t i = 0; i < size; i += unit) {
    uint32_t value = 0, zigzag = 0;
    for (uint32_t j = 0; j < unit; j++) {
      value |= (uint32_t)old[i + j] << 8 * j;
      zigzag |= (uint32_t)data[i / unit + j * apart] << 8 * j;
    }
    value += (zigzag >> 1) ^ (0u - (zigzag & 1));
    for (uint32_t j = 0; j < unit; j++) to[i + j] = (uint8_t)(value >> 8 * j);
  }
}

/* The next differences of SPARSE are added. */
static void add_sparse(uint8_t *to, const uint8_t *old, size_t size, operation *op) {
  for (size_t i = 0; i < size; i++) {
    if (!op->zeros && !op->differs) {
      uint8_t code = *op->data;
      op->differs = code != LONG_RUN;
      op->zeros = code / 3;
      if (code == LONG_RUN) op->data++;
    }
    to[i] = old[i];
    if (op->zeros) {
      op->zeros--;
      continue;
    }
    uint8_t kind = *op->data++ % 3;
    to[i] = (uint8_t)(old[i] + (kind == 0 ? 1 : kind == 1 ? 255 : *op->large++));
    op->differs = 0;
  }
}

static od_status perform(delta_state *s, operation *op) {
  const uint8_t *old = s->memory->old;
  uint8_t *to = s->memory->new_bytes;
  uint32_t unit = op->kind == WORDS ? 4 : op->kind == HALVES ? 2 : 1;
  if (op->kind == NEW) return put(s, op->data, (size_t)op->size);
  for (uint64_t done = 0; done < op->size;) {
    size_t size = op->size - done < PIECE ? (size_t)(op->size - done) : PIECE;
    OD_CHECK(read_bits(s, size));
    const uint8_t *data = op->kind == COPY || op->kind == SPARSE ? op->data : op->data + done / unit;
    switch (op->kind) {
      case COPY: od_copy(to, old, size); break;
      case ADD:
        for (size_t i = 0; i < size; i++) to[i] = (uint8_t)(old[i] + data[i]);
        break;
      case XOR:
        for (size_t i = 0; i < size; i++) to[i] = old[i] ^ data[i];
        break;
      case SPARSE: add_sparse(to, old, size, op); break;
      default: add_numbers(to, old, data, size, unit, (size_t)op->size / unit);
    }
    OD_CHECK(put(s, to, size));
    done += size;
  }
  return OD_OK;
}

static od_status apply_block(delta_state *s) {
  delta_memory *m = s->memory;
  uint8_t header[BLOCK_HEADER_BYTES];
  OD_CHECK(take(s, header, sizeof header));
  uint32_t codes = od_load32(header), data = od_load32(header + 4), packed = od_load32(header + 8);
  if (codes < 1 || codes > OD_MAX_DELTA_BYTES || data > OD_MAX_DELTA_BYTES || packed < 1 ||
      packed > codes + data + MOST_OVERHEAD)
    return damaged(s, "a block is larger than a block may be");
  OD_CHECK(take(s, m->packed, packed));
  int failed = s->files->inflate
                   ? s->files->inflate(s->files->user, m->packed, packed, m->raw, codes + data)
                   : od_inflate_into(m->packed, packed, m->raw, codes + data, m->scratch);
  if (failed) return damaged(s, "a block is no DEFLATE stream of its size");
  const uint8_t *at = m->raw, *end = at + codes, *used = end, *data_end = end + data;
  while (at < end) {
    operation op;
    OD_CHECK(take_operation(s, &at, end, &used, data_end, &op));
    OD_CHECK(perform(s, &op));
  }
  return used == data_end ? OD_OK : damaged(s, "no operation uses the end of a block's data");
}

od_status od_delta_apply(const od_delta_header *header, const od_delta_files *files, void *memory,
                         size_t memory_size, od_error *error) {
  if (memory_size < sizeof(delta_memory))
    return od_fail(error, OD_E_MEMORY, "%u bytes of memory, where %u are needed",
                   (uint64_t)memory_size, (uint64_t)sizeof(delta_memory));
  delta_state s = {files, memory, header->old_bytes, header->new_bytes, 0, {{0}, 0, {0}}, error};
  uint8_t digest[32], more;
  OD_CHECK(check_base(&s, header));
  od_sha256_start(&s.digest);
  while (s.left) OD_CHECK(apply_block(&s));
  if (files->read_delta(files->user, &more, 1) == 0)
    return damaged(&s, "bytes follow the last block");
  od_sha256_end(&s.digest, digest);
  if (!od_same(digest, header->new_sha256, 32))
    return damaged(&s, "what it makes has another SHA-256 than it says");
  return OD_OK;
}

size_t od_delta_memory(void) { return sizeof(delta_memory); }
