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
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "ondevice.h"

/* As in ondevice/bench/measure/constants.py, which has their units and reasons. */
enum { MEMORY_REQUESTS = 100, MAX_REQUESTS = 50000, MAX_ROWS = 1000000 };
enum { BURSTS = 10, MIN_BURST_REQUESTS = 2, PACED_BURST_REQUESTS = 3, MIN_PACED_BURSTS = 2 };
enum { EMULATED_REQUESTS = 20, PROFILE_REQUESTS = 2000, OVERHEAD_BURST_CALLS = 100 };
enum { WARM_UP_NS = 200000000 };
static const char *const EMULATORS[] = {"qemu-", "box64", "box86", "FEX"};

typedef struct {
  od_model *model;
  od_session *session;
  const uint8_t *context; /* NULL: predict */
  size_t rows, inputs, requests;
  const void **ids; /* requests x inputs */
  float **results;
  uint64_t load_ns;
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

static uint64_t read_clock(clockid_t id) {
  struct timespec now;
  clock_gettime(id, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t now_ns(void) { return read_clock(CLOCK_MONOTONIC); }

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

/* The user-mode emulator this runs in: it answers for /proc/self in the guest's name, but
 * /proc/thread-self passes it by. */
static const char *emulator(void) {
  static char path[PATH_MAX];
  ssize_t size = readlink("/proc/thread-self/exe", path, sizeof path - 1);
  if (size <= 0) return NULL;
  path[size] = 0;
  char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
  for (size_t i = 0; i < sizeof EMULATORS / sizeof *EMULATORS; i++)
    if (!strncmp(name, EMULATORS[i], strlen(EMULATORS[i]))) return name;
  return NULL;
}

static void json_emulator(void) {
  const char *name = emulator();
  fputs("\"emulated\": ", stdout);
  name ? json_text(name) : (void)fputs("null", stdout);
}

/* Bytes of one input of a request. */
static size_t input_bytes(const runner *r, size_t index) {
  const od_tensor *input = od_input(r->model, index);
  return r->rows * input->row_size * (input->is_float ? sizeof(float) : sizeof(int64_t));
}

static void read_requests(runner *r, const char *path) {
  struct stat about;
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0 || fstat(file, &about)) fail("InputError", path, strerror(errno));
  size_t bytes = 0;
  for (size_t i = 0; i < r->inputs; i++) bytes += input_bytes(r, i);
  if (!bytes || about.st_size <= 0 || (uint64_t)about.st_size % bytes)
    fail("InputError", "the file of requests does not fit the model and the rows", "");
  r->requests = (size_t)about.st_size / bytes;
  /* read, not mapped: its pages are not the model's memory */
  char *data = need(malloc((size_t)about.st_size));
  for (size_t done = 0; done < (size_t)about.st_size;) {
    ssize_t got = read(file, data + done, (size_t)about.st_size - done);
    if (got <= 0) fail("InputError", path, "cannot be read");
    done += (size_t)got;
  }
  close(file);
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
  od_options options = {.full_check = -1};
  uint64_t before = now_ns();
  check(od_open_path(path, &options, &r->model, &error), &error);
  check(od_session_open(r->model, &r->session, &error), &error);
  r->load_ns = now_ns() - before;
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
      uint64_t before = now_ns();
      empty(NULL, 0);
      times[i] = now_ns() - before;
    }
    qsort(times, OVERHEAD_BURST_CALLS, sizeof *times, by_size);
    printf("%s%" PRIu64, burst ? ", " : "", times[OVERHEAD_BURST_CALLS / 2]);
  }
  putchar(']');
}

static void json_begin(const runner *r) {
  printf("{\"engine\": \"native\", \"runtime\": \"native %s\", ", od_kernels_in_use(r->model));
  json_emulator();
  cpu_set_t set;
  fputs(", \"affinity\": ", stdout);
  if (sched_getaffinity(0, sizeof set, &set)) {
    fputs("null", stdout);
    return;
  }
  const char *comma = "[";
  for (int i = 0; i < CPU_SETSIZE; i++)
    if (CPU_ISSET(i, &set)) printf("%s%d", comma, i), comma = ", ";
  putchar(']');
}

static void warm_up(const runner *r, uint64_t budget) {
  uint64_t deadline = now_ns() + (budget && budget < WARM_UP_NS ? budget : WARM_UP_NS);
  size_t turn = 0;
  do call(r, turn++);
  while (now_ns() < deadline && !(emulator() && turn >= EMULATED_REQUESTS));
}

static void json_numbers(const char *name, const uint64_t *values, size_t count) {
  printf("\"%s\": [", name);
  for (size_t i = 0; i < count; i++) printf("%s%" PRIu64, i ? ", " : "", values[i]);
  putchar(']');
}

static void latency(const runner *r, uint64_t gap, uint64_t budget, uint64_t count) {
  if (emulator()) gap = 0, count = EMULATED_REQUESTS; /* its time is not reported */
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
  uint64_t cpu = read_clock(CLOCK_PROCESS_CPUTIME_ID);
  for (uint64_t burst = 0; burst < bursts; burst++) {
    uint64_t begun = now_ns(), next = begun;
    while (counts[burst] < most) {
      next += gap;
      struct timespec at = {(time_t)(next / 1000000000u), (long)(next % 1000000000u)};
      if (gap)
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR) continue;
      uint64_t before = now_ns();
      call(r, done);
      uint64_t after = now_ns();
      times[done++] = after - before;
      counts[burst]++;
      if (length && after - begun >= length && counts[burst] >= MIN_BURST_REQUESTS) break;
    }
    walls[burst] = now_ns() - begun;
  }
  cpu = read_clock(CLOCK_PROCESS_CPUTIME_ID) - cpu;
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
  uint64_t most = count ? count : emulator() ? EMULATED_REQUESTS : PROFILE_REQUESTS;
  od_profile profile = {now_ns, need(calloc(size, sizeof(od_operator)))};
  uint64_t *times = need(calloc(size * most, sizeof *times));
  warm_up(r, budget);
  uint64_t deadline = now_ns() + budget;
  while (done < most) {
    od_session_profile(r->session, &profile); /* from zero */
    call(r, done);
    for (size_t i = 0; i < size; i++) times[i * most + done] = profile.operators[i].time;
    done++;
    if (!count && now_ns() >= deadline && done >= MIN_BURST_REQUESTS) break;
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

/* Bytes as /proc gives them in kB; -1: not given. In the order of MEMORY. */
static const struct { const char *name, *file, *field; } MEMORY[] = {
    {"rss", "/proc/self/status", "VmRSS:"},
    {"pss", "/proc/self/smaps_rollup", "Pss:"},
    {"anonymous", "/proc/self/smaps_rollup", "Anonymous:"},
    {"file", "/proc/self/status", "RssFile:"},
    {"peak", "/proc/self/status", "VmHWM:"},
};
enum { MEMORIES = sizeof MEMORY / sizeof *MEMORY };

static void read_memory(int64_t *bytes) {
  for (int i = 0; i < MEMORIES; i++) {
    char text[8192];
    bytes[i] = -1;
    int file = open(MEMORY[i].file, O_RDONLY | O_CLOEXEC);
    ssize_t size = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (file >= 0) close(file);
    if (size <= 0) continue;
    text[size] = 0;
    for (char *line = text; line; line = strchr(line, '\n'), line += line != NULL)
      if (!strncmp(line, MEMORY[i].field, strlen(MEMORY[i].field)))
        bytes[i] = strtoll(line + strlen(MEMORY[i].field), NULL, 10) * 1024;
  }
}

static void memory(runner *r, const char *model, const char *requests) {
  int64_t before[MEMORIES], after[MEMORIES];
  struct rusage faults, later;
  read_memory(before);
  getrusage(RUSAGE_SELF, &faults);
  open_model(r, model);
  read_requests(r, requests);
  for (size_t i = 0; i < MEMORY_REQUESTS; i++) call(r, i);
  read_memory(after);
  getrusage(RUSAGE_SELF, &later);
  json_begin(r);
  for (int growth = 0; growth < 2; growth++) {
    const char *comma = growth ? ", \"growth\": {" : ", \"memory\": {\"process\": {";
    for (int i = 0; i < MEMORIES - growth; i++) {
      int64_t value = growth ? after[i] - before[i] : after[i];
      if (after[i] < 0 || before[i] < 0) continue;
      printf("%s\"%s\": %" PRId64, comma, MEMORY[i].name, value < 0 ? 0 : value);
      comma = ", ";
    }
    if (*comma == ',' && comma[2] == 0) putchar('}');
    else printf("%s}", comma);
  }
  printf(", \"faults\": {\"minor\": %ld, \"major\": %ld}}}\n",
         later.ru_minflt - faults.ru_minflt, later.ru_majflt - faults.ru_majflt);
}

static void start(runner *r, char **arguments) {
  const char *begun = getenv("ONDEVICE_RUNNER_BEGUN");
  if (!begun) { /* measure from before a fresh process is made of this one */
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, now_ns());
    setenv("ONDEVICE_RUNNER_BEGUN", text, 1);
    execv("/proc/self/exe", arguments);
    begun = NULL; /* not permitted, as under emulation: the start stays unknown */
  }
  open_model(r, arguments[2]);
  read_requests(r, arguments[3]);
  uint64_t asked = now_ns();
  call(r, 0);
  uint64_t answered = now_ns();
  json_begin(r);
  if (begun) printf(", \"start_ns\": %" PRIu64, answered - number(begun));
  printf(", \"load_ns\": %" PRIu64 ", \"first_ns\": %" PRIu64 "}\n", r->load_ns, answered - asked);
}

/* Drop a file's pages from memory, and see whether they went. */
static void drop(const char *path) {
  struct stat about;
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0 || fstat(file, &about)) fail("FileFormatError", path, strerror(errno));
  const char *note = "some pages stayed in memory";
  fsync(file);
  posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
  size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (size_t)about.st_size;
  void *map = size ? mmap(NULL, size, PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
  unsigned char *seen = need(calloc(size / page + 1, 1));
  if (map != MAP_FAILED && !mincore(map, size, seen)) {
    size_t resident = 0;
    for (size_t i = 0; i < (size + page - 1) / page; i++) resident += seen[i] & 1;
    if (!resident) note = NULL;
  }
  fputs("{\"note\": ", stdout);
  note ? json_text(note) : (void)fputs("null", stdout);
  puts("}");
}

int main(int count, char **arguments) {
  const char *task = count > 1 ? arguments[1] : "";
  if (count == 2 && !strcmp(task, "about")) {
    putchar('{');
    json_emulator();
    puts("}");
    return 0;
  }
  if (count == 3 && !strcmp(task, "drop")) return drop(arguments[2]), 0;
  if (count != 10)
    fail("InputError", "usage", "TASK MODEL REQUESTS ROWS CONTEXT GAP BUDGET COUNT TOLERANCE");
  runner r = {.rows = number(arguments[4])};
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
