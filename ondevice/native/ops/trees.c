/* trees.c: tree ensembles: in every tree, comparisons lead a row to a leaf with scores.
 *
 * What the bits of a link are: ondevice/trees.py. The shape rule checks every link once, so that
 * the loop reads nodes, features and vectors unchecked. */
#include "ops/ops.h"

enum { BRANCH, SCORE, VECTOR }; /* kinds of nodes */
enum { SUM, MIN, MAX };         /* aggregates */
enum { VARIED, LESS = 1, LESS_OR_EQUAL = 3 }; /* outcomes of all tests */

#define LANES 8 /* paths that are followed side by side: each waits for its next node */

static uint32_t kind_of(uint64_t link) { return (uint32_t)(link >> 60); }
static uint32_t outcomes_of(uint64_t link) { return (uint32_t)(link >> 56) & 15; }
static uint32_t index_of(uint64_t link) { return (uint32_t)(link >> 32) & 0xFFFFFF; }
static uint32_t place_of(uint64_t link) { return (uint32_t)link; }

/* The shape rule */

/* A constant of the file with one axis; not one that a node computes. */
static int is_stored(const od_value *v, od_dtype dtype) {
  return v && v->data && v->node < 0 && !v->batched && v->dtype == dtype && v->rank == 1;
}

static int link_fits(uint64_t link, uint32_t place, uint32_t nodes, uint32_t vectors,
                     const od_trees *trees) {
  uint32_t to = place_of(link);
  if (kind_of(link) == BRANCH) /* `to` and the next one exist, behind this node */
    return to > place && to < nodes - 1 && index_of(link) < trees->features;
  if (kind_of(link) == SCORE) return index_of(link) < trees->targets;
  return kind_of(link) == VECTOR && to < vectors;
}

static od_status check_nodes(const od_inference *f, const od_trees *trees) {
  const od_value *links = od_operand(f, 2), *roots = od_operand(f, 3), *vectors = od_operand(f, 4);
  const uint64_t *link = links->data;
  const int64_t *root = roots->data;
  for (uint32_t i = 0; i < links->size; i++)
    if (!link_fits(link[i], i, links->size, vectors->dims[0], trees))
      return od_fail(f->error, OD_E_FORMAT, "plan: node %u (TreeEnsemble): link %u leads nowhere",
                     (uint64_t)f->node->number, (uint64_t)i);
  for (uint32_t i = 0; i < roots->size; i++)
    if (root[i] < 0 || root[i] >= (int64_t)links->size)
      return od_fail(f->error, OD_E_FORMAT, "plan: node %u (TreeEnsemble): root %u does not exist",
                     (uint64_t)f->node->number, (uint64_t)i);
  return OD_OK;
}

/* The outcomes that all tests share, where a loop is compiled for them. */
static uint8_t shared_outcomes(const od_value *links) {
  const uint64_t *link = links->data;
  uint32_t shared = 0;
  for (uint32_t i = 0; i < links->size; i++) {
    uint32_t outcomes = outcomes_of(link[i]) & 7;
    if (kind_of(link[i]) != BRANCH) continue;
    if (outcomes != LESS && outcomes != LESS_OR_EQUAL) return VARIED;
    if (shared && shared != outcomes) return VARIED;
    shared = outcomes;
  }
  return (uint8_t)shared;
}

static int read_aggregate(const od_inference *f, uint8_t *aggregate) {
  const od_json *text = od_json_member(f->attributes, "aggregate");
  *aggregate = SUM;
  if (!text) return 1;
  if (text->kind != OD_J_TEXT) return 0;
  if (od_equal(text->text, "MIN")) *aggregate = MIN;
  else if (od_equal(text->text, "MAX")) *aggregate = MAX;
  else return od_equal(text->text, "SUM");
  return 1;
}

od_status od_shape_trees(const od_inference *f) {
  const od_value *x = od_operand(f, 0), *thresholds = od_operand(f, 1), *links = od_operand(f, 2);
  const od_value *roots = od_operand(f, 3), *vectors = od_operand(f, 4);
  od_trees *trees = &f->node->trees;
  int64_t targets = od_attribute_int(f, "targets", 0);
  if (!x || !x->batched || x->dtype != OD_F32 || x->rank != 1 || !x->size)
    return od_refuse(f, "float32 features of every row needed");
  if (!is_stored(thresholds, OD_F32) || !is_stored(links, OD_I64) || !is_stored(roots, OD_I64) ||
      !vectors || !vectors->data || vectors->node >= 0 || vectors->dtype != OD_F32 ||
      vectors->rank != 2)
    return od_refuse(f, "stored thresholds, links, roots and vectors needed");
  if (thresholds->size != links->size || !roots->size || targets < 1 ||
      targets > OD_MAX_ROW_ELEMENTS || (vectors->dims[0] && vectors->dims[1] != targets))
    return od_refuse(f, "its arrays do not fit each other");
  if (links->size > OD_MAX_TREE_NODES || roots->size > OD_MAX_TREE_NODES)
    return od_refuse(f, "more than " OD_DIGITS(OD_MAX_TREE_NODES) " nodes or trees");
  if (!read_aggregate(f, &trees->aggregate)) return od_refuse(f, "an unknown aggregate");
  trees->features = x->size;
  trees->trees = roots->size;
  trees->targets = (uint32_t)targets;
  OD_CHECK(check_nodes(f, trees));
  trees->outcomes = shared_outcomes(links);
  return od_set_dims(f, 1, OD_F32, &trees->targets, 1);
}

/* The loop */

typedef struct {
  const od_trees *trees;
  const float *thresholds, *vectors;
  const uint64_t *links;
  const int64_t *roots;
} ensemble;

/* Whether a test holds. `outcomes`: those of all tests but for NaN, known when it is compiled. */
OD_INLINE uint32_t holds(float value, float threshold, uint64_t link, uint32_t outcomes) {
  uint32_t less = value < threshold, less_or_equal = value <= threshold;
  uint32_t greater = value > threshold;
  uint32_t unordered = !(less_or_equal | greater);
  uint32_t missing = (uint32_t)(link >> 59) & unordered;
  if (outcomes == LESS) return less | missing;
  if (outcomes == LESS_OR_EQUAL) return less_or_equal | missing;
  return (uint32_t)(link >> (56 + 3 - greater - 2 * less_or_equal - less)) & 1;
}

/* Lead `count` paths from the nodes `at` to leaves, all by one step a turn. */
OD_INLINE od_trouble descend(const ensemble *e, const float *const *x, uint32_t *at,
                             uint32_t count, uint32_t outcomes) {
  for (uint32_t depth = 0; depth <= OD_MAX_TREE_DEPTH; depth++) {
    uint32_t moved = 0;
    for (uint32_t i = 0; i < count; i++) {
      uint64_t link = e->links[at[i]];
      uint32_t leaf = kind_of(link) != BRANCH;
      float value = x[i][leaf ? 0 : index_of(link)];
      uint32_t child = place_of(link) + 1 - holds(value, e->thresholds[at[i]], link, outcomes);
      at[i] = leaf ? at[i] : child;
      moved |= !leaf;
    }
    if (!moved) return OD_TROUBLE_NONE;
  }
  return OD_TROUBLE_DEPTH;
}

static od_trouble descend_any(const ensemble *e, const float *const *x, uint32_t *at,
                              uint32_t count) {
  uint8_t outcomes = e->trees->outcomes;
  if (outcomes == LESS_OR_EQUAL) {
    if (count == LANES) return descend(e, x, at, LANES, LESS_OR_EQUAL);
    return descend(e, x, at, count, LESS_OR_EQUAL);
  }
  if (outcomes == LESS) {
    if (count == LANES) return descend(e, x, at, LANES, LESS);
    return descend(e, x, at, count, LESS);
  }
  return descend(e, x, at, count, VARIED);
}

OD_INLINE void join(float *to, float score, uint8_t aggregate) {
  if (aggregate == SUM) *to += score;
  else if (aggregate == MIN ? score < *to : score > *to) *to = score;
}

static void add_leaf(const ensemble *e, uint32_t at, float *out) {
  uint64_t link = e->links[at];
  if (kind_of(link) == SCORE) {
    join(out + index_of(link), e->thresholds[at], e->trees->aggregate);
    return;
  }
  const float *vector = e->vectors + (size_t)place_of(link) * e->trees->targets;
  for (uint32_t i = 0; i < e->trees->targets; i++) join(out + i, vector[i], e->trees->aggregate);
}

/* Several trees for one row. */
static od_trouble single_row(const ensemble *e, const float *row, float *out) {
  const float *x[LANES];
  od_trouble trouble = OD_TROUBLE_NONE;
  for (uint32_t i = 0; i < LANES; i++) x[i] = row;
  for (uint32_t first = 0; first < e->trees->trees; first += LANES) {
    uint32_t left = e->trees->trees - first, count = left < LANES ? left : LANES, at[LANES];
    for (uint32_t i = 0; i < count; i++) at[i] = (uint32_t)e->roots[first + i];
    od_trouble found = descend_any(e, x, at, count);
    if (found) trouble = found;
    else
      for (uint32_t i = 0; i < count; i++) add_leaf(e, at[i], out);
  }
  return trouble;
}

/* One tree after the other for LANES rows: a tree stays in the cache. */
static od_trouble several_rows(const ensemble *e, const od_rows *in, size_t first, char *out,
                               size_t out_step) {
  const float *x[LANES];
  od_trouble trouble = OD_TROUBLE_NONE;
  for (uint32_t i = 0; i < LANES; i++) x[i] = OD_FLOATS(in->data + (first + i) * in->step);
  for (uint32_t tree = 0; tree < e->trees->trees; tree++) {
    uint32_t at[LANES];
    for (uint32_t i = 0; i < LANES; i++) at[i] = (uint32_t)e->roots[tree];
    od_trouble found = descend_any(e, x, at, LANES);
    if (found) trouble = found;
    else
      for (uint32_t i = 0; i < LANES; i++)
        add_leaf(e, at[i], (float *)(void *)(out + (first + i) * out_step));
  }
  return trouble;
}

od_trouble od_loop_trees(const od_node *node, const od_value *values, const od_rows *in, char *out,
                         size_t out_step, size_t rows) {
  const od_trees *trees = &node->trees;
  ensemble e = {trees, OD_FLOATS(in[1].data), OD_FLOATS(in[4].data),
                (const uint64_t *)(const void *)in[2].data, OD_INTS(in[3].data)};
  const float start[] = {[SUM] = 0, [MIN] = __builtin_inff(), [MAX] = -__builtin_inff()};
  od_trouble trouble = OD_TROUBLE_NONE, found;
  (void)values;
  for (size_t row = 0; row < rows; row++)
    for (uint32_t i = 0; i < trees->targets; i++)
      ((float *)(void *)(out + row * out_step))[i] = start[trees->aggregate];
  size_t row = 0;
  for (; row + LANES <= rows; row += LANES)
    if ((found = several_rows(&e, in, row, out, out_step))) trouble = found;
  for (; row < rows; row++)
    if ((found = single_row(&e, OD_FLOATS(in[0].data + row * in[0].step),
                            (float *)(void *)(out + row * out_step))))
      trouble = found;
  return trouble;
}
