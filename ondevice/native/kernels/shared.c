/* shared.c: loops of dense layers that no instruction set makes faster, compiled once for all. */
#include "core/half.h"
#include "kernels/kernels.h"

void od_list_numbers(uint32_t start, uint32_t stop, uint16_t *list) {
  for (uint32_t i = start; i < stop; i++) list[i - start] = (uint16_t)i;
}

/* Features of a q8 layer lie in groups of 4. */
static void single_codes(const od_dense *layer, uint32_t start, uint32_t count, float *weights) {
  int8_t packed[OD_PIECE + 2 * OD_FEATURE_GROUP];
  uint32_t before = start % OD_FEATURE_GROUP;
  const int8_t *from = (const int8_t *)layer->weight + (size_t)(start - before) * layer->padded_units;
  for (uint32_t i = 0; i < before + count; i += OD_FEATURE_GROUP) {
    __builtin_memcpy(packed + i, from, OD_FEATURE_GROUP);
    from += OD_FEATURE_GROUP * (size_t)layer->padded_units;
  }
  for (uint32_t i = 0; i < count; i++) weights[i] = packed[before + i];
}

void od_single_weights(const od_dense *layer, uint32_t start, uint32_t count, float *weights) {
  size_t at = (size_t)start * layer->padded_units;
  if (layer->codec == OD_CODEC_Q8) single_codes(layer, start, count, weights);
  for (uint32_t i = 0; layer->codec == OD_CODEC_F16 && i < count; i++, at += layer->padded_units)
    weights[i] = od_half(od_load16((const uint8_t *)layer->weight + 2 * at));
  for (uint32_t i = 0; layer->codec == OD_CODEC_F32 && i < count; i++, at += layer->padded_units)
    weights[i] = ((const float *)layer->weight)[at];
  od_zero(weights + count, OD_PANEL * sizeof *weights);
}
