/* cpu.c: finds out what the processor supports, without a library, and chooses the kernels. */
#include "kernels.h"

int od_cpu_any(void) { return 1; }

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
#else
int od_cpu_avx2(void) { return 0; }
int od_cpu_avx512vnni(void) { return 0; }
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

static unsigned long hardware(unsigned long type) {
  enum { AT_CWD = -100 };
#if defined(__aarch64__)
  enum { OPENAT = 56, CLOSE = 57, READ = 63 };
#else
  enum { OPENAT = 322, CLOSE = 6, READ = 3 };
#endif
  static const char path[] = "/proc/self/auxv";
  unsigned long pair[2], found = 0;
  long file = system_call(OPENAT, AT_CWD, (long)(uintptr_t)path, 0, 0);
  if (file < 0) return 0;
  while (system_call(READ, file, (long)(uintptr_t)pair, sizeof pair, 0) == (long)sizeof pair &&
         pair[0] != 0)
    if (pair[0] == type) {
      found = pair[1];
      break;
    }
  system_call(CLOSE, file, 0, 0, 0);
  return found;
}
#endif

#if defined(__aarch64__)
int od_cpu_neon(void) { return 1; }
#if defined(__linux__)
int od_cpu_dotprod(void) { return (int)(hardware(16) >> 20 & 1); } /* AT_HWCAP, ASIMDDP */
int od_cpu_i8mm(void) { return od_cpu_dotprod() && (hardware(26) >> 13 & 1); } /* AT_HWCAP2 */
#else
int od_cpu_dotprod(void) { return 0; }
int od_cpu_i8mm(void) { return 0; }
#endif
#else
#if defined(__arm__) && defined(__linux__)
int od_cpu_neon(void) { /* NEON and VFPv4, for fused multiply-add and float16 */
  unsigned long have = hardware(16);
  return (have >> 12 & 1) && (have >> 16 & 1);
}
#else
int od_cpu_neon(void) { return 0; }
#endif
int od_cpu_dotprod(void) { return 0; }
int od_cpu_i8mm(void) { return 0; }
#endif

static const od_kernels *const ALL[] = {
    &od_kernels_avx512vnni, &od_kernels_avx2, &od_kernels_neon_i8mm, &od_kernels_neon_dotprod,
    &od_kernels_neon,       &od_kernels_portable,
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
