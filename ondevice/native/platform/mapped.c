/* mapped.c: maps files so that neither a truncation nor an overwriting of them goes unnoticed.
 *
 * Where a page of a mapped file is gone, reading it is a SIGBUS. The handler puts zeros there, marks
 * the mapping as damaged and goes on: the engine reads within its memory whatever a table holds, and
 * its request ends with an error. Other faults go to whoever handled them before. A file that was
 * overwritten is known by its length and time of change, which are compared after each request.
 */
#define _DEFAULT_SOURCE
#define _DARWIN_C_SOURCE
#define _POSIX_C_SOURCE 200809L

#include "platform/mapped.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* The number of statx on Linux. fstat would tie a shared library to glibc 2.33. */
#if defined(OD_USE_FSTAT)
#elif defined(__linux__) && defined(__LP64__) && defined(__x86_64__)
#define STATX 332
#elif defined(__linux__) && (defined(__aarch64__) || defined(__riscv))
#define STATX 291
#elif defined(__linux__) && defined(__arm__)
#define STATX 397
#endif

enum { MOST_MAPPED = 64 };
enum { CLOCK_STEP = 20000000 }; /* ns: what is written within a tick may leave the time as it was */

/* The handler reads these, so they are never freed. */
typedef struct {
  od_mapped mapped;
  atomic_int used;
  _Atomic uintptr_t start;
  _Atomic size_t size;
  atomic_int damaged;
} slot;

static slot slots[MOST_MAPPED];
static struct sigaction before;

static void on_fault(int number, siginfo_t *info, void *context) {
  int saved = errno;
  uintptr_t at = (uintptr_t)info->si_addr;
  for (int i = 0; info->si_code > 0 && i < MOST_MAPPED; i++) {
    uintptr_t start = atomic_load(&slots[i].start);
    size_t size = atomic_load(&slots[i].size);
    if (!start || at < start || at - start >= size) continue;
    uintptr_t page = at - at % (uintptr_t)sysconf(_SC_PAGESIZE);
    atomic_store(&slots[i].damaged, 1);
    if (mmap((void *)page, start + size - page, PROT_READ,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
      break;
    errno = saved;
    return;
  }
  errno = saved;
  if (before.sa_flags & SA_SIGINFO) {
    before.sa_sigaction(number, info, context);
  } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
    before.sa_handler(number);
  } else { /* the instruction faults again, and ends the process as it would have */
    signal(SIGBUS, SIG_DFL);
    if (info->si_code <= 0) raise(SIGBUS);
  }
}

/* Install the handler, once in the life of the process. */
static void install(void) {
  static atomic_int state; /* 1: another thread is at it */
  struct sigaction handler;
  int fresh = 0;
  if (!atomic_compare_exchange_strong(&state, &fresh, 1)) {
    while (atomic_load(&state) != 2) {
    }
    return;
  }
  memset(&handler, 0, sizeof handler);
  handler.sa_sigaction = on_fault;
  handler.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&handler.sa_mask);
  sigaction(SIGBUS, NULL, &before); /* before the handler can run */
  sigaction(SIGBUS, &handler, NULL);
  atomic_store(&state, 2);
}

/* Length and time of change of an open file; 0 where the system does not tell. */
#if defined(STATX)
enum { EMPTY_PATH = 0x1000, STATX_MTIME_SIZE = 0x240 };
enum { AT_LENGTH = 40, AT_SECONDS = 112, AT_NANOSECONDS = 120 }; /* in the kernel's struct statx */

static int stamp(int file, uint64_t values[3]) {
  _Alignas(8) unsigned char about[256];
  uint32_t nanoseconds;
  if (syscall(STATX, file, "", EMPTY_PATH, STATX_MTIME_SIZE, about)) return 0;
  memcpy(&values[0], about + AT_LENGTH, 8);
  memcpy(&values[1], about + AT_SECONDS, 8);
  memcpy(&nanoseconds, about + AT_NANOSECONDS, 4);
  values[2] = nanoseconds;
  return 1;
}
#else
static int stamp(int file, uint64_t values[3]) {
  struct stat about;
  if (fstat(file, &about)) return 0;
#if defined(__APPLE__)
  struct timespec changed = about.st_mtimespec;
#else
  struct timespec changed = about.st_mtim;
#endif
  values[0] = (uint64_t)about.st_size;
  values[1] = (uint64_t)changed.tv_sec;
  values[2] = (uint64_t)changed.tv_nsec;
  return 1;
}
#endif

static int changed_just_now(const uint64_t values[3]) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  int64_t age = (now.tv_sec - (int64_t)values[1]) * 1000000000 + now.tv_nsec - (int64_t)values[2];
  return age < CLOCK_STEP;
}

/* Length and time of change of a file that was not changed just now; waits a tick for that, which
 * takes less than to copy a large file. 0: it was changed again, or the system does not tell. */
static int settled_stamp(int file, uint64_t values[3]) {
  struct timespec tick = {0, CLOCK_STEP};
  if (!stamp(file, values)) return 0;
  if (!changed_just_now(values)) return 1;
  nanosleep(&tick, NULL);
  return stamp(file, values) && !changed_just_now(values);
}

static slot *take_slot(void) {
  for (int i = 0; i < MOST_MAPPED; i++)
    if (!atomic_exchange(&slots[i].used, 1)) return &slots[i];
  return NULL;
}

od_mapped *od_map_guarded(int file, size_t size) {
  uint64_t values[3];
  if (!settled_stamp(file, values) || values[0] != size) return NULL;
  slot *taken = take_slot();
  if (!taken) return NULL;
  void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0);
  if (data == MAP_FAILED) {
    atomic_store(&taken->used, 0);
    return NULL;
  }
  install();
  taken->mapped = (od_mapped){data, file, {values[0], values[1], values[2]}};
  atomic_store(&taken->damaged, 0);
  atomic_store(&taken->size, size);
  atomic_store(&taken->start, (uintptr_t)data);
  return &taken->mapped;
}

int od_mapped_changed(void *mapped) {
  slot *taken = mapped; /* its first member */
  uint64_t now[3];
  return atomic_load(&taken->damaged) || !stamp(taken->mapped.file, now) ||
         memcmp(now, taken->mapped.stamp, sizeof now);
}

void od_unmap_guarded(void *mapped, size_t size) {
  slot *taken = mapped;
  atomic_store(&taken->start, 0);
  munmap(taken->mapped.data, size);
  close(taken->mapped.file);
  atomic_store(&taken->used, 0);
}
