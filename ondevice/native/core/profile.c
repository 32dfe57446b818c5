/* profile.c: where a request's time goes, operator by operator, and the bytes that each touches. */
#include "core/model.h"

size_t od_profile_size(const od_model *model) { return (size_t)model->node_count + 1; }

void od_profile_clear(const od_model *model, od_profile *profile) {
  for (size_t i = 0; i < od_profile_size(model); i++)
    profile->operators[i] = (od_operator){i ? (int64_t)model->nodes[i - 1].number : -1, 0, 0};
}

static uint64_t value_bytes(const od_value *value, size_t rows) {
  return (uint64_t)od_dtype_size(value->dtype) * value->size * (value->batched ? rows : 1);
}

/* Of one ID: itself, and for each row that it reads the mean record and its share of the index
 * (12 bytes for 16 rows). */
static uint64_t lookup_bytes(const od_lookup *lookup, size_t rows) {
  const od_table *table = lookup->table;
  uint64_t ids = (uint64_t)rows * lookup->ids_per_row, records = ids * lookup->block_count;
  uint64_t of_16 = (table->rows ? table->payload * 16 / table->rows : 0) + (table->index ? 12 : 0);
  return ids * 8 + records * of_16 / 16 + (uint64_t)rows * lookup->vectors_per_row * lookup->dim * 4;
}

void od_profile_lookups(od_profile *profile, uint64_t begun, const od_gather *gathers,
                        size_t count, size_t rows) {
  od_operator *operator = &profile->operators[0];
  operator->time += profile->clock() - begun;
  for (size_t i = 0; i < count; i++) operator->bytes += lookup_bytes(gathers[i].lookup, rows);
}

void od_profile_node(od_profile *profile, uint64_t begun, const od_model *model, uint32_t index,
                     size_t rows) {
  const od_node *node = &model->nodes[index];
  od_operator *operator = &profile->operators[index + 1];
  operator->time += profile->clock() - begun;
  if (node->op == OD_OP_LOOKUP) {
    operator->bytes += lookup_bytes(&model->lookups[node->lookup.index], rows);
    return;
  }
  for (uint32_t i = 0; i < node->input_count; i++)
    if (node->inputs[i] >= 0)
      operator->bytes += value_bytes(&model->values[node->inputs[i]], rows);
  operator->bytes += value_bytes(&model->values[node->output], rows);
}
