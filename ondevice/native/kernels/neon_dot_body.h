/* neon_dot_body.h: the int8 kernel for the dot product instructions: 16 products at once. */
OD_INLINE void dot_tile(uint32_t m, uint32_t n, const od_dense *layer, uint32_t unit,
                        const uint16_t *list, uint32_t count, const int8_t *const *codes,
                        int32_t *out) {
  const int8_t *weights = (const int8_t *)layer->weight + (size_t)unit * 4;
  size_t step = (size_t)layer->padded_units * 4;
  int32x4_t acc[Q8_ROWS][Q8_WIDE * 4];
  OD_UNROLL(8) for (uint32_t r = 0; r < m; r++)
    OD_UNROLL(32) for (uint32_t j = 0; j < n * 4; j++) acc[r][j] = vdupq_n_s32(0);
  for (uint32_t i = 0; i < count; i++) {
    const int8_t *w = weights + list[i] * step;
    int8x8_t x[Q8_ROWS]; /* lane 0: the row's codes, which the instruction repeats */
    OD_UNROLL(8) for (uint32_t r = 0; r < m; r++) x[r] =
        vcreate_s8(od_load32(codes[r] + 4 * (size_t)list[i]));
    OD_UNROLL(8) for (uint32_t b = 0; b < n; b++) {
      int8x16x4_t packed = vld1q_s8_x4(w + 64 * b); /* one instruction for a block of 16 outputs */
      OD_UNROLL(8) for (uint32_t r = 0; r < m; r++)
        OD_UNROLL(4) for (uint32_t j = 0; j < 4; j++) acc[r][4 * b + j] =
            vdotq_lane_s32(acc[r][4 * b + j], packed.val[j], x[r], 0);
    }
  }
  OD_UNROLL(8) for (uint32_t r = 0; r < m; r++)
    OD_UNROLL(32) for (uint32_t j = 0; j < n * 4; j++)
      vst1q_s32(out + r * n * 16 + 4 * j, acc[r][j]);
}
