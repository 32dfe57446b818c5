/* guard.c: reads of a mapped file that was truncated give zeros, by system calls only.
 *
 * As ondevice/native/platform/mapped.c does with a C library: the handler of SIGBUS maps zeros where
 * pages are gone and notes it; other faults go to whoever handled them before, such as the Java
 * runtime.
 */
#include "guard.h"

#include "system.h"

enum { SIGBUS_ = 7, FIXED_ZEROS = 0x32, PROT_READ = 1, SMALLEST_PAGE = 4096, MOST_GUARDS = 64 };
enum { SIGINFO = 4, ON_STACK = 0x08000000, RESTORER = 0x04000000, MASK_BYTES = 8 };

#if defined(__aarch64__)
enum { MMAP = 222, SIGACTION = 134 };
#elif defined(__arm__)
enum { MMAP = 192, SIGACTION = 174 };
#else
enum { MMAP = 9, SIGACTION = 13 };
#endif

typedef void handler(int number, void *info, void *context);

/* The kernel's struct sigaction, alike on all three. */
typedef struct {
  handler *handle;
  unsigned long flags;
  void (*restore)(void);
  uint64_t mask;
} action;

/* The first fields of the kernel's siginfo_t; the address follows, aligned as a pointer. */
typedef struct {
  int number, error, code;
  void *address;
} fault;

typedef struct {
  int used, damaged;
  uintptr_t start;
  size_t size;
} guarded;

static guarded guards[MOST_GUARDS];
static action before;

#if defined(__x86_64__) /* the others return from a handler without help */
extern void od_return_from_handler(void) __attribute__((visibility("hidden")));
__asm__(".text\n.hidden od_return_from_handler\n.globl od_return_from_handler\n"
        ".type od_return_from_handler, @function\n"
        "od_return_from_handler:\n  movl $15, %eax\n  syscall\n"
        ".size od_return_from_handler, . - od_return_from_handler\n");
#endif

/* Map zeros from the faulting page to the end of its mapping. The page may be larger than 4 KiB: then
 * the system refuses an address within it, and the next multiple below is tried. */
static int filled(uintptr_t at, uintptr_t end) {
  for (uintptr_t page = SMALLEST_PAGE; page <= 65536; page *= 4) {
    uintptr_t from = at - at % page;
    long got = od_system_call(MMAP, (long)from, (long)(end - from), PROT_READ, FIXED_ZEROS, -1, 0);
    if ((unsigned long)got < (unsigned long)-4095) return 1;
  }
  return 0;
}

static void on_fault(int number, void *information, void *context) {
  const fault *info = information;
  uintptr_t at = (uintptr_t)info->address;
  for (int i = 0; info->code > 0 && i < MOST_GUARDS; i++) {
    uintptr_t start = __atomic_load_n(&guards[i].start, __ATOMIC_ACQUIRE);
    size_t size = __atomic_load_n(&guards[i].size, __ATOMIC_ACQUIRE);
    if (!start || at < start || at - start >= size) continue;
    __atomic_store_n(&guards[i].damaged, 1, __ATOMIC_RELEASE);
    if (filled(at, start + size)) return;
  }
  if ((uintptr_t)before.handle > 1) { /* 0: the default, 1: ignored */
    before.handle(number, information, context);
    return;
  }
  action usual = {0, RESTORER * (before.restore != 0), before.restore, 0};
  od_system_call(SIGACTION, SIGBUS_, (long)(uintptr_t)&usual, 0, MASK_BYTES, 0, 0);
}

/* Install the handler, once in the life of the process. */
static void install(void) {
  static int state; /* 1: another thread is at it */
  int fresh = 0;
  if (!__atomic_compare_exchange_n(&state, &fresh, 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
    while (__atomic_load_n(&state, __ATOMIC_ACQUIRE) != 2) {
    }
    return;
  }
  action own = {on_fault, SIGINFO | ON_STACK, 0, 0};
#if defined(__x86_64__)
  own.flags |= RESTORER;
  own.restore = od_return_from_handler;
#endif
  od_system_call(SIGACTION, SIGBUS_, 0, (long)(uintptr_t)&before, MASK_BYTES, 0, 0);
  od_system_call(SIGACTION, SIGBUS_, (long)(uintptr_t)&own, 0, MASK_BYTES, 0, 0);
  __atomic_store_n(&state, 2, __ATOMIC_RELEASE);
}

int od_guard(const void *pages, size_t size) {
  for (int i = 0; i < MOST_GUARDS; i++) {
    if (__atomic_exchange_n(&guards[i].used, 1, __ATOMIC_ACQ_REL)) continue;
    install();
    __atomic_store_n(&guards[i].damaged, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&guards[i].size, size, __ATOMIC_RELEASE);
    __atomic_store_n(&guards[i].start, (uintptr_t)pages, __ATOMIC_RELEASE);
    return i;
  }
  return -1;
}

int od_guard_damaged(int number) {
  return __atomic_load_n(&guards[number].damaged, __ATOMIC_ACQUIRE);
}

void od_unguard(int number) {
  __atomic_store_n(&guards[number].start, 0, __ATOMIC_RELEASE);
  __atomic_store_n(&guards[number].used, 0, __ATOMIC_RELEASE);
}
