/* work.c: about how many steps a node takes, which limits.h bounds. */
#include "ops/ops.h"

/* Elements that each element of a product sums up. */
static uint64_t products(const od_node *node) {
  return node->op == OD_OP_GEMM ? node->gemm.depth : node->matmul.depth;
}

uint64_t od_work(const od_node *node, const od_value *values) {
  const od_value *out = &values[node->output];
  uint64_t size = out->size;
  switch (node->op) {
    case OD_OP_MATMUL:
    case OD_OP_GEMM: return size * products(node);
    case OD_OP_DENSE: return size * node->dense.layer.features;
    case OD_OP_LOOKUP: /* an ID reads at most OD_MAX_BLOCKS rows */
      return (uint64_t)values[node->inputs[0]].size * out->dims[out->rank - 1];
    case OD_OP_TREE_ENSEMBLE:
      return (uint64_t)node->trees.trees * (OD_MAX_TREE_DEPTH + (uint64_t)node->trees.targets);
    case OD_OP_TOP_K: return (uint64_t)values[node->inputs[0]].size * node->top_k.count;
    case OD_OP_ARG_MAX:
    case OD_OP_ARG_MIN:
    case OD_OP_REDUCE_MAX:
    case OD_OP_REDUCE_MEAN:
    case OD_OP_REDUCE_MIN:
    case OD_OP_REDUCE_PROD:
    case OD_OP_REDUCE_SUM: return values[node->inputs[0]].size;
    default: return size;
  }
}
