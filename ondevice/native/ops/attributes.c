/* attributes.c: which attributes operators have, and of what type; all others are refused. */
#include "ops/ops.h"

typedef enum { INT, REAL, TEXT, INTS } attribute_kind;
enum { MOST_OPERATORS = 9 }; /* that share an attribute; 0 (Abs) ends a list */

static const struct {
  char name[21];
  uint8_t kind;
  uint8_t operators[MOST_OPERATORS];
} ATTRIBUTES[] = {
    {"aggregate", TEXT, {OD_OP_TREE_ENSEMBLE}},
    {"allowzero", INT, {OD_OP_RESHAPE}},
    {"alpha", REAL, {OD_OP_ELU, OD_OP_GEMM, OD_OP_LEAKY_RELU}},
    {"axis", INT, {OD_OP_ARG_MAX, OD_OP_ARG_MIN, OD_OP_CONCAT, OD_OP_FLATTEN, OD_OP_GATHER,
                   OD_OP_GATHER_ELEMENTS, OD_OP_SOFTMAX, OD_OP_TOP_K}},
    {"batch_dims", INT, {OD_OP_GATHER_ND}},
    {"beta", REAL, {OD_OP_GEMM}},
    {"codec", TEXT, {OD_OP_DENSE}},
    {"end", INT, {OD_OP_SHAPE}},
    {"exclusive", INT, {OD_OP_CUM_SUM}},
    {"features", INT, {OD_OP_DENSE}},
    {"fmod", INT, {OD_OP_MOD}},
    {"k", INT, {OD_OP_TOP_K}},
    {"keepdims", INT, {OD_OP_ARG_MAX, OD_OP_ARG_MIN, OD_OP_REDUCE_MAX, OD_OP_REDUCE_MEAN,
                       OD_OP_REDUCE_MIN, OD_OP_REDUCE_PROD, OD_OP_REDUCE_SUM}},
    {"largest", INT, {OD_OP_TOP_K}},
    {"mode", TEXT, {OD_OP_PAD}},
    {"noop_with_empty_axes", INT, {OD_OP_REDUCE_MAX, OD_OP_REDUCE_MEAN, OD_OP_REDUCE_MIN,
                                   OD_OP_REDUCE_PROD, OD_OP_REDUCE_SUM}},
    {"perm", INTS, {OD_OP_TRANSPOSE}},
    {"relu", INT, {OD_OP_DENSE}},
    {"reverse", INT, {OD_OP_CUM_SUM}},
    {"saturate", INT, {OD_OP_CAST}}, /* of types that the plan has not */
    {"select_last_index", INT, {OD_OP_ARG_MAX, OD_OP_ARG_MIN}},
    {"start", INT, {OD_OP_SHAPE}},
    {"targets", INT, {OD_OP_TREE_ENSEMBLE}},
    {"to", INT, {OD_OP_CAST}},
    {"transA", INT, {OD_OP_GEMM}},
    {"transB", INT, {OD_OP_GEMM}},
    {"units", INT, {OD_OP_DENSE}},
};
enum { COUNT = sizeof ATTRIBUTES / sizeof *ATTRIBUTES };

static int is_int(const od_json *value) {
  int64_t number;
  return od_json_int(value, INT32_MIN, INT32_MAX, &number);
}

static int has_kind(const od_json *value, uint8_t kind) {
  if (kind == TEXT) return value->kind == OD_J_TEXT;
  if (kind == INT) return is_int(value);
  if (kind == REAL) {
    float real = (float)value->real;
    return (value->kind == OD_J_INT || value->kind == OD_J_REAL) && real - real == 0;
  }
  if (value->kind != OD_J_LIST) return 0;
  for (const od_json *item = value->first; item; item = item->next)
    if (!is_int(item)) return 0;
  return 1;
}

static int belongs(unsigned attribute, od_op op) {
  for (int i = 0; i < MOST_OPERATORS && ATTRIBUTES[attribute].operators[i]; i++)
    if (ATTRIBUTES[attribute].operators[i] == op) return 1;
  return 0;
}

od_status od_check_attributes(const od_inference *f) {
  for (const od_json *item = f->attributes ? f->attributes->first : NULL; item; item = item->next) {
    unsigned i = 0;
    while (i < COUNT && !(od_equal(ATTRIBUTES[i].name, item->key) && belongs(i, f->node->op))) i++;
    if (i == COUNT || !has_kind(item, ATTRIBUTES[i].kind))
      return od_fail(f->error, OD_E_FORMAT,
                     "plan: node %u (%s): attribute '%s' is unknown or of a wrong type",
                     (uint64_t)f->node->number, od_operators[f->node->op].name, item->key);
  }
  return OD_OK;
}
