/* utf8.h: the check of UTF-8: shortest forms only, no surrogates. */
#ifndef ONDEVICE_UTF8_H
#define ONDEVICE_UTF8_H

#include "core/base.h"

/* Bytes of the valid UTF-8 sequence at p, which lies before `end`; 0: there is none. */
OD_INLINE size_t od_utf8_length(const char *p, const char *end) {
  const unsigned char *u = (const unsigned char *)p;
  size_t room = (size_t)(end - p), need;
  uint32_t code, least;
  if (u[0] < 0x80) return 1;
  if (u[0] >= 0xC2 && u[0] < 0xE0) need = 2, code = u[0] & 31u, least = 0x80;
  else if (u[0] >= 0xE0 && u[0] < 0xF0) need = 3, code = u[0] & 15u, least = 0x800;
  else if (u[0] >= 0xF0 && u[0] < 0xF5) need = 4, code = u[0] & 7u, least = 0x10000;
  else return 0;
  if (room < need) return 0;
  for (size_t i = 1; i < need; i++) {
    if ((u[i] & 0xC0) != 0x80) return 0;
    code = code << 6 | (u[i] & 63u);
  }
  if (code < least || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return 0;
  return need;
}

#endif
