/* system.h: the few Linux system calls that the library needs; it is linked without a C library,
 * so that one file loads on Android, in a JVM on a PC, and under emulation. */
#ifndef ONDEVICE_SYSTEM_H
#define ONDEVICE_SYSTEM_H

#include "ondevice.h"

/* A mapped part of a file. */
typedef struct {
  void *pages;      /* whole pages; NULL: nothing is mapped */
  size_t page_size; /* bytes of them */
  const void *data; /* where the part begins */
  size_t size;
} od_mapping;

/* Map a file by its path, which ends with a zero byte. Returns 0 or a Linux error number. */
int od_map_path(const char *path, od_mapping *mapping);

/* Map `size` bytes (or all that follow, for -1) from `offset` on; the descriptor may be closed
 * afterwards. Returns 0 or a Linux error number; EINVAL for a part that is not in the file. */
int od_map_descriptor(int file, int64_t offset, int64_t size, od_mapping *mapping);

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
