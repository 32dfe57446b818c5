/* every_byte.c: gives every byte of a model file every other value, and opens and runs each file.
 *
 *   every_byte MODEL
 *
 * Prints "refused SAME" counts: files that fail with a typed error, and files whose outputs have the
 * same bits. Exits 1 at the first file that runs with other outputs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ondevice.h"

enum { ROWS = 3, ROOM = 64 };

/* 1: ran, `results` holds the first output; 0: refused with a message; -1: neither. */
static int outcome(const uint8_t *data, size_t size, float *results) {
  static int64_t ids[ROOM];
  const void *inputs[ROOM];
  float *outputs[ROOM] = {results};
  od_model *model;
  od_session *session;
  od_error error = {OD_OK, ""};
  od_options options = {.kernels = "portable", .full_check = 1};
  if (od_open_memory(data, size, &options, &model, &error) != OD_OK) return error.text[0] ? 0 : -1;
  int ran = -1;
  if (od_input_count(model) <= ROOM && od_output_count(model) >= 1 &&
      od_output(model, 0)->row_size == 1 && od_session_open(model, &session, &error) == OD_OK) {
    int fits = 1;
    for (size_t i = 0; i < ROOM; i++) ids[i] = (int64_t)(i % 4 + 1);
    for (size_t i = 0; i < od_input_count(model); i++) {
      fits &= od_input(model, i)->row_size * ROWS <= ROOM;
      inputs[i] = ids;
    }
    if (fits) ran = od_run(session, inputs, ROWS, outputs, &error) == OD_OK ? 1 : 0;
    od_session_close(session);
  }
  od_close(model);
  return ran;
}

int main(int count, char **arguments) {
  FILE *file = count == 2 ? fopen(arguments[1], "rb") : NULL;
  if (!file || fseek(file, 0, SEEK_END)) return 2;
  size_t size = (size_t)ftell(file), refused = 0, same = 0;
  uint8_t *data = aligned_alloc(64, (size + 127) / 64 * 64);
  float expected[ROWS], results[ROWS];
  rewind(file);
  if (!data || fread(data, 1, size, file) != size || outcome(data, size, expected) != 1) return 2;
  fclose(file);
  for (size_t place = 0; place < size; place++) {
    uint8_t right = data[place];
    for (int value = 0; value < 256; value++) {
      if (value == right) continue;
      data[place] = (uint8_t)value;
      int said = outcome(data, size, results);
      if (said < 0 || (said && memcmp(results, expected, sizeof expected))) {
        fprintf(stderr, "byte %zu as %d instead of %d: %s\n", place, value, right,
                said < 0 ? "no message" : "other outputs");
        return 1;
      }
      refused += said == 0;
      same += said == 1;
    }
    data[place] = right;
  }
  printf("%zu %zu\n", refused, same);
  free(data);
  return 0;
}
