/* posix.c: the runner's system calls on Linux and Android. */
#define _GNU_SOURCE
#include "runner/system.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* As in ondevice/bench/measure/constants.py. */
static const char *const EMULATORS[] = {"qemu-", "box64", "box86", "FEX"};

static uint64_t read_clock(clockid_t id) {
  struct timespec now;
  clock_gettime(id, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t od_system_now(void) { return read_clock(CLOCK_MONOTONIC); }
uint64_t od_system_cpu(void) { return read_clock(CLOCK_PROCESS_CPUTIME_ID); }

void od_system_sleep(uint64_t moment) {
  struct timespec at = {(time_t)(moment / 1000000000u), (long)(moment % 1000000000u)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR) continue;
}

/* A fresh process is made of this one, which hands over when that began. */
uint64_t od_system_begun(char **arguments) {
  const char *begun = getenv("ONDEVICE_RUNNER_BEGUN");
  if (begun) return strtoull(begun, NULL, 10);
  char text[24];
  snprintf(text, sizeof text, "%" PRIu64, od_system_now());
  setenv("ONDEVICE_RUNNER_BEGUN", text, 1);
  execv("/proc/self/exe", arguments);
  return 0; /* not permitted, as under emulation */
}

char **od_system_arguments(char **arguments) { return arguments; }

/* It answers for /proc/self in the guest's name, but /proc/thread-self passes it by. */
const char *od_system_emulator(void) {
  static char path[PATH_MAX];
  ssize_t size = readlink("/proc/thread-self/exe", path, sizeof path - 1);
  if (size <= 0) return NULL;
  path[size] = 0;
  char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
  for (size_t i = 0; i < sizeof EMULATORS / sizeof *EMULATORS; i++)
    if (!strncmp(name, EMULATORS[i], strlen(EMULATORS[i]))) return name;
  return NULL;
}

int od_system_cores(int cores[OD_SYSTEM_CORES]) {
  cpu_set_t set;
  int count = 0;
  if (sched_getaffinity(0, sizeof set, &set)) return 0;
  for (int i = 0; i < CPU_SETSIZE && i < OD_SYSTEM_CORES; i++)
    if (CPU_ISSET(i, &set)) cores[count++] = i;
  return count;
}

void od_system_memory(int64_t bytes[OD_SYSTEM_MEMORIES]) {
  static const struct { const char *file, *field; } MEMORY[OD_SYSTEM_MEMORIES] = {
      {"/proc/self/status", "VmRSS:"},
      {"/proc/self/smaps_rollup", "Pss:"},
      {"/proc/self/smaps_rollup", "Anonymous:"},
      {"/proc/self/status", "RssFile:"},
      {"/proc/self/status", "VmHWM:"},
  };
  for (int i = 0; i < OD_SYSTEM_MEMORIES; i++) {
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

int od_system_faults(int64_t faults[2]) {
  struct rusage usage;
  if (getrusage(RUSAGE_SELF, &usage)) return 0;
  faults[0] = usage.ru_minflt;
  faults[1] = usage.ru_majflt;
  return 1;
}

const char *od_system_read(const char *path, char **data, size_t *size) {
  struct stat about;
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0 || fstat(file, &about)) return strerror(errno);
  *size = about.st_size > 0 ? (size_t)about.st_size : 0;
  *data = malloc(*size + 1);
  if (!*data) return "out of memory";
  for (size_t done = 0; done < *size;) {
    ssize_t got = read(file, *data + done, *size - done);
    if (got <= 0) return "cannot be read";
    done += (size_t)got;
  }
  close(file);
  return NULL;
}

const char *od_system_drop(const char *path, const char **note) {
  struct stat about;
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0 || fstat(file, &about)) return strerror(errno);
  *note = "some pages stayed in memory";
  fsync(file);
  posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
  size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (size_t)about.st_size;
  void *map = size ? mmap(NULL, size, PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
  unsigned char *seen = calloc(size / page + 1, 1);
  if (!seen) return "out of memory";
  if (map != MAP_FAILED && !mincore(map, size, seen)) {
    size_t resident = 0;
    for (size_t i = 0; i < (size + page - 1) / page; i++) resident += seen[i] & 1;
    if (!resident) *note = NULL;
  }
  close(file);
  return NULL;
}
