/* model.h: a compiled model: values, lookups, nodes, and where every value lies. */
#ifndef ONDEVICE_MODEL_H
#define ONDEVICE_MODEL_H

#include "core/container.h"
#include "kernels/kernels.h"

/* What a value is. A batched value has the request's rows as its first axis, which is not among
 * `dims`; a constant one comes from the file or was computed at load. */
typedef struct {
  od_dtype dtype;
  uint8_t batched;
  uint8_t rank;
  uint32_t dims[OD_MAX_RANK];
  uint32_t size; /* elements a row (batched) or in all */
  const void *data; /* constants */
  int32_t input;    /* index of the model input that it is, or -1 */
  int32_t node;     /* the node that computes it, or -1 */
  /* Where a computed value lies: inside another value (a view, or a part of a concatenation) at
   * an offset in elements, or, with parent -1, in a buffer of its own. */
  int32_t parent;
  uint32_t offset;
  uint32_t root, root_offset; /* the end of the chain of parents */
  uint64_t place, single_place; /* roots: first byte in the rows' and in the context's memory */
} od_value;

/* Operators on two values stand in front of OD_OP_UNARY, comparisons from OD_OP_EQUAL on. */
typedef enum {
  OD_OP_ADD, OD_OP_SUB, OD_OP_MUL, OD_OP_DIV, OD_OP_MAX, OD_OP_MIN, OD_OP_PRELU, OD_OP_MOD,
  OD_OP_POW, OD_OP_EQUAL, OD_OP_LESS, OD_OP_LESS_EQUAL, OD_OP_GREATER, OD_OP_GREATER_EQUAL,
  OD_OP_AND, OD_OP_OR, OD_OP_XOR,
  OD_OP_RELU, OD_OP_SIGMOID, OD_OP_TANH, OD_OP_ABS, OD_OP_NEG, OD_OP_SQRT, OD_OP_EXP, OD_OP_LOG,
  OD_OP_RECIPROCAL, OD_OP_FLOOR, OD_OP_CEIL, OD_OP_ROUND, OD_OP_SIGN, OD_OP_ERF, OD_OP_SOFTPLUS,
  OD_OP_LEAKY_RELU, OD_OP_ELU,
  OD_OP_LOOKUP, OD_OP_DENSE, OD_OP_CONCAT, OD_OP_VIEW, OD_OP_GEMM, OD_OP_MATMUL,
  OD_OP_REDUCE_SUM, OD_OP_REDUCE_MEAN, OD_OP_REDUCE_MAX, OD_OP_REDUCE_MIN, OD_OP_REDUCE_PROD,
  OD_OP_SOFTMAX, OD_OP_COPY, OD_OP_PAD, OD_OP_WHERE, OD_OP_CAST, OD_OP_NOT, OD_OP_GATHER,
  OD_OP_GATHER_ELEMENTS, OD_OP_GATHER_ND, OD_OP_ARG, OD_OP_TOP_K, OD_OP_CUM_SUM
} od_op;

/* What can go wrong in an operator while a request runs. */
typedef enum { OD_TROUBLE_NONE, OD_TROUBLE_INDEX, OD_TROUBLE_ZERO } od_trouble;

typedef struct {
  od_op op;
  uint32_t number; /* in the plan, for errors */
  uint32_t input_count;
  int32_t *inputs; /* values; -1: left out */
  int32_t output;
  uint8_t constant; /* computed at load */
  int32_t lookup;   /* OD_OP_LOOKUP: index into lookups */
  /* OD_OP_DENSE */
  od_dense dense;
  int32_t parts; /* the concatenation its input is, or -1: rank() splits it there */
  /* the other operators */
  uint32_t outer, middle, inner; /* softmax, reductions, concatenation: axes before, at, after */
  uint32_t shape[OD_MAX_RANK]; /* elementwise, copies, padding: output axes, ... */
  int32_t strides[3][OD_MAX_RANK]; /* ... and the operands' strides along them, */
  uint32_t offset;                 /* where a copy starts in its operand, */
  int32_t pads[OD_MAX_RANK];       /* and what padding adds in front */
  uint32_t extents[OD_MAX_RANK];   /* padding: input axes; GatherND: indexed axes */
  uint32_t rank;
  uint32_t plain;               /* elementwise: no operand repeats */
  uint32_t m, k, n, transposed; /* products; n, k: indices; transposed: largest, exclusive */
  uint32_t flag;                /* Mod: fmod; Arg: last of equals; CumSum: reverse */
  float alpha, beta;
} od_node;

struct od_model {
  const od_allocator *allocator;
  od_allocator own_allocator;
  od_arena arena;
  void (*unmap)(void *data, size_t size); /* NULL: the memory is the caller's */
  void *mapped;
  size_t mapped_size;

  const od_kernels *kernels;
  const char *info;
  size_t info_size;
  od_tensor *inputs, *outputs;
  uint32_t input_count, output_count;
  int32_t *output_values;

  od_value *values;
  uint32_t value_count;
  od_table *tables;
  uint32_t table_count;
  od_lookup *lookups; /* in plan order */
  uint32_t lookup_count;
  int32_t *lookup_outputs, *lookup_inputs; /* values */
  od_node *nodes;
  uint32_t node_count;

  uint32_t chunk_rows; /* rows that a session holds at once */
  uint64_t rows_bytes, single_bytes; /* a session's memory */
  uint32_t widest_dense; /* largest padded number of inputs of a dense layer */
  uint32_t widest_units; /* largest padded number of outputs */
};

/* Read the plan and check it (plan.c); infer shapes and place values (compile.c). */
od_status od_plan_read(od_model *model, const od_container *container, od_arena *scratch,
                       od_error *error);
od_status od_infer_node(od_model *model, od_node *node, const char *op, const od_json *attributes,
                        od_error *error);
od_status od_place(od_model *model, od_arena *scratch, od_error *error);

/* Compute the nodes that depend on constants alone (run.c). */
od_status od_run_constants(od_model *model, od_error *error);

/* Execute one node that is not a lookup over rows (ops.c). in[i], out: first row; *_step: bytes
 * from one row to the next, 0 where all rows share one. */
typedef struct {
  const char *data;
  size_t step;
} od_rows;
od_trouble od_execute(const od_node *node, const od_value *values, const od_rows *in, char *out,
                      size_t out_step, size_t rows);

/* Profiles (profile.c): zero all operators; add one step, begun at that time on the clock. */
void od_profile_clear(const od_model *model, od_profile *profile);
void od_profile_lookups(od_profile *profile, uint64_t begun, const od_gather *gathers,
                        size_t count, size_t rows);
void od_profile_node(od_profile *profile, uint64_t begun, const od_model *model, uint32_t index,
                     size_t rows);

extern const od_allocator *od_default_allocator(void); /* platform */

#endif
