/* shim.c: preloaded, records all that a process does to files under a folder, and makes calls fail.
 *
 * ONDEVICE_CRASH_ROOT is the folder, ONDEVICE_CRASH_LOG the file that gets a line for each operation:
 *   C path inode        a file was created        W inode offset hexadecimal   bytes were written
 *   M path inode        a folder was created      T inode size                 a file was cut or grown
 *   R path path inode   a rename                  S inode                      fsync of file or folder
 *   U path inode        unlink or rmdir           K text                       a mark
 *   L path inode        a second name of a file
 * Paths are relative to the folder. A write is recorded with what it really wrote.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

enum { SHORT_WRITE = -1 };

static const char *root;
static size_t root_length;
static int log_file = -1;
static long calls, failing_call;
static int failure; /* an errno, or SHORT_WRITE */
static pthread_mutex_t lock;

__attribute__((constructor)) static void start(void) {
  const char *path = getenv("ONDEVICE_CRASH_LOG");
  pthread_mutexattr_t recursive;
  pthread_mutexattr_init(&recursive);
  pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
  pthread_mutex_init(&lock, &recursive);
  root = getenv("ONDEVICE_CRASH_ROOT");
  root_length = root ? strlen(root) : 0;
  if (path) log_file = REAL(open)(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
}

/* From now on, let the call number `at` under the folder fail; 0: none. */
void crash_fail(long at, int how) {
  calls = 0;
  failing_call = at;
  failure = how;
}

/* Calls since crash_fail. */
long crash_calls(void) { return calls; }

static void record(const char *format, ...) {
  char line[8192];
  va_list arguments;
  if (log_file < 0) return;
  va_start(arguments, format);
  int size = vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  if (size > 0 && REAL(write)(log_file, line, (size_t)size) != size) abort();
}

void crash_mark(const char *text) { record("K\t%s\n", text); }

/* The path within the folder of `path` at `directory`; NULL for others. */
static const char *inside(int directory, const char *path, char whole[8192]) {
  if (!root || !path) return NULL;
  if (path[0] == '/') {
    snprintf(whole, 8192, "%s", path);
  } else {
    char link[64];
    ssize_t size;
    if (directory == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    size = readlink(link, whole, 4096);
    if (size < 0) return NULL;
    snprintf(whole + size, (size_t)(8192 - size), "/%s", path);
  }
  if (strncmp(whole, root, root_length) || whole[root_length] != '/') return NULL;
  return whole + root_length + 1;
}

/* The inode of an open file or folder of the folder; 0 for others. */
static unsigned long inode_of(int file) {
  char link[64], path[4096];
  struct stat status;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t size = root ? readlink(link, path, sizeof path - 1) : -1;
  if (size < 0) return 0;
  path[size] = 0;
  if (strncmp(path, root, root_length) || (path[root_length] && path[root_length] != '/')) return 0;
  if (fstat(file, &status) || !(S_ISREG(status.st_mode) || S_ISDIR(status.st_mode))) return 0;
  return status.st_ino;
}

static unsigned long inode_at(int directory, const char *path) {
  struct stat status;
  return fstatat(directory, path, &status, AT_SYMLINK_NOFOLLOW) ? 0 : status.st_ino;
}

/* Whether this call is the one to fail. */
static int fails(void) {
  if (!failing_call && failure == 0) {
    calls++;
    return 0;
  }
  if (++calls != failing_call || failure == SHORT_WRITE) return 0;
  errno = failure;
  return 1;
}

static void record_bytes(unsigned long inode, off_t at, const unsigned char *bytes, size_t size) {
  if (log_file < 0) return;
  char *line = malloc(size * 2 + 64);
  int head = sprintf(line, "W\t%lu\t%lld\t", inode, (long long)at);
  for (size_t i = 0; i < size; i++) sprintf(line + head + 2 * i, "%02x", bytes[i]);
  line[(size_t)head + 2 * size] = '\n';
  if (REAL(write)(log_file, line, (size_t)head + 2 * size + 1) < 0) abort();
  free(line);
}

static int opened(int directory, const char *path, int flags, mode_t mode) {
  char whole[8192];
  const char *name = inside(directory, path, whole);
  int changes = flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR);
  if (!name || (flags & O_TMPFILE) == O_TMPFILE) return REAL(openat)(directory, path, flags, mode);
  pthread_mutex_lock(&lock);
  unsigned long before = inode_at(directory, path);
  int file = changes && fails() ? -1 : REAL(openat)(directory, path, flags, mode);
  if (file >= 0 && !before && flags & O_CREAT) record("C\t%s\t%lu\n", name, inode_of(file));
  if (file >= 0 && before && flags & O_TRUNC) record("T\t%lu\t0\n", before);
  pthread_mutex_unlock(&lock);
  return file;
}

#define MODE(flags)                     \
  mode_t mode = 0;                      \
  if ((flags) & (O_CREAT | O_TMPFILE)) { \
    va_list more;                       \
    va_start(more, flags);              \
    mode = va_arg(more, mode_t);        \
    va_end(more);                       \
  }

int open(const char *path, int flags, ...) {
  MODE(flags)
  return opened(AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) {
  MODE(flags)
  return opened(AT_FDCWD, path, flags, mode);
}
int openat(int directory, const char *path, int flags, ...) {
  MODE(flags)
  return opened(directory, path, flags, mode);
}
int openat64(int directory, const char *path, int flags, ...) {
  MODE(flags)
  return opened(directory, path, flags, mode);
}

static ssize_t written(int file, const void *data, size_t size, off_t at, int moves) {
  unsigned long inode = inode_of(file);
  if (!inode) return moves ? REAL(write)(file, data, size) : REAL(pwrite)(file, data, size, at);
  pthread_mutex_lock(&lock);
  ssize_t done = -1;
  if (!fails()) {
    if (failure == SHORT_WRITE && calls == failing_call && size > 1) size /= 2;
    int append = moves && fcntl(file, F_GETFL) & O_APPEND;
    if (moves) at = lseek(file, 0, append ? SEEK_END : SEEK_CUR);
    done = moves ? REAL(write)(file, data, size) : REAL(pwrite)(file, data, size, at);
    if (done > 0) record_bytes(inode, at, data, (size_t)done);
  }
  pthread_mutex_unlock(&lock);
  return done;
}

ssize_t write(int file, const void *data, size_t size) { return written(file, data, size, 0, 1); }
ssize_t pwrite(int file, const void *data, size_t size, off_t at) {
  return written(file, data, size, at, 0);
}
ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
  return written(file, data, size, at, 0);
}
ssize_t writev(int file, const struct iovec *parts, int count) {
  if (!inode_of(file)) return REAL(writev)(file, parts, count);
  for (int i = 0; i < count; i++) /* a short write is allowed */
    if (parts[i].iov_len) return written(file, parts[i].iov_base, parts[i].iov_len, 0, 1);
  return 0;
}

/* Bytes that the system copied by itself. */
static ssize_t copied(int file, off_t at, ssize_t size) {
  unsigned long inode = inode_of(file);
  if (size <= 0 || !inode) return size;
  unsigned char *bytes = malloc((size_t)size);
  int readable = REAL(open)(({
    static char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    link;
  }), O_RDONLY);
  if (pread(readable, bytes, (size_t)size, at) != size) abort();
  record_bytes(inode, at, bytes, (size_t)size);
  close(readable);
  free(bytes);
  return size;
}

ssize_t sendfile(int to, int from, off_t *offset, size_t size) {
  off_t at = inode_of(to) ? lseek(to, 0, SEEK_CUR) : 0;
  if (inode_of(to) && fails()) return -1;
  return copied(to, at, REAL(sendfile)(to, from, offset, size));
}
ssize_t sendfile64(int to, int from, off64_t *offset, size_t size) {
  return sendfile(to, from, offset, size);
}
ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t size,
                        unsigned flags) {
  off_t at = to_at ? *to_at : inode_of(to) ? lseek(to, 0, SEEK_CUR) : 0;
  if (inode_of(to) && fails()) return -1;
  return copied(to, at, REAL(copy_file_range)(from, from_at, to, to_at, size, flags));
}

static int cut(int file, off_t size) {
  unsigned long inode = inode_of(file);
  if (inode && fails()) return -1;
  pthread_mutex_lock(&lock);
  int result = REAL(ftruncate)(file, size);
  if (!result && inode) record("T\t%lu\t%lld\n", inode, (long long)size);
  pthread_mutex_unlock(&lock);
  return result;
}
int ftruncate(int file, off_t size) { return cut(file, size); }
int ftruncate64(int file, off64_t size) { return cut(file, size); }

static int synced(int file, int (*real)(int)) {
  unsigned long inode = inode_of(file);
  if (inode && fails()) return -1;
  pthread_mutex_lock(&lock);
  int result = real(file);
  if (!result && inode) record("S\t%lu\n", inode);
  pthread_mutex_unlock(&lock);
  return result;
}
int fsync(int file) { return synced(file, REAL(fsync)); }
int fdatasync(int file) { return synced(file, REAL(fdatasync)); }

static int renamed(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
  char old[8192], new[8192];
  const char *first = inside(from_at, from, old), *second = inside(to_at, to, new);
  if (flags || (!first && !second)) return REAL(renameat2)(from_at, from, to_at, to, flags);
  if (fails()) return -1;
  pthread_mutex_lock(&lock);
  unsigned long inode = inode_at(from_at, from);
  int result = REAL(renameat)(from_at, from, to_at, to);
  if (!result) record("R\t%s\t%s\t%lu\n", first ? first : "", second ? second : "", inode);
  pthread_mutex_unlock(&lock);
  return result;
}
int rename(const char *from, const char *to) { return renamed(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int from_at, const char *from, int to_at, const char *to) {
  return renamed(from_at, from, to_at, to, 0);
}
int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
  return renamed(from_at, from, to_at, to, flags);
}

static int removed(int directory, const char *path, int flags) {
  char whole[8192];
  const char *name = inside(directory, path, whole);
  if (!name) return REAL(unlinkat)(directory, path, flags);
  if (fails()) return -1;
  pthread_mutex_lock(&lock);
  unsigned long inode = inode_at(directory, path);
  int result = REAL(unlinkat)(directory, path, flags);
  if (!result) record("U\t%s\t%lu\n", name, inode);
  pthread_mutex_unlock(&lock);
  return result;
}
int unlink(const char *path) { return removed(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return removed(AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char *path) {
  struct stat status;
  int folder = !lstat(path, &status) && S_ISDIR(status.st_mode);
  return removed(AT_FDCWD, path, folder ? AT_REMOVEDIR : 0);
}
int unlinkat(int directory, const char *path, int flags) { return removed(directory, path, flags); }

static int made(int directory, const char *path, mode_t mode) {
  char whole[8192];
  const char *name = inside(directory, path, whole);
  if (!name) return REAL(mkdirat)(directory, path, mode);
  if (fails()) return -1;
  pthread_mutex_lock(&lock);
  int result = REAL(mkdirat)(directory, path, mode);
  if (!result) record("M\t%s\t%lu\n", name, inode_at(directory, path));
  pthread_mutex_unlock(&lock);
  return result;
}
int mkdir(const char *path, mode_t mode) { return made(AT_FDCWD, path, mode); }
int mkdirat(int directory, const char *path, mode_t mode) { return made(directory, path, mode); }

static int linked(int from_at, const char *from, int to_at, const char *to, int flags) {
  char whole[8192];
  const char *name = inside(to_at, to, whole);
  if (!name) return REAL(linkat)(from_at, from, to_at, to, flags);
  if (fails()) return -1;
  pthread_mutex_lock(&lock);
  int result = REAL(linkat)(from_at, from, to_at, to, flags);
  if (!result) record("L\t%s\t%lu\n", name, inode_at(to_at, to));
  pthread_mutex_unlock(&lock);
  return result;
}
int link(const char *from, const char *to) { return linked(AT_FDCWD, from, AT_FDCWD, to, 0); }
int linkat(int from_at, const char *from, int to_at, const char *to, int flags) {
  return linked(from_at, from, to_at, to, flags);
}

/* Not known to the replay, and used by nothing here: nobody shall rely on it unseen. */
int symlink(const char *from, const char *to) {
  char whole[8192];
  if (inside(AT_FDCWD, to, whole)) {
    fprintf(stderr, "shim.c: a link in %s is not recorded\n", to);
    abort();
  }
  return REAL(symlink)(from, to);
}
