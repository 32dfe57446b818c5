/* ondevice_features.h: raw values (texts, integers, numbers) to IDs, as the model file specifies.
 *
 * The specification travels in a model's description. It is executed here as in Python
 * (ondevice/features.py) and Java; tests/golden/cells.json holds cases that all of them pass.
 * Opened features are immutable: any number of threads may use them at once. Nothing is allocated
 * after od_features_open, and the locale has no influence.
 */
#ifndef ONDEVICE_FEATURES_H
#define ONDEVICE_FEATURES_H

#include "ondevice.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct od_features od_features;
typedef struct od_feature od_feature;

typedef enum {
  OD_RAW_MISSING = 0, /* no value */
  OD_RAW_TEXT = 1, /* UTF-8; read as a cell of the training log, whatever the feature's kind */
  OD_RAW_INTEGER = 2,
  OD_RAW_NUMBER = 3, /* NaN is missing */
  OD_RAW_BOOLEAN = 4 /* 0 or 1; for features that are booleans */
} od_raw_type;

typedef struct {
  od_raw_type type;
  size_t size; /* bytes of the text */
  union {
    const char *text; /* not zero-terminated */
    int64_t integer;
    double number;
    int boolean;
  };
} od_raw_value;

static inline od_raw_value od_raw_missing(void) {
  od_raw_value value;
  value.type = OD_RAW_MISSING;
  value.size = 0;
  value.integer = 0;
  return value;
}
static inline od_raw_value od_raw_text(const char *text, size_t size) {
  od_raw_value value = od_raw_missing();
  value.type = OD_RAW_TEXT;
  value.text = size ? text : "";
  value.size = size;
  return value;
}
static inline od_raw_value od_raw_integer(int64_t integer) {
  od_raw_value value = od_raw_missing();
  value.type = OD_RAW_INTEGER;
  value.integer = integer;
  return value;
}
static inline od_raw_value od_raw_number(double number) {
  od_raw_value value = od_raw_missing();
  value.type = OD_RAW_NUMBER;
  value.number = number;
  return value;
}
static inline od_raw_value od_raw_boolean(int boolean) {
  od_raw_value value = od_raw_missing();
  value.type = OD_RAW_BOOLEAN;
  value.boolean = boolean;
  return value;
}

/* Read the features of a model's description, which is all that od_info returns and is not needed
 * afterwards. `allocator` NULL: malloc and free (not available in a freestanding build).
 * OD_E_FORMAT: no valid specification. `error` may be NULL, as everywhere. */
OD_API od_status od_features_open(const char *description, size_t size,
                                  const od_allocator *allocator, od_features **features,
                                  od_error *error);
OD_API void od_features_close(od_features *features); /* NULL is allowed */

OD_API size_t od_feature_count(const od_features *features);
OD_API const od_feature *od_feature_at(const od_features *features, size_t index);
OD_API const od_feature *od_feature_find(const od_features *features, const char *name);

/* The name of the feature, which is that of the model's input, zero-terminated. */
OD_API const char *od_feature_name(const od_feature *feature);

/* How many IDs a value becomes: 1, or the length of a sequence. */
OD_API size_t od_feature_length(const od_feature *feature);

/* The IDs of one value, od_feature_length() of them. The text of a sequence is cut at the feature's
 * separator. OD_E_INPUT, and `ids` perhaps written in part: the value is not of the feature's kind
 * or not valid UTF-8, or the vocabulary or the boundaries are not in the file. */
OD_API od_status od_feature_encode(const od_feature *feature, od_raw_value value, int64_t *ids,
                                   od_error *error);

/* The IDs of a sequence, oldest value first: the last od_feature_length() values count, and 0 fills
 * up at the end. OD_E_INPUT as above. */
OD_API od_status od_feature_encode_list(const od_feature *feature, const od_raw_value *values,
                                        size_t count, int64_t *ids, od_error *error);

#ifdef __cplusplus
}
#endif
#endif
