/* files.h: what publishing a set of files takes beyond Java's own File: locks, links, syncs. */
#ifndef ONDEVICE_FILES_H
#define ONDEVICE_FILES_H

#include <stdint.h>

/* Each returns 0 (od_lock a descriptor), or minus a Linux error number. */

/* Lock a file or folder for this process (flock); created if `create`, which is for files. `wait`:
 * until others let it go; otherwise minus EAGAIN where another has it. The system gives the lock back
 * when the process ends. */
int od_lock(const char *path, int create, int wait);
void od_unlock(int lock);

/* Whether `path` is still the file that is locked. */
int od_is_locked(int lock, const char *path);

/* Wait until the disk has a file's bytes, or a folder's names. */
int od_sync(const char *path);

/* Give a file a second name. */
int od_link(const char *file, const char *second);

/* Device, number, length, and seconds and nanoseconds of the last change. */
int od_stamp(const char *path, int64_t stamp[5]);

/* Give a file the permissions of another, and its owner where this user may. */
int od_copy_permissions(const char *from, const char *to);

/* Whether a path is a folder, no link, of this user or of the owner of the folder it is in: 1 or 0. */
int od_is_own_folder(const char *path, const char *parent);

#endif
