/* memory.h: the memory of a WebAssembly module: handed out upwards, never taken back one by one. */
#ifndef ONDEVICE_WEB_MEMORY_H
#define ONDEVICE_WEB_MEMORY_H

#include "ondevice.h"

#define EXPORT(name) __attribute__((export_name(name)))

enum { ALIGNMENT = 64 };

extern const od_allocator memory_allocator;

/* Forget all that was handed out. */
void memory_reset(void);

/* The first byte that is not handed out. */
uint64_t memory_top(void);

/* Whether memory reaches up to `end`, grown if need be. */
int memory_reaches(uint64_t end);

#endif
