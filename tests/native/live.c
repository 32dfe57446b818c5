/* live.c: requests of 8 threads while a model file is replaced; every score must be one version's.
 *
 *   live FOLDER SWITCHES
 *
 * FOLDER holds 0.odm and 1.odm, models of the same requests and other scores, `broken`, which is no
 * model, `other`, a model of other requests, and `in`, the arrays of all inputs, ROWS rows. Prints
 * switches, requests of each version, models open at once, and the growth of memory in kB.
 */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ondevice_live.h"

enum { THREADS = 8, ROWS = 4, TENSORS = 16, MOST = 1 << 12 };

static od_live *live;
static char values[TENSORS][MOST], path[1024], fresh[1024], versions[2][1024], broken[1024], other[1024];
static float expected[2][MOST];
static size_t score_bytes;
static atomic_int stop, faults, open_models, most_models;
static atomic_long served[2];

static void *fail(const char *what) {
  fprintf(stderr, "%s\n", what);
  atomic_store(&faults, 1);
  return NULL;
}

/* As an app opens models that it has checked in memory of its own. */
static od_status open_copy(void *user, const char *name, const od_options *options, od_model **model,
                           void **memory, od_error *error) {
  static const size_t MOST_BYTES = 1 << 20;
  (void)user;
  int file = open(name, O_RDONLY);
  *memory = malloc(MOST_BYTES);
  ssize_t size = file < 0 ? -1 : read(file, *memory, MOST_BYTES);
  if (file >= 0) close(file);
  od_status status = OD_E_SYSTEM;
  if (size < 0) *error = (od_error){OD_E_SYSTEM, "no such file"};
  else status = od_open_memory(*memory, (size_t)size, options, model, error);
  if (status != OD_OK) {
    free(*memory);
    return status;
  }
  int open = atomic_fetch_add(&open_models, 1) + 1, most = atomic_load(&most_models);
  while (open > most && !atomic_compare_exchange_weak(&most_models, &most, open)) {}
  return OD_OK;
}

static void close_copy(void *user, od_model *model, void *memory) {
  (void)user;
  od_close(model);
  memset(memory, 0xa5, 64); /* whoever still uses it notices */
  free(memory);
  atomic_fetch_sub(&open_models, 1);
}

static od_status score(float *scores, od_error *error) {
  const od_lease *lease;
  const void *inputs[TENSORS];
  float *outputs[TENSORS] = {scores};
  od_status status = od_live_acquire(live, &lease, error);
  if (status != OD_OK) return status;
  for (size_t i = 0; i < TENSORS; i++) inputs[i] = values[i];
  status = od_run(lease->session, inputs, ROWS, outputs, error);
  od_live_release(live, lease);
  return status;
}

static void *serve(void *unused) {
  float scores[MOST];
  od_error error;
  (void)unused;
  while (!atomic_load(&stop)) {
    if (score(scores, &error) != OD_OK) return fail(error.text);
    if (!memcmp(scores, expected[0], score_bytes)) atomic_fetch_add(&served[0], 1);
    else if (!memcmp(scores, expected[1], score_bytes)) atomic_fetch_add(&served[1], 1);
    else return fail("scores of no version");
  }
  return NULL;
}

static int replace(const char *by) {
  unlink(fresh); /* a rename over another name of the same file leaves both */
  return (link(by, fresh) || rename(fresh, path)) ? (fail("cannot replace"), 1) : 0;
}

static long resident_kb(void) {
  char text[128] = "";
  int file = open("/proc/self/statm", O_RDONLY);
  if (file < 0 || read(file, text, sizeof text - 1) < 1) return 0;
  close(file);
  return strtol(strchr(text, ' '), NULL, 10) * (sysconf(_SC_PAGESIZE) / 1024);
}

/* A file that cannot serve leaves the model in use; the error stays as long as the file. */
static int refuse(const char *by, od_status expected_status) {
  od_error error;
  float before[MOST], after[MOST];
  int changed = 1;
  if (score(before, &error) != OD_OK || replace(by)) return 1;
  for (int i = 0; i < 2; i++)
    if (od_live_refresh(live, &changed, &error) != expected_status || changed || !error.text[0])
      return fail("a file that cannot serve is no error"), 1;
  if (score(after, &error) != OD_OK || memcmp(before, after, score_bytes))
    return fail("the model in use did not stay"), 1;
  return 0;
}

static int prepare(const char *folder) {
  od_error error;
  char in[1024];
  snprintf(path, sizeof path, "%s/live.odm", folder);
  snprintf(fresh, sizeof fresh, "%s/fresh", folder);
  snprintf(broken, sizeof broken, "%s/broken", folder);
  snprintf(other, sizeof other, "%s/other", folder);
  snprintf(in, sizeof in, "%s/in", folder);
  FILE *data = fopen(in, "rb");
  if (!data) return 1;
  for (int i = 0; i < 2; i++) {
    od_model *model;
    od_session *session;
    const void *inputs[TENSORS];
    float *outputs[TENSORS] = {expected[i]};
    snprintf(versions[i], sizeof versions[i], "%s/%d.odm", folder, i);
    if (od_open_path(versions[i], NULL, &model, &error) != OD_OK) return 1;
    for (size_t k = 0; k < od_input_count(model); k++) {
      size_t size = ROWS * od_input(model, k)->row_size * 8u;
      if (i == 0 && fread(values[k], 1, size, data) != size) return 1;
      inputs[k] = values[k];
    }
    score_bytes = ROWS * od_output(model, 0)->row_size * sizeof(float);
    if (od_session_open(model, &session, &error) != OD_OK ||
        od_run(session, inputs, ROWS, outputs, &error) != OD_OK)
      return 1;
    od_session_close(session);
    od_close(model);
  }
  fclose(data);
  return !memcmp(expected[0], expected[1], score_bytes);
}

int main(int count, char **arguments) {
  pthread_t threads[THREADS];
  od_error error = {OD_OK, ""};
  const od_live_options options = {.check_ms = -1, .open = open_copy, .close = close_copy};
  const od_live_options eager = {.check_ms = 0};
  int changed;
  if (count != 3 || prepare(arguments[1])) return fail("live FOLDER SWITCHES"), 1;
  long switches = strtol(arguments[2], NULL, 10), middle = 0;
  if (od_live_open(path, &options, &live, &error) == OD_OK || live)
    return fail("a missing file was opened"), 1;
  if (replace(versions[0]) || od_live_open(path, &options, &live, &error) != OD_OK)
    return fail(error.text), 1;
  for (int i = 0; i < THREADS; i++)
    if (pthread_create(&threads[i], NULL, serve, NULL)) return 1;
  for (long i = 1; i <= switches && !atomic_load(&faults); i++) {
    if (replace(versions[i % 2])) break;
    if (od_live_refresh(live, &changed, &error) != OD_OK || !changed) fail("not taken");
    if (i == switches / 4) middle = resident_kb();
  }
  while (!atomic_load(&faults) && (!atomic_load(&served[0]) || !atomic_load(&served[1]))) {
    if (replace(versions[switches++ % 2])) break;
    od_live_refresh(live, &changed, &error); /* too few switches for all to be seen by requests */
  }
  long growth = resident_kb() - middle;
  if (!atomic_load(&faults) && (refuse(broken, OD_E_FORMAT) || refuse(other, OD_E_FORMAT))) return 1;
  atomic_store(&stop, 1);
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  /* a request that began before a switch keeps its model */
  const od_lease *held;
  if (od_live_acquire(live, &held, &error) != OD_OK || replace(versions[switches++ % 2]) ||
      od_live_refresh(live, &changed, &error) != OD_OK)
    return fail(error.text), 1;
  if (atomic_load(&open_models) != 1 + changed) return fail("an old model went too early, or stays"), 1;
  od_live_release(live, held);
  if (atomic_load(&open_models) != 1) return fail("an old model stays"), 1;
  od_live_close(live);
  if (atomic_load(&open_models)) return fail("a model stays"), 1;
  /* requests that look by themselves */
  float scores[MOST];
  if (replace(versions[0]) || od_live_open(path, &eager, &live, &error) != OD_OK || replace(versions[1]) ||
      score(scores, &error) != OD_OK || memcmp(scores, expected[1], score_bytes))
    return fail("a request did not look for the new file"), 1;
  if (replace(broken) || score(scores, &error) != OD_OK ||
      od_live_error(live, &error) != OD_E_FORMAT || memcmp(scores, expected[1], score_bytes))
    return fail("a request did not stay with the old model"), 1;
  od_live_close(live);
  printf("%ld %ld %ld %d %ld\n", switches, atomic_load(&served[0]), atomic_load(&served[1]),
         atomic_load(&most_models), growth);
  return atomic_load(&faults);
}
