/* fold.c: nodes whose work others do: transposes around matrix products, products before sums, what
 * only repeats. */
#include "core/plan.h"
#include "ops/ops.h"

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

/* The value that a view without an offset shows. Adds to `shared` when others read it too. */
static int32_t viewed(const od_model *model, int32_t value, const uint32_t *readers, int *shared) {
  for (;;) {
    const od_value *v = &model->values[value];
    *shared |= readers[value] != 1;
    if (v->parent < 0 || v->offset || model->values[v->parent].size != v->size) return value;
    value = v->parent;
  }
}

/* The node that computes a value for every row, if it is of this operator. */
static od_node *computed_by(od_model *model, int32_t value, od_op op) {
  int32_t number = model->values[value].node;
  od_node *node = number >= 0 ? &model->nodes[number] : NULL;
  return node && node->op == op && !node->constant && !node->omitted ? node : NULL;
}

static void omit(od_model *model, od_node *node) {
  node->omitted = 1;
  model->values[node->output].node = -1;
  model->values[node->output].batched = 0; /* nothing computes or reads it */
}

/* Whether an operand of a product lies as the result does, for every row. */
static int lies_alike(const od_model *model, const od_node *node, uint32_t which) {
  int64_t step = 1;
  const od_walk *walk = &node->binary.walk;
  for (uint32_t i = walk->rank; i-- > 0; step *= walk->shape[i])
    if (walk->shape[i] != 1 && walk->strides[which][i] != step) return 0;
  return model->values[node->inputs[which]].batched;
}

/* Read the vectors that a Gather selects where they are. */
static void fold_gather(od_model *model, od_node *sum, uint32_t which, uint32_t *readers) {
  int shared = 0;
  int32_t value = viewed(model, sum->inputs[which], readers, &shared);
  od_node *gather = computed_by(model, value, OD_OP_GATHER);
  if (!gather) return;
  const od_selection *s = &gather->selection;
  const od_value *indices = &model->values[gather->inputs[1]];
  const int64_t *numbers = indices->data;
  if (indices->batched || !numbers || s->axis.outer != 1 ||
      s->axis.inner != sum->reduction.axis.length)
    return;
  for (uint32_t i = 0; i < s->count; i++)
    if (numbers[i] < 0 || numbers[i] >= (int64_t)s->axis.length) return;
  sum->reduction.indices[which] = numbers;
  sum->inputs[which] = gather->inputs[0];
  readers[gather->inputs[0]]++;
  if (!shared) omit(model, gather);
}

/* Add up products without writing them down, where only the sum reads them. */
static void fold_product(od_model *model, od_node *sum, uint32_t *readers) {
  int shared = 0;
  int32_t value = viewed(model, sum->inputs[0], readers, &shared);
  od_node *product = computed_by(model, value, OD_OP_MUL);
  if (!product || shared || sum->input_count < 2 || sum->reduction.axis.inner != 1 ||
      model->values[value].dtype != OD_F32 || !lies_alike(model, product, 0) ||
      !lies_alike(model, product, 1) || product->inputs[0] == product->inputs[1])
    return;
  sum->input_count = 2;
  sum->reduction.products = 1;
  for (uint32_t i = 0; i < 2; i++) {
    sum->inputs[i] = product->inputs[i];
    fold_gather(model, sum, i, readers);
  }
  omit(model, product);
}

static void fold_products(od_model *model, uint32_t *readers) {
  for (uint32_t i = 0; i < model->node_count; i++) {
    od_node *node = &model->nodes[i];
    if (node->op == OD_OP_REDUCE_SUM && !node->constant) fold_product(model, node, readers);
  }
}

/* Read an operand that an Expand repeats where it is, in an elementwise operator. */
static void fold_expand(od_model *model, od_node *node, uint32_t which, uint32_t *readers) {
  od_node *expand = computed_by(model, node->inputs[which], OD_OP_EXPAND);
  od_walk *walk = &node->binary.walk;
  if (!expand || !lies_alike(model, node, which)) return;
  const od_walk *from = &expand->copied.walk;
  if (walk->rank != from->rank ||
      !od_same(walk->shape, from->shape, from->rank * sizeof *walk->shape))
    return;
  od_copy(walk->strides[which], from->strides[0], from->rank * sizeof *walk->strides[0]);
  node->inputs[which] = expand->inputs[0];
  readers[expand->inputs[0]]++;
  if (!--readers[expand->output]) omit(model, expand);
}

/* Whether an Expand gives `vectors` equal vectors a row, each its operand's. */
static int repeats_whole(const od_model *model, const od_node *expand, uint32_t vectors) {
  const od_walk *walk = &expand->copied.walk;
  uint32_t size = model->values[expand->inputs[0]].size, inner = 1, i = walk->rank;
  while (i > 0 && inner < size) inner *= walk->shape[--i];
  for (uint32_t axis = i; axis-- > 0;)
    if (walk->shape[axis] != 1 && walk->strides[0][axis]) return 0;
  for (uint32_t axis = i, step = inner; axis < walk->rank; axis++) {
    step /= walk->shape[axis];
    if (walk->shape[axis] != 1 && walk->strides[0][axis] != (int32_t)step) return 0;
  }
  return inner == size && (uint64_t)inner * vectors == model->values[expand->output].size;
}

/* A dense layer whose vectors begin with the same columns computes their share once a row. Sums in
 * q8 have one scale for all columns. */
static od_status fold_repeated(od_model *model, od_node *dense, uint32_t *readers) {
  int shared = 0;
  const od_dense *layer = &dense->dense.layer;
  int32_t value = viewed(model, dense->inputs[0], readers, &shared);
  od_node *concat = computed_by(model, value, OD_OP_CONCAT);
  if (!concat || layer->codec == OD_CODEC_Q8 || dense->dense.vectors < 2 ||
      concat->concat.outer != dense->dense.vectors || concat->concat.inner != 1 ||
      concat->concat.length != layer->features || concat->input_count < 2)
    return OD_OK;
  od_node *expand = computed_by(model, concat->inputs[0], OD_OP_EXPAND);
  if (!expand || !model->values[expand->inputs[0]].batched ||
      !repeats_whole(model, expand, dense->dense.vectors))
    return OD_OK;
  int32_t *inputs = od_take(&model->arena, dense->input_count + 1u, sizeof *inputs);
  if (!inputs) return OD_E_MEMORY;
  od_copy(inputs, dense->inputs, dense->input_count * sizeof *inputs);
  dense->dense.repeated = inputs[dense->input_count++] = expand->inputs[0];
  dense->inputs = inputs;
  readers[expand->inputs[0]]++;
  if (!shared && readers[expand->output] == 1) omit(model, expand); /* those columns stay unwritten */
  return OD_OK;
}

static od_status fold_repetitions(od_model *model, uint32_t *readers) {
  for (uint32_t i = 0; i < model->node_count; i++) {
    od_node *node = &model->nodes[i];
    if (node->constant || node->omitted) continue;
    for (uint32_t p = 0; p < 2 && od_operators[node->op].rows == od_loop_arithmetic; p++)
      fold_expand(model, node, p, readers);
  }
  for (uint32_t i = 0; i < model->node_count; i++)
    if (model->nodes[i].op == OD_OP_DENSE)
      OD_CHECK(fold_repeated(model, &model->nodes[i], readers));
  return OD_OK;
}

od_status od_fold_nodes(od_model *model, od_arena *scratch, od_error *error) {
  uint32_t *readers = od_take(scratch, model->value_count, sizeof *readers);
  if (!readers) return od_fail(error, OD_E_MEMORY, "out of memory for the plan");
  count_readers(model, readers);
  fold_products(model, readers);
  if (fold_repetitions(model, readers))
    return od_fail(error, OD_E_MEMORY, "out of memory for the plan");
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
