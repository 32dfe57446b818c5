/* vector_bits.c: hashes of what the loops of vectors.h compute, to compare the bits of two processors.
 *
 *   vector_bits [KERNELS]
 *
 * Prints a line for each function: its name, and the XXH64 of all results over rows of many lengths, of
 * ordinary and of extreme values, infinities and NaN among them. A NaN counts as one whatever its bits.
 */
#include <stdio.h>
#include <string.h>

#include "core/hash.h"
#include "kernels/kernels.h"

enum { ROOM = 8192, LONGEST = 70 };

static float first[ROOM], second[ROOM], results[ROOM];
static uint64_t state;

static uint32_t next_random(void) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(state >> 32);
}

static void fill(float *values, int extreme) {
  static const float rare[] = {0.0f, -0.0f, 1e-42f, -88.0f, -103.9f, -104.1f, 88.7f, 89.5f, 0.625f,
                               1e30f, -1e30f, __builtin_inff(), -__builtin_inff(), __builtin_nanf("")};
  for (int i = 0; i < ROOM; i++) {
    uint32_t bits = next_random();
    values[i] = (float)(int32_t)bits * (extreme ? 0x1p-24f : 0x1p-30f);
    if (extreme && bits % 8 == 0) values[i] = rare[bits / 8 % (sizeof rare / sizeof *rare)];
  }
}

static uint64_t hash_of(size_t count, uint64_t seed) {
  for (size_t i = 0; i < count; i++)
    if (results[i] != results[i]) results[i] = -1234.5f;
  return od_hash(results, count * sizeof *results, seed);
}

/* Every length up to LONGEST, in rows that follow each other and in rows with gaps. */
static uint64_t hash_spans(const od_vectors *v, int is_pair, int function, int repeated) {
  uint64_t hash = 0;
  for (size_t n = 1; n <= LONGEST; n++)
    for (int gap = 0; gap < 2; gap++) {
      int64_t step = (int64_t)n + 3 * gap;
      od_span span = {{first, second, NULL}, results, 3, n, {step, repeated ? 1 : step, 0}, step,
                      {1, repeated ? 0 : 1, 0}};
      memset(results, 0, sizeof results);
      if (is_pair) v->pairs((od_pair)function, &span);
      else v->maps((od_map)function, 0.1f, &span);
      hash = hash_of(3 * (n + 3), hash);
    }
  return hash;
}

static uint64_t hash_rows(const od_vectors *v, int function) {
  uint64_t hash = 0;
  for (size_t n = 1; n <= LONGEST; n++)
    for (size_t inner = 1; inner < 6; inner += 4) {
      memset(results, 0, sizeof results);
      if (function < 2) v->folds((od_fold)function, first, 20, n, inner, 3, results);
      else if (function == 2) v->softmax(first, 20, n, inner, results);
      else v->dots(first, NULL, second, NULL, 20, n, results);
      hash = hash_of(20 * n * inner, hash);
    }
  return hash;
}

int main(int count, char **arguments) {
  const od_kernels *kernels = od_kernels_choose(count > 1 ? arguments[1] : "portable");
  if (!kernels) return 3;
  for (int extreme = 0; extreme < 2; extreme++) {
    state = 1 + (uint64_t)extreme;
    fill(first, extreme);
    fill(second, extreme);
    for (int i = 0; i < OD_MAP_COUNT; i++)
      printf("map %d %d %016llx\n", extreme, i,
             (unsigned long long)hash_spans(kernels->vectors, 0, i, 0));
    for (int i = 0; i < 2 * OD_PAIR_COUNT; i++)
      printf("pair %d %d %016llx\n", extreme, i,
             (unsigned long long)hash_spans(kernels->vectors, 1, i / 2, i % 2));
    for (int i = 0; i < 4; i++)
      printf("rows %d %d %016llx\n", extreme, i,
             (unsigned long long)hash_rows(kernels->vectors, i));
  }
  return 0;
}
