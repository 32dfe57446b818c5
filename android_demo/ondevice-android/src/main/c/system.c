/* system.c: opens files and takes memory with plain system calls of Linux, on three processors. */
#include "system.h"

#include "guard.h"

enum { OK = 0, ENOENT_ = 2, EIO_ = 5, EACCES_ = 13, EINVAL_ = 22, EFBIG_ = 27 };
enum { AT_CWD = -100, PROT_READ = 1, PROT_WRITE = 2, MAP_SHARED = 1, MAP_PRIVATE = 2 };
enum { MAP_ANONYMOUS = 0x20, DONT_NEED = 4, PROCESS_CPUTIME = 2, REGULAR = 0100000 };
enum { DUPLICATE = 1030, EINTR_ = 4 };
enum { LARGEST_PAGE = 65536 }; /* Linux on ARM has pages of 4, 16 or 64 KiB */

/* Offsets in the kernel's struct stat, which is the same on all three for the size. */
#if defined(__aarch64__)
enum { OPENAT = 56, CLOSE = 57, FSTAT = 80, MMAP = 222, MUNMAP = 215, FSYNC = 82 };
enum { FADVISE = 223, MINCORE = 232, PREAD = 67, FCNTL = 25, CLOCK_GETTIME = 113, FLAGS = 02000000 | 04000 };
enum { STAT_MODE = 16, STAT_SIZE = 48, STAT_TIME = 88, UNIT = 1 };
#elif defined(__arm__)
enum { OPENAT = 322, CLOSE = 6, FSTAT = 197, MMAP = 192, MUNMAP = 91, FSYNC = 118 };
enum { FADVISE = 270, MINCORE = 219, PREAD = 180, FCNTL = 221, CLOCK_GETTIME = 263, FLAGS = 02000000 | 04000 | 0400000 };
enum { STAT_MODE = 16, STAT_SIZE = 48, STAT_TIME = 80, UNIT = 4096 }; /* mmap2 counts units of 4 KiB */
#elif defined(__x86_64__)
enum { OPENAT = 257, CLOSE = 3, FSTAT = 5, MMAP = 9, MUNMAP = 11, FSYNC = 74 };
enum { FADVISE = 221, MINCORE = 27, PREAD = 17, FCNTL = 72, CLOCK_GETTIME = 228, FLAGS = 02000000 | 04000 };
enum { STAT_MODE = 24, STAT_SIZE = 48, STAT_TIME = 88, UNIT = 1 };
#else
#error "this library is made for arm64-v8a, armeabi-v7a and x86_64"
#endif

long od_system_call(long number, long a, long b, long c, long d, long e, long f) {
#if defined(__aarch64__)
  register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c, x3 __asm__("x3") = d, x4 __asm__("x4") = e;
  register long x5 __asm__("x5") = f;
  __asm__ volatile("svc 0"
                   : "+r"(x0)
                   : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                   : "memory");
  return x0;
#elif defined(__arm__)
  /* r7 may be the frame pointer (Thumb), so it is saved by hand */
  register long r0 __asm__("r0") = a, r1 __asm__("r1") = b, r2 __asm__("r2") = c;
  register long r3 __asm__("r3") = d, r4 __asm__("r4") = e, r5 __asm__("r5") = f;
  register long r6 __asm__("r6") = number;
  __asm__ volatile("push {r7}\n\tmov r7, r6\n\tsvc 0\n\tpop {r7}"
                   : "+r"(r0)
                   : "r"(r1), "r"(r2), "r"(r3), "r"(r4), "r"(r5), "r"(r6)
                   : "memory");
  return r0;
#else
  register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
#endif
}

static int failed(long result) { return (unsigned long)result >= (unsigned long)-4095; }

static long map(size_t size, int protection, int flags, int file, uint64_t offset) {
  return od_system_call(MMAP, 0, (long)size, protection, flags, file, (long)(offset / UNIT));
}

/* What a regular file says of itself; minus an error number for others. */
typedef struct {
  int64_t size;
  long changed[2]; /* seconds, nanoseconds */
} file_stamp;

static int stamp(int file, file_stamp *of) {
  _Alignas(8) unsigned char about[256]; /* the largest struct stat of the three has 144 bytes */
  uint32_t mode;
  long result = od_system_call(FSTAT, file, (long)(uintptr_t)about, 0, 0, 0, 0);
  if (failed(result)) return (int)-result;
  __builtin_memcpy(&mode, about + STAT_MODE, sizeof mode);
  __builtin_memcpy(&of->size, about + STAT_SIZE, sizeof of->size);
  __builtin_memcpy(of->changed, about + STAT_TIME, sizeof of->changed);
  return (mode & 0170000) == REGULAR ? OK : EINVAL_;
}

/* Read a part of a file into memory that nobody else can change. */
static int copy(int file, int64_t offset, size_t size, od_mapping *mapping) {
  long address = map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (failed(address)) return (int)-address;
  for (size_t at = 0; at < size;) {
    int64_t from = offset + (int64_t)at;
#if defined(__arm__) /* 64 bits travel in a pair of registers that begins with an even one */
    long got = od_system_call(PREAD, file, address + (long)at, (long)(size - at), 0, (long)from,
                              (long)(from >> 32));
#else
    long got = od_system_call(PREAD, file, address + (long)at, (long)(size - at), from, 0, 0);
#endif
    if (got == -EINTR_) continue;
    if (got == 0 || failed(got)) {
      od_system_call(MUNMAP, address, (long)size, 0, 0, 0, 0);
      return got == 0 ? EIO_ : (int)-got;
    }
    at += (size_t)got;
  }
  *mapping = (od_mapping){(void *)address, size, (const void *)address, size, -1, -1, 0, {0, 0}};
  return OK;
}

int od_map_descriptor(int file, int64_t offset, int64_t size, od_mapping *mapping) {
  file_stamp whole;
  int refused = stamp(file, &whole);
  *mapping = (od_mapping){NULL, 0, NULL, 0, -1, -1, 0, {0, 0}};
  if (refused) return refused;
  if (offset < 0 || offset > whole.size) return EINVAL_;
  if (size == -1) size = whole.size - offset;
  if (size <= 0 || size > whole.size - offset) return EINVAL_;
  uint64_t before = (uint64_t)offset % LARGEST_PAGE, pages = before + (uint64_t)size;
  if (pages > SIZE_MAX / 2 || (uint64_t)offset / UNIT > SIZE_MAX / 2) return EFBIG_;
  if (size <= OD_COPIED_BYTES) return copy(file, offset, (size_t)size, mapping);
  long held = od_system_call(FCNTL, file, DUPLICATE, 0, 0, 0, 0);
  if (failed(held)) return (int)-held;
  long address = map((size_t)pages, PROT_READ, MAP_PRIVATE, file, (uint64_t)offset - before);
  int guard = failed(address) ? -1 : od_guard((void *)address, (size_t)pages);
  if (guard < 0) {
    od_system_call(CLOSE, held, 0, 0, 0, 0, 0);
    if (failed(address)) return (int)-address;
    od_system_call(MUNMAP, address, (long)pages, 0, 0, 0, 0);
    return copy(file, offset, (size_t)size, mapping);
  }
  *mapping = (od_mapping){(void *)address, (size_t)pages, (const char *)address + before,
                          (size_t)size, (int)held, guard, whole.size,
                          {whole.changed[0], whole.changed[1]}};
  return OK;
}

int od_mapping_changed(void *of) {
  const od_mapping *mapping = of;
  file_stamp now;
  if (mapping->guard < 0) return 0;
  return od_guard_damaged(mapping->guard) || stamp(mapping->file, &now) ||
         now.size != mapping->file_size || now.changed[0] != mapping->changed[0] ||
         now.changed[1] != mapping->changed[1];
}

/* Not blocking: a pipe opens at once, and is then refused. */
static long open_path(const char *path) {
  return od_system_call(OPENAT, AT_CWD, (long)(uintptr_t)path, FLAGS, 0, 0, 0);
}

int od_map_path(const char *path, od_mapping *mapping) {
  long file = open_path(path);
  *mapping = (od_mapping){NULL, 0, NULL, 0, -1, -1, 0, {0, 0}};
  if (failed(file)) return (int)-file;
  int result = od_map_descriptor((int)file, 0, -1, mapping);
  od_system_call(CLOSE, file, 0, 0, 0, 0, 0);
  return result;
}

void od_unmap(od_mapping *mapping) {
  if (mapping->guard >= 0) od_unguard(mapping->guard);
  if (mapping->file >= 0) od_system_call(CLOSE, mapping->file, 0, 0, 0, 0, 0);
  mapping->guard = mapping->file = -1;
  if (mapping->pages)
    od_system_call(MUNMAP, (long)(uintptr_t)mapping->pages, (long)mapping->page_size, 0, 0, 0, 0);
  mapping->pages = NULL;
}

enum { HEADER = 64 }; /* keeps what follows aligned to a cache line */

static void *allocate(void *user, size_t size) {
  (void)user;
  if (size > SIZE_MAX / 2) return NULL;
  long address = map(size + HEADER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (failed(address)) return NULL;
  *(size_t *)address = size + HEADER;
  return (char *)address + HEADER;
}

static void release(void *user, void *memory) {
  (void)user;
  if (!memory) return;
  char *start = (char *)memory - HEADER;
  od_system_call(MUNMAP, (long)(uintptr_t)start, (long)*(size_t *)(void *)start, 0, 0, 0, 0);
}

const od_allocator od_page_allocator = {allocate, release, NULL};

int64_t od_process_time(void) {
  long time[2] = {0, 0}; /* seconds, nanoseconds; 32 bits on ARM last for 68 years */
  if (failed(od_system_call(CLOCK_GETTIME, PROCESS_CPUTIME, (long)(uintptr_t)time, 0, 0, 0, 0))) return -1;
  return (int64_t)time[0] * 1000000000 + time[1];
}

/* Map a whole file, whatever its size, to ask which of its pages are in memory. */
static int map_all(int file, od_mapping *mapping) {
  file_stamp whole;
  int refused = stamp(file, &whole);
  if (refused) return refused;
  if (whole.size <= 0) return EINVAL_;
  if ((uint64_t)whole.size > SIZE_MAX / 2) return EFBIG_;
  long address = map((size_t)whole.size, PROT_READ, MAP_PRIVATE, file, 0);
  if (failed(address)) return (int)-address;
  *mapping = (od_mapping){(void *)address, (size_t)whole.size, NULL, 0, -1, -1, 0, {0, 0}};
  return OK;
}

int64_t od_drop_pages(const char *path) {
  od_mapping mapping;
  long file = open_path(path);
  if (failed(file)) return file;
  od_system_call(FSYNC, file, 0, 0, 0, 0, 0);
#if defined(__arm__) /* fadvise64: advice first, then pairs of registers */
  long result = od_system_call(FADVISE, file, DONT_NEED, 0, 0, 0, 0);
#else
  long result = od_system_call(FADVISE, file, 0, 0, DONT_NEED, 0, 0);
#endif
  int mapped = failed(result) ? (int)-result : map_all((int)file, &mapping);
  od_system_call(CLOSE, file, 0, 0, 0, 0, 0);
  if (mapped != OK) return -mapped;
  int64_t stayed = 0;
  unsigned char seen[4096];
  /* one byte a page; of the smallest page there is, so that `seen` is always large enough */
  enum { PIECE = sizeof seen * 4096 };
  for (size_t at = 0; at < mapping.page_size && !failed(result); at += PIECE) {
    size_t size = mapping.page_size - at < PIECE ? mapping.page_size - at : PIECE;
    for (size_t i = 0; i < sizeof seen; i++) seen[i] = 0;
    result = od_system_call(MINCORE, (long)((uintptr_t)mapping.pages + at), (long)size,
                  (long)(uintptr_t)seen, 0, 0, 0);
    for (size_t i = 0; i < sizeof seen; i++) stayed += seen[i] & 1;
  }
  od_unmap(&mapping);
  return failed(result) ? result : stayed;
}

const char *od_error_text(int number) {
  switch (number) {
    case ENOENT_: return "no such file";
    case EIO_: return "input or output error";
    case OD_NO_MEMORY: return "out of memory";
    case EACCES_: return "permission denied";
    case EINVAL_: return "not a regular file, empty, or a part that is not in it";
    case EFBIG_: return "too large for this processor";
    default: return "the system refused it";
  }
}
