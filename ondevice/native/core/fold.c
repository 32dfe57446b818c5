/* fold.c: transposes before and after a matrix product become steps of the product itself. */
#include "core/plan.h"

/* How many nodes and outputs read each value. */
static void count_readers(const od_model *model, uint32_t *readers) {
  for (uint32_t i = 0; i < model->node_count; i++)
    for (uint32_t j = 0; j < model->nodes[i].input_count; j++)
      if (model->nodes[i].inputs[j] >= 0) readers[model->nodes[i].inputs[j]]++;
  for (uint32_t i = 0; i < model->output_count; i++) readers[model->output_values[i]]++;
}

/* The transpose of requests' rows that computes a value, or NULL. */
static od_node *transpose_of(od_model *model, int32_t value) {
  int32_t number = model->values[value].node;
  od_node *node = number >= 0 ? &model->nodes[number] : NULL;
  return node && node->op == OD_OP_TRANSPOSE && !node->constant ? node : NULL;
}

/* Read operand `which` of a product where a transpose reads it. The value's leading axes are
 * aligned to the right of the product's. */
static int fold_operand(od_model *model, od_node *node, uint32_t which) {
  od_node *from = transpose_of(model, node->inputs[which]);
  od_matmul *m = &node->matmul;
  if (!from || from->copied.walk.rank < 2) return 0;
  const od_walk *walk = &from->copied.walk;
  uint32_t leading = walk->rank - 2u, skipped = m->walk.rank - leading;
  int32_t row = walk->strides[0][leading], column = walk->strides[0][leading + 1];
  if (which == 0 && (column != 1 || row < 0)) return 0;
  for (uint32_t i = 0; i < leading; i++)
    m->walk.strides[which][skipped + i] = walk->shape[i] == 1 ? 0 : walk->strides[0][i];
  if (which == 0) m->a_step = (uint32_t)row;
  else m->b_row = (uint32_t)row, m->b_column = (uint32_t)column;
  node->inputs[which] = from->inputs[0];
  return 1;
}

/* Write a product where a transpose, its only reader, writes it; the last axis must stay. */
static void fold_result(od_model *model, od_node *transpose, const uint32_t *readers) {
  int32_t value = transpose->inputs[0];
  int32_t number = model->values[value].node;
  od_node *node = number >= 0 ? &model->nodes[number] : NULL;
  const od_walk *walk = &transpose->copied.walk;
  od_matmul *m = node ? &node->matmul : NULL;
  if (!node || node->op != OD_OP_MATMUL || node->constant || readers[value] != 1 ||
      walk->rank != m->walk.rank + 2u || walk->strides[0][walk->rank - 1] != 1)
    return;
  int32_t steps[OD_MAX_RANK] = {0}, step = 1; /* of the result's axes, as the product has them */
  for (uint32_t i = walk->rank; i-- > 0;) {
    int32_t from = 1; /* which of the product's axes has this stride */
    for (uint32_t axis = walk->rank; axis-- > 0;) {
      uint32_t extent = model->values[value].dims[axis];
      if (from == walk->strides[0][i] && extent == walk->shape[i] && !steps[axis]) {
        steps[axis] = step;
        break;
      }
      from *= (int32_t)extent;
    }
    step *= (int32_t)walk->shape[i];
  }
  for (uint32_t axis = 0; axis < walk->rank; axis++)
    if (!steps[axis]) return; /* axes of size 1 may hide which is which */
  for (uint32_t i = 0; i < m->walk.rank; i++) m->walk.strides[2][i] = steps[i];
  m->out_step = (uint32_t)steps[m->walk.rank];
  node->output = transpose->output;
  model->values[transpose->output].node = number;
  model->values[value].node = -1;
  model->values[value].batched = 0; /* nothing computes or reads it */
  transpose->omitted = 1;
}

od_status od_fold_transposes(od_model *model, od_arena *scratch, od_error *error) {
  uint32_t *readers = od_take(scratch, model->value_count, sizeof *readers);
  if (!readers) return od_fail(error, OD_E_MEMORY, "out of memory for the plan");
  count_readers(model, readers);
  for (uint32_t i = 0; i < model->node_count; i++) {
    od_node *node = &model->nodes[i];
    if (node->op != OD_OP_MATMUL || node->constant || !model->values[node->output].rank) continue;
    for (uint32_t which = 0; which < 2; which++) {
      int32_t value = node->inputs[which];
      if (node->matmul.plain || !fold_operand(model, node, which)) continue;
      readers[node->inputs[which]]++;
      if (--readers[value]) continue;
      od_node *transpose = &model->nodes[model->values[value].node];
      transpose->omitted = 1;
      readers[transpose->inputs[0]]--;
      model->values[value].node = -1;
      model->values[value].batched = 0;
    }
  }
  for (uint32_t i = 0; i < model->node_count; i++) {
    od_node *node = &model->nodes[i];
    if (node->op == OD_OP_TRANSPOSE && !node->omitted && !node->constant)
      fold_result(model, node, readers);
  }
  return OD_OK;
}
