/* fuzz_open.c: libFuzzer harness: opens a file from memory and, if it opens, reads its features,
 * and runs and ranks it.
 *
 * The header's CRC-32 is put right first, so that mutations reach what lies behind it; plan and
 * description of the corpus are in stored blocks of DEFLATE, so that they reach the JSON.
 *
 *   clang -std=c11 -g -O1 -fsanitize=fuzzer,address,undefined -I. -Iinclude platform/posix.c platform/mapped.c \
 *     $(grep -hv '^#' sources.txt features/sources.txt) ../../tests/hostile/fuzz_open.c -o fuzz_open
 *   ./fuzz_open -max_total_time=60 CORPUS
 *
 * in ondevice/native.
 */
#include <stdlib.h>
#include <string.h>

#include "core/hash.h"
#include "ondevice.h"
#include "ondevice_features.h"

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

static void read_features(const od_model *model) {
  od_features *features;
  size_t size;
  const char *description = od_info(model, &size);
  if (od_features_open(description, size, NULL, &features, NULL) == OD_OK)
    od_features_close(features);
}

/* Where the header's checksum lies in the buffer: first, or, from version 3 on, where the header's
 * own text says. */
static size_t checksum_place(const uint8_t *header, size_t size) {
  static const char KEY[] = "\"ondevice.crc32\":", OFFSETS[] = "\"data_offsets\":[";
  char *text = calloc(size + 1, 1);
  size_t place = 0;
  if (!text) return 0;
  memcpy(text, header, size);
  char *at = strstr(text, KEY);
  if (at) at = strstr(at, OFFSETS);
  if (at) place = strtoul(at + sizeof OFFSETS - 1, NULL, 10);
  free(text);
  return place;
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
      size_t place = checksum_place(copy + 8, (size_t)length);
      if (place > size - 12 - (size_t)length) place = 0;
      memcpy(copy + 8 + length + place, &right, 4);
    }
  }
  if (od_open_memory(copy, size, &options, &model, &error) == OD_OK) {
    read_features(model);
    run(model);
    od_close(model);
  }
  free(copy);
  return 0;
}
