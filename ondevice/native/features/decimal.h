/* decimal.h: decimal texts as doubles, correctly rounded and without a locale. */
#ifndef ONDEVICE_DECIMAL_H
#define ONDEVICE_DECIMAL_H

#include "core/base.h"

/* The double nearest to the number that `text` is, ties to even: [+-] digits with an optional '.'
 * and exponent, and nothing else. 0: it is no such text, or its double is infinite. */
int od_decimal_read(const char *text, size_t size, double *value);

OD_INLINE int od_is_digit(char c) { return c >= '0' && c <= '9'; }

#endif
