/* bfloat.c: rounds the dense layers of a model to bfloat16 when it is opened (docs/native.md). */
#include "core/bfloat.h"
#include "core/half.h"
#include "core/model.h"

/* A weight's bits, rounded. */
static uint32_t rounded(const od_dense *layer, size_t at) {
  if (layer->codec != OD_CODEC_F16) return od_bfloat(od_load32((const uint32_t *)layer->weight + at));
  float value = od_half(od_load16((const uint8_t *)layer->weight + 2 * at));
  return od_bfloat(od_load32(&value));
}

/* Two features of an output in 4 bytes, the first in the high half: sums then grow in the order of the
 * features. */
OD_COLD static void write_pairs(const od_dense *layer, uint32_t *pairs) {
  size_t wide = layer->padded_units;
  for (uint32_t i = 0; i < layer->features; i += 2)
    for (size_t u = 0; u < wide; u++) {
      uint32_t low = i + 1 < layer->features ? rounded(layer, (i + 1) * wide + u) >> 16 : 0;
      *pairs++ = rounded(layer, i * wide + u) | low;
    }
}

/* Biases so small that a sum which begins with one might get below the normal range become zero. */
OD_COLD static void write_bias(const od_dense *layer, float *bias) {
  for (uint32_t u = 0; u < layer->padded_units; u++) {
    float value = layer->bias[u];
    bias[u] = value < 0x1p-86f && value > -0x1p-86f ? 0 : value;
  }
}

OD_COLD static od_status round_layer(od_model *model, od_dense *layer) {
  size_t wide = layer->padded_units, deep = layer->features;
  int pairs = model->kernels->pairs != 0;
  uint32_t *weight = od_take(&model->arena, (pairs ? (deep + 1) / 2 : deep) * wide, sizeof *weight);
  float *bias = od_take(&model->arena, wide, sizeof *bias);
  if (!weight || !bias) return OD_E_MEMORY;
  if (pairs) write_pairs(layer, weight);
  for (size_t i = 0; !pairs && i < deep * wide; i++) weight[i] = rounded(layer, i);
  write_bias(layer, bias);
  layer->weight = weight;
  layer->bias = bias;
  layer->codec = pairs ? OD_CODEC_PAIRS : OD_CODEC_F32;
  return OD_OK;
}

/* The layer of an earlier node with the same weights and bias, as the file has them. */
OD_COLD static const od_dense *same_layer(const od_model *model, const od_dense *files, uint32_t index) {
  for (uint32_t i = 0; i < index; i++)
    if (files[i].weight && files[i].weight == files[index].weight &&
        files[i].bias == files[index].bias && files[i].features == files[index].features &&
        files[i].units == files[index].units)
      return &model->nodes[i].dense.layer;
  return NULL;
}

OD_COLD od_status od_round_dense(od_model *model, od_arena *scratch, od_error *error) {
  od_dense *files = od_take(scratch, model->node_count, sizeof *files); /* layers before they are rounded */
  if (!files) return od_fail(error, OD_E_MEMORY, "out of memory for rounded layers");
  for (uint32_t i = 0; i < model->node_count; i++) {
    od_node *node = &model->nodes[i];
    od_dense *layer = &node->dense.layer;
    if (node->op != OD_OP_DENSE || layer->codec == OD_CODEC_Q8 || layer->units <= OD_UNIT_BLOCK)
      continue;
    files[i] = *layer;
    const od_dense *same = same_layer(model, files, i);
    if (!same && round_layer(model, layer) != OD_OK)
      return od_fail(error, OD_E_MEMORY, "out of memory for rounded layers");
    if (same) {
      layer->weight = same->weight;
      layer->bias = same->bias;
      layer->codec = same->codec;
    }
    node->dense.rounded = 1;
  }
  return OD_OK;
}
