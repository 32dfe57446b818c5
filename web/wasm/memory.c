/* memory.c: hands out the memory of a WebAssembly module. */
#include "memory.h"

enum { PAGE = 65536 };

extern unsigned char __heap_base; /* from the linker: the first byte behind data and stack */

static uintptr_t top;

void memory_reset(void) { top = (uintptr_t)&__heap_base; }

uint64_t memory_top(void) { return top; }

int memory_reaches(uint64_t end) {
  uint64_t have = (uint64_t)__builtin_wasm_memory_size(0) * PAGE;
  if (end <= have) return 1;
  uint64_t pages = (end - have + PAGE - 1) / PAGE;
  return pages <= 65536 && __builtin_wasm_memory_grow(0, (size_t)pages) != (size_t)-1;
}

static void *take(void *user, size_t size) {
  (void)user;
  uint64_t start = ((uint64_t)top + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT, end = start + size;
  if (!memory_reaches(end)) return NULL;
  top = (uintptr_t)end;
  return (void *)(uintptr_t)start;
}

static void keep(void *user, void *memory) { (void)user, (void)memory; }

const od_allocator memory_allocator = {take, keep, NULL};

/* Room for bytes that the caller writes, or 0. */
EXPORT("allocate") uint32_t allocate(uint32_t size) { return (uint32_t)(uintptr_t)take(NULL, size); }
