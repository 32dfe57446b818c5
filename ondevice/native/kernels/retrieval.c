/* retrieval.c: the row of an ID in a retrieval structure, as the sum of several cells. */
#include "kernels/kernels.h"

/* Codes that are added at once: as many as fill whole bytes of the 57 bits that a load of 8 bytes
 * leaves behind a shift. */
static uint32_t step_codes(uint32_t bits) { return bits == 3 ? 16 : 56 / bits; }

/* Adds rows code by code modulo 2^bits: without the highest bit of every code no sum reaches the
 * next one, and what the highest bits add to is their difference. Writes up to 8 bytes more. */
static void add_rows(const od_table *table, const uint32_t *rows, uint32_t count, uint8_t *record) {
  uint32_t bits = table->bits, codes = step_codes(bits), size = codes * bits / 8;
  uint64_t highest = 0;
  for (uint32_t i = 0; i < codes; i++) highest |= (uint64_t)1 << (i * bits + bits - 1);
  for (uint32_t column = 0; column < table->dim; column += codes, record += size) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
      uint64_t place = (uint64_t)rows[i] * table->base_bits + column * bits;
      uint64_t word = od_load64(table->records + (place >> 3)) >> (place & 7);
      sum = ((sum & ~highest) + (word & ~highest)) ^ ((sum ^ word) & highest);
    }
    __builtin_memcpy(record, &sum, sizeof sum);
  }
}

static uint32_t high_bits(uint64_t multiplier, int64_t id) {
  return (uint32_t)((uint64_t)id * multiplier >> 33);
}

static int known(const od_lookup *lookup, int64_t id, const uint8_t *record) {
  const od_retrieval *r = lookup->retrieval;
  const uint64_t *multipliers = r->multipliers + r->hashes + 1;
  uint32_t bits = lookup->table->bits, wrong = 0;
  for (uint32_t i = 0; i < r->fingerprints; i++) {
    uint32_t place = (lookup->dim + i) * bits;
    uint32_t code = (uint32_t)od_load16(record + (place >> 3)) >> (place & 7);
    wrong |= code ^ high_bits(multipliers[i], id);
  }
  return !(wrong & (((uint32_t)1 << bits) - 1));
}

void od_retrieve(const od_lookup *lookup, int64_t id, uint8_t record[OD_RECORD_ROOM]) {
  const od_retrieval *r = lookup->retrieval;
  uint32_t start = high_bits(r->multipliers[r->hashes], id) % r->starts;
  uint32_t rows[OD_MAX_HASHES];
  for (uint32_t i = 0; i < r->hashes; i++, start += r->window) {
    uint32_t place = start + high_bits(r->multipliers[i], id) % r->window;
    rows[i] = place < r->cells ? place : place - r->cells;
  }
  add_rows(lookup->table, rows, r->hashes, record);
  if (!known(lookup, id, record)) add_rows(lookup->table, &lookup->oov, 1, record);
}
