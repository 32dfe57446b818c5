/* system.h: the few Linux system calls that the library needs; it is linked without a C library,
 * so that one file loads on Android, in a JVM on a PC, and under emulation. */
#ifndef ONDEVICE_SYSTEM_H
#define ONDEVICE_SYSTEM_H

#include "ondevice.h"

#define OD_COPIED_BYTES (8 * 1048576) /* up to this size a part is read; a larger one is mapped */

#define OD_NO_MEMORY 12 /* Linux's ENOMEM */

/* A part of a file in memory. */
typedef struct {
  void *pages;      /* whole pages; NULL: there is nothing */
  size_t page_size; /* bytes of them */
  const void *data; /* where the part begins */
  size_t size;
  int file, guard;  /* of a mapped part: the open file, and its guard (guard.h); else -1 */
  int64_t file_size; /* when it was mapped */
  long changed[2];   /* when the file had been changed last: seconds, nanoseconds */
} od_mapping;

/* A system call of Linux by its number: its result, or minus an error number. */
long od_system_call(long number, long a, long b, long c, long d, long e, long f);

/* Read or map a file by its path, which ends with a zero byte. Returns 0 or a Linux error number. */
int od_map_path(const char *path, od_mapping *mapping);

/* Read or map `size` bytes (or all that follow, for -1) from `offset` on; the descriptor may be closed
 * afterwards. Returns 0 or a Linux error number; EINVAL for a part that is not in the file. */
int od_map_descriptor(int file, int64_t offset, int64_t size, od_mapping *mapping);

/* Whether a mapped file (`mapping` is an od_mapping) was truncated or overwritten since. */
int od_mapping_changed(void *mapping);

void od_unmap(od_mapping *mapping);

/* Memory in whole pages, straight from the system. */
extern const od_allocator od_page_allocator;

/* Processor time of this process in nanoseconds; -1: unknown. */
int64_t od_process_time(void);

/* Drop a file's pages from memory. Returns how many stayed, or minus a Linux error number. */
int64_t od_drop_pages(const char *path);

/* What a Linux error number means, in a few words. */
const char *od_error_text(int number);

#endif
