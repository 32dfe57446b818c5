/* score_raw.c: scores one row of raw values, given as texts of the training log's cells.
 *
 *   cc -std=c11 -O2 -ffp-contract=off -I. -Iinclude examples/score_raw.c platform/posix.c platform/mapped.c \
 *     $(grep -hv '^#' sources.txt features/sources.txt) -o score_raw
 *   ./score_raw model.odm user=anna hour=21
 *
 * in ondevice/native. A feature that is not named is missing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ondevice_features.h"

/* The value of NAME=VALUE among the arguments. */
static od_raw_value given(const char *name, int count, char **arguments) {
  size_t size = strlen(name);
  for (int i = 2; i < count; i++)
    if (!strncmp(arguments[i], name, size) && arguments[i][size] == '=')
      return od_raw_text(arguments[i] + size + 1, strlen(arguments[i] + size + 1));
  return od_raw_missing();
}

/* The first argument that names no feature; NULL: there is none. */
static const char *unknown_argument(const od_features *features, int count, char **arguments) {
  for (int i = 2; i < count; i++) {
    int is_known = 0;
    for (size_t j = 0; j < od_feature_count(features); j++) {
      const char *name = od_feature_name(od_feature_at(features, j));
      is_known |= !strncmp(arguments[i], name, strlen(name)) && arguments[i][strlen(name)] == '=';
    }
    if (!is_known) return arguments[i];
  }
  return NULL;
}

static od_status refuse(od_error *error, const char *what, const char *name) {
  snprintf(error->text, sizeof error->text, "%s: %s", name, what);
  return error->status = OD_E_INPUT;
}

/* The IDs of every input, one row each. */
static od_status encode(const od_model *model, const od_features *features, int count,
                        char **arguments, int64_t **ids, od_error *error) {
  const char *unknown = unknown_argument(features, count, arguments);
  if (unknown) return refuse(error, "expected NAME=VALUE of a feature", unknown);
  for (size_t i = 0; i < od_input_count(model); i++) {
    const od_tensor *input = od_input(model, i);
    const od_feature *feature = od_feature_find(features, input->name);
    if (!feature || input->is_float || input->row_size != od_feature_length(feature))
      return refuse(error, "the input is not that of a feature", input->name);
    ids[i] = calloc(input->row_size, sizeof *ids[i]);
    if (!ids[i]) return refuse(error, "out of memory", input->name);
    od_raw_value value = given(input->name, count, arguments);
    od_status status = od_feature_encode(feature, value, ids[i], error);
    if (status != OD_OK) return status;
  }
  return OD_OK;
}

static od_status score(const od_model *model, int64_t *const *ids, od_error *error) {
  od_session *session;
  od_status status = od_session_open(model, &session, error);
  if (status != OD_OK) return status;
  const od_tensor *output = od_output(model, 0);
  const void **inputs = calloc(od_input_count(model), sizeof *inputs);
  float **outputs = calloc(od_output_count(model), sizeof *outputs);
  float *scores = calloc(output->row_size, sizeof *scores);
  if (!inputs || !outputs || !scores) return refuse(error, "out of memory", output->name);
  for (size_t i = 0; i < od_input_count(model); i++) inputs[i] = ids[i];
  outputs[0] = scores;
  status = od_run(session, inputs, 1, outputs, error);
  for (uint32_t i = 0; status == OD_OK && i < output->row_size; i++)
    printf("%s: %.6f\n", output->name, scores[i]);
  free(scores);
  free(outputs);
  free(inputs);
  od_session_close(session);
  return status;
}

int main(int count, char **arguments) {
  od_model *model = NULL;
  od_features *features = NULL;
  od_error error;
  size_t size;
  if (count < 2) {
    fprintf(stderr, "usage: score_raw MODEL.odm NAME=VALUE...\n");
    return 2;
  }
  od_status status = od_open_path(arguments[1], NULL, &model, &error);
  if (status == OD_OK) {
    const char *description = od_info(model, &size);
    status = od_features_open(description, size, NULL, &features, &error);
  }
  if (status == OD_OK) {
    size_t inputs = od_input_count(model);
    int64_t **ids = calloc(inputs, sizeof *ids);
    if (!ids) return 1;
    status = encode(model, features, count, arguments, ids, &error);
    if (status == OD_OK) status = score(model, ids, &error);
    for (size_t i = 0; i < inputs; i++) free(ids[i]);
    free(ids);
  }
  od_features_close(features);
  od_close(model);
  if (status != OD_OK) fprintf(stderr, "%s\n", error.text);
  return status == OD_OK ? 0 : 1;
}
