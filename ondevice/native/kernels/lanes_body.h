/* lanes_body.h: vectors of LANES floats or integers, for the bodies that the kernel files include.
 *
 * The including file defines LANES (1, 4, 8 or 16). Vectors are those of GNU C, whose operators
 * compile to the instruction set's own; it may define what those do not express:
 *   lanes_load(p, n), lanes_store(p, v, n)  the first n < LANES lanes (the others are 0)
 *   lanes_max(a, b), lanes_min(a, b)        a > b ? a : b, a < b ? a : b
 *   lanes_sqrt(v)                           correctly rounded
 *   lanes_power(p, w, x, least)             p times 2^w, rounded once; 0 where x < least
 *   lanes_floor(v, least)                   v or at least that, where vectors_body.h is fast so; NaN stays
 */

/* Functions that other kernel files use too have a name of their own (neon_body.h). */
#ifndef KERNEL_NAME
#define KERNEL_NAME(name) name
#endif
#ifndef KERNEL
#define KERNEL static
#endif

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t whole __attribute__((vector_size(4 * LANES)));

#if LANES == 16
#define NUMBERS ((whole){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})
#elif LANES == 8
#define NUMBERS ((whole){0, 1, 2, 3, 4, 5, 6, 7})
#elif LANES == 1
#define NUMBERS ((whole){0})
#else
#define NUMBERS ((whole){0, 1, 2, 3})
#endif
#if defined(__clang__)
#define TURNED(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#else
#define TURNED(v, ...) __builtin_shuffle(v, (whole){__VA_ARGS__})
#endif

OD_INLINE lanes load(const float *p) {
  lanes v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
OD_INLINE void store(float *p, lanes v) { __builtin_memcpy(p, &v, sizeof v); }
OD_INLINE lanes all(float x) { return x - (lanes){0}; }
OD_INLINE lanes pick(whole mask, lanes yes, lanes no) {
  return (lanes)((mask & (whole)yes) | (~mask & (whole)no));
}
OD_INLINE lanes magnitude(lanes x) { return (lanes)((whole)x & 0x7fffffff); }
OD_INLINE lanes with_sign(lanes size, lanes sign) {
  return (lanes)((whole)size | ((whole)sign & (int32_t)0x80000000));
}

#ifndef lanes_load /* calls are short: code for each would be long */
static __attribute__((noinline)) lanes lanes_load(const float *p, size_t n) {
  lanes v = {0};
  for (size_t i = 0; i < LANES - 1; i++)
    if (i < n) v[i] = p[i];
  return v;
}
static __attribute__((noinline)) void lanes_store(float *p, lanes v, size_t n) {
  for (size_t i = 0; i < LANES - 1; i++)
    if (i < n) p[i] = v[i];
}
#endif
#ifndef lanes_max
OD_INLINE lanes lanes_max(lanes a, lanes b) { return pick(a > b, a, b); }
OD_INLINE lanes lanes_min(lanes a, lanes b) { return pick(a < b, a, b); }
#endif

/* v joined over its lanes, halves first: every lane holds the result. */
#if LANES == 16
#define JOIN_LANES(v, join)                                                               \
  v = join(v, TURNED(v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));           \
  v = join(v, TURNED(v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));           \
  v = join(v, TURNED(v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));           \
  v = join(v, TURNED(v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
#elif LANES == 8
#define JOIN_LANES(v, join)                           \
  v = join(v, TURNED(v, 4, 5, 6, 7, 0, 1, 2, 3));     \
  v = join(v, TURNED(v, 2, 3, 0, 1, 6, 7, 4, 5));     \
  v = join(v, TURNED(v, 1, 0, 3, 2, 5, 4, 7, 6));
#elif LANES == 1
#define JOIN_LANES(v, join)
#else
#define JOIN_LANES(v, join)               \
  v = join(v, TURNED(v, 2, 3, 0, 1));     \
  v = join(v, TURNED(v, 1, 0, 3, 2));
#endif

/* The sums of elements whose numbers have the same remainder by 16, and their sum: in halves, lane
 * i and lane i + width, for each width down to 1. */
enum { SUMS = 16, PARTS = SUMS / LANES };
#define JOIN_PARTS(sum, parts, join)                                                    \
  for (int width = PARTS / 2; PARTS == SUMS && width; width /= 2)                       \
    for (int lane = 0; lane < width; lane++)                                            \
      (parts)[lane] = join((parts)[lane], (parts)[lane + width]);                       \
  lanes sum = (parts)[0];                                                               \
  if (PARTS == 2) sum = join((parts)[0], (parts)[1 % PARTS]);                           \
  if (PARTS == 4)                                                                       \
    sum = join(join((parts)[0], (parts)[2 % PARTS]), join((parts)[1 % PARTS], (parts)[3 % PARTS])); \
  JOIN_LANES(sum, join)

/* Up to LANES elements; lanes behind them hold the filler. */
OD_INLINE lanes part(const float *p, size_t left, lanes filler) {
  if (left >= LANES) return load(p);
  return pick(NUMBERS < (int32_t)left, lanes_load(p, left), filler);
}

OD_INLINE void put(float *p, lanes value, size_t left) {
  if (left >= LANES) store(p, value);
  else lanes_store(p, value, left);
}
