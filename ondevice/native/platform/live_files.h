/* live_files.h: what live.c asks of Windows; on POSIX it needs no more than od_open_path and stat. */
#ifndef OD_LIVE_FILES_H
#define OD_LIVE_FILES_H

#include "ondevice.h"

/* What changes when a file is replaced; all zeros while there is none. */
typedef struct {
  uint64_t device, file, size, seconds, nanoseconds;
} od_file_stamp;

#if defined(_WIN32)
od_file_stamp od_stamp_of(const char *path);

/* As od_open_path, but a large file is read too: Windows replaces none that is mapped. */
od_status od_open_copied(const char *path, const od_options *options, od_model **model,
                         od_error *error);
#endif

#endif
