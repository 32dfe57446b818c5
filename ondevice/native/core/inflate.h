/* inflate.h: texts that a file holds deflated (ondevice/deflated.py). */
#ifndef ONDEVICE_INFLATE_H
#define ONDEVICE_INFLATE_H

#include "core/base.h"

/* What a size (32 bits) and a DEFLATE stream stand for, in the arena; `what` names it in errors.
 * OD_E_FORMAT: damaged, or of another size than it says. */
OD_COLD od_status od_inflate(const uint8_t *stored, size_t size, const char *what, uint32_t most, od_arena *arena,
                     const char **text, size_t *text_size, od_error *error);

/* A DEFLATE stream of exactly `size` bytes as exactly `out_size` bytes: 0, or 1 where it is not.
 * `scratch`: OD_INFLATE_BYTES. */
enum { OD_INFLATE_BYTES = 2048 };
int od_inflate_into(const uint8_t *stream, size_t size, uint8_t *out, size_t out_size,
                    void *scratch);

#endif
