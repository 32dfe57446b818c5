/* ops.c: the operators other than lookups and dense layers, row by row, as ONNX defines them. */
#include "model.h"

/* exp(x) to about 1e-7 relative: 2^k times a polynomial on [-ln2/2, ln2/2] (Cephes expf). */
static float exponential(float x) {
  if (!(x > -103.9f)) return x != x ? x : 0; /* below: rounds to zero */
  if (x > 88.72f) return __builtin_inff();
  float k = x * 1.44269504f;
  int32_t whole = (int32_t)(k + (k < 0 ? -0.5f : 0.5f));
  float w = (float)whole, r = x - w * 0.693359375f;
  r = r - w * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1;
  for (; whole < -126; whole += 24) p *= 0x1p-24f; /* results below the normal range */
  if (whole > 127) p *= 2, whole--;
  uint32_t bits = (uint32_t)(whole + 127) << 23;
  float power;
  __builtin_memcpy(&power, &bits, 4);
  return p * power;
}

static float sigmoid(float x) {
  float small = exponential(x < 0 ? x : -x);
  return x < 0 ? small / (1 + small) : 1 / (1 + small);
}

static float hyperbolic_tangent(float x) {
  float size = x < 0 ? -x : x;
  if (size < 0.1f) { /* the series: the quotient below would cancel */
    float s = x * x;
    return x * (1 + s * (-1.0f / 3 + s * (2.0f / 15 + s * (-17.0f / 315))));
  }
  float small = exponential(-2 * size);
  float value = (1 - small) / (1 + small);
  return x < 0 ? -value : value;
}

static float combine(od_op op, float a, float b) {
  switch (op) {
    case OD_OP_ADD: return a + b;
    case OD_OP_SUB: return a - b;
    case OD_OP_MUL: return a * b;
    default: return a / b;
  }
}

/* Visit all positions of `rank` axes; `left` and `right` follow with their own strides. */
typedef struct {
  uint32_t at[OD_MAX_RANK];
  size_t left, right;
} walker;

static void step_on(walker *w, uint32_t rank, const uint32_t *shape, const uint32_t *left,
                    const uint32_t *right) {
  for (uint32_t axis = rank; axis-- > 0;) {
    w->left += left[axis];
    w->right += right[axis];
    if (++w->at[axis] < shape[axis]) return;
    w->left -= (size_t)left[axis] * shape[axis];
    w->right -= (size_t)right[axis] * shape[axis];
    w->at[axis] = 0;
  }
}

static void binary(const od_node *node, uint32_t size, const float *a, const float *b, float *out) {
  walker w = {{0}, 0, 0};
  for (uint32_t i = 0; i < size; i++) {
    out[i] = combine(node->op, a[w.left], b[w.right]);
    step_on(&w, node->rank, node->shape, node->left, node->right);
  }
}

static void transpose(const od_node *node, uint32_t size, const float *in, float *out) {
  walker w = {{0}, 0, 0};
  for (uint32_t i = 0; i < size; i++) {
    out[i] = in[w.left];
    step_on(&w, node->rank, node->shape, node->left, node->left);
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
  walker w = {{0}, 0, 0};
  uint32_t count = 1;
  uint32_t left[OD_MAX_RANK], right[OD_MAX_RANK];
  for (uint32_t i = 0; i < node->rank; i++) {
    count *= node->shape[i]; /* strides count matrices' elements, see strides_of */
    left[i] = node->left[i];
    right[i] = node->right[i];
  }
  for (uint32_t i = 0; i < count; i++) {
    product(node->m, node->k, node->n, 0, a + w.left * node->m * node->k,
            b + w.right * node->k * node->n, out + (size_t)i * node->m * node->n);
    step_on(&w, node->rank, node->shape, left, right);
  }
}

static void reduce(const od_node *node, const float *in, float *out) {
  for (uint32_t o = 0; o < node->outer; o++)
    for (uint32_t i = 0; i < node->inner; i++) {
      const float *from = in + (size_t)o * node->middle * node->inner + i;
      float sum = 0;
      for (uint32_t j = 0; j < node->middle; j++) sum += from[(size_t)j * node->inner];
      if (node->op == OD_OP_REDUCE_MEAN) sum /= (float)node->middle;
      out[(size_t)o * node->inner + i] = sum;
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
        out[at] = exponential(in[at] - largest);
        sum += out[at];
      }
      for (uint32_t j = 0; j < node->middle; j++) out[first + (size_t)j * node->inner] /= sum;
    }
}

static void unary(od_op op, uint32_t size, const float *in, float *out) {
  for (uint32_t i = 0; i < size; i++)
    out[i] = op == OD_OP_RELU      ? (in[i] < 0 ? 0 : in[i])
             : op == OD_OP_SIGMOID ? sigmoid(in[i])
                                   : hyperbolic_tangent(in[i]);
}

/* Parts that were computed in place are already there. */
static void concat(const od_node *node, const od_value *values, const od_rows *in, char *out,
                   size_t out_step, size_t rows) {
  size_t before = 0;
  for (uint32_t i = 0; i < node->input_count; i++) {
    size_t part = values[node->inputs[i]].size / node->outer * 4;
    size_t whole = (size_t)node->middle * node->inner * 4;
    if (in[i].data != out + before || in[i].step != out_step)
      for (size_t row = 0; row < rows; row++)
        for (uint32_t o = 0; o < node->outer; o++)
          od_copy(out + row * out_step + o * whole + before, in[i].data + row * in[i].step + o * part,
                  part);
    before += part;
  }
}

void od_execute(const od_node *node, const od_value *values, const od_rows *in, char *out,
                size_t out_step, size_t rows) {
  if (node->op == OD_OP_CONCAT) {
    concat(node, values, in, out, out_step, rows);
    return;
  }
  uint32_t size = values[node->output].size;
  for (size_t row = 0; row < rows; row++) {
    const float *a = (const float *)(const void *)(in[0].data + row * in[0].step), *b = NULL;
    const float *c = NULL;
    float *to = (float *)(void *)(out + row * out_step);
    if (node->input_count > 1 && in[1].data)
      b = (const float *)(const void *)(in[1].data + row * in[1].step);
    if (node->input_count > 2 && in[2].data) c = (const float *)(const void *)in[2].data;
    switch (node->op) {
      case OD_OP_ADD:
      case OD_OP_SUB:
      case OD_OP_MUL:
      case OD_OP_DIV: binary(node, size, a, b, to); break;
      case OD_OP_GEMM:
        gemm(node, a, b, c, c ? values[node->inputs[2]].size : 0, to);
        break;
      case OD_OP_MATMUL: matmul(node, a, b, to); break;
      case OD_OP_REDUCE_SUM:
      case OD_OP_REDUCE_MEAN: reduce(node, a, to); break;
      case OD_OP_SOFTMAX: softmax(node, a, to); break;
      case OD_OP_TRANSPOSE: transpose(node, size, a, to); break;
      default: unary(node->op, size, a, to); break;
    }
  }
}
