/* kernels_neon_i8mm.c: not on this architecture yet. */
#include "kernels.h"
const od_kernels od_kernels_neon_i8mm = {"neon-i8mm", od_cpu_i8mm, NULL, NULL};
