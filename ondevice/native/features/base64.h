/* base64.h: arrays of a feature, which its JSON holds as base64. */
#ifndef ONDEVICE_BASE64_H
#define ONDEVICE_BASE64_H

#include "core/base.h"

/* The 8-byte elements of `text`, in the arena. OD_E_FORMAT: no such text, or no whole elements. */
od_status od_base64_words(const char *text, size_t size, od_arena *arena, void **words,
                          size_t *count, od_error *error);

#endif
