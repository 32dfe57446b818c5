/* ops.h: what operators are made of: shape rules, loops, and the helpers of both. */
#ifndef ONDEVICE_OPS_H
#define ONDEVICE_OPS_H

#include "core/model.h"

/* Shape rules
 *
 * A batched value's rows must stay independent and stay its first axis: a rule refuses an operator
 * that would mix rows, and the caller falls back to an engine that can. A "full" axis counts the
 * rows as axis 0 of a batched value, as ONNX does. */

typedef struct {
  od_model *model;
  od_node *node;
  const od_json *item, *attributes; /* the node in the plan; attributes: NULL, or an object */
  od_error *error;
  od_value *out;
} od_inference;

typedef od_status (*od_shape_rule)(const od_inference *f);

OD_COLD od_status od_refuse(const od_inference *f, const char *why);

OD_COLD const od_value *od_operand(const od_inference *f, uint32_t i); /* NULL: left out */
/* Every attribute must be one of the operator's, and of its type (attributes.c). */
OD_COLD od_status od_check_attributes(const od_inference *f);
OD_COLD int64_t od_attribute_int(const od_inference *f, const char *name, int64_t fallback);
OD_COLD int od_attribute_flag(const od_inference *f, const char *name, int fallback);
OD_COLD float od_attribute_real(const od_inference *f, const char *name, float fallback);

/* Constant int64 numbers, such as axes and shapes; 0 when an operand is something else. */
OD_COLD int od_constant_ints(const od_value *v, const int64_t **numbers, uint32_t *count);

OD_COLD uint32_t od_full_rank(const od_value *v);
OD_COLD uint32_t od_full_dim(const od_value *v, uint32_t axis);  /* 0 stands for the rows */
OD_COLD int32_t od_normal_axis(int64_t axis, uint32_t rank);     /* among `rank`; -1: out of range */
OD_COLD int od_is_plain(const od_value *v);                      /* float32, int64, or bool (one byte) */

/* Extents of an operand's axes, aligned to the right of `rank` full axes; 1 where it has none. 0
 * when its rows would fall on another axis than the result's first. */
OD_COLD int od_align(const od_value *v, uint32_t rank, uint32_t *dims);

/* Strides of an operand with these extents along the result's axes, 0 where it repeats. */
OD_COLD void od_strides(const uint32_t *dims, uint32_t rank, int32_t *strides);

/* Split an operand at a full axis; 0 for the rows. `dim`: the axis among its dims. */
OD_COLD int od_split_at(const od_value *in, int64_t full_axis, od_axis *axis, uint32_t *dim);

/* At least `count` operands, all float32, or float32 or int64 of one type. */
OD_COLD od_status od_need_floats(const od_inference *f, uint32_t count);
OD_COLD od_status od_need_numbers(const od_inference *f, uint32_t count);

/* Set the result's type and shape; like an operand's; or that of `count` operands that repeat along
 * axes of size 1, and the walk over them. */
OD_COLD od_status od_set_dims(const od_inference *f, int batched, od_dtype dtype, const uint32_t *dims,
                      uint32_t rank);
OD_COLD od_status od_same_as(const od_inference *f, const od_value *in);
OD_COLD od_status od_broadcast(const od_inference *f, uint32_t count, od_dtype dtype, od_walk *walk);

/* Loops */

/* What can go wrong in an operator while a request runs. */
typedef enum {
  OD_TROUBLE_NONE,
  OD_TROUBLE_INDEX,
  OD_TROUBLE_ZERO,
  OD_TROUBLE_DEPTH
} od_trouble;

/* A value's rows: the first, and the bytes from one to the next, 0 where all rows share one. */
typedef struct {
  const char *data;
  size_t step;
} od_rows;

/* in: the operands' rows, NULL where one is left out. */
typedef od_trouble (*od_row_loop)(const od_node *node, const od_value *values,
                                  const char *const *in, char *out);
typedef od_trouble (*od_rows_loop)(const od_node *node, const od_value *values, const od_rows *in,
                                   char *out, size_t out_step, size_t rows);

#define OD_FLOATS(p) ((const float *)(const void *)(p))
#define OD_INTS(p) ((const int64_t *)(const void *)(p))
#define OD_BYTES(p) ((const uint8_t *)(const void *)(p))

/* The element of a walk: its axes' indices, and the operands' places. */
typedef struct {
  uint32_t at[OD_MAX_RANK];
  int64_t places[3];
} od_walker;

OD_INLINE void od_step_on(od_walker *w, const od_walk *walk) {
  for (uint32_t axis = walk->rank; axis-- > 0;) {
    for (int i = 0; i < 3; i++) w->places[i] += walk->strides[i][axis];
    if (++w->at[axis] < walk->shape[axis]) return;
    for (int i = 0; i < 3; i++)
      w->places[i] -= (int64_t)walk->strides[i][axis] * walk->shape[axis];
    w->at[axis] = 0;
  }
}

/* Call `loop` for spans that cover all rows of a walk.
 *
 * bytes: of an element of each of three operands, 0 where there is none, and of the result. */
typedef void (*od_span_loop)(const od_span *span, void *context);
void od_each_span(const od_walk *walk, const uint32_t *bytes, const od_rows *in, char *out,
                  size_t out_step, size_t rows, od_span_loop loop, void *context);

int od_truth(od_dtype dtype, const char *data, int64_t at);

/* Copy a few elements: pieces of a fixed size compile to moves, where a call would take longer. */
OD_INLINE void od_copy_few(char *to, const char *from, size_t size) {
  for (; size >= 16; to += 16, from += 16, size -= 16) __builtin_memcpy(to, from, 16);
  if (size) od_copy(to, from, size);
}

/* Copy an element of 1, 4 or 8 bytes. */
OD_INLINE void od_move(uint32_t bytes, char *to, int64_t i, const char *from, int64_t at) {
  if (bytes == 4) ((uint32_t *)(void *)to)[i] = ((const uint32_t *)(const void *)from)[at];
  else if (bytes == 8) ((uint64_t *)(void *)to)[i] = ((const uint64_t *)(const void *)from)[at];
  else to[i] = from[at];
}

/* The table of operators (table.c) */

typedef struct {
  char name[15]; /* in a plan */
  uint8_t view;  /* runs nothing: its result is its operand's memory */
  od_shape_rule shape;
  od_row_loop row; /* or */
  od_rows_loop rows; /* or neither: a view, or an operator that core/run.c runs */
} od_operator_row;

extern const od_operator_row od_operators[OD_OP_COUNT]; /* by od_op */

/* The operator of a name, or OD_OP_COUNT. */
od_op od_find_operator(const char *name);

/* About how many steps a node takes for a row, or for its constant result: elements that it writes
 * or reads, and products that it sums up. */
uint64_t od_work(const od_node *node, const od_value *values);

/* Run the loop of a node over rows of its operands. */
od_trouble od_execute(const od_node *node, const od_value *values, const od_rows *in, char *out,
                      size_t out_step, size_t rows);

#define OD_DECLARE_ROW(name, op, shape, loop)      \
  OD_COLD od_status shape(const od_inference *f);  \
  od_trouble loop(const od_node *node, const od_value *values, const char *const *in, char *out);
#define OD_DECLARE_ROWS(name, op, shape, loop)                                                  \
  OD_COLD od_status shape(const od_inference *f);                                               \
  od_trouble loop(const od_node *node, const od_value *values, const od_rows *in, char *out,    \
                  size_t out_step, size_t rows);
#define OD_DECLARE_SHAPE(name, op, shape) OD_COLD od_status shape(const od_inference *f);
OD_OPERATORS(OD_DECLARE_ROW, OD_DECLARE_ROWS, OD_DECLARE_SHAPE, OD_DECLARE_SHAPE)
#undef OD_DECLARE_ROW
#undef OD_DECLARE_ROWS
#undef OD_DECLARE_SHAPE

#endif
