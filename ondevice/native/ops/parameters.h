/* parameters.h: what shape rules write down for loops, one struct for each family of operators. */
#ifndef ONDEVICE_PARAMETERS_H
#define ONDEVICE_PARAMETERS_H

#include "kernels/kernels.h"

/* The elements of a row's result in order: its axes, and up to three operands' strides along them,
 * 0 where an operand repeats. */
typedef struct {
  uint32_t rank;
  uint32_t shape[OD_MAX_RANK];
  int32_t strides[3][OD_MAX_RANK];
} od_walk;

/* A value split at one of its axes: the product of the axes before, its length, the product of
 * those behind. */
typedef struct {
  uint32_t outer, length, inner;
} od_axis;

/* With `products` (fold.c): sums of products of two operands' vectors, in order, or those that the
 * indices name. */
typedef struct {
  od_axis axis;
  uint8_t products;
  const int64_t *indices[2];
} od_reduction;

typedef struct {
  float alpha; /* LeakyRelu, Elu */
} od_unary;

typedef struct {
  od_walk walk;
  uint8_t fmod;    /* Mod: the remainder has the dividend's sign */
} od_binary;

typedef struct {
  od_walk walk; /* condition, value where true, value where false */
} od_where;

/* Transpose, Slice, Expand, ExpandRows */
typedef struct {
  od_walk walk;
  uint32_t start; /* the operand's first element */
} od_copied;

typedef struct {
  od_walk walk;
  int32_t before[OD_MAX_RANK];   /* elements added in front, or, below 0, cut off */
  uint32_t extents[OD_MAX_RANK]; /* the operand's axes, and its strides */
  int32_t strides[OD_MAX_RANK];
} od_pad;

typedef struct {
  od_axis axis; /* of the operand */
  uint32_t count; /* indices */
} od_selection;

typedef struct {
  od_walk walk;
  uint32_t length, stride; /* the operand's axis that is indexed */
} od_element_selection;

typedef struct {
  uint32_t outer, count, inner; /* blocks of axes in common, indices a block, elements an index */
  uint32_t depth; /* axes that an index names, and their extents */
  uint32_t extents[OD_MAX_RANK];
} od_deep_selection;

typedef struct {
  od_axis axis;
  uint8_t largest;
  uint8_t last; /* of equal elements, the last */
} od_arg;

typedef struct {
  od_axis axis;
  uint32_t count;
  uint8_t largest;
} od_top_k;

typedef struct {
  od_axis axis;
  uint8_t exclusive, reverse;
} od_cum_sum;

typedef struct {
  uint32_t features, trees, targets;
  uint8_t aggregate; /* od_aggregate */
  uint8_t outcomes;  /* of all tests, but for NaN; 0: they differ */
} od_trees;

typedef struct {
  uint32_t rows, depth, columns; /* [rows, depth] times [depth, columns] */
  uint8_t transposed;            /* the second matrix is [columns, depth] */
  float alpha, beta;
} od_gemm;

/* [rows, depth] times [depth, columns], for every element of the walk: operands and result. Steps are in
 * elements: from row to row, and of the second matrix from column to column too. */
typedef struct {
  od_walk walk;
  uint32_t rows, depth, columns;
  uint32_t a_step, b_row, b_column, out_step;
  uint8_t plain; /* the request's rows times a constant matrix: no walk */
} od_matmul;

typedef struct {
  od_dense layer;
  uint32_t vectors; /* inputs of the layer in a row */
  int32_t concat;   /* the node whose result the layer reads, where rank() may split it, or -1 */
  int32_t repeated; /* fold.c: the value that all vectors of a row begin with, or -1 */
  uint8_t rounded;  /* its weights and inputs are in bfloat16 (bfloat.c) */
} od_dense_node;

typedef struct {
  uint32_t start; /* the first of the operand's axes whose size is in the result */
} od_shape_part;

typedef struct {
  int32_t index; /* into the model's lookups */
} od_lookup_node;

#endif
