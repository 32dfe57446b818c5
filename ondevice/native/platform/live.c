/* live.c: a model that serves while its file is replaced: versions that are counted by their users. */
#define _POSIX_C_SOURCE 200809L
#if defined(__APPLE__)
#define _DARWIN_C_SOURCE /* times of files to the nanosecond */
#endif

#include "ondevice_live.h"

#include "core/model.h"
#include "platform/clock.h"
#include "platform/live_files.h"
#include "platform/threading.h"

#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define OPEN_FILE od_open_copied
#else
#define OPEN_FILE od_open_path
#include <sys/stat.h>
#endif
#if defined(__APPLE__)
#define CHANGED st_mtimespec
#else
#define CHANGED st_mtim
#endif

enum { DEFAULT_CHECK_MS = 1000 };

typedef struct version version;
typedef struct lease {
  od_lease given; /* first: its address is the lease's */
  version *of;
  struct lease *next;
} lease;

/* A model that serves or did. `users`: requests, and one more while it is the current one. */
struct version {
  od_model *model;
  void *memory;
  size_t users;
  lease *idle; /* sessions that no request uses */
};

struct od_live {
  char *path;
  od_live_options options;
  od_mutex lock; /* of all that follows but `seen`, which belongs to whoever looks */
  od_condition looked;
  int looking;
  version *current;
  uint64_t next_check;
  od_error fault; /* of the file that is there now */
  od_file_stamp seen;
};

#if !defined(_WIN32)
static od_file_stamp od_stamp_of(const char *path) {
  struct stat of;
  if (stat(path, &of)) return (od_file_stamp){0, 0, 0, 0, 0};
  return (od_file_stamp){(uint64_t)of.st_dev, (uint64_t)of.st_ino, (uint64_t)of.st_size,
                         (uint64_t)of.CHANGED.tv_sec, (uint64_t)of.CHANGED.tv_nsec};
}
#endif

static int same_stamp(const od_file_stamp *a, const od_file_stamp *b) {
  return a->device == b->device && a->file == b->file && a->size == b->size &&
         a->seconds == b->seconds && a->nanoseconds == b->nanoseconds;
}

static void close_model(const od_live *live, od_model *model, void *memory) {
  if (live->options.close)
    live->options.close(live->options.user, model, memory);
  else
    od_close(model);
}

static od_status open_version(const od_live *live, version **out, od_error *error) {
  const od_live_options *options = &live->options;
  version *v = calloc(1, sizeof *v);
  *out = NULL;
  if (!v) return od_fail(error, OD_E_MEMORY, "out of memory for the model");
  od_status status = options->open
                         ? options->open(options->user, live->path, options->options, &v->model,
                                         &v->memory, error)
                         : OPEN_FILE(live->path, options->options, &v->model, error);
  if (status != OD_OK) {
    free(v);
    return status;
  }
  v->users = 1;
  *out = v;
  return OD_OK;
}

/* Release a version that nobody can reach any more. */
static void discard(const od_live *live, version *v) {
  while (v->idle) {
    lease *l = v->idle;
    v->idle = l->next;
    od_session_close(l->given.session);
    free(l);
  }
  close_model(live, v->model, v->memory);
  free(v);
}

/* End a use of a version. Memory is released outside the lock, so that others need not wait. */
static void leave(od_live *live, version *v) {
  od_mutex_lock(&live->lock);
  int last = --v->users == 0;
  od_mutex_unlock(&live->lock);
  if (last) discard(live, v);
}

static int same_tensors(const od_model *old, const od_model *new, size_t count,
                        const od_tensor *(*get)(const od_model *, size_t)) {
  for (size_t i = 0; i < count; i++) {
    const od_tensor *a = get(old, i), *b = get(new, i);
    if (strcmp(a->name, b->name) || a->is_float != b->is_float || a->rank != b->rank ||
        memcmp(a->dims, b->dims, a->rank * sizeof *a->dims))
      return 0;
  }
  return 1;
}

/* Whether requests fit both models, and the memory for their results too. */
static int same_requests(const od_model *old, const od_model *new) {
  size_t inputs = od_input_count(old), outputs = od_output_count(old);
  return od_input_count(new) == inputs && od_output_count(new) == outputs &&
         same_tensors(old, new, inputs, od_input) && same_tensors(old, new, outputs, od_output);
}

/* Put a new version in the place of the current one, if the file is another. The caller is the one
 * that is `looking`: nobody else changes `current` or `seen`. */
static void look(od_live *live, int *changed) {
  od_file_stamp now = od_stamp_of(live->path);
  version *fresh;
  od_error error = {OD_OK, ""};
  *changed = 0;
  if (same_stamp(&now, &live->seen)) return;
  live->seen = now; /* before it is opened: a file that comes meanwhile is opened too */
  od_status status = open_version(live, &fresh, &error);
  version *old = live->current;
  if (status == OD_OK && !same_requests(old->model, fresh->model)) {
    discard(live, fresh);
    status = od_fail(&error, OD_E_FORMAT,
                     "the new file takes other inputs or gives other outputs than the one in use");
  }
  od_mutex_lock(&live->lock);
  live->fault = error;
  live->fault.status = status;
  if (status == OD_OK) live->current = fresh;
  od_mutex_unlock(&live->lock);
  if (status != OD_OK) return;
  *changed = 1;
  leave(live, old);
}

/* The lock is held. */
static void end_look(od_live *live) {
  int after = live->options.check_ms;
  live->next_check = od_clock_ns() + (uint64_t)(after > 0 ? after : 0) * 1000000u;
  live->looking = 0;
  od_condition_wake_all(&live->looked);
}

od_status od_live_open(const char *path, const od_live_options *options, od_live **out,
                       od_error *error) {
  size_t size = strlen(path) + 1;
  od_live *live = calloc(1, sizeof *live);
  char *copy = malloc(size);
  *out = NULL;
  if (!live || !copy) {
    free(live);
    free(copy);
    return od_fail(error, OD_E_MEMORY, "out of memory for the model");
  }
  memcpy(copy, path, size);
  live->path = copy;
  live->options = options ? *options : (od_live_options){.check_ms = DEFAULT_CHECK_MS};
  live->seen = od_stamp_of(path);
  od_status status = open_version(live, &live->current, error);
  if (status != OD_OK) {
    free(copy);
    free(live);
    return status;
  }
  od_mutex_open(&live->lock);
  od_condition_open(&live->looked);
  end_look(live);
  *out = live;
  return OD_OK;
}

/* A session of a version that the caller uses. */
static od_status new_lease(version *v, lease **out, od_error *error) {
  lease *l = calloc(1, sizeof *l);
  *out = NULL;
  if (!l) return od_fail(error, OD_E_MEMORY, "out of memory for a request");
  od_status status = od_session_open(v->model, &l->given.session, error);
  if (status != OD_OK) {
    free(l);
    return status;
  }
  l->given.model = v->model;
  l->of = v;
  *out = l;
  return OD_OK;
}

od_status od_live_acquire(od_live *live, const od_lease **out, od_error *error) {
  int changed;
  *out = NULL;
  od_mutex_lock(&live->lock);
  if (live->options.check_ms >= 0 && !live->looking && od_clock_ns() >= live->next_check) {
    live->looking = 1;
    od_mutex_unlock(&live->lock);
    look(live, &changed);
    od_mutex_lock(&live->lock);
    end_look(live);
  }
  version *v = live->current;
  lease *l = v->idle;
  v->users++;
  if (l) v->idle = l->next;
  od_mutex_unlock(&live->lock);
  if (!l) {
    od_status status = new_lease(v, &l, error);
    if (status != OD_OK) {
      leave(live, v);
      return status;
    }
  }
  *out = &l->given;
  return OD_OK;
}

void od_live_release(od_live *live, const od_lease *given) {
  lease *l = (lease *)(uintptr_t)given; /* const for the caller only */
  version *v = l->of;
  od_mutex_lock(&live->lock);
  l->next = v->idle;
  v->idle = l;
  int last = --v->users == 0;
  od_mutex_unlock(&live->lock);
  if (last) discard(live, v);
}

od_status od_live_refresh(od_live *live, int *changed, od_error *error) {
  int another;
  od_mutex_lock(&live->lock);
  while (live->looking) od_condition_wait(&live->looked, &live->lock);
  live->looking = 1;
  od_mutex_unlock(&live->lock);
  look(live, &another);
  od_mutex_lock(&live->lock);
  end_look(live);
  od_mutex_unlock(&live->lock);
  if (changed) *changed = another;
  return od_live_error(live, error);
}

od_status od_live_error(od_live *live, od_error *error) {
  od_mutex_lock(&live->lock);
  od_status status = live->fault.status;
  if (status != OD_OK && error) *error = live->fault;
  od_mutex_unlock(&live->lock);
  return status;
}

void od_live_close(od_live *live) {
  if (!live) return;
  discard(live, live->current);
  od_mutex_close(&live->lock);
  od_condition_close(&live->looked);
  free(live->path);
  free(live);
}
