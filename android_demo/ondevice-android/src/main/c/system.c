/* system.c: maps files and takes memory with plain system calls of Linux, on three processors. */
#include "system.h"

enum { OK = 0, ENOENT_ = 2, EIO_ = 5, EACCES_ = 13, EINVAL_ = 22, EFBIG_ = 27, ENOMEM_ = 12 };
enum { AT_CWD = -100, PROT_READ = 1, PROT_WRITE = 2, MAP_SHARED = 1, MAP_PRIVATE = 2 };
enum { MAP_ANONYMOUS = 0x20, DONT_NEED = 4, PROCESS_CPUTIME = 2, REGULAR = 0100000 };
enum { LARGEST_PAGE = 65536 }; /* Linux on ARM has pages of 4, 16 or 64 KiB */

/* Offsets in the kernel's struct stat, which is the same on all three for the size. */
#if defined(__aarch64__)
enum { OPENAT = 56, CLOSE = 57, FSTAT = 80, MMAP = 222, MUNMAP = 215, FSYNC = 82 };
enum { FADVISE = 223, MINCORE = 232, CLOCK_GETTIME = 113, FLAGS = 02000000 | 04000 };
enum { STAT_MODE = 16, STAT_SIZE = 48, UNIT = 1 };
#elif defined(__arm__)
enum { OPENAT = 322, CLOSE = 6, FSTAT = 197, MMAP = 192, MUNMAP = 91, FSYNC = 118 };
enum { FADVISE = 270, MINCORE = 219, CLOCK_GETTIME = 263, FLAGS = 02000000 | 04000 | 0400000 };
enum { STAT_MODE = 16, STAT_SIZE = 48, UNIT = 4096 }; /* mmap2 counts units of 4 KiB */
#elif defined(__x86_64__)
enum { OPENAT = 257, CLOSE = 3, FSTAT = 5, MMAP = 9, MUNMAP = 11, FSYNC = 74 };
enum { FADVISE = 221, MINCORE = 27, CLOCK_GETTIME = 228, FLAGS = 02000000 | 04000 };
enum { STAT_MODE = 24, STAT_SIZE = 48, UNIT = 1 };
#else
#error "this library is made for arm64-v8a, armeabi-v7a and x86_64"
#endif

static long call(long number, long a, long b, long c, long d, long e, long f) {
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
  return call(MMAP, 0, (long)size, protection, flags, file, (long)(offset / UNIT));
}

/* The size of a regular file, or minus an error number. */
static int64_t file_size(int file) {
  _Alignas(8) unsigned char about[256]; /* the largest struct stat of the three has 144 bytes */
  uint32_t mode;
  int64_t size;
  long result = call(FSTAT, file, (long)(uintptr_t)about, 0, 0, 0, 0);
  if (failed(result)) return result;
  __builtin_memcpy(&mode, about + STAT_MODE, sizeof mode);
  __builtin_memcpy(&size, about + STAT_SIZE, sizeof size);
  return (mode & 0170000) == REGULAR ? size : -EINVAL_;
}

int od_map_descriptor(int file, int64_t offset, int64_t size, od_mapping *mapping) {
  int64_t whole = file_size(file);
  *mapping = (od_mapping){NULL, 0, NULL, 0};
  if (whole < 0) return (int)-whole;
  if (offset < 0 || offset > whole) return EINVAL_;
  if (size == -1) size = whole - offset;
  if (size <= 0 || size > whole - offset) return EINVAL_;
  uint64_t before = (uint64_t)offset % LARGEST_PAGE, pages = before + (uint64_t)size;
  if (pages > SIZE_MAX / 2 || (uint64_t)offset / UNIT > SIZE_MAX / 2) return EFBIG_;
  long address = map((size_t)pages, PROT_READ, MAP_PRIVATE, file, (uint64_t)offset - before);
  if (failed(address)) return (int)-address;
  mapping->pages = (void *)address;
  mapping->page_size = (size_t)pages;
  mapping->data = (const char *)address + before;
  mapping->size = (size_t)size;
  return OK;
}

/* Not blocking: a pipe opens at once, and is then refused. */
static long open_path(const char *path) {
  return call(OPENAT, AT_CWD, (long)(uintptr_t)path, FLAGS, 0, 0, 0);
}

int od_map_path(const char *path, od_mapping *mapping) {
  long file = open_path(path);
  *mapping = (od_mapping){NULL, 0, NULL, 0};
  if (failed(file)) return (int)-file;
  int result = od_map_descriptor((int)file, 0, -1, mapping);
  call(CLOSE, file, 0, 0, 0, 0, 0);
  return result;
}

void od_unmap(od_mapping *mapping) {
  if (mapping->pages)
    call(MUNMAP, (long)(uintptr_t)mapping->pages, (long)mapping->page_size, 0, 0, 0, 0);
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
  call(MUNMAP, (long)(uintptr_t)start, (long)*(size_t *)(void *)start, 0, 0, 0, 0);
}

const od_allocator od_page_allocator = {allocate, release, NULL};

int64_t od_process_time(void) {
  long time[2] = {0, 0}; /* seconds, nanoseconds; 32 bits on ARM last for 68 years */
  if (failed(call(CLOCK_GETTIME, PROCESS_CPUTIME, (long)(uintptr_t)time, 0, 0, 0, 0))) return -1;
  return (int64_t)time[0] * 1000000000 + time[1];
}

int64_t od_drop_pages(const char *path) {
  od_mapping mapping;
  long file = open_path(path);
  if (failed(file)) return file;
  call(FSYNC, file, 0, 0, 0, 0, 0);
#if defined(__arm__) /* fadvise64: advice first, then pairs of registers */
  long result = call(FADVISE, file, DONT_NEED, 0, 0, 0, 0);
#else
  long result = call(FADVISE, file, 0, 0, DONT_NEED, 0, 0);
#endif
  int mapped = failed(result) ? (int)-result : od_map_descriptor((int)file, 0, -1, &mapping);
  call(CLOSE, file, 0, 0, 0, 0, 0);
  if (mapped != OK) return -mapped;
  int64_t stayed = 0;
  unsigned char seen[4096];
  /* one byte a page; of the smallest page there is, so that `seen` is always large enough */
  enum { PIECE = sizeof seen * 4096 };
  for (size_t at = 0; at < mapping.page_size && !failed(result); at += PIECE) {
    size_t size = mapping.page_size - at < PIECE ? mapping.page_size - at : PIECE;
    for (size_t i = 0; i < sizeof seen; i++) seen[i] = 0;
    result = call(MINCORE, (long)((uintptr_t)mapping.pages + at), (long)size,
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
    case ENOMEM_: return "out of memory";
    case EACCES_: return "permission denied";
    case EINVAL_: return "not a regular file, empty, or a part that is not in it";
    case EFBIG_: return "too large for this processor";
    default: return "the system refused it";
  }
}
