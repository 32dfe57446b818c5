/* allocator.h: memory from malloc, for the platforms that have a C library; included once a build. */
#ifndef OD_ALLOCATOR_H
#define OD_ALLOCATOR_H

#include "core/model.h"

#include <stdlib.h>

static void *allocate(void *user, size_t size) {
  (void)user;
  return malloc(size);
}

static void release(void *user, void *memory) {
  (void)user;
  free(memory);
}

const od_allocator *od_default_allocator(void) {
  static const od_allocator allocator = {allocate, release, NULL};
  return &allocator;
}

#endif
