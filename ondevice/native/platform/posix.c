/* posix.c: files, small ones read and large ones mapped (mapped.c), and the clock; not part of a
 * freestanding build. */
#define _DEFAULT_SOURCE
#define _DARWIN_C_SOURCE
#define _POSIX_C_SOURCE 200809L

#include "core/limits.h"
#include "core/model.h"
#include "platform/allocator.h"
#include "platform/clock.h"
#include "platform/mapped.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

OD_FOR_SIZE

static od_status refused(od_error *error, int number) {
  return od_fail(error, OD_E_SYSTEM, "cannot be read: %s", strerror(number));
}

static void discard(void *data, size_t size) {
  (void)size;
  free(data);
}

/* Read a whole file into memory that nobody else can change. */
static od_status copy(int file, size_t size, void **data, od_error *error) {
  size_t at = 0;
  if (posix_memalign(data, 64, size)) return od_fail(error, OD_E_MEMORY, "out of memory for the file");
  while (at < size) {
    ssize_t got = pread(file, (char *)*data + at, size - at, (off_t)at);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      int number = errno;
      free(*data);
      if (got < 0) return refused(error, number);
      return od_fail(error, OD_E_FORMAT, "the file was truncated while it was read");
    }
    at += (size_t)got;
  }
  return OD_OK;
}

/* Large models in whole huge pages: a lookup in a table then needs an address of a thousand, not of
 * hundreds of thousands. */
enum { HUGE_PAGE = 1 << 21 };

static size_t locked_bytes(size_t size) {
  return size < HUGE_PAGE ? size : (size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
}

/* New memory, of `bytes`; that of huge pages begins at a multiple of them. NULL: there is none. */
static char *new_pages(size_t bytes) {
  size_t spare = bytes < HUGE_PAGE ? 0 : HUGE_PAGE;
  char *memory = mmap(NULL, bytes + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return NULL;
  if (!spare) return memory;
  size_t before = HUGE_PAGE - (uintptr_t)memory % HUGE_PAGE; /* a page at least */
  munmap(memory, before);
  memory += before;
  if (spare > before) munmap(memory + bytes, spare - before);
#ifdef MADV_HUGEPAGE
  madvise(memory, bytes, MADV_HUGEPAGE); /* where it fails, pages are small */
#endif
  return memory;
}

od_status od_lock_copy(const void *data, size_t size, void **copy, od_error *error) {
  size_t bytes = locked_bytes(size);
  char *memory = new_pages(bytes);
  if (!memory) return od_fail(error, OD_E_MEMORY, "out of memory for the file");
  if (mlock(memory, bytes)) {
    int number = errno;
    struct rlimit limit = {0, 0};
    getrlimit(RLIMIT_MEMLOCK, &limit);
    munmap(memory, bytes);
    return od_fail(error, OD_E_LOCK, "%u bytes cannot be locked in memory: %s; the limit is %u (ulimit -l)",
                   (uint64_t)bytes, strerror(number), (uint64_t)limit.rlim_cur);
  }
  memcpy(memory, data, size);
  mprotect(memory, bytes, PROT_READ); /* as a mapped file is */
  *copy = memory;
  return OD_OK;
}

void od_lock_release(void *copy, size_t size) { munmap(copy, locked_bytes(size)); }

od_status od_open_path(const char *path, const od_options *options, od_model **model,
                       od_error *error) {
  *model = NULL;
  int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return refused(error, errno);
  /* Not fstat, which ties a shared library to glibc 2.33. Pipes (which O_NONBLOCK opens at once) and
   * devices have no end to seek; a directory can only be told by reading from it. */
  off_t end = lseek(file, 0, SEEK_END);
  char byte;
  if (end < 8 || pread(file, &byte, 1, 0) != 1) {
    close(file);
    return od_fail(error, OD_E_FORMAT, "not a regular file, or too short for a model file");
  }
  if ((uint64_t)end > SIZE_MAX / 2) {
    close(file);
    return refused(error, EFBIG);
  }
  size_t size = (size_t)end;
  od_mapped *mapped = size > OD_FULL_CHECK_BYTES ? od_map_guarded(file, size) : NULL;
  void *data = mapped ? mapped->data : NULL;
  od_status status = mapped ? OD_OK : copy(file, size, &data, error);
  if (!mapped) close(file);
  if (status == OD_OK) status = od_open_memory(data, size, options, model, error);
  if (status == OD_OK && mapped && od_mapped_changed(mapped)) {
    od_close(*model);
    *model = NULL;
    status = od_fail(error, OD_E_FORMAT, "the file was changed while it was opened");
  }
  if (status != OD_OK || (options && options->lock)) { /* a locked model has its own copy */
    if (mapped) od_unmap_guarded(mapped, size);
    else free(data);
    return status;
  }
  (*model)->unmap = mapped ? od_unmap_guarded : discard;
  (*model)->mapped = mapped ? (void *)mapped : data;
  (*model)->mapped_size = size;
  (*model)->changed = mapped ? od_mapped_changed : NULL;
  (*model)->source = mapped;
  return OD_OK;
}

uint64_t od_clock_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
