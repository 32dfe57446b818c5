/* posix.c: files by mmap, and the clock; not part of a freestanding build. */
#define _POSIX_C_SOURCE 200809L

#include "core/model.h"
#include "platform/allocator.h"
#include "platform/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static void unmap(void *data, size_t size) { munmap(data, size); }

static od_status refused(od_error *error, int number) {
  return od_fail(error, OD_E_SYSTEM, "cannot be read: %s", strerror(number));
}

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
  void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0);
  int number = errno;
  close(file);
  if (data == MAP_FAILED) return refused(error, number);
  od_status opened = od_open_memory(data, size, options, model, error);
  if (opened != OD_OK) {
    munmap(data, size);
    return opened;
  }
  (*model)->unmap = unmap;
  (*model)->mapped = data;
  (*model)->mapped_size = size;
  return OD_OK;
}

uint64_t od_clock_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
