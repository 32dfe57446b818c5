/* kernels_neon.c: not on this architecture yet. */
#include "kernels.h"
const od_kernels od_kernels_neon = {"neon", od_cpu_i8mm, NULL, NULL};
