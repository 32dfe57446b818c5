/* base64.c: decodes base64 (RFC 4648), padded and without line breaks, into words of 8 bytes. */
#include "features/base64.h"

static int digit_of(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Bytes of a group of 4 digits, of which the last ones may be padding; 0: it is none. */
static size_t read_group(const char *text, int is_last, unsigned char bytes[3]) {
  size_t digits = 4;
  uint32_t bits = 0;
  while (is_last && digits > 2 && text[digits - 1] == '=') digits--;
  for (size_t i = 0; i < 4; i++) {
    int digit = i < digits ? digit_of(text[i]) : 0;
    if (digit < 0) return 0;
    bits = bits << 6 | (uint32_t)digit;
  }
  for (size_t i = 0; i < 3; i++) bytes[i] = (unsigned char)(bits >> (16 - 8 * i));
  return digits - 1;
}

od_status od_base64_words(const char *text, size_t size, od_arena *arena, void **words,
                          size_t *count, od_error *error) {
  unsigned char *to = od_take(arena, size / 4 + 1, 3), group[3];
  size_t written = 0;
  if (!to) return od_fail(error, OD_E_MEMORY, "features: out of memory");
  for (size_t i = 0; size - i >= 4; i += 4) {
    size_t bytes = read_group(text + i, i + 4 == size, group);
    if (!bytes) return od_fail(error, OD_E_FORMAT, "features: not base64 at byte %u", (uint64_t)i);
    od_copy(to + written, group, bytes);
    written += bytes;
  }
  if (size % 4 || written % 8)
    return od_fail(error, OD_E_FORMAT, "features: base64 of %u bytes, not whole numbers of 8",
                   (uint64_t)written);
  *words = to;
  *count = written / 8;
  return OD_OK;
}
