/* neon_dot_body.h: the int8 kernel for the dot product instructions: 16 products at once. */
OD_INLINE void dot_tile(uint32_t m, uint32_t n, const od_dense *layer, uint32_t unit,
                        const uint16_t *list, uint32_t count, const int8_t *const *codes,
                        int32_t *out) {
  const int8_t *weights = (const int8_t *)layer->weight + (size_t)unit * 4;
  size_t step = (size_t)layer->padded_units * 4;
  int32x4_t acc[Q8_ROWS][Q8_WIDE * 4];
  _Pragma("GCC unroll 8") for (uint32_t r = 0; r < m; r++)
    _Pragma("GCC unroll 32") for (uint32_t j = 0; j < n * 4; j++) acc[r][j] = vdupq_n_s32(0);
  for (uint32_t i = 0; i < count; i++) {
    const int8_t *w = weights + list[i] * step;
    int8x16_t x[Q8_ROWS];
    _Pragma("GCC unroll 8") for (uint32_t r = 0; r < m; r++) x[r] = group_codes(codes[r], list[i]);
    _Pragma("GCC unroll 32") for (uint32_t j = 0; j < n * 4; j++) {
      int8x16_t packed = vld1q_s8(w + 16 * j);
      _Pragma("GCC unroll 8") for (uint32_t r = 0; r < m; r++) acc[r][j] =
          vdotq_s32(acc[r][j], packed, x[r]);
    }
  }
  _Pragma("GCC unroll 8") for (uint32_t r = 0; r < m; r++)
    _Pragma("GCC unroll 32") for (uint32_t j = 0; j < n * 4; j++)
      vst1q_s32(out + r * n * 16 + 4 * j, acc[r][j]);
}
