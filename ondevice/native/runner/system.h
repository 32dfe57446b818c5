/* system.h: what the runner asks of the operating system; posix.c and windows.c answer. */
#ifndef OD_RUNNER_SYSTEM_H
#define OD_RUNNER_SYSTEM_H

#include <stddef.h>
#include <stdint.h>

enum { OD_SYSTEM_CORES = 1024, OD_SYSTEM_MEMORIES = 5 };

/* Nanoseconds: of a clock that only goes forward, and of this process on a processor. */
uint64_t od_system_now(void);
uint64_t od_system_cpu(void);

/* Sleep until that moment of od_system_now. */
void od_system_sleep(uint64_t moment);

/* When this process began, by od_system_now; 0: not known. It may start the program once more. */
uint64_t od_system_begun(char **arguments);

/* The arguments of the program, in UTF-8. */
char **od_system_arguments(char **arguments);

/* The emulator that this runs in, or NULL. */
const char *od_system_emulator(void);

/* Numbers of the cores that this process may use; how many. 0: not known. */
int od_system_cores(int cores[OD_SYSTEM_CORES]);

/* Bytes of memory: resident, its share of shared pages, without a file, of files, the most that was
 * resident; -1: not known. */
void od_system_memory(int64_t bytes[OD_SYSTEM_MEMORIES]);

/* Page faults so far: minor and major ones. 0: not known. */
int od_system_faults(int64_t faults[2]);

/* A whole file in new memory. NULL, or why not. */
const char *od_system_read(const char *path, char **data, size_t *size);

/* Drop a file's pages from memory. NULL, or why the file cannot be opened; *note: NULL, or why some
 * may have stayed. */
const char *od_system_drop(const char *path, const char **note);

#endif
