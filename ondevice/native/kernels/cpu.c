/* cpu.c: finds out what the processor supports, without a library, and chooses the kernels. */
#include "kernels/kernels.h"

int od_cpu_any(void) { return 1; }
int od_cpu_none(void) { return 0; }

int od_cpu_lists(const char *text, size_t size, const char *word) {
  static const char name[] = "Features";
  size_t length = od_length(word);
  for (size_t at = 0; at < size; at++) {
    if (at && text[at - 1] != '\n') continue;
    if (size - at < sizeof name || !od_same(text + at, name, sizeof name - 1)) continue;
    for (at += sizeof name - 1; at < size && text[at] != '\n'; at++) {
      int begins = text[at - 1] == ' ' || text[at - 1] == '\t';
      if (!begins || size - at < length || !od_same(text + at, word, length)) continue;
      char after = at + length < size ? text[at + length] : '\n';
      if (after == ' ' || after == '\n') return 1;
    }
    return 0;
  }
  return 0;
}

#if defined(__x86_64__)
#include <cpuid.h>

static uint64_t saved_state(void) {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t)high << 32 | low;
}

int od_cpu_avx2(void) {
  uint32_t a, b, c, d, need = bit_FMA | bit_F16C | bit_OSXSAVE | bit_AVX;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & need) != need) return 0;
  if ((saved_state() & 6) != 6) return 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  return (b & bit_AVX2) && (b & bit_BMI2);
}

int od_cpu_avx512vnni(void) {
  uint32_t a, b = 0, c = 0, d, need = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
  if (!od_cpu_avx2() || (saved_state() & 0xe6) != 0xe6) return 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  return (b & need) == need && (c & bit_AVX512VNNI);
}

int od_cpu_avx512bf16(void) {
  enum { BF16 = 1 << 5 }; /* of leaf 7.1 in EAX */
  uint32_t a, b, c, d;
  return od_cpu_avx512vnni() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & BF16);
}
#else
int od_cpu_avx2(void) { return 0; }
int od_cpu_avx512vnni(void) { return 0; }
int od_cpu_avx512bf16(void) { return 0; }
#endif

#if defined(__linux__) && (defined(__aarch64__) || defined(__arm__))
/* The kernel's auxiliary vector says what the processor has. It is read from /proc with plain
 * system calls, because a freestanding build has no getauxval. */
static long system_call(long number, long a, long b, long c, long d) {
#if defined(__aarch64__)
  register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c, x3 __asm__("x3") = d;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
  return x0;
#else
  /* r7 may be the frame pointer (Thumb), so it is saved by hand */
  register long r0 __asm__("r0") = a, r1 __asm__("r1") = b, r2 __asm__("r2") = c;
  register long r3 __asm__("r3") = d, r4 __asm__("r4") = number;
  __asm__ volatile("push {r7}\n\tmov r7, r4\n\tsvc 0\n\tpop {r7}"
                   : "+r"(r0)
                   : "r"(r1), "r"(r2), "r"(r3), "r"(r4)
                   : "memory");
  return r0;
#endif
}

#if defined(__aarch64__)
enum { OPENAT = 56, CLOSE = 57, READ = 63 };
#else
enum { OPENAT = 322, CLOSE = 6, READ = 3 };
#endif

static long open_file(const char *path) {
  enum { AT_CWD = -100 };
  return system_call(OPENAT, AT_CWD, (long)(uintptr_t)path, 0, 0);
}

static long read_file(long file, void *to, size_t size) {
  return system_call(READ, file, (long)(uintptr_t)to, (long)size, 0);
}

/* Whether the vector can be read; if so, its value of a type. */
static int hardware(unsigned long type, unsigned long *value) {
  unsigned long pair[2];
  long file = open_file("/proc/self/auxv");
  *value = 0;
  if (file < 0) return 0;
  while (read_file(file, pair, sizeof pair) == (long)sizeof pair && pair[0] != 0)
    if (pair[0] == type) {
      *value = pair[1];
      break;
    }
  system_call(CLOSE, file, 0, 0, 0);
  return 1;
}

/* Android keeps the vector from released apps; then the kernel's words for the same bits must do. */
static int processor_lists(const char *word) {
  char text[4096]; /* the first core's features are within it; all cores list the same */
  size_t size = 0;
  long file = open_file("/proc/cpuinfo");
  if (file < 0) return 0;
  for (long got = 1; got > 0 && size < sizeof text; size += got > 0 ? (size_t)got : 0)
    got = read_file(file, text + size, sizeof text - size);
  system_call(CLOSE, file, 0, 0, 0);
  return od_cpu_lists(text, size, word);
}

static int has(unsigned long type, int bit, const char *word) {
  unsigned long value;
  return hardware(type, &value) ? (int)(value >> bit & 1) : processor_lists(word);
}
#endif

#if defined(__aarch64__)
int od_cpu_neon(void) { return 1; }
#if defined(__linux__)
int od_cpu_dotprod(void) { return has(16, 20, "asimddp"); } /* AT_HWCAP */
int od_cpu_i8mm(void) { return od_cpu_dotprod() && has(26, 13, "i8mm"); } /* AT_HWCAP2 */
#elif defined(__APPLE__)
/* In the system's library, which every program there has; declared here because a freestanding
 * build has no header for it. */
extern int sysctlbyname(const char *name, void *old, size_t *size, void *set, size_t set_size);

static int has(const char *name) {
  int32_t value = 0;
  size_t size = sizeof value;
  return !sysctlbyname(name, &value, &size, NULL, 0) && value;
}

int od_cpu_dotprod(void) { return has("hw.optional.arm.FEAT_DotProd"); }
int od_cpu_i8mm(void) { return od_cpu_dotprod() && has("hw.optional.arm.FEAT_I8MM"); }
#elif defined(_WIN32)
__declspec(dllimport) int __stdcall IsProcessorFeaturePresent(unsigned long feature);

/* The numbers of PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE and PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE.
 * A system older than a number answers 0 for it. */
int od_cpu_dotprod(void) { return IsProcessorFeaturePresent(43); }
int od_cpu_i8mm(void) { return od_cpu_dotprod() && IsProcessorFeaturePresent(66); }
#else
int od_cpu_dotprod(void) { return 0; }
int od_cpu_i8mm(void) { return 0; }
#endif
#else
#if defined(__arm__) && defined(__linux__)
int od_cpu_neon(void) { /* NEON and VFPv4, for fused multiply-add and float16 */
  if (has(16, 12, "neon") && has(16, 16, "vfpv4")) return 1;
  unsigned long unread; /* cpuinfo of a 64-bit kernel has the words of 64 bits */
  return !hardware(16, &unread) && processor_lists("asimd");
}
#else
int od_cpu_neon(void) { return 0; }
#endif
int od_cpu_dotprod(void) { return 0; }
int od_cpu_i8mm(void) { return 0; }
#endif

static const od_kernels *const ALL[] = {
    &od_kernels_avx512bf16,   &od_kernels_avx512vnni, &od_kernels_avx2,      &od_kernels_neon_i8mm,
    &od_kernels_neon_dotprod, &od_kernels_neon,       &od_kernels_wasm_simd, &od_kernels_portable,
};

const char *od_kernels_available(size_t index) {
  for (size_t i = 0; i < sizeof ALL / sizeof *ALL; i++)
    if (ALL[i]->supported() && index-- == 0) return ALL[i]->name;
  return NULL;
}

const od_kernels *od_kernels_choose(const char *name) {
  for (size_t i = 0; i < sizeof ALL / sizeof *ALL; i++)
    if ((!name || od_equal(ALL[i]->name, name)) && ALL[i]->supported()) return ALL[i];
  return NULL;
}
