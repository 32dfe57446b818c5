/* kernels.h: the inner loops, one table of functions per instruction set. */
#ifndef ONDEVICE_KERNELS_H
#define ONDEVICE_KERNELS_H

#include "core/base.h"
#include "kernels/vectors.h"

typedef enum {
  OD_CODEC_F32,
  OD_CODEC_F16,
  OD_CODEC_Q8,
  OD_CODEC_Q4,
  OD_CODEC_Q3,
  OD_CODEC_Q2,
  OD_CODEC_Q1,
  OD_CODEC_PAIRS /* of bfloat16: made when a model is opened, in no file (core/bfloat.c) */
} od_codec;
/* Levels: codes are numbers of the column's levels, which stand in place of the scales. */
typedef enum { OD_SCALE_NONE, OD_SCALE_ROW, OD_SCALE_COLUMN, OD_SCALE_LEVELS } od_scale;
typedef enum { OD_FUSE_SUM, OD_FUSE_MEAN, OD_FUSE_CONCAT, OD_FUSE_MUL } od_fuse;
typedef enum { OD_POOL_NONE, OD_POOL_SUM, OD_POOL_MEAN } od_pooling;

/* A table of records (docs/format.md). One in sections has no records of its own: its rows, dim and
 * payload are those of all sections. */
typedef struct od_table {
  const char *name;
  od_codec codec;
  od_scale scale;
  uint32_t bits; /* of a value */
  uint32_t rows, dim, width_base, width_step;
  uint32_t width_bits, group_shift; /* of a width code; a group has 2^group_shift codes in 64 bits */
  uint32_t scale_bytes;
  uint32_t base_bits, step_bits; /* of a record: with width code 0, and for each step of it */
  uint32_t whole_bytes; /* every record begins and ends at a byte */
  const uint8_t *records;
  uint64_t payload; /* bytes of records, without the 64 zero bytes after them */
  uint64_t stored;  /* bytes of all its arrays: the records, the index and the scales */
  const uint8_t *index; /* NULL: all rows have the same width */
  const float *scales; /* [dim], or levels: [dim][2^bits] */
  const struct od_table *sections; /* NULL: one codec for all rows */
  uint32_t section_count;
} od_table;

typedef struct {
  uint64_t mask; /* the bits of the code that make up the block */
  uint32_t shift, low_mask; /* contiguous blocks: (code >> shift) & low_mask */
  uint32_t contiguous, offset;
} od_block;

/* The row offset + (number mod modulus) div divisor of a code (docs/format.md). */
typedef struct {
  uint64_t multiplier;
  uint32_t modulus, divisor, offset;
} od_residue;

/* A retrieval structure (docs/format.md): the factors of its hashes in their order. */
typedef struct {
  uint64_t multipliers[OD_MAX_HASHES + 1 + OD_MAX_FINGERPRINTS];
  uint32_t cells, hashes, window, starts, fingerprints;
} od_retrieval;

/* Two bits of od_lookup.special. Rare lookups leave the short way through the kernel: hashes,
 * heads, products, pooling and retrieval. */
enum { OD_SPECIAL_PADDING = 1, OD_SPECIAL_RARE = 2, OD_FUSE_LEVELS = 128, OD_FUSE_RARE = 255 };

/* Without blocks, residues and retrieval it is a full table: the ID is the row. */
typedef struct {
  const od_table *table;
  od_block *blocks;
  od_residue *residues;
  od_retrieval *retrieval;
  uint32_t block_count; /* of blocks, residues or hashes; 1 for a full table */
  od_fuse fuse;
  uint32_t dim, row_dim;
  uint64_t multiplier;
  uint8_t special, has_padding, has_oov;
  uint8_t high; /* residues of the 31 highest bits, else of the whole code, signed */
  int64_t padding;
  uint32_t head; /* IDs 0..head-1 own rows */
  uint32_t oov;
  float mean; /* 1 / block_count */
  uint32_t ids_per_row;
  uint32_t fuse_as; /* the table's codec, with levels OD_FUSE_LEVELS more, or OD_FUSE_RARE */
  od_pooling pooling;
  uint32_t pooled; /* how many IDs in succession make one vector; 1 without pooling */
  uint32_t vectors_per_row;
  uint8_t computed; /* its IDs are no input of the model: it runs in its turn, not first */
  uint8_t direct; /* a row is a record of known place and width that begins at a byte */
} od_lookup;

/* Rows (at most OD_MAX_BLOCKS) of an ID of the head or under a hash, and their number; 0: neither (rows.c). */
uint32_t od_rare_rows(const od_lookup *lookup, int64_t id, uint32_t *rows);

/* The row of an ID in a retrieval structure, as a record that begins at a byte (retrieval.c). */
enum { OD_RECORD_ROOM = OD_MAX_DIM + OD_MAX_FINGERPRINTS + OD_TAIL_BYTES };
void od_retrieve(const od_lookup *lookup, int64_t id, uint8_t record[OD_RECORD_ROOM]);

/* One lookup of a request: where its IDs are and its vectors go. Steps are elements a row. */
typedef struct {
  const od_lookup *lookup;
  const int64_t *ids;
  size_t ids_step;
  float *out;
  size_t out_step;
} od_gather;

enum { OD_FAULT_NONE, OD_FAULT_ID, OD_FAULT_INDEX };
typedef struct {
  uint32_t kind;
  const od_lookup *lookup;
  int64_t id;
} od_fault;

/* A dense layer: out[u] = activation(bias[u] + sum over i of weight[i][u] * in[i]).
 * Weights are packed for 16 outputs at a time (docs/format.md). */
typedef struct {
  od_codec codec; /* f32, f16, q8 or pairs */
  uint32_t features, units;
  uint32_t padded_units; /* a multiple of 16 */
  uint32_t relu;
  const void *weight;
  const float *scale; /* q8: per output */
  const float *bias;
} od_dense;

/* Columns [start, stop) of a dense layer's input. */
typedef struct {
  uint32_t start, stop;
} od_range;

/* Scratch memory of dense layers, for the session's rows. */
typedef struct {
  int8_t *codes; /* q8: [rows, padded features] and OD_TAIL_BYTES more; pairs: [rows, features] of 2 bytes */
  float *scales; /* [rows] */
  int32_t *sums; /* [rows]: sum of codes */
  uint8_t *positive; /* [tiles]: no code is negative */
  uint16_t *lists; /* [tiles, padded features]: which parts of a row are not all zero */
  uint32_t *counts; /* [tiles] */
  uint32_t quantised; /* q8: the layer before had the same rows, and blocks on the same side of OD_NARROW */
} od_dense_scratch;

/* out [rows, columns] = a [rows, depth] times b [depth, 16], or added to what is there. Up to 16
 * columns are written. Steps are elements a row. */
enum { OD_PANEL = 16 };
typedef struct {
  const float *a, *b;
  float *out;
  size_t a_step, b_step, out_step;
  uint32_t rows, depth, columns;
  uint32_t added;
} od_product;

typedef struct {
  const char *name;
  int (*supported)(void);
  /* All lookups of a request over `rows` rows. */
  void (*gather)(const od_gather *gathers, size_t count, size_t rows, od_fault *fault);
  /* A dense layer over rows of which only the columns in `ranges` count. `initial` replaces the
   * bias: [padded units]. out rows have `units` values. */
  void (*dense)(const od_dense *layer, const float *in, size_t in_step, size_t rows,
                const od_range *ranges, size_t range_count, const float *initial, uint32_t relu,
                float *out, size_t out_step, const od_dense_scratch *scratch);
  void (*product)(const od_product *product);
  const od_vectors *vectors; /* loops of other operators */
  uint32_t pairs; /* whether `dense` takes layers of bfloat16 */
} od_kernels;

/* Codes are quantised to 127 steps; below this largest magnitude a row counts as zero, because
 * 127 / magnitude would overflow. */
#define OD_LEAST_MAGNITUDE 1e-30f

/* Rows of a batch that a dense kernel takes at once (lists are made per tile). */
#ifdef __wasm__ /* strips_body.h */
enum { OD_TILE_ROWS = 1 };
#else
enum { OD_TILE_ROWS = 6 };
#endif

/* Where many rows meet at most so many blocks of outputs, looking for zeros costs more than it saves,
 * unless many are zero: the first tile of rows tells. */
enum { OD_NARROW = 8 };
enum { OD_PIECE = 256 }; /* features that are listed at once, or multiplied into one float32 sum */

/* Numbers from `start` to stop - 1 (shared.c). */
void od_list_numbers(uint32_t start, uint32_t stop, uint16_t *list);

/* Weights of a layer with one output as float32, from feature `start` on, and OD_PANEL zeros
 * (shared.c). At most OD_PIECE. */
void od_single_weights(const od_dense *layer, uint32_t start, uint32_t count, float *weights);

#define OD_LIST_ROOM(padded) ((size_t)(padded) + 32) /* vectors write beyond a list's end */

extern const od_kernels od_kernels_portable;
extern const od_kernels od_kernels_avx2;
extern const od_kernels od_kernels_avx512bf16;
extern const od_kernels od_kernels_avx512vnni;
extern const od_kernels od_kernels_neon;
extern const od_kernels od_kernels_neon_dotprod;
extern const od_kernels od_kernels_neon_i8mm;
extern const od_kernels od_kernels_wasm_simd;

/* What the processor and its operating system support (cpu.c); 0 on other architectures. */
int od_cpu_any(void);
int od_cpu_none(void);
int od_cpu_avx2(void);
int od_cpu_avx512vnni(void);
int od_cpu_avx512bf16(void);
int od_cpu_neon(void);
int od_cpu_dotprod(void);
int od_cpu_i8mm(void);

/* Whether the first "Features" line in a text of /proc/cpuinfo has a word. */
int od_cpu_lists(const char *text, size_t size, const char *word);

/* The named kernels, or the best for NULL; NULL when this processor lacks them. */
const od_kernels *od_kernels_choose(const char *name);

#endif
