/* model.h: a compiled model: values, lookups, nodes, and where every value lies. */
#ifndef ONDEVICE_MODEL_H
#define ONDEVICE_MODEL_H

#include "core/container.h"
#include "ops/operators.h"
#include "ops/parameters.h"

/* What a value is. A batched value has the request's rows as its first axis, which is not among
 * `dims`; a constant one comes from the file or was computed at load. */
typedef struct {
  od_dtype dtype;
  uint8_t batched;
  uint8_t rank;
  uint8_t counts_rows; /* a shape whose first number is the rows', written 0 */
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

/* The legal values of an ID, or of every one in a row; float32 ones lie between two numbers. */
typedef struct {
  int64_t low, high;
  float below, above;
  uint8_t limited; /* 0: every value is legal */
} od_id_bound;

typedef struct {
  od_id_bound *bounds;
  uint32_t count; /* 0: no limits; 1: the same for all elements of a row; otherwise one for each */
  uint8_t unguarded; /* no lookup refuses what lies outside */
} od_id_limits;

typedef struct {
  od_op op;
  uint32_t number; /* in the plan, for errors */
  uint32_t input_count;
  int32_t *inputs; /* values; -1: left out */
  int32_t output;
  uint8_t constant; /* computed at load */
  uint8_t view;     /* runs nothing: its result is its operand's memory */
  uint8_t omitted;  /* other nodes do its work (fold.c) */
  const od_kernels *kernels;
  union {           /* the parameters of its operator */
    od_lookup_node lookup;
    od_dense_node dense;
    od_axis concat; /* of the result */
    od_reduction reduction; /* and softmax: of the operand */
    od_unary unary;
    od_binary binary;
    od_where where;
    od_copied copied;
    od_pad pad;
    od_shape_part shape_part;
    od_selection selection;
    od_element_selection elements;
    od_deep_selection deep;
    od_arg arg;
    od_top_k top_k;
    od_cum_sum cum_sum;
    od_trees trees;
    od_gemm gemm;
    od_matmul matmul;
  };
} od_node;

struct od_model {
  const od_allocator *allocator;
  od_allocator own_allocator;
  od_arena arena;
  void (*unmap)(void *data, size_t size); /* NULL: the memory is the caller's */
  void *mapped;
  size_t mapped_size;
  /* Whether the file changed under its mapping since it was opened. NULL: nobody else can change
   * the memory. Asked after every request, whose answer is then an error. */
  int (*changed)(void *source);
  void *source; /* of the model that was opened first; the platform's */
  const void *file; /* what was opened */
  size_t file_size;

  const od_kernels *kernels;
  const char *info;
  size_t info_size;
  od_tensor *inputs, *outputs;
  uint32_t input_count, output_count;
  od_id_limits *id_limits; /* by input */
  uint32_t unguarded_inputs;
  int32_t *output_values;

  od_value *values;
  uint32_t value_count;
  od_table *tables; /* by name */
  uint32_t table_count;
  od_lookup *lookups; /* in plan order */
  uint32_t lookup_count;
  int32_t *lookup_outputs, *lookup_inputs; /* values */
  od_node *nodes;
  uint32_t node_count;

  uint32_t chunk_rows; /* rows that a session holds at once */
  uint64_t rows_bytes, single_bytes; /* a session's memory */
  uint32_t widest_dense; /* largest padded number of inputs of a dense layer */
  uint32_t widest_codes; /* bytes of the widest dense layer's quantised or rounded inputs */
  uint8_t bfloat; /* dense layers in f32 and f16 were rounded to bfloat16 */
  uint32_t widest_units; /* largest padded number of outputs */
};

/* Read the plan, check it, infer all shapes and compute what is constant (plan.c). `options` may be
 * NULL. */
OD_COLD od_status od_plan_read(od_model *model, const od_container *container, const od_options *options,
                       od_arena *scratch, od_error *error);

/* Round the weights of f32 and f16 dense layers to bfloat16 (bfloat.c). Those with up to
 * OD_UNIT_BLOCK outputs stay: they take little time, and the last one is the score. */
OD_COLD od_status od_round_dense(od_model *model, od_arena *scratch, od_error *error);

/* Decide where every value lies (place.c). */
OD_COLD od_status od_place(od_model *model, od_arena *scratch, od_error *error);

/* Profiles (profile.c): zero all operators; add one step, begun at that time on the clock. */
OD_COLD void od_profile_clear(const od_model *model, od_profile *profile);
OD_COLD void od_profile_lookups(od_profile *profile, uint64_t begun, const od_gather *gathers,
                        size_t count, size_t rows);
OD_COLD void od_profile_node(od_profile *profile, uint64_t begun, const od_model *model, uint32_t index,
                     size_t rows);

extern const od_allocator *od_default_allocator(void); /* platform */

/* A copy in locked memory, for od_open_memory, and its end (platform). */
OD_COLD od_status od_lock_copy(const void *data, size_t size, void **copy, od_error *error);
OD_COLD void od_lock_release(void *copy, size_t size);

#endif
