/* json.h: a strict JSON reader for headers and plans. */
#ifndef ONDEVICE_JSON_H
#define ONDEVICE_JSON_H

#include "core/base.h"

typedef enum { OD_J_NULL, OD_J_BOOL, OD_J_INT, OD_J_REAL, OD_J_TEXT, OD_J_LIST, OD_J_OBJECT } od_kind;

typedef struct od_json od_json;
struct od_json {
  od_kind kind;
  const char *key; /* inside an object: the member's name, zero-terminated */
  od_json *next;   /* the next member or element */
  uint64_t magnitude; /* OD_J_INT: absolute value; OD_J_BOOL: 0 or 1 */
  int negative;
  double real;      /* OD_J_INT and OD_J_REAL */
  const char *text; /* OD_J_TEXT: zero-terminated, holds no other zero byte */
  size_t size;      /* OD_J_TEXT: bytes; OD_J_LIST, OD_J_OBJECT: elements */
  od_json *first;
};

/* Parse `text` into the arena. `what` names it in errors. Objects of up to
 * OD_MAX_CHECKED_MEMBERS members must not name one twice; larger ones are left to the caller. */
OD_COLD od_status od_json_parse(const char *text, size_t size, const char *what, od_arena *arena,
                        od_json **root, od_error *error);

OD_COLD const od_json *od_json_member(const od_json *object, const char *key); /* NULL: absent */

/* An integer within [low, high]; 0 when it is not one. */
OD_COLD int od_json_int(const od_json *value, int64_t low, int64_t high, int64_t *out);

#endif
