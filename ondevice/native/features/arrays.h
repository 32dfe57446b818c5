/* arrays.h: arrays of a feature, which follow a description's JSON (ondevice/attached_arrays.py). */
#ifndef ONDEVICE_ARRAYS_H
#define ONDEVICE_ARRAYS_H

#include "core/json.h"

/* The bytes behind the JSON. */
typedef struct {
  const uint8_t *data;
  size_t size;
} od_attached;

/* The numbers that `item` refers to, as doubles in the arena. OD_E_FORMAT: there are none such. */
od_status od_attached_doubles(const od_json *item, od_attached attached, od_arena *arena,
                              double **numbers, size_t *count, od_error *error);

/* The ascending signed numbers of `bits` bits that `item` refers to, in the arena; equal ones may
 * follow each other. OD_E_FORMAT: there are none such. */
od_status od_attached_hashes(const od_json *item, uint32_t bits, od_attached attached,
                             od_arena *arena, int64_t **hashes, size_t *count, od_error *error);

#endif
