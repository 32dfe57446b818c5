/* ops.c: the operators other than lookups and dense layers, row by row, as ONNX defines them. */
#include "ops/maths.h"
#include "core/model.h"

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

/* The element of a walk: positions of up to three operands, each with strides of its own. */
typedef struct {
  uint32_t at[OD_MAX_RANK];
  int64_t places[3];
} walker;

static void step_on(walker *w, const od_node *node) {
  for (uint32_t axis = node->rank; axis-- > 0;) {
    for (int i = 0; i < 3; i++) w->places[i] += node->strides[i][axis];
    if (++w->at[axis] < node->shape[axis]) return;
    for (int i = 0; i < 3; i++)
      w->places[i] -= (int64_t)node->strides[i][axis] * node->shape[axis];
    w->at[axis] = 0;
  }
}

#define FLOATS(p) ((const float *)(const void *)(p))
#define INTS(p) ((const int64_t *)(const void *)(p))
#define BYTES(p) ((const uint8_t *)(const void *)(p))

static int truth(od_dtype dtype, const char *data, int64_t at) {
  if (dtype == OD_F32) return FLOATS(data)[at] != 0;
  return dtype == OD_I64 ? INTS(data)[at] != 0 : BYTES(data)[at] != 0;
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
    case OD_OP_MOD: return od_mod(a, b, node->flag != 0);
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
  return !node->flag && rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

/* bits: 1 less, 2 equal, 4 greater */
static uint8_t accepts(od_op op) {
  switch (op) {
    case OD_OP_EQUAL: return 2;
    case OD_OP_LESS: return 1;
    case OD_OP_LESS_EQUAL: return 3;
    case OD_OP_GREATER: return 4;
    default: return 6;
  }
}

#define ORDER(a, b) ((a) < (b) ? 1 : (a) == (b) ? 2 : (a) > (b) ? 4 : 0)

static void plain_binary(const od_node *node, uint32_t size, const float *a, const float *b,
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

static od_trouble binary(const od_node *node, uint32_t size, od_dtype dtype, const char *a,
                         const char *b, char *out) {
  walker w = {{0}, {0, 0, 0}};
  od_trouble trouble = OD_TROUBLE_NONE;
  if (dtype == OD_F32 && node->plain && node->op < OD_OP_EQUAL) {
    plain_binary(node, size, FLOATS(a), FLOATS(b), (float *)(void *)out);
    return trouble;
  }
  uint8_t accepted = accepts(node->op);
  for (uint32_t i = 0; i < size; i++, step_on(&w, node)) {
    int64_t x = w.places[0], y = w.places[1];
    if (node->op == OD_OP_AND || node->op == OD_OP_OR || node->op == OD_OP_XOR) {
      int p = truth(dtype, a, x), q = truth(dtype, b, y);
      out[i] = (char)(node->op == OD_OP_AND ? p && q : node->op == OD_OP_OR ? p || q : p != q);
    } else if (node->op >= OD_OP_EQUAL) {
      int order = dtype == OD_F32   ? ORDER(FLOATS(a)[x], FLOATS(b)[y])
                  : dtype == OD_I64 ? ORDER(INTS(a)[x], INTS(b)[y])
                                    : ORDER(BYTES(a)[x], BYTES(b)[y]);
      out[i] = (order & accepted) != 0;
    } else if (dtype == OD_F32) {
      ((float *)(void *)out)[i] = combine(node, FLOATS(a)[x], FLOATS(b)[y]);
    } else {
      ((int64_t *)(void *)out)[i] = combine_ints(node, INTS(a)[x], INTS(b)[y], &trouble);
    }
  }
  return trouble;
}

static void move(uint32_t bytes, char *to, int64_t i, const char *from, int64_t at) {
  if (bytes == 4) ((uint32_t *)(void *)to)[i] = ((const uint32_t *)(const void *)from)[at];
  else if (bytes == 8) ((uint64_t *)(void *)to)[i] = ((const uint64_t *)(const void *)from)[at];
  else to[i] = from[at];
}

static void select_where(const od_node *node, uint32_t size, od_dtype test, uint32_t bytes,
                         const char *const *in, char *out) {
  walker w = {{0}, {0, 0, 0}};
  for (uint32_t i = 0; i < size; i++, step_on(&w, node)) {
    int which = truth(test, in[0], w.places[0]) ? 1 : 2;
    move(bytes, out, i, in[which], w.places[which]);
  }
}

/* Transposes, slices and expansions: a walk over the input. */
static void copy_along(const od_node *node, uint32_t size, uint32_t bytes, const char *in,
                       char *out) {
  walker w = {{0}, {node->offset, 0, 0}};
  for (uint32_t i = 0; i < size; i++, step_on(&w, node)) move(bytes, out, i, in, w.places[0]);
}

static void pad(const od_node *node, uint32_t size, uint32_t bytes, const char *in,
                const char *fill, char *out) {
  static const uint64_t zero = 0;
  walker w = {{0}, {0, 0, 0}};
  for (uint32_t i = 0; i < size; i++, step_on(&w, node)) {
    int64_t place = 0;
    int inside = 1;
    for (uint32_t axis = 0; axis < node->rank; axis++) {
      int64_t at = (int64_t)w.at[axis] - node->pads[axis];
      inside &= at >= 0 && at < node->extents[axis];
      place += at * node->strides[1][axis];
    }
    if (inside) move(bytes, out, i, in, place);
    else move(bytes, out, i, fill ? fill : (const char *)&zero, 0);
  }
}

/* An index that may count from the end; the fault of one outside is kept, and place 0 read. */
static uint32_t checked(int64_t index, uint32_t size, od_trouble *trouble) {
  if (index < 0) index += size;
  if (index >= 0 && index < (int64_t)size) return (uint32_t)index;
  *trouble = OD_TROUBLE_INDEX;
  return 0;
}

static od_trouble gather(const od_node *node, uint32_t bytes, const char *data,
                         const int64_t *indices, char *out) {
  od_trouble trouble = OD_TROUBLE_NONE;
  size_t block = (size_t)node->inner * bytes;
  for (uint32_t o = 0; o < node->outer; o++)
    for (uint32_t i = 0; i < node->n; i++, out += block)
      od_copy(out,
              data + ((size_t)o * node->middle + checked(indices[i], node->middle, &trouble)) * block,
              block);
  return trouble;
}

static od_trouble gather_elements(const od_node *node, uint32_t size, uint32_t bytes,
                                  const char *data, const int64_t *indices, char *out) {
  od_trouble trouble = OD_TROUBLE_NONE;
  walker w = {{0}, {0, 0, 0}};
  for (uint32_t i = 0; i < size; i++, step_on(&w, node))
    move(bytes, out, i, data,
         w.places[0] + (int64_t)checked(indices[i], node->middle, &trouble) * node->inner);
  return trouble;
}

static od_trouble gather_nd(const od_node *node, uint32_t bytes, const char *data,
                            const int64_t *indices, char *out) {
  od_trouble trouble = OD_TROUBLE_NONE;
  size_t block = (size_t)node->inner * bytes;
  for (uint32_t o = 0; o < node->outer; o++)
    for (uint32_t i = 0; i < node->n; i++, indices += node->k, out += block) {
      size_t place = o;
      for (uint32_t j = 0; j < node->k; j++)
        place = place * node->extents[j] + checked(indices[j], node->extents[j], &trouble);
      od_copy(out, data + place * block, block);
    }
  return trouble;
}

/* Whether place j holds a value that comes before the one at `best`. */
static int before(od_dtype dtype, const char *in, int64_t j, int64_t best, uint32_t largest) {
  if (dtype == OD_I64)
    return largest ? INTS(in)[j] > INTS(in)[best] : INTS(in)[j] < INTS(in)[best];
  return largest ? FLOATS(in)[j] > FLOATS(in)[best] : FLOATS(in)[j] < FLOATS(in)[best];
}

static void arg(const od_node *node, od_dtype dtype, const char *in, int64_t *out) {
  for (uint32_t o = 0; o < node->outer; o++)
    for (uint32_t i = 0; i < node->inner; i++) {
      int64_t first = (int64_t)o * node->middle * node->inner + i, best = 0;
      for (uint32_t j = 1; j < node->middle; j++) {
        int64_t at = first + (int64_t)j * node->inner, kept = first + best * node->inner;
        if (before(dtype, in, at, kept, node->transposed) ||
            (node->flag && !before(dtype, in, kept, at, node->transposed)))
          best = j;
      }
      out[(size_t)o * node->inner + i] = best;
    }
}

/* Places of the first n in order; ties by lower place. Each takes one pass: n is small. */
static void top_k(const od_node *node, od_dtype dtype, const char *in, int64_t *out) {
  for (uint32_t o = 0; o < node->outer; o++)
    for (uint32_t i = 0; i < node->inner; i++) {
      int64_t first = (int64_t)o * node->middle * node->inner + i, last = -1;
      for (uint32_t k = 0; k < node->n; k++) {
        int64_t best = -1;
        for (uint32_t j = 0; j < node->middle; j++) {
          int64_t at = first + (int64_t)j * node->inner, done = first + last * node->inner;
          int taken = last >= 0 && (before(dtype, in, at, done, node->transposed) ||
                                    (!before(dtype, in, done, at, node->transposed) &&
                                     (int64_t)j <= last));
          if (!taken && (best < 0 || before(dtype, in, at, first + best * node->inner,
                                            node->transposed)))
            best = j;
        }
        last = best < 0 ? 0 : best;
        out[((size_t)o * node->n + k) * node->inner + i] = last;
      }
    }
}

/* flag: reverse; transposed: exclusive. */
static void cum_sum(const od_node *node, od_dtype dtype, const char *in, char *out) {
  for (uint32_t o = 0; o < node->outer; o++)
    for (uint32_t i = 0; i < node->inner; i++) {
      float sum = 0;
      uint64_t whole = 0;
      for (uint32_t j = 0; j < node->middle; j++) {
        uint32_t step = node->flag ? node->middle - 1 - j : j;
        size_t at = ((size_t)o * node->middle + step) * node->inner + i;
        if (dtype == OD_I64) {
          uint64_t next = whole + (uint64_t)INTS(in)[at];
          ((int64_t *)(void *)out)[at] = (int64_t)(node->transposed ? whole : next);
          whole = next;
        } else {
          float next = sum + FLOATS(in)[at];
          ((float *)(void *)out)[at] = node->transposed ? sum : next;
          sum = next;
        }
      }
    }
}

static void cast(uint32_t size, od_dtype from, od_dtype to, const char *in, char *out) {
  for (uint32_t i = 0; i < size; i++) {
    if (from == to) {
      move((uint32_t)od_dtype_size(from), out, i, in, i);
    } else if (to == OD_U8) {
      out[i] = (char)truth(from, in, i);
    } else if (to == OD_F32) {
      ((float *)(void *)out)[i] = from == OD_I64 ? (float)INTS(in)[i] : (float)(BYTES(in)[i] != 0);
    } else {
      ((int64_t *)(void *)out)[i] = from == OD_F32 ? od_to_int(FLOATS(in)[i]) : BYTES(in)[i] != 0;
    }
  }
}

static void product(uint32_t m, uint32_t k, uint32_t n, int transposed, const float *a,
                    const float *b, float *out) {
  for (uint32_t i = 0; i < m; i++) {
    float *row = out + (size_t)i * n;
    for (uint32_t j = 0; j < n; j++) row[j] = 0;
    if (transposed) {
      for (uint32_t j = 0; j < n; j++)
        for (uint32_t l = 0; l < k; l++) row[j] += a[(size_t)i * k + l] * b[(size_t)j * k + l];
    } else {
      for (uint32_t l = 0; l < k; l++)
        for (uint32_t j = 0; j < n; j++) row[j] += a[(size_t)i * k + l] * b[(size_t)l * n + j];
    }
  }
}

static void gemm(const od_node *node, const float *a, const float *b, const float *c,
                 uint32_t c_size, float *out) {
  product(node->m, node->k, node->n, (int)node->transposed, a, b, out);
  for (uint32_t i = 0; i < node->m * node->n; i++) {
    float value = out[i] * node->alpha;
    if (c) value += node->beta * c[c_size == 1 ? 0 : i % node->n];
    out[i] = value;
  }
}

static void matmul(const od_node *node, const float *a, const float *b, float *out) {
  walker w = {{0}, {0, 0, 0}};
  uint32_t count = 1;
  for (uint32_t i = 0; i < node->rank; i++) count *= node->shape[i];
  for (uint32_t i = 0; i < count; i++, step_on(&w, node)) /* strides count matrices */
    product(node->m, node->k, node->n, 0, a + (size_t)w.places[0] * node->m * node->k,
            b + (size_t)w.places[1] * node->k * node->n, out + (size_t)i * node->m * node->n);
}

static float reduce_one(const od_node *node, const float *from) {
  float value = node->op == OD_OP_REDUCE_PROD ? 1.0f : 0.0f;
  if (node->op == OD_OP_REDUCE_MAX || node->op == OD_OP_REDUCE_MIN) value = *from;
  for (uint32_t j = 0; j < node->middle; j++, from += node->inner) {
    float x = *from;
    if (node->op == OD_OP_REDUCE_PROD) value *= x;
    else if (node->op == OD_OP_REDUCE_MAX) value = x > value || x != x ? x : value;
    else if (node->op == OD_OP_REDUCE_MIN) value = x < value || x != x ? x : value;
    else value += x;
  }
  return node->op == OD_OP_REDUCE_MEAN ? value / (float)node->middle : value;
}

static int64_t reduce_ints(const od_node *node, const int64_t *from) {
  uint64_t sum = 0, product_of_all = 1;
  int64_t most = *from, least = *from;
  for (uint32_t j = 0; j < node->middle; j++, from += node->inner) {
    sum += (uint64_t)*from;
    product_of_all *= (uint64_t)*from;
    most = *from > most ? *from : most;
    least = *from < least ? *from : least;
  }
  return node->op == OD_OP_REDUCE_MAX    ? most
         : node->op == OD_OP_REDUCE_MIN  ? least
         : node->op == OD_OP_REDUCE_PROD ? (int64_t)product_of_all
                                         : (int64_t)sum;
}

static void reduce(const od_node *node, od_dtype dtype, const char *in, char *out) {
  for (uint32_t o = 0; o < node->outer; o++)
    for (uint32_t i = 0; i < node->inner; i++) {
      size_t from = (size_t)o * node->middle * node->inner + i, to = (size_t)o * node->inner + i;
      if (dtype == OD_I64) ((int64_t *)(void *)out)[to] = reduce_ints(node, INTS(in) + from);
      else ((float *)(void *)out)[to] = reduce_one(node, FLOATS(in) + from);
    }
}

static void softmax(const od_node *node, const float *in, float *out) {
  for (uint32_t o = 0; o < node->outer; o++)
    for (uint32_t i = 0; i < node->inner; i++) {
      size_t first = (size_t)o * node->middle * node->inner + i;
      float largest = in[first], sum = 0;
      for (uint32_t j = 1; j < node->middle; j++) {
        float x = in[first + (size_t)j * node->inner];
        largest = x > largest ? x : largest;
      }
      for (uint32_t j = 0; j < node->middle; j++) {
        size_t at = first + (size_t)j * node->inner;
        out[at] = od_exp(in[at] - largest);
        sum += out[at];
      }
      for (uint32_t j = 0; j < node->middle; j++) out[first + (size_t)j * node->inner] /= sum;
    }
}

static float unary_one(const od_node *node, float x) {
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
    case OD_OP_LEAKY_RELU: return x < 0 ? x * node->alpha : x;
    default: /* OD_OP_ELU */
      return x > 0 || x != x ? x : node->alpha * (float)(od_exp_double(x) - 1);
  }
}

static void unary(const od_node *node, uint32_t size, const float *in, float *out) {
  if (node->op == OD_OP_RELU)
    for (uint32_t i = 0; i < size; i++) out[i] = in[i] < 0 ? 0 : in[i];
  else
    for (uint32_t i = 0; i < size; i++) out[i] = unary_one(node, in[i]);
}

static void unary_ints(const od_node *node, uint32_t size, const int64_t *in, int64_t *out) {
  for (uint32_t i = 0; i < size; i++) {
    int64_t x = in[i], negated = (int64_t)(0 - (uint64_t)x);
    out[i] = node->op == OD_OP_NEG    ? negated
             : node->op == OD_OP_SIGN ? (x > 0) - (x < 0)
             : node->op == OD_OP_RELU ? (x > 0 ? x : 0)
                                      : (x < 0 ? negated : x);
  }
}

/* Parts that were computed in place are already there. */
static void concat(const od_node *node, const od_value *values, const od_rows *in, char *out,
                   size_t out_step, size_t rows) {
  size_t before = 0, bytes = od_dtype_size(values[node->output].dtype);
  for (uint32_t i = 0; i < node->input_count; i++) {
    size_t part = values[node->inputs[i]].size / node->outer * bytes;
    size_t whole = (size_t)node->middle * node->inner * bytes;
    if (in[i].data != out + before || in[i].step != out_step)
      for (size_t row = 0; row < rows; row++)
        for (uint32_t o = 0; o < node->outer; o++)
          od_copy(out + row * out_step + o * whole + before, in[i].data + row * in[i].step + o * part,
                  part);
    before += part;
  }
}

static od_trouble execute_row(const od_node *node, const od_value *values, const char *const *in,
                              char *out) {
  const od_value *result = &values[node->output], *first = &values[node->inputs[0]];
  uint32_t size = result->size, bytes = (uint32_t)od_dtype_size(result->dtype);
  const float *a = FLOATS(in[0]), *b = FLOATS(in[1]), *c = FLOATS(in[2]);
  float *to = (float *)(void *)out;
  switch (node->op) {
    case OD_OP_ADD: case OD_OP_SUB: case OD_OP_MUL: case OD_OP_DIV: case OD_OP_MAX:
    case OD_OP_MIN: case OD_OP_PRELU: case OD_OP_MOD: case OD_OP_POW: case OD_OP_EQUAL:
    case OD_OP_LESS: case OD_OP_LESS_EQUAL: case OD_OP_GREATER: case OD_OP_GREATER_EQUAL:
    case OD_OP_AND: case OD_OP_OR: case OD_OP_XOR:
      return binary(node, size, first->dtype, in[0], in[1], out);
    case OD_OP_GEMM: gemm(node, a, b, c, c ? values[node->inputs[2]].size : 0, to); break;
    case OD_OP_MATMUL: matmul(node, a, b, to); break;
    case OD_OP_REDUCE_SUM: case OD_OP_REDUCE_MEAN: case OD_OP_REDUCE_MAX: case OD_OP_REDUCE_MIN:
    case OD_OP_REDUCE_PROD:
      reduce(node, first->dtype, in[0], out);
      break;
    case OD_OP_SOFTMAX: softmax(node, a, to); break;
    case OD_OP_COPY: copy_along(node, size, bytes, in[0], out); break;
    case OD_OP_PAD: pad(node, size, bytes, in[0], in[2], out); break;
    case OD_OP_WHERE: select_where(node, size, first->dtype, bytes, in, out); break;
    case OD_OP_CAST: cast(size, first->dtype, result->dtype, in[0], out); break;
    case OD_OP_NOT:
      for (uint32_t i = 0; i < size; i++) out[i] = (char)!truth(first->dtype, in[0], i);
      break;
    case OD_OP_GATHER: return gather(node, bytes, in[0], INTS(in[1]), out);
    case OD_OP_GATHER_ELEMENTS: return gather_elements(node, size, bytes, in[0], INTS(in[1]), out);
    case OD_OP_GATHER_ND: return gather_nd(node, bytes, in[0], INTS(in[1]), out);
    case OD_OP_ARG: arg(node, first->dtype, in[0], (int64_t *)(void *)out); break;
    case OD_OP_TOP_K: top_k(node, first->dtype, in[0], (int64_t *)(void *)out); break;
    case OD_OP_CUM_SUM: cum_sum(node, first->dtype, in[0], out); break;
    default:
      if (first->dtype == OD_I64) unary_ints(node, size, INTS(in[0]), (int64_t *)(void *)out);
      else unary(node, size, a, to);
      break;
  }
  return OD_TROUBLE_NONE;
}

od_trouble od_execute(const od_node *node, const od_value *values, const od_rows *in, char *out,
                      size_t out_step, size_t rows) {
  od_trouble trouble = OD_TROUBLE_NONE;
  if (node->op == OD_OP_CONCAT) {
    concat(node, values, in, out, out_step, rows);
    return trouble;
  }
  for (size_t row = 0; row < rows; row++) {
    const char *operands[3] = {NULL, NULL, NULL};
    for (uint32_t i = 0; i < node->input_count && i < 3; i++)
      if (in[i].data) operands[i] = in[i].data + row * in[i].step;
    od_trouble here = execute_row(node, values, operands, out + row * out_step);
    if (here) trouble = here;
  }
  return trouble;
}
