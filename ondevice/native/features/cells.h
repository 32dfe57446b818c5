/* cells.h: how the texts and the typed values of one feature are read. */
#ifndef ONDEVICE_CELLS_H
#define ONDEVICE_CELLS_H

#include "features/times.h"
#include "ondevice_features.h"

typedef enum { OD_KIND_STRING, OD_KIND_INTEGER, OD_KIND_NUMBER } od_raw_kind;

typedef struct {
  const char *text;
  size_t size;
} od_bytes;

typedef struct {
  const od_bytes *missing; /* markers: texts that mean "no value" */
  size_t missing_count;
  od_bytes separator; /* of a sequence's values; not empty */
  od_form form;
  od_part part;
  int64_t utc_offset; /* minutes */
} od_cells;

int od_is_utf8(od_bytes text);
int od_is_marker(const od_cells *cells, od_bytes text);

/* Make of `value` what its kind needs: a text, an integer, a number that is not NaN, or missing.
 * `cells` NULL: texts are not specified, and strings as they are. NULL, or what was expected. */
const char *od_cell_read(const od_cells *cells, od_raw_kind kind, od_raw_value *value);

#endif
