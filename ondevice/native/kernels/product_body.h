/* product_body.h: the product of two matrices, compiled once for every instruction set.
 *
 * Takes vf_load, vf_store, vf_set1, vf_fma, VW and FLOAT_ROWS of the including file
 * (float_body.h). The terms of an element are added in order, with the processor's own
 * multiply-add, as in dense layers.
 */

OD_INLINE void product_tile(uint32_t rows, const od_product *p, const float *a, float *out,
                            size_t out_step) {
#ifdef vf_fma_lane
  vf sums[MOST_ROWS][MOST_BLOCKS * PARTS_OF_16];
#else
  vf sums[MOST_ROWS][PARTS_OF_16];
#endif
  const float *b = p->b;
  size_t a_step = p->a_step;
  OD_UNROLL(16) for (uint32_t r = 0; r < rows; r++)
    OD_UNROLL(8) for (uint32_t j = 0; j < PARTS_OF_16; j++) sums[r][j] = vf_set1(0);
#ifdef vf_fma_lane
  const float *in[MOST_ROWS] = {0};
  OD_UNROLL(16) for (uint32_t r = 0; r < rows; r++) in[r] = a + r * a_step;
  add_straight(rows, PARTS_OF_16, in, 0, p->depth, b, p->b_step, sums);
  store_tile(rows, PARTS_OF_16, out, out_step, sums);
#else
  for (uint32_t l = 0; l < p->depth; l++, b += p->b_step, a++) {
    vf part[PARTS_OF_16];
    OD_UNROLL(8) for (uint32_t j = 0; j < PARTS_OF_16; j++) part[j] = vf_load(b + j * VW);
    OD_UNROLL(16) for (uint32_t r = 0; r < rows; r++) {
      vf value = vf_set1(a[r * a_step]);
      OD_UNROLL(8) for (uint32_t j = 0; j < PARTS_OF_16; j++) sums[r][j] =
          vf_fma(value, part[j], sums[r][j]);
    }
  }
  OD_UNROLL(16) for (uint32_t r = 0; r < rows; r++)
    OD_UNROLL(8) for (uint32_t j = 0; j < PARTS_OF_16; j++)
      vf_store(out + r * out_step + j * VW, sums[r][j]);
#endif
}

static void product_rows(uint32_t rows, const od_product *p, uint32_t first) {
  float room[MOST_ROWS * OD_PANEL];
  const float *a = p->a + first * p->a_step;
  float *to = p->out + first * p->out_step, *out = to;
  size_t step = p->out_step;
  if (p->columns < OD_PANEL || p->added) out = room, step = OD_PANEL;
  switch (rows) {
    case 1: product_tile(1, p, a, out, step); break;
    case 2: product_tile(2, p, a, out, step); break;
#if FLOAT_ROWS > 2
    case FLOAT_ROWS: product_tile(FLOAT_ROWS, p, a, out, step); break;
#endif
#if FLOAT_TALL
    case 2 * FLOAT_ROWS: product_tile(2 * FLOAT_ROWS, p, a, out, step); break;
#endif
  }
  for (uint32_t r = 0; out == room && r < rows; r++, to += p->out_step)
    for (uint32_t i = 0; i < p->columns; i += LANES) {
      lanes result = load(room + r * OD_PANEL + i);
      if (p->added) result = part(to + i, p->columns - i, result) + result;
      put(to + i, result, p->columns - i);
    }
}

KERNEL void KERNEL_NAME(product)(const od_product *p) {
  static const uint32_t sizes[] = {MOST_ROWS, FLOAT_ROWS, 2, 1};
  uint32_t first = 0;
#ifdef vf_fma_lane
  static const float zeros[OD_PANEL];
  if (p->columns == OD_PANEL && !p->added)
    first = (uint32_t)straight_rows(p->a, p->a_step, p->rows, p->b, p->b_step, p->depth, zeros,
                                    -__builtin_inff(), p->out, p->out_step);
#endif
  for (int i = 0; i < 4; i++) {
    for (; first + sizes[i] <= p->rows; first += sizes[i]) product_rows(sizes[i], p, first);
    uint32_t left = p->rows - first;
    if (sizes[i] != FLOAT_ROWS || left <= 2 || first == 0 || p->added) continue;
    product_rows(FLOAT_ROWS, p, p->rows - FLOAT_ROWS); /* some rows a second time */
    first = p->rows;
  }
}
