/* cpu_lists.c: prints for each word whether the text on standard input lists it as a feature. */
#include <stdio.h>

#include "kernels/kernels.h"

int main(int count, char **words) {
  char text[4096];
  size_t size = fread(text, 1, sizeof text, stdin);
  for (int i = 1; i < count; i++) putchar('0' + od_cpu_lists(text, size, words[i]));
  return 0;
}
