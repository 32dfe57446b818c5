/* guard.h: mapped files that others may truncate or overwrite, without a C library. */
#ifndef ONDEVICE_GUARD_H
#define ONDEVICE_GUARD_H

#include <stddef.h>

/* From now on a missing page among these is read as zeros instead of ending the process. Returns the
 * guard's number, or -1 where there are too many. */
int od_guard(const void *pages, size_t size);

/* Whether pages were missing. */
int od_guard_damaged(int number);

void od_unguard(int number);

#endif
