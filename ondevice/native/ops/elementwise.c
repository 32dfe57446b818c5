/* elementwise.c: operators whose result's elements depend on one element of each operand. */
#include "ops/maths.h"
#include "ops/ops.h"

/* Arithmetic on two values */

od_status od_shape_arithmetic(const od_inference *f) {
  od_binary *binary = &f->node->binary;
  OD_CHECK(od_need_numbers(f, 2));
  OD_CHECK(od_broadcast(f, 2, od_operand(f, 0)->dtype, &binary->walk));
  for (uint32_t i = 0; i < 2; i++) binary->repeats |= od_operand(f, i)->size != f->out->size;
  binary->fmod = od_attribute_flag(f, "fmod", 0) != 0;
  return OD_OK;
}

od_status od_shape_arithmetic_floats(const od_inference *f) {
  OD_CHECK(od_need_numbers(f, 2));
  if (od_operand(f, 0)->dtype == OD_I64) return od_refuse(f, "float32 inputs needed");
  return od_shape_arithmetic(f);
}

static float combine(const od_node *node, float a, float b) {
  switch (node->op) {
    case OD_OP_ADD: return a + b;
    case OD_OP_SUB: return a - b;
    case OD_OP_MUL: return a * b;
    case OD_OP_DIV: return a / b;
    case OD_OP_MAX: return a != a || a > b ? a : b;
    case OD_OP_MIN: return a != a || a < b ? a : b;
    case OD_OP_PRELU: return a < 0 ? a * b : a;
    case OD_OP_MOD: return od_mod(a, b, node->binary.fmod);
    default: return od_pow(a, b);
  }
}

/* Sums and products wrap; a division by zero is a fault. */
static int64_t combine_ints(const od_node *node, int64_t a, int64_t b, od_trouble *trouble) {
  switch (node->op) {
    case OD_OP_ADD: return (int64_t)((uint64_t)a + (uint64_t)b);
    case OD_OP_SUB: return (int64_t)((uint64_t)a - (uint64_t)b);
    case OD_OP_MUL: return (int64_t)((uint64_t)a * (uint64_t)b);
    case OD_OP_MAX: return a > b ? a : b;
    case OD_OP_MIN: return a < b ? a : b;
    default: break;
  }
  if (b == 0) {
    *trouble = OD_TROUBLE_ZERO;
    return 0;
  }
  if (b == -1) return node->op == OD_OP_DIV ? (int64_t)(0 - (uint64_t)a) : 0;
  if (node->op == OD_OP_DIV) return a / b;
  int64_t rest = a % b;
  return !node->binary.fmod && rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

/* Float32 operands that do not repeat. */
static void combine_whole(const od_node *node, uint32_t size, const float *a, const float *b,
                          float *out) {
  switch (node->op) {
    case OD_OP_ADD:
      for (uint32_t i = 0; i < size; i++) out[i] = a[i] + b[i];
      break;
    case OD_OP_SUB:
      for (uint32_t i = 0; i < size; i++) out[i] = a[i] - b[i];
      break;
    case OD_OP_MUL:
      for (uint32_t i = 0; i < size; i++) out[i] = a[i] * b[i];
      break;
    default:
      for (uint32_t i = 0; i < size; i++) out[i] = combine(node, a[i], b[i]);
  }
}

od_trouble od_loop_arithmetic(const od_node *node, const od_value *values, const char *const *in,
                              char *out) {
  const od_walk *walk = &node->binary.walk;
  uint32_t size = values[node->output].size;
  float *floats = (float *)(void *)out;
  int64_t *ints = (int64_t *)(void *)out;
  od_trouble trouble = OD_TROUBLE_NONE;
  od_walker w = {{0}, {0, 0, 0}};
  if (values[node->output].dtype == OD_I64)
    for (uint32_t i = 0; i < size; i++, od_step_on(&w, walk))
      ints[i] = combine_ints(node, OD_INTS(in[0])[w.places[0]], OD_INTS(in[1])[w.places[1]],
                             &trouble);
  else if (!node->binary.repeats)
    combine_whole(node, size, OD_FLOATS(in[0]), OD_FLOATS(in[1]), floats);
  else
    for (uint32_t i = 0; i < size; i++, od_step_on(&w, walk))
      floats[i] = combine(node, OD_FLOATS(in[0])[w.places[0]], OD_FLOATS(in[1])[w.places[1]]);
  return trouble;
}

/* Comparisons */

od_status od_shape_comparison(const od_inference *f) {
  OD_CHECK(od_need_numbers(f, 2));
  return od_broadcast(f, 2, OD_U8, &f->node->binary.walk);
}

static od_status two_of_one_type(const od_inference *f) {
  const od_value *a = od_operand(f, 0), *b = od_operand(f, 1);
  if (f->node->input_count != 2 || !od_is_plain(a) || !od_is_plain(b) || a->dtype != b->dtype)
    return od_refuse(f, "two inputs of one type needed");
  return od_broadcast(f, 2, OD_U8, &f->node->binary.walk);
}

od_status od_shape_equal(const od_inference *f) { return two_of_one_type(f); }

enum { LESS = 1, SAME = 2, GREATER = 4 }; /* orders of two elements; none of them beside a NaN */

static uint8_t accepted_orders(od_op op) {
  switch (op) {
    case OD_OP_EQUAL: return SAME;
    case OD_OP_LESS: return LESS;
    case OD_OP_LESS_EQUAL: return LESS | SAME;
    case OD_OP_GREATER: return GREATER;
    default: return GREATER | SAME;
  }
}

#define ORDER(a, b) ((a) < (b) ? LESS : (a) == (b) ? SAME : (a) > (b) ? GREATER : 0)

od_trouble od_loop_comparison(const od_node *node, const od_value *values, const char *const *in,
                              char *out) {
  od_dtype dtype = values[node->inputs[0]].dtype;
  uint32_t size = values[node->output].size;
  uint8_t accepted = accepted_orders(node->op);
  od_walker w = {{0}, {0, 0, 0}};
  for (uint32_t i = 0; i < size; i++, od_step_on(&w, &node->binary.walk)) {
    int64_t x = w.places[0], y = w.places[1];
    int order = dtype == OD_F32   ? ORDER(OD_FLOATS(in[0])[x], OD_FLOATS(in[1])[y])
                : dtype == OD_I64 ? ORDER(OD_INTS(in[0])[x], OD_INTS(in[1])[y])
                                  : ORDER(OD_BYTES(in[0])[x], OD_BYTES(in[1])[y]);
    out[i] = (order & accepted) != 0;
  }
  return OD_TROUBLE_NONE;
}

/* Logic: an element that is not zero is true */

od_status od_shape_logic(const od_inference *f) { return two_of_one_type(f); }

od_trouble od_loop_logic(const od_node *node, const od_value *values, const char *const *in,
                         char *out) {
  od_dtype dtype = values[node->inputs[0]].dtype;
  uint32_t size = values[node->output].size;
  od_walker w = {{0}, {0, 0, 0}};
  for (uint32_t i = 0; i < size; i++, od_step_on(&w, &node->binary.walk)) {
    int p = od_truth(dtype, in[0], w.places[0]), q = od_truth(dtype, in[1], w.places[1]);
    out[i] = (char)(node->op == OD_OP_AND ? p && q : node->op == OD_OP_OR ? p || q : p != q);
  }
  return OD_TROUBLE_NONE;
}

od_status od_shape_not(const od_inference *f) {
  const od_value *in = od_operand(f, 0);
  if (!od_is_plain(in)) return od_refuse(f, "an input is missing");
  return od_set_dims(f, in->batched, OD_U8, in->dims, in->rank);
}

od_trouble od_loop_not(const od_node *node, const od_value *values, const char *const *in,
                       char *out) {
  const od_value *operand = &values[node->inputs[0]];
  for (uint32_t i = 0; i < operand->size; i++) out[i] = (char)!od_truth(operand->dtype, in[0], i);
  return OD_TROUBLE_NONE;
}

/* Functions of one value */

od_status od_shape_unary_numbers(const od_inference *f) {
  OD_CHECK(od_need_numbers(f, 1));
  return od_same_as(f, od_operand(f, 0));
}

od_status od_shape_unary_floats(const od_inference *f) {
  OD_CHECK(od_need_numbers(f, 1));
  if (od_operand(f, 0)->dtype == OD_I64) return od_refuse(f, "a float32 input needed");
  float usual = f->node->op == OD_OP_LEAKY_RELU ? 0.01f : 1.0f;
  f->node->unary.alpha = od_attribute_real(f, "alpha", usual);
  return od_same_as(f, od_operand(f, 0));
}

static float sigmoid(float x) {
  float small = od_exp(x < 0 ? x : -x);
  return x < 0 ? small / (1 + small) : 1 / (1 + small);
}

static float hyperbolic_tangent(float x) {
  float size = x < 0 ? -x : x;
  if (size < 0.1f) { /* the series: the quotient below would cancel */
    float s = x * x;
    return x * (1 + s * (-1.0f / 3 + s * (2.0f / 15 + s * (-17.0f / 315))));
  }
  float small = od_exp(-2 * size);
  float value = (1 - small) / (1 + small);
  return x < 0 ? -value : value;
}

static float apply(const od_node *node, float x) {
  switch (node->op) {
    case OD_OP_RELU: return x < 0 ? 0 : x;
    case OD_OP_SIGMOID: return sigmoid(x);
    case OD_OP_TANH: return hyperbolic_tangent(x);
    case OD_OP_ABS: return x < 0 ? -x : x == 0 ? 0 : x;
    case OD_OP_NEG: return -x;
    case OD_OP_SQRT: return od_sqrt(x);
    case OD_OP_EXP: return od_exp(x);
    case OD_OP_LOG: return (float)od_log_double(x);
    case OD_OP_RECIPROCAL: return 1 / x;
    case OD_OP_FLOOR: return od_floor(x);
    case OD_OP_CEIL: return od_ceil(x);
    case OD_OP_ROUND: return od_round(x);
    case OD_OP_SIGN: return x > 0 ? 1.0f : x < 0 ? -1.0f : x;
    case OD_OP_ERF: return od_erf(x);
    case OD_OP_SOFTPLUS:
      return x != x ? x : (x > 0 ? x : 0) + (float)od_log_double(1 + od_exp_double(x < 0 ? x : -x));
    case OD_OP_LEAKY_RELU: return x < 0 ? x * node->unary.alpha : x;
    default: /* OD_OP_ELU */
      return x > 0 || x != x ? x : node->unary.alpha * (float)(od_exp_double(x) - 1);
  }
}

static int64_t apply_int(od_op op, int64_t x) {
  int64_t negated = (int64_t)(0 - (uint64_t)x);
  switch (op) {
    case OD_OP_NEG: return negated;
    case OD_OP_SIGN: return (x > 0) - (x < 0);
    case OD_OP_RELU: return x > 0 ? x : 0;
    default: return x < 0 ? negated : x; /* OD_OP_ABS */
  }
}

od_trouble od_loop_unary(const od_node *node, const od_value *values, const char *const *in,
                         char *out) {
  uint32_t size = values[node->output].size;
  const float *from = OD_FLOATS(in[0]);
  float *to = (float *)(void *)out;
  if (values[node->output].dtype == OD_I64)
    for (uint32_t i = 0; i < size; i++)
      ((int64_t *)(void *)out)[i] = apply_int(node->op, OD_INTS(in[0])[i]);
  else if (node->op == OD_OP_RELU) /* a loop that compilers turn into vectors */
    for (uint32_t i = 0; i < size; i++) to[i] = from[i] < 0 ? 0 : from[i];
  else
    for (uint32_t i = 0; i < size; i++) to[i] = apply(node, from[i]);
  return OD_TROUBLE_NONE;
}

/* Types */

od_status od_shape_cast(const od_inference *f) {
  enum { TO_FLOAT = 1, TO_INT32 = 6, TO_INT64 = 7, TO_BOOL = 9 }; /* ONNX's numbers */
  const od_value *in = od_operand(f, 0);
  int64_t to = od_attribute_int(f, "to", 0);
  if (!od_is_plain(in) || (to != TO_FLOAT && to != TO_INT32 && to != TO_INT64 && to != TO_BOOL))
    return od_refuse(f, "only float32, int32, int64 and bool are cast");
  od_dtype dtype = to == TO_FLOAT ? OD_F32 : to == TO_BOOL ? OD_U8 : OD_I64;
  return od_set_dims(f, in->batched, dtype, in->dims, in->rank);
}

od_trouble od_loop_cast(const od_node *node, const od_value *values, const char *const *in,
                        char *out) {
  od_dtype from = values[node->inputs[0]].dtype, to = values[node->output].dtype;
  uint32_t size = values[node->output].size, bytes = (uint32_t)od_dtype_size(from);
  const float *floats = OD_FLOATS(in[0]);
  for (uint32_t i = 0; i < size; i++) {
    int whole = from == OD_U8 && OD_BYTES(in[0])[i] != 0;
    if (from == to) od_move(bytes, out, i, in[0], i);
    else if (to == OD_U8) out[i] = (char)od_truth(from, in[0], i);
    else if (to == OD_F32)
      ((float *)(void *)out)[i] = from == OD_I64 ? (float)OD_INTS(in[0])[i] : (float)whole;
    else ((int64_t *)(void *)out)[i] = from == OD_F32 ? od_to_int(floats[i]) : whole;
  }
  return OD_TROUBLE_NONE;
}
