/* product_body.h: the product of two matrices, compiled once for every instruction set.
 *
 * Takes vf_load, vf_store, vf_set1, vf_fma, VW and FLOAT_ROWS of the including file
 * (dense_body.h). The terms of an element are added in order, with the processor's own
 * multiply-add, as in dense layers.
 */

OD_INLINE void product_tile(uint32_t rows, const od_product *p, const float *a, float *out) {
  vf sums[FLOAT_ROWS][PARTS_OF_16];
  const float *b = p->b;
  OD_UNROLL(8) for (uint32_t r = 0; r < rows; r++)
    OD_UNROLL(8) for (uint32_t j = 0; j < PARTS_OF_16; j++) sums[r][j] = vf_set1(0);
  for (uint32_t l = 0; l < p->depth; l++, b += p->b_step) {
    vf part[PARTS_OF_16];
    OD_UNROLL(8) for (uint32_t j = 0; j < PARTS_OF_16; j++) part[j] = vf_load(b + j * VW);
    OD_UNROLL(8) for (uint32_t r = 0; r < rows; r++) {
      vf value = vf_set1(a[r * p->a_step + l]);
      OD_UNROLL(8) for (uint32_t j = 0; j < PARTS_OF_16; j++) sums[r][j] =
          vf_fma(value, part[j], sums[r][j]);
    }
  }
  OD_UNROLL(8) for (uint32_t r = 0; r < rows; r++)
    OD_UNROLL(8) for (uint32_t j = 0; j < PARTS_OF_16; j++)
      vf_store(out + r * p->out_step + j * VW, sums[r][j]);
}

static void product(const od_product *p) {
  uint32_t i = 0;
#if FLOAT_ROWS > 2
  for (; i + FLOAT_ROWS <= p->rows; i += FLOAT_ROWS)
    product_tile(FLOAT_ROWS, p, p->a + i * p->a_step, p->out + i * p->out_step);
#endif
  for (; i + 2 <= p->rows; i += 2)
    product_tile(2, p, p->a + i * p->a_step, p->out + i * p->out_step);
  if (i < p->rows) product_tile(1, p, p->a + i * p->a_step, p->out + i * p->out_step);
}
