/* files.c: locks, links and syncs of files by plain system calls of Linux, on three processors. */
#include "files.h"

#include "system.h"

enum { CWD = -100, READ = 0, READ_WRITE = 2, CREATE = 0100, CLOSE_ON_EXEC = 02000000, EINTR_ = 4 };
enum { NOT_BLOCKING = 04000, EXCLUSIVE = 2, NO_WAIT = 4, FOLDER = 0040000, TYPE = 0170000, MODE = 07777 };
enum { PRIVATE_MODE = 0600, ESTALE_ = 116, EBADF_ = 9, EINVAL_ = 22 };

/* Numbers of calls, and offsets in the kernel's struct stat. */
#if defined(__aarch64__)
enum { OPENAT = 56, CLOSE = 57, FSTAT = 80, FSYNC = 82, FLOCK = 32, LINKAT = 37, FCHMOD = 52 };
enum { FCHOWN = 55, GETUID = 174, NO_FOLLOW = 0100000, LARGE = 0 };
enum { STAT_NUMBER = 8, STAT_MODE = 16, STAT_OWNER = 24, STAT_SIZE = 48, STAT_TIME = 88 };
#elif defined(__arm__)
enum { OPENAT = 322, CLOSE = 6, FSTAT = 197, FSYNC = 118, FLOCK = 143, LINKAT = 330, FCHMOD = 94 };
enum { FCHOWN = 207, GETUID = 199, NO_FOLLOW = 0100000, LARGE = 0400000 };
enum { STAT_NUMBER = 96, STAT_MODE = 16, STAT_OWNER = 24, STAT_SIZE = 48, STAT_TIME = 80 };
#else
enum { OPENAT = 257, CLOSE = 3, FSTAT = 5, FSYNC = 74, FLOCK = 73, LINKAT = 265, FCHMOD = 91 };
enum { FCHOWN = 93, GETUID = 102, NO_FOLLOW = 0400000, LARGE = 0 };
enum { STAT_NUMBER = 8, STAT_MODE = 24, STAT_OWNER = 28, STAT_SIZE = 48, STAT_TIME = 88 };
#endif

typedef struct {
  uint64_t device, number;
  uint32_t mode, owner, group;
  int64_t size;
  long changed[2]; /* seconds, nanoseconds */
} status;

static int failed(long result) { return (unsigned long)result >= (unsigned long)-4095; }

static int open_file(const char *path, int flags, int mode) {
  return (int)od_system_call(OPENAT, CWD, (long)(uintptr_t)path,
                             flags | CLOSE_ON_EXEC | NOT_BLOCKING | LARGE, mode, 0, 0);
}

static void close_file(int file) { od_system_call(CLOSE, file, 0, 0, 0, 0, 0); }

static int status_of(int file, status *of) {
  _Alignas(8) unsigned char about[256];
  long result = od_system_call(FSTAT, file, (long)(uintptr_t)about, 0, 0, 0, 0);
  if (failed(result)) return (int)result;
  __builtin_memcpy(&of->device, about, sizeof of->device);
  __builtin_memcpy(&of->number, about + STAT_NUMBER, sizeof of->number);
  __builtin_memcpy(&of->mode, about + STAT_MODE, sizeof of->mode);
  __builtin_memcpy(&of->owner, about + STAT_OWNER, 4);
  __builtin_memcpy(&of->group, about + STAT_OWNER + 4, 4);
  __builtin_memcpy(&of->size, about + STAT_SIZE, sizeof of->size);
  __builtin_memcpy(of->changed, about + STAT_TIME, sizeof of->changed);
  return 0;
}

static int status_at(const char *path, int flags, status *of) {
  int file = open_file(path, READ | flags, 0);
  if (failed(file)) return file;
  int result = status_of(file, of);
  close_file(file);
  return result;
}

int od_lock(const char *path, int create, int wait) {
  int file = open_file(path, create ? READ_WRITE | CREATE : READ, PRIVATE_MODE);
  if (failed(file)) return file;
  long result;
  do
    result = od_system_call(FLOCK, file, EXCLUSIVE | (wait ? 0 : NO_WAIT), 0, 0, 0, 0);
  while (result == -EINTR_);
  if (!failed(result)) return file;
  close_file(file);
  return (int)result;
}

void od_unlock(int lock) { close_file(lock); }

int od_is_locked(int lock, const char *path) {
  status held, there;
  int result = status_of(lock, &held);
  if (!result) result = status_at(path, NO_FOLLOW, &there);
  if (result) return result;
  return held.device == there.device && held.number == there.number ? 0 : -ESTALE_;
}

int od_sync(const char *path) {
  int file = open_file(path, READ, 0);
  if (failed(file)) return file;
  long result = od_system_call(FSYNC, file, 0, 0, 0, 0, 0);
  status of;
  if ((result == -EINVAL_ || result == -EBADF_) && !status_of(file, &of) && (of.mode & TYPE) == FOLDER)
    result = 0; /* a file system that can sync no folder is taken as it is */
  close_file(file);
  return failed(result) ? (int)result : 0;
}

int od_link(const char *file, const char *second) {
  long result = od_system_call(LINKAT, CWD, (long)(uintptr_t)file, CWD, (long)(uintptr_t)second, 0, 0);
  return failed(result) ? (int)result : 0;
}

int od_stamp(const char *path, int64_t stamp[5]) {
  status now;
  int result = status_at(path, 0, &now);
  if (result) return result;
  stamp[0] = (int64_t)now.device;
  stamp[1] = (int64_t)now.number;
  stamp[2] = now.size;
  stamp[3] = now.changed[0];
  stamp[4] = now.changed[1];
  return 0;
}

int od_copy_permissions(const char *from, const char *to) {
  status wanted, now;
  int result = status_at(from, 0, &wanted);
  if (result) return result;
  int file = open_file(to, READ, 0);
  if (failed(file)) return file;
  /* only root may give a file to somebody else; a file system without permissions refuses them */
  od_system_call(FCHOWN, file, (long)wanted.owner, (long)wanted.group, 0, 0, 0);
  long changed = status_of(file, &now);
  if (!failed(changed) && (now.mode ^ wanted.mode) & MODE)
    changed = od_system_call(FCHMOD, file, wanted.mode & MODE, 0, 0, 0, 0);
  close_file(file);
  return failed(changed) ? (int)changed : 0;
}

int od_is_own_folder(const char *path, const char *parent) {
  status it, around;
  int result = status_at(path, NO_FOLLOW, &it);
  if (!result) result = status_at(parent, 0, &around);
  if (result) return result;
  long user = od_system_call(GETUID, 0, 0, 0, 0, 0, 0);
  return (it.mode & TYPE) == FOLDER && (it.owner == (uint32_t)user || it.owner == around.owner);
}
