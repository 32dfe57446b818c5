/* pools.c: scores requests of many sizes by pools of threads and by one session, which must agree.
 *
 *   pools MODEL ROWS INPUTS
 *
 * INPUTS holds the arrays of all inputs, ROWS rows. Every number of rows 1, 1 + STEP, ... is
 * predicted, and ranked with input 0 as the context, by pools of 1 to MOST threads.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ondevice.h"

enum { MOST = 5, STEP = 61, TENSORS = 64 };

static size_t bytes_of(const od_tensor *t, size_t rows) {
  return rows * t->row_size * (t->is_float ? sizeof(float) : sizeof(int64_t));
}

static int fail(const char *what) {
  fprintf(stderr, "%s\n", what);
  return 1;
}

static int compare(const od_model *model, od_pool *pool, const void *const *inputs, size_t rows,
                   const uint8_t *context, float *const *right, float *const *got) {
  od_session *session;
  od_error error = {OD_OK, ""}, pool_error = {OD_OK, ""};
  if (od_session_open(model, &session, &error) != OD_OK) return fail(error.text);
  od_status status = context ? od_rank(session, inputs, context, rows, right, &error)
                             : od_run(session, inputs, rows, right, &error);
  od_session_close(session);
  if (od_pool_run(pool, inputs, context, rows, got, &pool_error) != status)
    return fail("a pool has another status");
  if (status != OD_OK) return strcmp(error.text, pool_error.text) ? fail(pool_error.text) : 0;
  for (size_t i = 0; i < od_output_count(model); i++)
    if (memcmp(right[i], got[i], bytes_of(od_output(model, i), rows)))
      return fail("a pool has another score");
  return 0;
}

int main(int count, char **arguments) {
  void *inputs[TENSORS];
  float *right[TENSORS], *got[TENSORS];
  uint8_t context[TENSORS] = {1};
  od_model *model;
  od_error error;
  if (count != 4) return fail("pools MODEL ROWS INPUTS");
  size_t rows = (size_t)strtoul(arguments[2], NULL, 10);
  FILE *in = fopen(arguments[3], "rb");
  if (!in || od_open_path(arguments[1], NULL, &model, &error) != OD_OK) return fail("no model");
  for (size_t i = 0; i < od_input_count(model); i++) {
    size_t size = bytes_of(od_input(model, i), rows);
    inputs[i] = malloc(size);
    if (fread(inputs[i], 1, size, in) != size) return fail("inputs end too early");
  }
  fclose(in);
  for (size_t i = 0; i < od_output_count(model); i++) {
    right[i] = malloc(bytes_of(od_output(model, i), rows));
    got[i] = malloc(bytes_of(od_output(model, i), rows));
  }
  od_pool *pool;
  if (od_pool_open(model, 0, &pool, &error) != OD_E_INPUT || pool) return fail("no threads taken");
  for (size_t threads = 1; threads <= MOST; threads++) {
    if (od_pool_open(model, threads, &pool, &error) != OD_OK) return fail(error.text);
    for (size_t some = 1; some <= rows; some += STEP)
      if (compare(model, pool, (const void *const *)inputs, some, NULL, right, got) ||
          (od_input_count(model) > 1 &&
           compare(model, pool, (const void *const *)inputs, some, context, right, got)))
        return 1;
    od_pool_close(pool);
  }
  for (size_t i = 0; i < od_input_count(model); i++) free(inputs[i]);
  for (size_t i = 0; i < od_output_count(model); i++) free(right[i]), free(got[i]);
  od_close(model);
  return 0;
}
