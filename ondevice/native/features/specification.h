/* specification.h: one feature as the file specifies it. */
#ifndef ONDEVICE_SPECIFICATION_H
#define ONDEVICE_SPECIFICATION_H

#include "features/cells.h"

typedef enum { OD_ENCODE_HASH, OD_ENCODE_VOCABULARY, OD_ENCODE_ID, OD_ENCODE_BUCKET } od_encoding;

/* Hashes of consecutive IDs, ascending. */
typedef struct {
  const int64_t *hashes;
  size_t count;
} od_hash_group;

struct od_feature {
  const char *name;
  od_raw_kind kind;
  od_encoding encoding;
  uint64_t seed;
  const od_hash_group *vocabulary; /* NULL: not in the file */
  uint32_t group_count;
  uint8_t hash_bits; /* of each hash, the highest ones */
  const double *boundaries; /* ascending and finite; NULL: not in the file */
  size_t boundary_count;
  uint32_t length; /* of a sequence; 0: a single value */
  uint8_t keeps_unknown; /* a value outside the vocabulary has its hash as ID */
  const od_cells *cells; /* NULL: texts are not specified */
};

struct od_features {
  od_allocator allocator;
  od_arena arena;
  od_feature *all;
  uint32_t count;
};

#endif
