/* run_requests.c: runs a file of requests through the C engine, for tests under emulation.
 *
 *   run_requests MODEL KERNELS ROWS IDS RESULTS [REPEATS]
 *
 * IDS holds the int64 IDs of every input in turn, RESULTS gets the float32 outputs in turn. KERNELS
 * "auto" takes the processor's best; the name in use is printed. With REPEATS the request runs that
 * often between two marker system calls, which a counting plugin of qemu sees.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ondevice.h"

int main(int count, char **arguments) {
  od_model *model;
  od_session *session;
  od_error error;
  if (count < 6) return 2;
  od_options options = {.kernels = strcmp(arguments[2], "auto") ? arguments[2] : NULL,
                        .full_check = -1};
  if (od_open_path(arguments[1], &options, &model, &error) != OD_OK ||
      od_session_open(model, &session, &error) != OD_OK) {
    fprintf(stderr, "%s\n", error.text);
    return error.status == OD_E_UNSUPPORTED ? 3 : 1;
  }
  size_t rows = strtoul(arguments[3], NULL, 10);
  size_t inputs = od_input_count(model), outputs = od_output_count(model);
  const void **ids = calloc(inputs, sizeof *ids);
  float **results = calloc(outputs, sizeof *results);
  FILE *file = fopen(arguments[4], "rb");
  if (!ids || !results || !file) return 1;
  for (size_t i = 0; i < inputs; i++) {
    size_t size = rows * od_input(model, i)->row_size;
    int64_t *values = malloc(size * sizeof *values);
    if (!values || fread(values, sizeof *values, size, file) != size) return 1;
    ids[i] = values;
  }
  fclose(file);
  for (size_t i = 0; i < outputs; i++)
    results[i] = calloc(rows * od_output(model, i)->row_size, sizeof(float));
  if (od_run(session, ids, rows, results, &error) != OD_OK) {
    fprintf(stderr, "%s\n", error.text);
    return 1;
  }
  if (count > 6) {
    long repeats = strtol(arguments[6], NULL, 10);
    syscall(0x7001, 1);
    for (long i = 0; i < repeats; i++) od_run(session, ids, rows, results, &error);
    syscall(0x7001, 2);
  }
  file = fopen(arguments[5], "wb");
  if (!file) return 1;
  for (size_t i = 0; i < outputs; i++)
    fwrite(results[i], sizeof(float), rows * od_output(model, i)->row_size, file);
  fclose(file);
  puts(od_kernels_in_use(model));
  return 0;
}
