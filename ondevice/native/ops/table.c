/* table.c: the table of operators, and the way from a node to its loop. */
#include "ops/ops.h"

#define WITH_ROW_LOOP(name, op, shape, loop) [op] = {#name, 0, shape, loop, NULL},
#define WITH_ROWS_LOOP(name, op, shape, loop) [op] = {#name, 0, shape, NULL, loop},
#define AS_VIEW(name, op, shape) [op] = {#name, 1, shape, NULL, NULL},
#define RUN_BY_CORE(name, op, shape) [op] = {#name, 0, shape, NULL, NULL},

const od_operator_row od_operators[OD_OP_COUNT] = {
    OD_OPERATORS(WITH_ROW_LOOP, WITH_ROWS_LOOP, AS_VIEW, RUN_BY_CORE)};

od_op od_find_operator(const char *name) {
  uint32_t op = 0;
  while (op < OD_OP_COUNT && !od_equal(od_operators[op].name, name)) op++;
  return (od_op)op;
}

od_trouble od_execute(const od_node *node, const od_value *values, const od_rows *in, char *out,
                      size_t out_step, size_t rows) {
  const od_operator_row *operator = &od_operators[node->op];
  if (operator->rows) return operator->rows(node, values, in, out, out_step, rows);
  od_trouble trouble = OD_TROUBLE_NONE;
  for (size_t row = 0; row < rows; row++) {
    const char *operands[3] = {NULL, NULL, NULL};
    for (uint32_t i = 0; i < node->input_count && i < 3; i++)
      if (in[i].data) operands[i] = in[i].data + row * in[i].step;
    od_trouble row_trouble = operator->row(node, values, operands, out + row * out_step);
    if (row_trouble) trouble = row_trouble;
  }
  return trouble;
}
