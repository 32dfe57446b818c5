/* times.h: times as seconds since 1970 (UTC), and their parts. */
#ifndef ONDEVICE_TIMES_H
#define ONDEVICE_TIMES_H

#include "core/base.h"

typedef enum {
  OD_FORM_NONE,
  OD_FORM_BOOLEAN,
  OD_FORM_ISO,
  OD_FORM_SECONDS,
  OD_FORM_MILLISECONDS
} od_form;
typedef enum { OD_PART_NONE, OD_PART_HOUR, OD_PART_WEEKDAY, OD_PART_DAY, OD_PART_MONTH } od_part;

/* Seconds since 1970 of a text, an integer or a finite number of a time's form, rounded down. 0: it
 * is none, or outside the years 1 to 9999. */
int od_time_of_text(const char *text, size_t size, od_form form, int64_t *seconds);
int od_time_of_integer(int64_t value, od_form form, int64_t *seconds);
int od_time_of_number(double value, od_form form, int64_t *seconds);

/* A part of a time on a clock that is `offset` minutes ahead of UTC; OD_PART_NONE: the seconds. */
int64_t od_time_part(int64_t seconds, od_part part, int64_t offset);

/* The hour or the weekday of a text YYMMDDHH of the years 2000 to 2099. 0: it is none. */
int od_moment_part(const char *text, size_t size, od_part part, int64_t *value);

#endif
