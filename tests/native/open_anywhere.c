/* open_anywhere.c: opens a model at several places in memory and compares its scores.
 *
 *   open_anywhere MODEL OFFSET...
 *
 * For each offset from a multiple of 64 prints the probability of a row of IDs 1, 2, 3, ..., or the
 * error.
 */
#include <stdio.h>
#include <stdlib.h>

#include "ondevice.h"

int main(int count, char **arguments) {
  FILE *file = fopen(arguments[1], "rb");
  static _Alignas(64) unsigned char memory[1 << 20];
  for (int i = 2; i < count; i++) {
    od_model *model;
    od_session *session;
    od_error error;
    unsigned char *start = memory + atoi(arguments[i]);
    rewind(file);
    size_t size = fread(start, 1, sizeof memory / 2, file);
    if (od_open_memory(start, size, NULL, &model, &error) != OD_OK) {
      puts(error.text);
      continue;
    }
    if (od_session_open(model, &session, &error) != OD_OK) return 1;
    int64_t ids[] = {1, 2, 3};
    const int64_t *inputs[] = {ids, ids + 1, ids + 2};
    float score;
    float *outputs[] = {&score};
    if (od_run(session, inputs, 1, outputs, &error) != OD_OK) return 1;
    printf("%.9g\n", score);
    od_session_close(session);
    od_close(model);
  }
  return 0;
}
