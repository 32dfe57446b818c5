/* container.h: the checked safetensors container (docs/format.md), read in place. */
#ifndef ONDEVICE_CONTAINER_H
#define ONDEVICE_CONTAINER_H

#include "core/json.h"

typedef enum {
  OD_U8, OD_I8, OD_U16, OD_I16, OD_F16, OD_U32, OD_I32, OD_F32, OD_U64, OD_I64, OD_F64, OD_DTYPES
} od_dtype;

typedef struct {
  const char *name;
  od_dtype dtype;
  uint32_t rank;
  uint64_t dims[OD_MAX_RANK];
  uint64_t start, stop; /* bytes from the start of the file */
} od_entry;

typedef struct {
  const uint8_t *data;
  size_t size;
  od_entry **entries; /* by name, those within the array of small ones among them */
  size_t count;
  od_entry **stored; /* what the header lists, by place */
  size_t stored_count;
  const uint8_t *checksums; /* 32 bits each, the header's first; NULL: versions 1 and 2 */
  const od_json *metadata;
} od_container;

size_t od_dtype_size(od_dtype dtype);

/* Check the header completely; array contents are not read. */
OD_COLD od_status od_container_open(const void *data, size_t size, od_arena *arena,
                            od_container *container, od_error *error);

/* Compare every array with its checksum. */
OD_COLD od_status od_container_verify(const od_container *container, od_arena *arena, od_error *error);

/* The text that an array holds deflated, of `most` bytes at most, in the arena, zero-terminated. */
OD_COLD od_status od_container_text(const od_container *container, const char *name, uint32_t most,
                            od_arena *arena, const char **text, size_t *size, od_error *error);

/* The array called prefix + name + suffix, aligned for its type; NULL when the file has none. */
OD_COLD const od_entry *od_container_find(const od_container *container, const char *prefix,
                                  const char *name, const char *suffix);

#endif
