/* operators.h: one row for every operator of a plan: its name, its enum, its shape rule, its loop.
 *
 * A shape rule (ops.h) checks a node's operands and attributes, fills in the node's
 * parameters (parameters.h), and sets the type and shape of the result. A loop computes the result;
 * it stands beside its shape rule. The kinds of rows:
 *
 *   ROW   the loop computes one row from a row of each of up to three operands
 *   ROWS  the loop computes all rows
 *   VIEW  no loop: the result is the first operand's memory under another shape
 *   CORE  core/run.c runs it
 */
#ifndef ONDEVICE_OPERATORS_H
#define ONDEVICE_OPERATORS_H

/* clang-format off */
#define OD_OPERATORS(ROW, ROWS, VIEW, CORE)                                                  \
  ROWS(Abs, OD_OP_ABS, od_shape_unary_numbers, od_loop_unary)                                \
  ROWS(Add, OD_OP_ADD, od_shape_arithmetic, od_loop_arithmetic)                              \
  ROWS(And, OD_OP_AND, od_shape_logic, od_loop_logic)                                        \
  ROW(ArgMax, OD_OP_ARG_MAX, od_shape_arg, od_loop_arg)                                      \
  ROW(ArgMin, OD_OP_ARG_MIN, od_shape_arg, od_loop_arg)                                      \
  ROW(Cast, OD_OP_CAST, od_shape_cast, od_loop_cast)                                         \
  ROWS(Ceil, OD_OP_CEIL, od_shape_unary_floats, od_loop_unary)                               \
  ROWS(Concat, OD_OP_CONCAT, od_shape_concat, od_loop_concat)                                \
  ROW(CumSum, OD_OP_CUM_SUM, od_shape_cum_sum, od_loop_cum_sum)                              \
  CORE(Dense, OD_OP_DENSE, od_shape_dense)                                                   \
  ROWS(Div, OD_OP_DIV, od_shape_arithmetic, od_loop_arithmetic)                              \
  ROWS(Elu, OD_OP_ELU, od_shape_unary_floats, od_loop_unary)                                 \
  ROWS(Equal, OD_OP_EQUAL, od_shape_equal, od_loop_comparison)                               \
  ROWS(Erf, OD_OP_ERF, od_shape_unary_floats, od_loop_unary)                                 \
  ROWS(Exp, OD_OP_EXP, od_shape_unary_floats, od_loop_unary)                                 \
  ROWS(Expand, OD_OP_EXPAND, od_shape_expand, od_loop_copy)                                  \
  ROWS(ExpandRows, OD_OP_EXPAND_ROWS, od_shape_expand_rows, od_loop_copy)                    \
  VIEW(Flatten, OD_OP_FLATTEN, od_shape_flatten)                                             \
  ROWS(Floor, OD_OP_FLOOR, od_shape_unary_floats, od_loop_unary)                             \
  ROW(Gather, OD_OP_GATHER, od_shape_gather, od_loop_gather)                                 \
  ROW(GatherElements, OD_OP_GATHER_ELEMENTS, od_shape_gather_elements, od_loop_gather_elements) \
  ROW(GatherND, OD_OP_GATHER_ND, od_shape_gather_nd, od_loop_gather_nd)                      \
  ROW(Gemm, OD_OP_GEMM, od_shape_gemm, od_loop_gemm)                                         \
  ROWS(Greater, OD_OP_GREATER, od_shape_comparison, od_loop_comparison)                      \
  ROWS(GreaterOrEqual, OD_OP_GREATER_EQUAL, od_shape_comparison, od_loop_comparison)         \
  VIEW(Identity, OD_OP_IDENTITY, od_shape_identity)                                          \
  ROWS(LeakyRelu, OD_OP_LEAKY_RELU, od_shape_unary_floats, od_loop_unary)                    \
  ROWS(Less, OD_OP_LESS, od_shape_comparison, od_loop_comparison)                            \
  ROWS(LessOrEqual, OD_OP_LESS_EQUAL, od_shape_comparison, od_loop_comparison)               \
  ROWS(Log, OD_OP_LOG, od_shape_unary_floats, od_loop_unary)                                 \
  CORE(Lookup, OD_OP_LOOKUP, od_shape_lookup)                                                \
  ROW(MatMul, OD_OP_MATMUL, od_shape_matmul, od_loop_matmul)                                 \
  ROWS(Max, OD_OP_MAX, od_shape_arithmetic, od_loop_arithmetic)                              \
  ROWS(Min, OD_OP_MIN, od_shape_arithmetic, od_loop_arithmetic)                              \
  ROWS(Mod, OD_OP_MOD, od_shape_arithmetic, od_loop_arithmetic)                              \
  ROWS(Mul, OD_OP_MUL, od_shape_arithmetic, od_loop_arithmetic)                              \
  ROWS(Neg, OD_OP_NEG, od_shape_unary_numbers, od_loop_unary)                                \
  ROW(Not, OD_OP_NOT, od_shape_not, od_loop_not)                                             \
  ROWS(Or, OD_OP_OR, od_shape_logic, od_loop_logic)                                          \
  ROWS(PRelu, OD_OP_PRELU, od_shape_arithmetic_floats, od_loop_arithmetic)                   \
  ROW(Pad, OD_OP_PAD, od_shape_pad, od_loop_pad)                                             \
  ROWS(Pow, OD_OP_POW, od_shape_arithmetic_floats, od_loop_arithmetic)                       \
  ROWS(Reciprocal, OD_OP_RECIPROCAL, od_shape_unary_floats, od_loop_unary)                   \
  ROWS(ReduceMax, OD_OP_REDUCE_MAX, od_shape_reduce, od_loop_reduce)                         \
  ROWS(ReduceMean, OD_OP_REDUCE_MEAN, od_shape_reduce_mean, od_loop_reduce)                  \
  ROWS(ReduceMin, OD_OP_REDUCE_MIN, od_shape_reduce, od_loop_reduce)                         \
  ROWS(ReduceProd, OD_OP_REDUCE_PROD, od_shape_reduce, od_loop_reduce)                       \
  ROWS(ReduceSum, OD_OP_REDUCE_SUM, od_shape_reduce, od_loop_reduce)                         \
  ROWS(Relu, OD_OP_RELU, od_shape_unary_numbers, od_loop_unary)                              \
  VIEW(Reshape, OD_OP_RESHAPE, od_shape_reshape)                                             \
  ROWS(Round, OD_OP_ROUND, od_shape_unary_floats, od_loop_unary)                             \
  ROW(Shape, OD_OP_SHAPE, od_shape_shape, od_loop_shape)                                     \
  ROWS(Sigmoid, OD_OP_SIGMOID, od_shape_unary_floats, od_loop_unary)                         \
  ROWS(Sign, OD_OP_SIGN, od_shape_unary_numbers, od_loop_unary)                              \
  ROWS(Slice, OD_OP_SLICE, od_shape_slice, od_loop_copy)                                     \
  ROWS(Softmax, OD_OP_SOFTMAX, od_shape_softmax, od_loop_softmax)                            \
  ROWS(Softplus, OD_OP_SOFTPLUS, od_shape_unary_floats, od_loop_unary)                       \
  ROWS(Sqrt, OD_OP_SQRT, od_shape_unary_floats, od_loop_unary)                               \
  VIEW(Squeeze, OD_OP_SQUEEZE, od_shape_squeeze)                                             \
  ROWS(Sub, OD_OP_SUB, od_shape_arithmetic, od_loop_arithmetic)                              \
  ROWS(Tanh, OD_OP_TANH, od_shape_unary_floats, od_loop_unary)                               \
  ROW(TopKIndices, OD_OP_TOP_K, od_shape_top_k, od_loop_top_k)                               \
  ROWS(Transpose, OD_OP_TRANSPOSE, od_shape_transpose, od_loop_copy)                         \
  ROWS(TreeEnsemble, OD_OP_TREE_ENSEMBLE, od_shape_trees, od_loop_trees)                     \
  VIEW(Unsqueeze, OD_OP_UNSQUEEZE, od_shape_unsqueeze)                                       \
  ROWS(Where, OD_OP_WHERE, od_shape_where, od_loop_where)                                    \
  ROWS(Xor, OD_OP_XOR, od_shape_logic, od_loop_logic)
/* clang-format on */

#define OD_LOOP_ENUM(name, op, shape, loop) op,
#define OD_PLAIN_ENUM(name, op, shape) op,
typedef enum {
  OD_OPERATORS(OD_LOOP_ENUM, OD_LOOP_ENUM, OD_PLAIN_ENUM, OD_PLAIN_ENUM)
  OD_OP_COUNT
} od_op;
#undef OD_LOOP_ENUM
#undef OD_PLAIN_ENUM

#endif
