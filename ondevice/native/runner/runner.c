/* runner.c: measures a native file on boards and phones without Python; one task, one process.
 *
 *   ondevice-runner about
 *   ondevice-runner drop MODEL
 *   ondevice-runner TASK MODEL REQUESTS ROWS CONTEXT GAP_NS BUDGET_NS COUNT TOLERANCE
 *
 * TASK is start, memory, latency or profile, as in ondevice/bench/measure/worker.py, whose answer this
 * program gives: an observation as one line of JSON, or {"error": ..., "message": ...}. REQUESTS is
 * a file of int64 IDs: for every request, ROWS rows of every input in turn. CONTEXT is "-" for
 * predict; for rank a digit for every input, 1 where it is context (its first row is taken).
 * BUDGET_NS limits the measurement, COUNT the number of requests; 0: no such limit. Rank is measured
 * only where its scores are within TOLERANCE of those of predict.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ondevice.h"
#include "runner/system.h"

/* As in ondevice/bench/measure/constants.py, which has their units and reasons. */
enum { MEMORY_REQUESTS = 100, MAX_REQUESTS = 50000, MAX_ROWS = 1000000 };
enum { BURSTS = 10, MIN_BURST_REQUESTS = 2, PACED_BURST_REQUESTS = 3, MIN_PACED_BURSTS = 2 };
enum { EMULATED_REQUESTS = 20, PROFILE_REQUESTS = 2000, OVERHEAD_BURST_CALLS = 100 };
enum { WARM_UP_NS = 200000000 };

typedef struct {
  od_model *model;
  od_session *session;
  const uint8_t *context; /* NULL: predict */
  size_t rows, inputs, requests;
  const void **ids; /* requests x inputs */
  float **results;
  uint64_t load_ns;
  int lock;
} runner;

static void json_text(const char *text) {
  putchar('"');
  for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
    if (*c == '"' || *c == '\\')
      printf("\\%c", *c);
    else if (*c < 32)
      printf("\\u%04x", *c);
    else
      putchar(*c);
  }
  putchar('"');
}

static void fail(const char *kind, const char *text, const char *detail) {
  char message[512];
  snprintf(message, sizeof message, "%s%s%s", text, *detail ? ": " : "", detail);
  printf("{\"error\": \"%s\", \"message\": ", kind);
  json_text(message);
  puts("}");
  exit(1);
}

static void check(od_status status, const od_error *error) {
  static const char *const kinds[] = {"OnDeviceError", "InputError", "FileFormatError",
                                      "UnsupportedError", "OnDeviceError", "FileFormatError"};
  if (status != OD_OK) fail(kinds[status], error->text, "");
}

static void *need(void *memory) {
  if (!memory) fail("OnDeviceError", "out of memory", "");
  return memory;
}

static uint64_t number(const char *text) {
  char *end;
  errno = 0;
  unsigned long long value = strtoull(text, &end, 10);
  if (errno || *end || end == text || *text == '-') fail("InputError", "not a number", text);
  return value;
}

static double tolerance_of(const char *text) {
  char *end;
  double value = strtod(text, &end);
  if (*end || end == text || !(value >= 0) || isinf(value))
    fail("InputError", "not a tolerance", text);
  return value;
}

static void json_emulator(void) {
  const char *name = od_system_emulator();
  fputs("\"emulated\": ", stdout);
  name ? json_text(name) : (void)fputs("null", stdout);
}

/* Bytes of one input of a request. */
static size_t input_bytes(const runner *r, size_t index) {
  const od_tensor *input = od_input(r->model, index);
  return r->rows * input->row_size * (input->is_float ? sizeof(float) : sizeof(int64_t));
}

static void read_requests(runner *r, const char *path) {
  size_t bytes = 0, size = 0;
  char *data; /* read, not mapped: its pages are not the model's memory */
  const char *fault = od_system_read(path, &data, &size);
  if (fault) fail("InputError", path, fault);
  for (size_t i = 0; i < r->inputs; i++) bytes += input_bytes(r, i);
  if (!bytes || !size || size % bytes)
    fail("InputError", "the file of requests does not fit the model and the rows", "");
  r->requests = size / bytes;
  r->ids = need(calloc(r->requests * r->inputs, sizeof *r->ids));
  for (size_t i = 0; i < r->requests * r->inputs; i++) {
    r->ids[i] = data;
    data += input_bytes(r, i % r->inputs);
  }
}

static float **allocate_results(const runner *r) {
  size_t outputs = od_output_count(r->model);
  float **results = need(calloc(outputs, sizeof *results));
  for (size_t i = 0; i < outputs; i++)
    results[i] = need(calloc(r->rows * od_output(r->model, i)->row_size, sizeof(float)));
  return results;
}

static void open_model(runner *r, const char *path) {
  od_error error;
  od_options options = {.full_check = -1, .lock = r->lock};
  uint64_t before = od_system_now();
  check(od_open_path(path, &options, &r->model, &error), &error);
  check(od_session_open(r->model, &r->session, &error), &error);
  r->load_ns = od_system_now() - before;
  r->inputs = od_input_count(r->model);
  r->results = allocate_results(r);
}

/* Relative beyond 1; infinity where only one of the two is a number. As in ondevice/ranking.py. */
static double difference(float got, float expected) {
  if (got == expected || (isnan(got) && isnan(expected))) return 0;
  double apart = fabs((double)got - expected), size = fabs((double)expected);
  apart /= size > 1 ? size : 1;
  return isnan(apart) ? INFINITY : apart;
}

/* Fail where the first request's ranked scores are not those of predict: the time of a wrong answer
 * says nothing. Each has a session that no request came before. */
static void check_rank(const runner *r, double tolerance) {
  od_session *ranking, *predicting;
  od_error error;
  float **got = allocate_results(r), **expected = allocate_results(r);
  const void **repeated = need(calloc(r->inputs, sizeof *repeated));
  for (size_t i = 0; i < r->inputs; i++) {
    repeated[i] = r->ids[i];
    if (!r->context[i]) continue;
    size_t row = input_bytes(r, i) / r->rows;
    char *rows = need(malloc(input_bytes(r, i)));
    for (size_t at = 0; at < r->rows; at++) memcpy(rows + at * row, r->ids[i], row);
    repeated[i] = rows;
  }
  check(od_session_open(r->model, &ranking, &error), &error);
  check(od_session_open(r->model, &predicting, &error), &error);
  check(od_rank(ranking, r->ids, r->context, r->rows, got, &error), &error);
  check(od_run(predicting, repeated, r->rows, expected, &error), &error);
  double largest = 0;
  for (size_t i = 0; i < od_output_count(r->model); i++)
    for (size_t at = 0; at < r->rows * od_output(r->model, i)->row_size; at++)
      if (difference(got[i][at], expected[i][at]) > largest)
        largest = difference(got[i][at], expected[i][at]);
  if (largest > tolerance) {
    char text[128];
    snprintf(text, sizeof text, "by %.3g (tolerance %g), so it is not measured", largest, tolerance);
    fail("ParityError", "rank differs from predict", text);
  }
  od_session_close(ranking);
  od_session_close(predicting);
}

static void call(const runner *r, size_t turn) {
  od_error error;
  const void *const *ids = r->ids + turn % r->requests * r->inputs;
  od_status status = r->context
                         ? od_rank(r->session, ids, r->context, r->rows, r->results, &error)
                         : od_run(r->session, ids, r->rows, r->results, &error);
  check(status, &error);
}

static void nothing(const runner *r, size_t turn) { (void)r, (void)turn; }

static int by_size(const void *a, const void *b) {
  uint64_t one = *(const uint64_t *)a, two = *(const uint64_t *)b;
  return one < two ? -1 : one > two;
}

/* Medians of bursts of calls that do nothing: what timing costs. */
static void json_overhead(void) {
  void (*volatile empty)(const runner *, size_t) = nothing;
  fputs(", \"overhead_ns\": [", stdout);
  for (int burst = 0; burst < BURSTS; burst++) {
    uint64_t times[OVERHEAD_BURST_CALLS];
    for (int i = 0; i < OVERHEAD_BURST_CALLS; i++) {
      uint64_t before = od_system_now();
      empty(NULL, 0);
      times[i] = od_system_now() - before;
    }
    qsort(times, OVERHEAD_BURST_CALLS, sizeof *times, by_size);
    printf("%s%" PRIu64, burst ? ", " : "", times[OVERHEAD_BURST_CALLS / 2]);
  }
  putchar(']');
}

static void json_begin(const runner *r) {
  printf("{\"engine\": \"native\", \"runtime\": \"native %s\", ", od_kernels_in_use(r->model));
  json_emulator();
  fputs(", \"affinity\": ", stdout);
  int cores[OD_SYSTEM_CORES], count = od_system_cores(cores);
  if (!count) {
    fputs("null", stdout);
    return;
  }
  for (int i = 0; i < count; i++) printf("%s%d", i ? ", " : "[", cores[i]);
  putchar(']');
}

static void warm_up(const runner *r, uint64_t budget) {
  uint64_t deadline = od_system_now() + (budget && budget < WARM_UP_NS ? budget : WARM_UP_NS);
  size_t turn = 0;
  do call(r, turn++);
  while (od_system_now() < deadline && !(od_system_emulator() && turn >= EMULATED_REQUESTS));
}

static void json_numbers(const char *name, const uint64_t *values, size_t count) {
  printf("\"%s\": [", name);
  for (size_t i = 0; i < count; i++) printf("%s%" PRIu64, i ? ", " : "", values[i]);
  putchar(']');
}

static void latency(const runner *r, uint64_t gap, uint64_t budget, uint64_t count) {
  if (od_system_emulator()) gap = 0, count = EMULATED_REQUESTS; /* its time is not reported */
  warm_up(r, budget);
  uint64_t bursts = BURSTS, most = MAX_REQUESTS / BURSTS;
  if (count) {
    bursts = count < BURSTS ? count : BURSTS;
    most = (count + bursts - 1) / bursts;
  } else if (gap) {
    bursts = budget / gap / PACED_BURST_REQUESTS;
    if (bursts < MIN_PACED_BURSTS) bursts = MIN_PACED_BURSTS;
    most = PACED_BURST_REQUESTS;
  }
  if (bursts * most > MAX_REQUESTS) fail("InputError", "more than 50000 requests", "");
  uint64_t length = count || gap ? 0 : budget / bursts;
  uint64_t *times = need(calloc(bursts * most, sizeof *times));
  uint64_t *counts = need(calloc(bursts, sizeof *counts));
  uint64_t *walls = need(calloc(bursts, sizeof *walls));
  size_t done = 0;
  uint64_t cpu = od_system_cpu();
  for (uint64_t burst = 0; burst < bursts; burst++) {
    uint64_t begun = od_system_now(), next = begun;
    while (counts[burst] < most) {
      next += gap;
      if (gap) od_system_sleep(next);
      uint64_t before = od_system_now();
      call(r, done);
      uint64_t after = od_system_now();
      times[done++] = after - before;
      counts[burst]++;
      if (length && after - begun >= length && counts[burst] >= MIN_BURST_REQUESTS) break;
    }
    walls[burst] = od_system_now() - begun;
  }
  cpu = od_system_cpu() - cpu;
  json_begin(r);
  fputs(", \"workers\": [{", stdout);
  json_numbers("times_ns", times, done);
  fputs(", ", stdout);
  json_numbers("counts", counts, bursts);
  fputs(", ", stdout);
  json_numbers("walls_ns", walls, bursts);
  printf("}], \"cpu_ns\": %" PRIu64, cpu);
  json_overhead();
  puts("}");
}

static void profile(const runner *r, uint64_t budget, uint64_t count) {
  size_t size = od_profile_size(r->model), done = 0;
  uint64_t most = count ? count : od_system_emulator() ? EMULATED_REQUESTS : PROFILE_REQUESTS;
  od_profile profile = {od_system_now, need(calloc(size, sizeof(od_operator)))};
  uint64_t *times = need(calloc(size * most, sizeof *times));
  warm_up(r, budget);
  uint64_t deadline = od_system_now() + budget;
  while (done < most) {
    od_session_profile(r->session, &profile); /* from zero */
    call(r, done);
    for (size_t i = 0; i < size; i++) times[i * most + done] = profile.operators[i].time;
    done++;
    if (!count && od_system_now() >= deadline && done >= MIN_BURST_REQUESTS) break;
  }
  json_begin(r);
  json_overhead();
  fputs(", \"operators\": [", stdout);
  for (size_t i = 0; i < size; i++) {
    const od_operator *one = &profile.operators[i];
    printf("%s{\"node\": ", i ? ", " : "");
    one->node < 0 ? printf("null") : printf("%" PRId64, one->node);
    printf(", \"bytes\": %" PRIu64 ", ", one->bytes);
    json_numbers("times_ns", times + i * most, done);
    putchar('}');
  }
  puts("]}");
}

/* In the order of od_system_memory. */
static const char *const MEMORY[OD_SYSTEM_MEMORIES] = {"rss", "pss", "anonymous", "file", "peak"};

static void memory(runner *r, const char *model, const char *requests) {
  int64_t before[OD_SYSTEM_MEMORIES], after[OD_SYSTEM_MEMORIES], faults[2], later[2];
  int counted;
  od_system_memory(before);
  counted = od_system_faults(faults);
  open_model(r, model);
  read_requests(r, requests);
  for (size_t i = 0; i < MEMORY_REQUESTS; i++) call(r, i);
  od_system_memory(after);
  counted = counted && od_system_faults(later);
  json_begin(r);
  for (int growth = 0; growth < 2; growth++) {
    const char *comma = growth ? ", \"growth\": {" : ", \"memory\": {\"process\": {";
    for (int i = 0; i < OD_SYSTEM_MEMORIES - growth; i++) {
      int64_t value = growth ? after[i] - before[i] : after[i];
      if (after[i] < 0 || before[i] < 0) continue;
      printf("%s\"%s\": %" PRId64, comma, MEMORY[i], value < 0 ? 0 : value);
      comma = ", ";
    }
    if (*comma == ',' && comma[2] == 0) putchar('}');
    else printf("%s}", comma);
  }
  fputs(", \"faults\": {", stdout);
  if (counted)
    printf("\"minor\": %" PRId64 ", \"major\": %" PRId64, later[0] - faults[0], later[1] - faults[1]);
  puts("}}}");
}

static void start(runner *r, char **arguments) {
  uint64_t begun = od_system_begun(arguments);
  open_model(r, arguments[2]);
  read_requests(r, arguments[3]);
  uint64_t asked = od_system_now();
  call(r, 0);
  uint64_t answered = od_system_now();
  json_begin(r);
  if (begun) printf(", \"start_ns\": %" PRIu64, answered - begun);
  printf(", \"load_ns\": %" PRIu64 ", \"first_ns\": %" PRIu64 "}\n", r->load_ns, answered - asked);
}

/* Drop a file's pages from memory, and see whether they went. */
static void drop(const char *path) {
  const char *note, *fault = od_system_drop(path, &note);
  if (fault) fail("FileFormatError", path, fault);
  fputs("{\"note\": ", stdout);
  note ? json_text(note) : (void)fputs("null", stdout);
  puts("}");
}

int main(int count, char **arguments) {
  arguments = od_system_arguments(arguments);
  const char *task = count > 1 ? arguments[1] : "";
  if (count == 2 && !strcmp(task, "about")) {
    putchar('{');
    json_emulator();
    puts("}");
    return 0;
  }
  if (count == 3 && !strcmp(task, "drop")) return drop(arguments[2]), 0;
  int lock = count == 11 && !strcmp(arguments[10], "lock");
  if (count != 10 + lock)
    fail("InputError", "usage", "TASK MODEL REQUESTS ROWS CONTEXT GAP BUDGET COUNT TOLERANCE [lock]");
  runner r = {.rows = number(arguments[4]), .lock = lock};
  if (!r.rows || r.rows > MAX_ROWS) fail("InputError", "rows must be 1 to 1000000", arguments[4]);
  uint64_t gap = number(arguments[6]), budget = number(arguments[7]), most = number(arguments[8]);
  double tolerance = tolerance_of(arguments[9]);
  if (most > MAX_REQUESTS) fail("InputError", "more than 50000 requests", arguments[8]);
  const char *flags = arguments[5];
  uint8_t *context = need(calloc(strlen(flags) + 1, 1));
  for (size_t i = 0; flags[i]; i++) context[i] = flags[i] == '1';
  if (strcmp(flags, "-")) r.context = context;
  if (!strcmp(task, "start")) return start(&r, arguments), 0;
  if (!strcmp(task, "memory")) return memory(&r, arguments[2], arguments[3]), 0;
  open_model(&r, arguments[2]);
  if (r.context && strlen(flags) != r.inputs)
    fail("InputError", "a digit for every input is expected", flags);
  read_requests(&r, arguments[3]);
  if (r.context) check_rank(&r, tolerance);
  if (!strcmp(task, "latency")) return latency(&r, gap, budget, most), 0;
  if (!strcmp(task, "profile")) return profile(&r, budget, most), 0;
  fail("InputError", "no such task", task);
}
