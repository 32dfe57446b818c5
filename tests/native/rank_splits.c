/* rank_splits.c: ranks the rows of a request with every choice of inputs as the context.
 *
 *   rank_splits MODEL ROWS INPUTS OUTPUTS
 *
 * INPUTS holds the arrays of all inputs in order. For all kernels, whose names go to standard
 * output, and for every choice of context (bit i: input i) a new session ranks the rows; OUTPUTS
 * gets its outputs. Then the same session predicts the rows, twice, which must not differ.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ondevice.h"

enum { MOST = 64 };

static size_t bytes_of(const od_tensor *t, size_t rows) {
  return rows * t->row_size * (t->is_float ? sizeof(float) : sizeof(int64_t));
}

static int fail(const char *what) {
  fprintf(stderr, "%s\n", what);
  return 1;
}

/* Fills `outputs`, each a block of its own size. */
static int rank(const od_model *model, const void *const *inputs, uint32_t choice, size_t rows,
                float *const *outputs) {
  od_session *session;
  od_error error;
  uint8_t context[MOST];
  size_t count = od_output_count(model);
  float *twice[2][MOST];
  for (size_t i = 0; i < od_input_count(model); i++) context[i] = choice >> i & 1;
  if (od_session_open(model, &session, &error) != OD_OK) return fail(error.text);
  if (od_rank(session, inputs, context, rows, outputs, &error) != OD_OK) return fail(error.text);
  for (int run = 0; run < 2; run++) {
    for (size_t i = 0; i < count; i++)
      twice[run][i] = malloc(bytes_of(od_output(model, i), rows));
    if (od_run(session, inputs, rows, twice[run], &error) != OD_OK) return fail(error.text);
  }
  for (size_t i = 0; i < count; i++) {
    if (memcmp(twice[0][i], twice[1][i], bytes_of(od_output(model, i), rows)))
      return fail("two predictions differ");
    free(twice[0][i]);
    free(twice[1][i]);
  }
  od_session_close(session);
  return 0;
}

static int rank_all(const char *path, const char *kernels, size_t rows, FILE *in, FILE *out) {
  od_options options = {.kernels = kernels, .full_check = 1};
  od_model *model;
  od_error error;
  void *inputs[MOST];
  float *outputs[MOST];
  if (od_open_path(path, &options, &model, &error) != OD_OK) return fail(error.text);
  size_t input_count = od_input_count(model), output_count = od_output_count(model);
  if (input_count > MOST || output_count > MOST) return fail("too many inputs or outputs");
  rewind(in);
  for (size_t i = 0; i < input_count; i++) {
    size_t size = bytes_of(od_input(model, i), rows);
    inputs[i] = malloc(size);
    if (fread(inputs[i], 1, size, in) != size) return fail("inputs end too early");
  }
  for (size_t i = 0; i < output_count; i++)
    outputs[i] = malloc(bytes_of(od_output(model, i), rows));
  for (uint32_t choice = 0; choice < 1u << input_count; choice++) {
    if (rank(model, (const void *const *)inputs, choice, rows, outputs)) return 1;
    for (size_t i = 0; i < output_count; i++)
      fwrite(outputs[i], 1, bytes_of(od_output(model, i), rows), out);
  }
  for (size_t i = 0; i < input_count; i++) free(inputs[i]);
  for (size_t i = 0; i < output_count; i++) free(outputs[i]);
  od_close(model);
  return 0;
}

int main(int count, char **arguments) {
  FILE *in = count == 5 ? fopen(arguments[3], "rb") : NULL;
  FILE *out = in ? fopen(arguments[4], "wb") : NULL;
  if (!out) return fail("rank_splits MODEL ROWS INPUTS OUTPUTS");
  size_t rows = (size_t)atoi(arguments[2]);
  for (size_t i = 0; od_kernels_available(i); i++) {
    puts(od_kernels_available(i));
    if (rank_all(arguments[1], od_kernels_available(i), rows, in, out)) return 1;
  }
  fclose(in);
  return fclose(out) ? 1 : 0;
}
