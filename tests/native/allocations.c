/* allocations.c: lets every allocation of a model's life fail in turn; nothing may be lost.
 *
 *   allocations MODEL
 *
 * Linked with --wrap for malloc, calloc and posix_memalign. Opens the file, its features, the model
 * again, a session and a pool of threads, scores a row, and closes all. A failed allocation must be
 * OD_E_MEMORY; what was allocated must be released. Prints how many allocations failed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ondevice.h"
#include "ondevice_features.h"

enum { TENSORS = 64, THREADS = 3 };

static long calls, failing;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
int __real_posix_memalign(void **memory, size_t alignment, size_t size);

static int fails(void) { return ++calls == failing; }

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t size);

void *__wrap_malloc(size_t size) { return fails() ? NULL : __real_malloc(size); }
void *__wrap_calloc(size_t count, size_t size) {
  return fails() ? NULL : __real_calloc(count, size);
}
int __wrap_posix_memalign(void **memory, size_t alignment, size_t size) {
  return fails() ? 12 : __real_posix_memalign(memory, alignment, size);
}

static od_status use(od_model *model, od_error *error) {
  static char values[1 << 16];
  static float scores[TENSORS][1 << 12];
  const void *inputs[TENSORS];
  float *outputs[TENSORS];
  od_model *again = NULL;
  od_session *session = NULL;
  od_pool *pool = NULL;
  od_features *features = NULL;
  size_t size;
  const char *info = od_info(model, &size);
  for (size_t i = 0; i < od_input_count(model); i++) inputs[i] = values;
  for (size_t i = 0; i < od_output_count(model); i++) outputs[i] = scores[i];
  od_status status = od_open_again(model, NULL, &again, error);
  if (status == OD_OK) status = od_session_open(again, &session, error);
  if (status == OD_OK) status = od_run(session, inputs, 1, outputs, error);
  if (status == OD_E_INPUT) status = OD_OK; /* zeros may be no legal request */
  if (status == OD_OK) status = od_check(model, error);
  if (status == OD_OK) status = od_pool_open(model, THREADS, &pool, error);
  if (status == OD_OK) status = od_features_open(info, size, NULL, &features, error);
  od_features_close(features);
  od_pool_close(pool);
  od_session_close(session);
  od_close(again);
  return status;
}

static od_status live(const char *path, od_error *error) {
  od_model *model = NULL;
  od_status status = od_open_path(path, NULL, &model, error);
  if (status != OD_OK) {
    if (model) fprintf(stderr, "a model in spite of an error\n");
    return status;
  }
  status = use(model, error);
  od_close(model);
  return status;
}

int main(int count, char **arguments) {
  od_error error;
  if (count != 2) return 2;
  if (live(arguments[1], &error) != OD_OK) {
    fprintf(stderr, "%s\n", error.text);
    return 1;
  }
  long total = calls;
  for (failing = 1; failing <= total; failing++) {
    calls = 0;
    memset(&error, 0, sizeof error);
    od_status status = live(arguments[1], &error);
    if (status != OD_E_MEMORY || error.status != status || !error.text[0]) {
      fprintf(stderr, "allocation %ld of %ld: status %d, %s\n", failing, total, (int)status,
              error.text);
      return 1;
    }
  }
  printf("%ld\n", total);
  return 0;
}
