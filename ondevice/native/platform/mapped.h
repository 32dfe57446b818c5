/* mapped.h: a mapped file that others may truncate or overwrite while it is read. */
#ifndef ONDEVICE_MAPPED_H
#define ONDEVICE_MAPPED_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
  void *data;
  int file;          /* open as long as the mapping */
  uint64_t stamp[3]; /* length and time of the last change, when it was mapped */
} od_mapped;

/* Map an open file, which the mapping owns then. NULL where the system cannot tell later whether the
 * file changed, where it keeps changing, or where too many are mapped: such a file is copied. */
od_mapped *od_map_guarded(int file, size_t size);

/* Whether the file's length or time of change differ from what they were, or pages of it are gone. */
int od_mapped_changed(void *mapped);

void od_unmap_guarded(void *mapped, size_t size);

#endif
