/* ondevice_live.h: a model that serves while its file is replaced; requests go on, new ones take the
 * new file. Compile platform/live.c beside the engine and its POSIX or Windows part, with -pthread. */
#ifndef ONDEVICE_LIVE_H
#define ONDEVICE_LIVE_H

#include "ondevice.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How the models of a file are opened. */
typedef struct {
  /* Of every model that serves; must stay as it is until od_live_close. NULL: as in od_open_path. */
  const od_options *options;
  /* A request looks for a new file if none did for so many milliseconds, and opens it; the others go
   * on. -1: only od_live_refresh looks. */
  int check_ms;
  /* NULL: od_open_path and od_close; on Windows, which replaces no file that is mapped, large files
   * are read too, into memory of their size. Otherwise these open and close models, for instance those of
   * signed sets (od_manifest_check): `memory` is what an opened model keeps beside itself. */
  od_status (*open)(void *user, const char *path, const od_options *options, od_model **model,
                    void **memory, od_error *error);
  void (*close)(void *user, od_model *model, void *memory);
  void *user;
} od_live_options;

typedef struct od_live od_live;

/* What one request computes with. Both stay valid until od_live_release, whatever happens to the
 * file. The session serves this request only. */
typedef struct {
  const od_model *model;
  od_session *session;
} od_lease;

/* Open a model file that may be replaced at any time by a rename. `options` may be NULL: every
 * second, od_open_path. In a child after fork() it must not be used: open another one there. */
OD_API od_status od_live_open(const char *path, const od_live_options *options, od_live **live,
                              od_error *error);

/* Begin and end a request, in any thread. A request computes with one model from begin to end; the
 * memory of an old model is released when its last request ends. Nothing is allocated unless more
 * requests run at once than ever before on this model. */
OD_API od_status od_live_acquire(od_live *live, const od_lease **lease, od_error *error);
OD_API void od_live_release(od_live *live, const od_lease *lease);

/* Open the file if it is another one than the last that was opened. `changed` (may be NULL): whether
 * another model serves now. A file that cannot be opened, or that takes other inputs or gives other
 * outputs than the model in use, is an error, which the next call gives too until the file changes;
 * the model in use goes on. */
OD_API od_status od_live_refresh(od_live *live, int *changed, od_error *error);

/* Why the file that is there now does not serve; OD_OK: it does. Does not look at the file. */
OD_API od_status od_live_error(od_live *live, od_error *error);

/* Release everything. All leases must be released before. NULL is allowed. */
OD_API void od_live_close(od_live *live);

#ifdef __cplusplus
}
#endif
#endif
