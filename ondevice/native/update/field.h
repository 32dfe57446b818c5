/* field.h: arithmetic modulo 2^255 - 19, the field of Ed25519. */
#ifndef ONDEVICE_FIELD_H
#define ONDEVICE_FIELD_H

#include <stdint.h>

/* A number below 2^256, lowest word first; it may be larger than the modulus. */
typedef struct {
  uint32_t w[8];
} field;

field od_field_add(field a, field b);
field od_field_subtract(field a, field b);
field od_field_multiply(field a, field b);
field od_field_invert(field a);        /* of zero: zero */
field od_field_root_power(field a);    /* a to the power of (p - 5) / 8, which finds square roots */
field od_field_reduced(field a);       /* below the modulus */
int od_field_equal(field a, field b);

#endif
