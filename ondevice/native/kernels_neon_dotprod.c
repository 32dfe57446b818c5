/* kernels_neon_dotprod.c: not on this architecture yet. */
#include "kernels.h"
const od_kernels od_kernels_neon_dotprod = {"neon-dotprod", od_cpu_i8mm, NULL, NULL};
