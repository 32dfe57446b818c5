/* codecs.h: how numbers of tables and dense layers are stored: the one table of codecs. */
#ifndef ONDEVICE_CODECS_H
#define ONDEVICE_CODECS_H

#include "core/container.h"
#include "kernels/kernels.h"

typedef struct {
  char name[4];
  uint8_t bits;         /* of a value in a table */
  uint8_t scaled;       /* integer codes, which need a scale */
  uint8_t dense;        /* dense layers may have it, */
  od_dtype dense_dtype; /* and this is the type of their weights */
} od_codec_row;

extern const od_codec_row od_codecs[]; /* by od_codec */

/* The codec of a name; 0 when there is none. */
int od_codec_find(const char *name, od_codec *codec);

#endif
