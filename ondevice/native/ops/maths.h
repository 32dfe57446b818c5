/* maths.h: the functions of a C library that operators need, for targets without one. */
#ifndef ONDEVICE_MATHS_H
#define ONDEVICE_MATHS_H

#include "core/base.h"

double od_exp_double(double x); /* to about 1e-15 relative */
double od_log_double(double x);
float od_sqrt(float x);        /* correctly rounded */
float od_erf(float x);         /* to about 1e-7 */
float od_pow(float base, float exponent);
float od_floor(float x);
float od_ceil(float x);
float od_round(float x); /* half to even */
float od_mod(float a, float b, int sign_of_dividend);
int64_t od_to_int(float x); /* truncated, saturated; NaN: 0 */

#endif
