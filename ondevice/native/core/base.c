/* base.c: memory functions, arenas and error texts, without a C library. */
#include "core/base.h"

#include <stdarg.h>

#ifdef ONDEVICE_FREESTANDING
/* The compiler may call these by name even in freestanding code. */
__attribute__((weak, visibility("hidden"))) void *memcpy(void *restrict to,
                                                         const void *restrict from, size_t size) {
  unsigned char *t = to;
  const unsigned char *f = from;
  while (size >= 8) {
    uint64_t word = od_load64(f);
    __builtin_memcpy(t, &word, 8);
    t += 8, f += 8, size -= 8;
  }
  while (size--) {
    *t++ = *f++;
    __asm__ volatile("" ::: "memory"); /* or the compiler makes this loop a call to itself */
  }
  return to;
}
__attribute__((weak, visibility("hidden"))) void *memset(void *to, int value, size_t size) {
  unsigned char *t = to;
  uint64_t word = (unsigned char)value * 0x0101010101010101u;
  for (; size >= 8; t += 8, size -= 8) {
    __builtin_memcpy(t, &word, 8);
    __asm__ volatile("" ::: "memory");
  }
  while (size--) {
    *t++ = (unsigned char)value;
    __asm__ volatile("" ::: "memory");
  }
  return to;
}
__attribute__((weak, visibility("hidden"))) int memcmp(const void *a, const void *b, size_t size) {
  const unsigned char *x = a, *y = b;
  for (; size; size--, x++, y++)
    if (*x != *y) return *x < *y ? -1 : 1;
  return 0;
}
__attribute__((weak, visibility("hidden"))) void *memmove(void *to, const void *from,
                                                          size_t size) {
  unsigned char *t = to;
  const unsigned char *f = from;
  if (t <= f || t >= f + size) return memcpy(to, from, size);
  while (size--) {
    t[size] = f[size];
    __asm__ volatile("" ::: "memory");
  }
  return to;
}
#endif

void od_copy(void *to, const void *from, size_t size) {
  if (size) __builtin_memcpy(to, from, size);
}

void od_zero(void *to, size_t size) {
  if (size) __builtin_memset(to, 0, size);
}

int od_same(const void *a, const void *b, size_t size) {
  return size == 0 || __builtin_memcmp(a, b, size) == 0;
}

size_t od_length(const char *text) {
  size_t size = 0;
  while (text[size]) size++;
  return size;
}

int od_order(const char *a, const char *b) {
  while (*a && *a == *b) a++, b++;
  return (int)(unsigned char)*a - (int)(unsigned char)*b;
}

int od_equal(const char *a, const char *b) { return od_order(a, b) == 0; }

enum { BLOCK_SIZE = 32768, ALIGN = 64 };

struct od_arena_block {
  od_arena_block *previous;
  unsigned char *start; /* aligned */
  size_t size, used;
};

OD_COLD void *od_take(od_arena *arena, size_t count, size_t size) {
  if (size && count > (SIZE_MAX / 4) / size) return NULL;
  size_t need = (count * size + ALIGN - 1) / ALIGN * ALIGN;
  if (need == 0) need = ALIGN;
  od_arena_block *block = arena->last;
  if (!block || block->size - block->used < need) {
    size_t room = need > BLOCK_SIZE / 4 ? need : BLOCK_SIZE;
    size_t overhead = sizeof(od_arena_block) + ALIGN;
    if (arena->left && *arena->left < overhead + room) {
      *arena->left = 0; /* says why */
      return NULL;
    }
    if (arena->left) *arena->left -= overhead + room;
    unsigned char *memory = arena->allocator->allocate(arena->allocator->user, overhead + room);
    if (!memory) return NULL;
    od_arena_block *fresh = (od_arena_block *)(void *)memory;
    uintptr_t start = (uintptr_t)(memory + sizeof(od_arena_block));
    fresh->start = memory + sizeof(od_arena_block) + (-start & (ALIGN - 1));
    fresh->size = room;
    fresh->used = 0;
    if (block && room == need) { /* a large piece: keep filling the block before it */
      fresh->previous = block->previous;
      block->previous = fresh;
    } else {
      fresh->previous = block;
      arena->last = fresh;
    }
    block = fresh;
  }
  void *piece = block->start + block->used;
  block->used += need;
  od_zero(piece, need);
  return piece;
}

OD_COLD char *od_take_text(od_arena *arena, const char *text, size_t size) {
  char *copy = od_take(arena, size + 1, 1);
  if (copy) od_copy(copy, text, size);
  return copy;
}

void od_arena_release(od_arena *arena) {
  while (arena->last) {
    od_arena_block *block = arena->last;
    arena->last = block->previous;
    arena->allocator->release(arena->allocator->user, block);
  }
}

static size_t put_unsigned(char *digits, uint64_t value) {
  char reversed[20];
  size_t count = 0, written = 0;
  do {
    reversed[count++] = (char)('0' + value % 10);
    value /= 10;
  } while (value);
  while (count) digits[written++] = reversed[--count];
  return written;
}

OD_COLD od_status od_fail(od_error *error, od_status status, const char *format, ...) {
  if (!error) return status;
  va_list arguments;
  va_start(arguments, format);
  size_t used = 0, room = sizeof error->text - 1;
  for (const char *p = format; *p && used < room; p++) {
    char digits[24];
    const char *piece = p;
    size_t size = 1;
    if (*p == '%' && p[1]) {
      p++;
      if (*p == 's') {
        piece = va_arg(arguments, const char *);
        size = od_length(piece);
      } else {
        size_t sign = 0;
        uint64_t value = va_arg(arguments, uint64_t);
        if (*p == 'i' && (int64_t)value < 0) {
          digits[sign++] = '-';
          value = 0 - value;
        }
        size = sign + put_unsigned(digits + sign, value);
        piece = digits;
      }
    }
    if (size > room - used) size = room - used;
    od_copy(error->text + used, piece, size);
    used += size;
  }
  va_end(arguments);
  error->text[used] = 0;
  error->status = status;
  return status;
}

OD_COLD static void sift(void **items, size_t start, size_t count,
                 int (*order)(const void *, const void *)) {
  for (size_t root = start;;) {
    size_t child = 2 * root + 1;
    if (child >= count) return;
    if (child + 1 < count && order(items[child], items[child + 1]) < 0) child++;
    if (order(items[root], items[child]) >= 0) return;
    void *swapped = items[root];
    items[root] = items[child];
    items[child] = swapped;
    root = child;
  }
}

OD_COLD void od_sort(void **items, size_t count, int (*order)(const void *, const void *)) {
  for (size_t start = count / 2; start-- > 0;) sift(items, start, count, order);
  for (size_t end = count; end > 1; end--) {
    void *swapped = items[0];
    items[0] = items[end - 1];
    items[end - 1] = swapped;
    sift(items, 0, end - 1, order);
  }
}
