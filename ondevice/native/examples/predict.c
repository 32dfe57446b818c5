/* predict.c: opens a model file, scores one row of IDs 1, 2, 3, ... and prints the result.
 *
 *   cc -std=c11 -O2 -ffp-contract=off -I. -Iinclude examples/predict.c platform/posix.c platform/mapped.c \
 *     $(grep -v '^#' sources.txt) -o predict
 *   ./predict model.odm
 *
 * in ondevice/native.
 */
#include <stdio.h>
#include <stdlib.h>

#include "ondevice.h"

static int fail(const od_error *error) {
  fprintf(stderr, "%s\n", error->text);
  return 1;
}

int main(int count, char **arguments) {
  od_model *model;
  od_session *session;
  od_error error;
  if (count != 2) {
    fprintf(stderr, "usage: predict MODEL.odm\n");
    return 2;
  }
  if (od_open_path(arguments[1], NULL, &model, &error) != OD_OK) return fail(&error);
  if (od_session_open(model, &session, &error) != OD_OK) return fail(&error);

  size_t inputs = od_input_count(model), outputs = od_output_count(model);
  const void **ids = calloc(inputs, sizeof *ids);
  float **results = calloc(outputs, sizeof *results);
  if (!ids || !results) return 1;
  for (size_t i = 0; i < inputs; i++) {
    const od_tensor *input = od_input(model, i);
    int64_t *row = calloc(input->row_size, sizeof *row); /* enough for float32, too: zeros */
    if (!row) return 1;
    for (uint32_t j = 0; j < input->row_size && !input->is_float; j++) row[j] = (int64_t)i + 1;
    ids[i] = row;
  }
  results[0] = calloc(od_output(model, 0)->row_size, sizeof(float));
  if (!results[0]) return 1;

  od_status status = od_run(session, ids, 1, results, &error);
  if (status == OD_OK)
    printf("%s (%s): %.6f\n", od_output(model, 0)->name, od_kernels_in_use(model), results[0][0]);

  for (size_t i = 0; i < inputs; i++) free((void *)(uintptr_t)ids[i]);
  free(results[0]);
  free(results);
  free(ids);
  od_session_close(session);
  od_close(model);
  return status == OD_OK ? 0 : fail(&error);
}
