/* fuzz_open.c: libFuzzer harness: opens a file from memory and, if it opens, runs and ranks it.
 *
 * The header's CRC-32 is put right first, so that mutations reach what lies behind it.
 *
 *   clang -std=c11 -g -O1 -fsanitize=fuzzer,address,undefined -I. -Iinclude platform/posix.c \
 *     $(grep -v '^#' sources.txt) ../../tests/hostile/fuzz_open.c -o fuzz_open
 *   ./fuzz_open -max_total_time=60 CORPUS
 *
 * in ondevice/native.
 */
#include <stdlib.h>
#include <string.h>

#include "core/hash.h"
#include "ondevice.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void run(const od_model *model) {
  enum { ROWS = 3 };
  od_session *session;
  od_error error;
  size_t inputs = od_input_count(model), outputs = od_output_count(model), largest = 1;
  if (od_session_open(model, &session, &error) != OD_OK) return;
  for (size_t i = 0; i < inputs; i++)
    if (od_input(model, i)->row_size > largest) largest = od_input(model, i)->row_size;
  int64_t *ids = calloc(largest, ROWS * sizeof *ids);
  const void **all = calloc(inputs + 1, sizeof *all);
  uint8_t *context = calloc(inputs + 1, 1);
  float **results = calloc(outputs + 1, sizeof *results);
  for (size_t i = 0; ids && i < largest * ROWS; i++) ids[i] = (int64_t)i * 7 - 3;
  for (size_t i = 0; i < inputs; i++) all[i] = ids, context[i] = i % 2;
  for (size_t i = 0; i < outputs; i++)
    results[i] = calloc(od_output(model, i)->row_size, ROWS * sizeof(float));
  if (od_run(session, all, ROWS, results, &error) != OD_OK) {
    for (size_t i = 0; ids && i < largest * ROWS; i++) ids[i] = 0; /* legal nearly everywhere */
    od_run(session, all, ROWS, results, &error);
  }
  od_rank(session, all, context, ROWS, results, &error);
  for (size_t i = 0; i < outputs; i++) free(results[i]);
  free(results);
  free(context);
  free(all);
  free(ids);
  od_session_close(session);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  od_options options = {.kernels = size % 2 ? "portable" : NULL};
  od_model *model;
  od_error error;
  uint8_t *copy = aligned_alloc(64, (size + 63) / 64 * 64 + 64);
  if (!copy) return 0;
  memcpy(copy, data, size);
  uint64_t length;
  if (size >= 12) {
    memcpy(&length, copy, 8);
    if (length <= size - 12) {
      od_crc crc;
      od_crc_prepare(&crc);
      uint32_t right = od_crc32(&crc, copy, 8 + (size_t)length);
      memcpy(copy + 8 + length, &right, 4); /* where the writer puts the checksum */
    }
  }
  if (od_open_memory(copy, size, &options, &model, &error) == OD_OK) {
    run(model);
    od_close(model);
  }
  free(copy);
  return 0;
}
