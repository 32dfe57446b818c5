/* windows.c: the runner's system calls on Windows. */
#define WIN32_LEAN_AND_MEAN
#define PSAPI_VERSION 2
#include "runner/system.h"

#include <windows.h>

#include <psapi.h>
#include <shellapi.h>
#include <stdlib.h>

enum { UNIT_NS = 100 }; /* of FILETIME */

uint64_t od_system_now(void) {
  LARGE_INTEGER now, second;
  QueryPerformanceCounter(&now);
  QueryPerformanceFrequency(&second);
  uint64_t ticks = (uint64_t)now.QuadPart, rate = (uint64_t)second.QuadPart;
  return ticks / rate * 1000000000u + ticks % rate * 1000000000u / rate;
}

static uint64_t ns_of(FILETIME time) {
  return ((uint64_t)time.dwHighDateTime << 32 | time.dwLowDateTime) * UNIT_NS;
}

uint64_t od_system_cpu(void) {
  FILETIME created, ended, kernel, user;
  if (!GetProcessTimes(GetCurrentProcess(), &created, &ended, &kernel, &user)) return 0;
  return ns_of(kernel) + ns_of(user);
}

/* The system's timer is coarse: the last two milliseconds are waited for. */
void od_system_sleep(uint64_t moment) {
  enum { COARSE_NS = 2000000 };
  uint64_t now = od_system_now();
  if (moment > now + COARSE_NS) Sleep((DWORD)((moment - now - COARSE_NS) / 1000000u));
  while (od_system_now() < moment) YieldProcessor();
}

uint64_t od_system_begun(char **arguments) {
  FILETIME created, ended, kernel, user, now;
  (void)arguments;
  if (!GetProcessTimes(GetCurrentProcess(), &created, &ended, &kernel, &user)) return 0;
  GetSystemTimePreciseAsFileTime(&now);
  uint64_t since = ns_of(now) - ns_of(created), moment = od_system_now();
  return since < moment ? moment - since : 0;
}

/* Those that main gets are in the system's code page, which most texts do not fit into. */
char **od_system_arguments(char **arguments) {
  int count = 0;
  LPWSTR *wide = CommandLineToArgvW(GetCommandLineW(), &count);
  char **texts = wide ? calloc((size_t)count + 1, sizeof *texts) : NULL;
  for (int i = 0; texts && i < count; i++) {
    int size = WideCharToMultiByte(CP_UTF8, 0, wide[i], -1, NULL, 0, NULL, NULL);
    texts[i] = malloc((size_t)size + 1);
    if (!texts[i]) return arguments;
    WideCharToMultiByte(CP_UTF8, 0, wide[i], -1, texts[i], size, NULL, NULL);
  }
  return texts ? texts : arguments;
}

const char *od_system_emulator(void) { return NULL; }

int od_system_cores(int cores[OD_SYSTEM_CORES]) {
  DWORD_PTR mine, all;
  int count = 0;
  if (!GetProcessAffinityMask(GetCurrentProcess(), &mine, &all)) return 0;
  for (int i = 0; i < (int)sizeof mine * 8; i++)
    if (mine >> i & 1) cores[count++] = i;
  return count;
}

void od_system_memory(int64_t bytes[OD_SYSTEM_MEMORIES]) {
  PROCESS_MEMORY_COUNTERS_EX counters = {.cb = sizeof counters};
  for (int i = 0; i < OD_SYSTEM_MEMORIES; i++) bytes[i] = -1;
  if (!GetProcessMemoryInfo(GetCurrentProcess(), (PROCESS_MEMORY_COUNTERS *)&counters,
                            sizeof counters))
    return;
  bytes[0] = (int64_t)counters.WorkingSetSize;
  bytes[2] = (int64_t)counters.PrivateUsage;
  bytes[4] = (int64_t)counters.PeakWorkingSetSize;
}

/* Windows counts them, but not which ones read from a disk. */
int od_system_faults(int64_t faults[2]) {
  (void)faults;
  return 0;
}

static HANDLE open_file(const char *path) {
  WCHAR wide[32768]; /* the longest name that Windows takes */
  if (!MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide,
                           (int)(sizeof wide / sizeof *wide)))
    return INVALID_HANDLE_VALUE;
  return CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, NULL, OPEN_EXISTING,
                     FILE_ATTRIBUTE_NORMAL, NULL);
}

const char *od_system_read(const char *path, char **data, size_t *size) {
  HANDLE file = open_file(path);
  LARGE_INTEGER end;
  if (file == INVALID_HANDLE_VALUE) return "cannot be opened";
  if (!GetFileSizeEx(file, &end) || end.QuadPart > MAXLONG) return "is too large";
  DWORD got = 0;
  *size = (size_t)end.QuadPart;
  *data = malloc(*size + 1);
  if (!*data) return "out of memory";
  if (!ReadFile(file, *data, (DWORD)*size, &got, NULL) || got != *size) return "cannot be read";
  CloseHandle(file);
  return NULL;
}

const char *od_system_drop(const char *path, const char **note) {
  HANDLE file = open_file(path);
  if (file == INVALID_HANDLE_VALUE) return "cannot be opened";
  CloseHandle(file);
  *note = "this system cannot drop a file's pages"; /* as ondevice/bench/measure/memory.py says */
  return NULL;
}
