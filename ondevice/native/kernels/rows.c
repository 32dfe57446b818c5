/* rows.c: rows that an ID reads under a hash or a head; the kernels compute those of other lookups. */
#include "kernels/kernels.h"

/* The remainder is floored: 0..modulus-1 for negative IDs too. */
static uint32_t residue_row(const od_lookup *lookup, const od_residue *r, int64_t id) {
  uint64_t code = (uint64_t)id * r->multiplier;
  uint32_t rest;
  if (lookup->high) {
    rest = (uint32_t)(code >> 33) % r->modulus;
  } else {
    int64_t remainder = (int64_t)code % (int64_t)r->modulus;
    rest = (uint32_t)(remainder < 0 ? remainder + (int64_t)r->modulus : remainder);
  }
  return r->offset + (r->divisor == 1 ? rest : rest / r->divisor);
}

uint32_t od_rare_rows(const od_lookup *lookup, int64_t id, uint32_t *rows) {
  uint32_t count = lookup->block_count;
  if ((uint64_t)id < lookup->head) {
    if (lookup->fuse != OD_FUSE_CONCAT) count = 1;
    for (uint32_t b = 0; b < count; b++) rows[b] = (uint32_t)id * count + b;
    return count;
  }
  if (!lookup->residues) return 0;
  for (uint32_t b = 0; b < count; b++) rows[b] = residue_row(lookup, &lookup->residues[b], id);
  return count;
}
