/* codecs.c: the table of codecs. */
#include "core/codecs.h"

const od_codec_row od_codecs[] = {
    [OD_CODEC_F32] = {"f32", 32, 0, 1, OD_F32}, [OD_CODEC_F16] = {"f16", 16, 0, 1, OD_F16},
    [OD_CODEC_Q8] = {"q8", 8, 1, 1, OD_I8},     [OD_CODEC_Q4] = {"q4", 4, 1, 0, OD_U8},
    [OD_CODEC_Q3] = {"q3", 3, 1, 0, OD_U8},     [OD_CODEC_Q2] = {"q2", 2, 1, 0, OD_U8},
    [OD_CODEC_Q1] = {"q1", 1, 1, 0, OD_U8},
};

int od_codec_find(const char *name, od_codec *codec) {
  for (unsigned i = 0; i < sizeof od_codecs / sizeof *od_codecs; i++)
    if (od_equal(od_codecs[i].name, name)) {
      *codec = (od_codec)i;
      return 1;
    }
  return 0;
}
