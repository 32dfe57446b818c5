/* elementwise.c: operators whose result's elements depend on one element of each operand. */
#include "ops/maths.h"
#include "ops/ops.h"

/* Arithmetic on two values */

od_status od_shape_arithmetic(const od_inference *f) {
  od_binary *binary = &f->node->binary;
  OD_CHECK(od_need_numbers(f, 2));
  OD_CHECK(od_broadcast(f, 2, od_operand(f, 0)->dtype, &binary->walk));
  binary->fmod = od_attribute_flag(f, "fmod", 0) != 0;
  return OD_OK;
}

od_status od_shape_arithmetic_floats(const od_inference *f) {
  OD_CHECK(od_need_numbers(f, 2));
  if (od_operand(f, 0)->dtype == OD_I64) return od_refuse(f, "float32 inputs needed");
  return od_shape_arithmetic(f);
}

/* What a span's loop needs of its node. */
typedef struct {
  const od_node *node;
  od_dtype dtype; /* of the operands */
  od_trouble trouble;
} elementwise;

/* Both loops of a span: x and y are the operands' places, i the result's. */
#define OVER_SPAN(...)                                                                        \
  for (size_t i1 = 0; i1 < span->n1; i1++) {                                                  \
    int64_t x = (int64_t)i1 * span->in1[0], y = (int64_t)i1 * span->in1[1];                   \
    int64_t i = (int64_t)i1 * span->out1;                                                     \
    for (size_t i0 = 0; i0 < span->n0; i0++, i++, x += span->in0[0], y += span->in0[1])       \
      __VA_ARGS__                                                                             \
  }

static void run_spans(const od_node *node, const od_value *values, const od_walk *walk,
                      uint32_t operands, const od_rows *in, char *out, size_t out_step, size_t rows,
                      od_span_loop loop, elementwise *context) {
  uint32_t bytes[4] = {0, 0, 0, (uint32_t)od_dtype_size(values[node->output].dtype)};
  for (uint32_t p = 0; p < operands; p++)
    bytes[p] = (uint32_t)od_dtype_size(values[node->inputs[p]].dtype);
  *context = (elementwise){node, values[node->inputs[0]].dtype, OD_TROUBLE_NONE};
  od_each_span(walk, bytes, in, out, out_step, rows, loop, context);
}

/* Sums and products wrap; a division by zero is a fault. */
OD_COLD static int64_t combine_ints(const od_node *node, int64_t a, int64_t b, od_trouble *trouble) {
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

static od_pair pair_of(od_op op) {
  switch (op) {
    case OD_OP_ADD: return OD_PAIR_ADD;
    case OD_OP_SUB: return OD_PAIR_SUB;
    case OD_OP_MUL: return OD_PAIR_MUL;
    case OD_OP_DIV: return OD_PAIR_DIV;
    case OD_OP_MAX: return OD_PAIR_MAX;
    case OD_OP_MIN: return OD_PAIR_MIN;
    case OD_OP_PRELU: return OD_PAIR_PRELU;
    default: return OD_PAIR_COUNT; /* Pow, Mod */
  }
}

enum { SHORT_ROW = 128, SPREAD = 8 * SHORT_ROW }; /* elements */

/* Short rows of which each repeats an element of operand p become long ones: writing the element down
 * takes less time than beginning a row. */
static void combine_short(od_pair pair, const od_span *span, size_t p, const od_vectors *vectors) {
  float room[SPREAD];
  size_t n = span->n0, most = SPREAD / n;
  const float *repeated = span->in[p], *other = span->in[1 - p];
  float *out = span->out;
  for (size_t left = span->n1, rows; left; left -= rows) {
    rows = left < most ? left : most;
    vectors->maps(OD_MAP_COPY, 0, &(od_span){{repeated}, room, rows, n, {span->in1[p]}, span->out1, {0}});
    od_span joined = {{other, other}, out, 1, rows * n, {0}, 0, {1, 1}};
    joined.in[p] = room;
    vectors->pairs(pair, &joined);
    repeated += (int64_t)rows * span->in1[p];
    other += rows * n, out += rows * n;
  }
}

static void combine_vectors(const od_span *span, void *context) {
  const od_node *node = ((elementwise *)context)->node;
  const od_vectors *vectors = node->kernels->vectors;
  int64_t n = (int64_t)span->n0;
  size_t p = span->in0[0] != 0;
  if (n >= 4 && n <= SHORT_ROW && span->n1 > 1 && !span->in0[p] && span->in0[1 - p] &&
      span->in1[1 - p] == n && span->out1 == n)
    combine_short(pair_of(node->op), span, p, vectors);
  else vectors->pairs(pair_of(node->op), span);
}

OD_COLD static void combine_rarely(const od_span *span, void *context) {
  const od_node *node = ((elementwise *)context)->node;
  const float *a = span->in[0], *b = span->in[1];
  float *out = span->out;
  OVER_SPAN(out[i] = node->op == OD_OP_MOD ? od_mod(a[x], b[y], node->binary.fmod)
                                           : od_pow(a[x], b[y]);)
}

/* Sums of neighbours, such as IDs and where their fields begin: the compiler makes vectors of them. */
static void add_whole(const od_span *span) {
  for (size_t i1 = 0; i1 < span->n1; i1++) {
    const int64_t *a = (const int64_t *)span->in[0] + (int64_t)i1 * span->in1[0];
    const int64_t *b = (const int64_t *)span->in[1] + (int64_t)i1 * span->in1[1];
    int64_t *restrict out = (int64_t *)span->out + (int64_t)i1 * span->out1;
    for (size_t i = 0; i < span->n0; i++) out[i] = (int64_t)((uint64_t)a[i] + (uint64_t)b[i]);
  }
}

OD_COLD static void combine_whole(const od_span *span, void *context) {
  elementwise *e = context;
  const int64_t *a = span->in[0], *b = span->in[1];
  int64_t *out = span->out;
  if (e->node->op == OD_OP_ADD && span->in0[0] == 1 && span->in0[1] == 1) add_whole(span);
  else if (e->node->op == OD_OP_ADD) OVER_SPAN(out[i] = (int64_t)((uint64_t)a[x] + (uint64_t)b[y]);)
  else OVER_SPAN(out[i] = combine_ints(e->node, a[x], b[y], &e->trouble);)
}

od_trouble od_loop_arithmetic(const od_node *node, const od_value *values, const od_rows *in,
                              char *out, size_t out_step, size_t rows) {
  elementwise context;
  od_span_loop loop = pair_of(node->op) == OD_PAIR_COUNT ? combine_rarely : combine_vectors;
  if (values[node->output].dtype == OD_I64) loop = combine_whole;
  run_spans(node, values, &node->binary.walk, 2, in, out, out_step, rows, loop, &context);
  return context.trouble;
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

static void compare(const od_span *span, void *context) {
  elementwise *e = context;
  uint8_t accepted = accepted_orders(e->node->op), *out = span->out;
  const float *a = span->in[0], *b = span->in[1];
  const int64_t *p = span->in[0], *q = span->in[1];
  const uint8_t *s = span->in[0], *t = span->in[1];
  if (e->dtype == OD_F32) OVER_SPAN(out[i] = (ORDER(a[x], b[y]) & accepted) != 0;)
  else if (e->dtype == OD_I64) OVER_SPAN(out[i] = (ORDER(p[x], q[y]) & accepted) != 0;)
  else OVER_SPAN(out[i] = (ORDER(s[x], t[y]) & accepted) != 0;)
}

od_trouble od_loop_comparison(const od_node *node, const od_value *values, const od_rows *in,
                              char *out, size_t out_step, size_t rows) {
  elementwise context;
  run_spans(node, values, &node->binary.walk, 2, in, out, out_step, rows, compare, &context);
  return OD_TROUBLE_NONE;
}

/* Logic: an element that is not zero is true */

od_status od_shape_logic(const od_inference *f) { return two_of_one_type(f); }

OD_COLD static void decide(const od_span *span, void *context) {
  elementwise *e = context;
  uint8_t *out = span->out;
  od_op op = e->node->op;
  OVER_SPAN({
    int p = od_truth(e->dtype, span->in[0], x), q = od_truth(e->dtype, span->in[1], y);
    out[i] = (uint8_t)(op == OD_OP_AND ? p && q : op == OD_OP_OR ? p || q : p != q);
  })
}

OD_COLD od_trouble od_loop_logic(const od_node *node, const od_value *values, const od_rows *in, char *out,
                         size_t out_step, size_t rows) {
  elementwise context;
  run_spans(node, values, &node->binary.walk, 2, in, out, out_step, rows, decide, &context);
  return OD_TROUBLE_NONE;
}

od_status od_shape_not(const od_inference *f) {
  const od_value *in = od_operand(f, 0);
  if (!od_is_plain(in)) return od_refuse(f, "an input is missing");
  return od_set_dims(f, in->batched, OD_U8, in->dims, in->rank);
}

OD_COLD od_trouble od_loop_not(const od_node *node, const od_value *values, const char *const *in,
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

static od_map map_of(od_op op) {
  switch (op) {
    case OD_OP_RELU: return OD_MAP_RELU;
    case OD_OP_LEAKY_RELU: return OD_MAP_LEAKY_RELU;
    case OD_OP_ABS: return OD_MAP_ABS;
    case OD_OP_NEG: return OD_MAP_NEG;
    case OD_OP_SQRT: return OD_MAP_SQRT;
    case OD_OP_RECIPROCAL: return OD_MAP_RECIPROCAL;
    case OD_OP_EXP: return OD_MAP_EXP;
    case OD_OP_SIGMOID: return OD_MAP_SIGMOID;
    case OD_OP_TANH: return OD_MAP_TANH;
    default: return OD_MAP_COUNT;
  }
}

/* Functions that kernels do not have. */
static float apply(const od_node *node, float x) {
  switch (node->op) {
    case OD_OP_LOG: return (float)od_log_double(x);
    case OD_OP_FLOOR: return od_floor(x);
    case OD_OP_CEIL: return od_ceil(x);
    case OD_OP_ROUND: return od_round(x);
    case OD_OP_SIGN: return x > 0 ? 1.0f : x < 0 ? -1.0f : x;
    case OD_OP_ERF: return od_erf(x);
    case OD_OP_SOFTPLUS:
      return x != x ? x : (x > 0 ? x : 0) + (float)od_log_double(1 + od_exp_double(x < 0 ? x : -x));
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

static void map_vectors(const od_span *span, void *context) {
  const od_node *node = ((elementwise *)context)->node;
  node->kernels->vectors->maps(map_of(node->op), node->unary.alpha, span);
}

OD_COLD static void map_rarely(const od_span *span, void *context) {
  const od_node *node = ((elementwise *)context)->node;
  const float *from = span->in[0];
  float *out = span->out;
  OVER_SPAN({ out[i] = apply(node, from[x]); (void)y; })
}

static void map_whole(const od_span *span, void *context) {
  od_op op = ((elementwise *)context)->node->op;
  const int64_t *from = span->in[0];
  int64_t *out = span->out;
  OVER_SPAN({ out[i] = apply_int(op, from[x]); (void)y; })
}

od_trouble od_loop_unary(const od_node *node, const od_value *values, const od_rows *in, char *out,
                         size_t out_step, size_t rows) {
  elementwise context;
  od_walk walk = {1, {values[node->output].size}, {{1}}};
  od_span_loop loop = map_of(node->op) == OD_MAP_COUNT ? map_rarely : map_vectors;
  if (values[node->output].dtype == OD_I64) loop = map_whole;
  run_spans(node, values, &walk, 1, in, out, out_step, rows, loop, &context);
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
