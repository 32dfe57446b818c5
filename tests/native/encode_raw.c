/* encode_raw.c: raw values from the standard input to IDs, one request a line.
 *
 *   encode_raw MODEL.odm | DESCRIPTION.json
 *
 * A line is NAME KIND VALUE..., where KIND is "one" or "list" and a value is m (missing), tHEX (a
 * text), iDECIMAL, dBITS (a double's bits in hexadecimal), b0 or b1. NAME may be "-" and KIND
 * "decimal": then the bits of the double that the text is are printed, or "none". Prints the IDs,
 * or "! " and the error. Texts and IDs lie in memory of exactly their size.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "features/decimal.h"
#include "ondevice_features.h"

enum { MOST_VALUES = 64 };
static char line[1 << 20];

static od_raw_value text_of(const char *hex) {
  size_t size = strlen(hex) / 2;
  char *text = malloc(size ? size : 1);
  for (size_t i = 0; i < size; i++) {
    unsigned byte;
    if (!text || sscanf(hex + 2 * i, "%2x", &byte) != 1) exit(2);
    text[i] = (char)byte;
  }
  if (!size) free(text);
  return od_raw_text(text, size);
}

static od_raw_value value_of(const char *word) {
  uint64_t bits;
  double number;
  switch (*word) {
    case 't': return text_of(word + 1);
    case 'i': return od_raw_integer(strtoll(word + 1, NULL, 10));
    case 'b': return od_raw_boolean(word[1] == '1');
    case 'd':
      bits = strtoull(word + 1, NULL, 16);
      memcpy(&number, &bits, sizeof number);
      return od_raw_number(number);
    default: return od_raw_missing();
  }
}

static void print_decimal(od_raw_value value) {
  double number;
  uint64_t bits;
  if (!od_decimal_read(value.text, value.size, &number)) {
    puts("none");
    return;
  }
  memcpy(&bits, &number, sizeof bits);
  printf("%016" PRIx64 "\n", bits);
}

static void print_ids(const od_feature *feature, int is_list, const od_raw_value *values,
                      size_t count) {
  size_t length = od_feature_length(feature);
  int64_t *ids = malloc(length * sizeof *ids);
  od_error error;
  od_status status = is_list ? od_feature_encode_list(feature, values, count, ids, &error)
                             : od_feature_encode(feature, values[0], ids, &error);
  if (status != OD_OK) {
    printf("! %s\n", error.text);
  } else {
    for (size_t i = 0; i < length; i++)
      printf("%" PRId64 "%c", ids[i], i + 1 < length ? ' ' : '\n');
  }
  free(ids);
}

static void answer(const od_features *features) {
  const char *name = strtok(line, " \n"), *kind = strtok(NULL, " \n"), *word;
  od_raw_value values[MOST_VALUES];
  size_t count = 0;
  while (count < MOST_VALUES && (word = strtok(NULL, " \n"))) values[count++] = value_of(word);
  const od_feature *feature = od_feature_find(features, name);
  if (!strcmp(kind, "decimal")) print_decimal(values[0]);
  else if (!feature) puts("! no such feature");
  else print_ids(feature, !strcmp(kind, "list"), values, count);
  for (size_t i = 0; i < count; i++)
    if (values[i].type == OD_RAW_TEXT && values[i].size) free((void *)(uintptr_t)values[i].text);
}

/* The features of a model, or of a description's file, which is closed before they are used. */
static od_status open_features(const char *path, od_features **features, od_error *error) {
  if (strstr(path, ".odm")) {
    od_model *model;
    size_t size;
    od_status status = od_open_path(path, NULL, &model, error);
    if (status != OD_OK) return status;
    const char *description = od_info(model, &size);
    status = od_features_open(description, size, NULL, features, error);
    od_close(model);
    return status;
  }
  FILE *file = fopen(path, "rb");
  if (!file || fseek(file, 0, SEEK_END)) exit(2);
  size_t size = (size_t)ftell(file);
  char *description = malloc(size ? size : 1);
  rewind(file);
  if (!description || fread(description, 1, size, file) != size) exit(2);
  fclose(file);
  od_status status = od_features_open(description, size, NULL, features, error);
  free(description);
  return status;
}

int main(int count, char **arguments) {
  od_features *features;
  od_error error;
  if (count != 2) return 2;
  if (open_features(arguments[1], &features, &error) != OD_OK) {
    printf("! %s\n", error.text);
    return 1;
  }
  while (fgets(line, sizeof line, stdin)) answer(features);
  od_features_close(features);
  return 0;
}
