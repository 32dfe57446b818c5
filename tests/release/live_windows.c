/* live_windows.c: requests of 4 threads on Windows while a model file is replaced.
 *
 *   live_windows MODEL FIRST SECOND SWITCHES
 *
 * FIRST and SECOND give other scores to the same request, the ID 1. MODEL is replaced by copies of
 * them in turn. Prints requests of each version.
 */
#define WIN32_LEAN_AND_MEAN
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>

#include "ondevice_live.h"

enum { THREADS = 4, WIDTH = 4 };

static od_live *live;
static volatile LONG stop, served[2], faults;
static float expected[2][WIDTH];

static int fail(const char *what) {
  fprintf(stderr, "%s (error %lu)\n", what, GetLastError());
  InterlockedExchange(&faults, 1);
  return 1;
}

static od_status score(float *scores, od_error *error) {
  static const int64_t id = 1;
  const void *inputs[] = {&id};
  float *outputs[] = {scores};
  const od_lease *lease;
  od_status status = od_live_acquire(live, &lease, error);
  if (status != OD_OK) return status;
  status = od_run(lease->session, inputs, 1, outputs, error);
  od_live_release(live, lease);
  return status;
}

static DWORD WINAPI serve(void *unused) {
  float scores[WIDTH];
  od_error error;
  (void)unused;
  while (!stop && !faults) {
    if (score(scores, &error) != OD_OK) return (DWORD)fail(error.text);
    int which = !!memcmp(scores, expected[0], sizeof scores);
    if (which && memcmp(scores, expected[1], sizeof scores))
      return (DWORD)fail("scores of no version");
    InterlockedIncrement(&served[which]);
  }
  return 0;
}

/* As an update does it: a file beside it, then a rename. */
static int replace(const char *model, const char *by) {
  char fresh[1024];
  snprintf(fresh, sizeof fresh, "%s.fresh", model);
  return (CopyFileA(by, fresh, FALSE) &&
          MoveFileExA(fresh, model, MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH))
             ? 0
             : fail("cannot replace the file");
}

int main(int count, char **arguments) {
  HANDLE threads[THREADS];
  float last[WIDTH];
  od_error error = {OD_OK, ""};
  const od_live_options options = {.check_ms = -1};
  int changed;
  if (count != 5) return 2;
  const char *model = arguments[1], *const *versions = (const char *const *)arguments + 2;
  for (int i = 0; i < 2; i++) {
    if (replace(model, versions[i])) return 1;
    od_status status = i ? od_live_refresh(live, &changed, &error)
                         : od_live_open(model, &options, &live, &error);
    if (status != OD_OK || score(expected[i], &error) != OD_OK) return fail(error.text);
  }
  if (!memcmp(expected[0], expected[1], sizeof expected[0])) return fail("the same scores");
  for (int i = 0; i < THREADS; i++) threads[i] = CreateThread(NULL, 0, serve, NULL, 0, NULL);
  for (int i = 0; i < atoi(arguments[4]) && !faults; i++) {
    if (replace(model, versions[i % 2])) break;
    if (od_live_refresh(live, &changed, &error) != OD_OK || !changed) fail("not taken");
  }
  LONG before = served[0] + served[1];
  for (int i = 0; i < 1000 && served[0] + served[1] == before; i++) Sleep(10);
  if (DeleteFileA(model) && od_live_refresh(live, &changed, &error) == OD_OK)
    fail("a missing file is no error");
  if (score(last, &error) != OD_OK) fail("the model in use did not stay");
  InterlockedExchange(&stop, 1);
  WaitForMultipleObjects(THREADS, threads, TRUE, INFINITE);
  od_live_close(live);
  printf("%ld %ld\n", served[0], served[1]);
  return (int)faults;
}
