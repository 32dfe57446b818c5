/* clock.h: a clock that only goes forward. */
#ifndef OD_CLOCK_H
#define OD_CLOCK_H

#include <stdint.h>

/* Nanoseconds since some moment of the past. */
uint64_t od_clock_ns(void);

#endif
