/* apply_deltas DELTA OLD ...: applies each delta, prints the SHA-256 of the new bytes or "refused" */
#include <stdio.h>
#include <stdlib.h>

#include "ondevice_update.h"

typedef struct {
  FILE *delta, *old;
  od_sha256 digest;
} files;

static int read_old(void *user, uint64_t at, void *to, size_t size) {
  files *f = user;
  return fseek(f->old, (long)at, SEEK_SET) != 0 || fread(to, 1, size, f->old) != size;
}

static int read_delta(void *user, void *to, size_t size) {
  return fread(to, 1, size, ((files *)user)->delta) != size;
}

static int write_new(void *user, const void *bytes, size_t size) {
  od_sha256_add(&((files *)user)->digest, bytes, size);
  return 0;
}

static int apply(files *f, void *memory) {
  uint8_t start[OD_DELTA_HEADER_BYTES];
  od_delta_header header;
  od_error error;
  size_t size = fread(start, 1, sizeof start, f->delta);
  if (od_delta_read(start, size, &header, &error) != OD_OK) return 1;
  for (uint32_t i = 0; i < header.manifest_bytes; i++)
    if (fgetc(f->delta) == EOF) return 1;
  od_delta_files calls = {read_old, read_delta, write_new, NULL, f};
  return od_delta_apply(&header, &calls, memory, od_delta_memory(), &error) != OD_OK;
}

int main(int count, char **paths) {
  for (int i = 1; i + 1 < count; i += 2) {
    files f = {fopen(paths[i], "rb"), fopen(paths[i + 1], "rb"), {{0}, 0, {0}}};
    uint8_t digest[32];
    void *memory = malloc(od_delta_memory()); /* exactly, so that a sanitizer sees its ends */
    if (!f.delta || !f.old || !memory) return 1;
    od_sha256_start(&f.digest);
    int refused = apply(&f, memory);
    od_sha256_end(&f.digest, digest);
    if (refused) printf("refused");
    else
      for (int j = 0; j < 32; j++) printf("%02x", digest[j]);
    puts("");
    free(memory);
    fclose(f.delta);
    fclose(f.old);
  }
  return 0;
}
