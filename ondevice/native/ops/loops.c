/* loops.c: turns walks over a request's rows into spans: two loops with constant steps. */
#include "ops/ops.h"

enum { OUT = 3, PLACES = 4 }; /* three operands, and the result */

/* Loops over the rows and a walk's axes, with steps in elements for each place. */
typedef struct {
  uint32_t rank;
  size_t counts[OD_MAX_RANK + 1];
  int64_t steps[OD_MAX_RANK + 1][PLACES];
} nest;

/* Append a loop inside the last one, or join both where one loop with the inner steps does the
 * same. */
static void add_loop(nest *n, size_t count, const int64_t *steps) {
  if (count == 1) return;
  int joined = n->rank > 0;
  for (int p = 0; joined && p < PLACES; p++)
    joined = n->steps[n->rank - 1][p] == steps[p] * (int64_t)count;
  if (joined) n->rank--, count *= n->counts[n->rank];
  n->counts[n->rank] = count;
  for (int p = 0; p < PLACES; p++) n->steps[n->rank][p] = steps[p];
  n->rank++;
}

static void make_nest(nest *n, const od_walk *walk, const od_rows *in, const uint32_t *bytes,
                      size_t out_step, size_t rows) {
  int64_t steps[PLACES], size = 1;
  n->rank = 0;
  for (int p = 0; p < OUT; p++) steps[p] = bytes[p] ? (int64_t)(in[p].step / bytes[p]) : 0;
  steps[OUT] = (int64_t)(out_step / bytes[OUT]);
  add_loop(n, rows, steps);
  for (uint32_t i = 0; i < walk->rank; i++) size *= walk->shape[i];
  for (uint32_t i = 0; i < walk->rank; i++) {
    size /= walk->shape[i];
    for (int p = 0; p < OUT; p++) steps[p] = bytes[p] ? walk->strides[p][i] : 0;
    steps[OUT] = size;
    add_loop(n, walk->shape[i], steps);
  }
}

/* Whether the innermost loop is one of a span: the result moves by 1, operands by 1 or not at
 * all. */
static int is_inner(const nest *n) {
  if (!n->rank || n->steps[n->rank - 1][OUT] != 1) return 0;
  for (int p = 0; p < OUT; p++)
    if (n->steps[n->rank - 1][p] >> 1) return 0;
  return 1;
}

/* The innermost loops as a span. */
static void make_span(nest *n, const od_rows *in, const uint32_t *bytes, char *out,
                      od_span *span) {
  static const int64_t still[PLACES] = {0, 0, 0, 1};
  const int64_t *inner = still, *outer = still;
  span->n0 = span->n1 = 1;
  if (is_inner(n)) {
    span->n0 = n->counts[--n->rank];
    inner = n->steps[n->rank];
  }
  if (n->rank) {
    span->n1 = n->counts[--n->rank];
    outer = n->steps[n->rank];
  }
  for (int p = 0; p < OUT; p++) {
    span->in[p] = bytes[p] ? in[p].data : NULL;
    span->in0[p] = inner[p];
    span->in1[p] = outer[p];
  }
  span->out = out;
  span->out1 = outer[OUT];
}

/* A walk of one axis along which operands move by 1 or not at all, for one row or for rows that lie
 * as the axis goes on: one loop, as nearly all walks are. Small operators take less time than a nest. */
static int one_loop(const od_walk *walk, const uint32_t *bytes, const od_rows *in, char *out,
                    size_t out_step, size_t rows, od_span *span) {
  size_t n = walk->shape[0];
  if (walk->rank != 1 || (rows > 1 && out_step != n * bytes[OUT])) return 0;
  for (int p = 0; p < OUT; p++) {
    int64_t step = walk->strides[p][0];
    span->in[p] = NULL;
    span->in0[p] = span->in1[p] = 0;
    if (!bytes[p]) continue;
    if (step >> 1 || (rows > 1 && in[p].step != (uint64_t)step * n * bytes[p])) return 0;
    span->in[p] = in[p].data;
    span->in0[p] = step;
  }
  span->out = out;
  span->n0 = n * rows;
  span->n1 = 1;
  span->out1 = 0;
  return 1;
}

void od_each_span(const od_walk *walk, const uint32_t *bytes, const od_rows *in, char *out,
                  size_t out_step, size_t rows, od_span_loop loop, void *context) {
  nest n;
  od_span span;
  if (one_loop(walk, bytes, in, out, out_step, rows, &span)) {
    loop(&span, context);
    return;
  }
  size_t at[OD_MAX_RANK + 1] = {0};
  make_nest(&n, walk, in, bytes, out_step, rows);
  make_span(&n, in, bytes, out, &span);
  for (;;) {
    loop(&span, context);
    uint32_t axis = n.rank;
    for (; axis-- > 0;) {
      int ended = ++at[axis] == n.counts[axis];
      int64_t turns = ended ? 1 - (int64_t)n.counts[axis] : 1;
      for (int p = 0; p < OUT; p++)
        if (bytes[p])
          span.in[p] = (const char *)span.in[p] + turns * n.steps[axis][p] * bytes[p];
      span.out = (char *)span.out + turns * n.steps[axis][OUT] * bytes[OUT];
      if (!ended) break;
      at[axis] = 0;
    }
    if (axis == UINT32_MAX) return;
  }
}
