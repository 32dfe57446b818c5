/* base.h: what every file of the engine needs: memory functions, arenas, error texts. */
#ifndef ONDEVICE_BASE_H
#define ONDEVICE_BASE_H

#include "core/limits.h"
#include "ondevice.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the native format is little-endian, and so must be the processor"
#endif

#define OD_INLINE static inline __attribute__((always_inline))

/* Before a loop whose bounds are constant once it is inlined: unroll it, up to so many times, so
 * that arrays become registers. Clang takes GCC's word for it and does nothing. */
#if defined(__clang__)
#define OD_UNROLL(most) _Pragma("clang loop unroll(full)")
#else
#define OD_PRAGMA(...) _Pragma(OD_QUOTED(__VA_ARGS__))
#define OD_UNROLL(most) OD_PRAGMA(GCC unroll most)
#endif

/* Fixed-size copies compile to plain loads and stores even without a C library. */
OD_INLINE uint32_t od_load32(const void *p) {
  uint32_t v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
OD_INLINE uint64_t od_load64(const void *p) {
  uint64_t v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
OD_INLINE uint16_t od_load16(const void *p) {
  uint16_t v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

/* A number of elements rounded up to whole groups. */
OD_INLINE uint32_t od_padded(uint32_t count, uint32_t group) {
  return (count + group - 1) / group * group;
}

/* What runs when a model is opened, or rarely: compiled for size. */
#define OD_COLD __attribute__((cold))

/* What requests run rarely: a call, and short. Not minsize for ARM: its 64-bit shifts would be calls. */
#ifdef __wasm__
#define OD_RARE static __attribute__((noinline, minsize))
#else
#define OD_RARE static __attribute__((noinline, cold))
#endif

/* Compiles the rest of a file for size: what it does takes little of a request's time. After a pause a
 * request waits for its code to come from memory, so that short code is the faster one there. */
#if defined(__clang__) /* builds ask for it, by this word in the file */
#define OD_FOR_SIZE
#else
#define OD_FOR_SIZE _Pragma("GCC optimize(\"Os\")")
#endif

void od_copy(void *to, const void *from, size_t size);
void od_zero(void *to, size_t size);
int od_same(const void *a, const void *b, size_t size);
size_t od_length(const char *text);
int od_equal(const char *a, const char *b); /* texts are the same */
int od_order(const char *a, const char *b); /* <0, 0, >0 by unsigned bytes */

/* An arena: memory that is released all at once. Blocks are zeroed and aligned to 64 bytes. */
typedef struct od_arena_block od_arena_block;
typedef struct {
  const od_allocator *allocator;
  od_arena_block *last;
  uint64_t *left; /* bytes that may still be taken, by arenas that share them; NULL: any number */
} od_arena;

void *od_take(od_arena *arena, size_t count, size_t size); /* NULL: out of memory */
char *od_take_text(od_arena *arena, const char *text, size_t size);
void od_arena_release(od_arena *arena);

/* Fill `error` (may be NULL) and return `status`. In `format`, %s is a text, %i an int64_t, %u a
 * uint64_t: the caller passes exactly these types. */
od_status od_fail(od_error *error, od_status status, const char *format, ...);

/* Sort pointers with a heap: no recursion, no worst case. */
void od_sort(void **items, size_t count, int (*order)(const void *a, const void *b));

#define OD_CHECK(call)                        \
  do {                                        \
    od_status od_check_status = (call);       \
    if (od_check_status != OD_OK)             \
      return od_check_status;                 \
  } while (0)

#endif
