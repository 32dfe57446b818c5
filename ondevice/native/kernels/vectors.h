/* vectors.h: loops of operators over float32 arrays, one table of functions per instruction set.
 *
 * Every function gives the same bits with every instruction set: one order of operations, no fused
 * multiply-add, and sums in a fixed order.
 */
#ifndef ONDEVICE_VECTORS_H
#define ONDEVICE_VECTORS_H

#include "core/base.h"

/* Functions of two values. Max and Min give NaN where either is NaN. */
typedef enum {
  OD_PAIR_ADD, OD_PAIR_SUB, OD_PAIR_MUL, OD_PAIR_DIV, OD_PAIR_MAX, OD_PAIR_MIN, OD_PAIR_PRELU,
  OD_PAIR_COUNT
} od_pair;

/* Functions of one value. */
typedef enum {
  OD_MAP_COPY, OD_MAP_RELU, OD_MAP_LEAKY_RELU, OD_MAP_ABS, OD_MAP_NEG, OD_MAP_SQRT,
  OD_MAP_RECIPROCAL, OD_MAP_EXP, OD_MAP_SIGMOID, OD_MAP_TANH, OD_MAP_COUNT
} od_map;

/* Functions of many values. */
typedef enum { OD_FOLD_SUM, OD_FOLD_MAX } od_fold;

/* Two loops over up to three operands and a result; steps are in elements. */
typedef struct {
  const void *in[3];
  void *out;
  size_t n1, n0;      /* steps of the outer and of the inner loop */
  int64_t in1[3], out1; /* from one step of the outer loop to the next */
  int64_t in0[3];     /* along the inner loop: 0 or 1; the result's is 1 */
} od_span;

typedef struct {
  /* out = pair(in[0], in[1]), out = map(in[0]). alpha: of LeakyRelu. */
  void (*pairs)(od_pair pair, const od_span *span);
  void (*maps)(od_map map, float alpha, const od_span *span);
  /* [outer, length, inner] to [outer, inner], divided. Where inner is 1, element i goes to
   * sum i mod 16, and those 16 are added in halves; otherwise elements are added in order. */
  void (*folds)(od_fold fold, const float *in, size_t outer, size_t length, size_t inner,
                float divisor, float *out);
  /* out[i] = sum of the products of vector a_places[i] of a and b_places[i] of b, or of vectors i
   * where there are no places. A product is rounded before it is added, as by folds. */
  void (*dots)(const float *a, const int64_t *a_places, const float *b, const int64_t *b_places,
               size_t count, size_t length, float *out);
  /* Softmax along the middle axis of [outer, length, inner]. */
  void (*softmax)(const float *in, size_t outer, size_t length, size_t inner, float *out);
} od_vectors;

extern const od_vectors od_vectors_portable;

#endif
