/* windows.c: files, small ones read and large ones mapped, and the clock, where the system is Windows. */
#define WIN32_LEAN_AND_MEAN
#include "core/limits.h"
#include "core/model.h"
#include "platform/allocator.h"
#include "platform/clock.h"
#include "platform/live_files.h"

#include <string.h>
#include <wchar.h>
#include <windows.h>

enum { MOST_READ = 1 << 30 }; /* bytes of one call */

/* A mapped file stays open for reading only, so nobody can write to it or truncate it. */
typedef struct {
  void *data;
  HANDLE file;
} mapping;

static void unmap(void *mapped, size_t size) {
  mapping *m = mapped;
  (void)size;
  UnmapViewOfFile(m->data);
  CloseHandle(m->file);
  free(m);
}

static od_status refused(od_error *error) {
  return od_fail(error, OD_E_SYSTEM, "cannot be read: error %u of Windows",
                 (uint64_t)GetLastError());
}

/* A name in UTF-8 as Windows takes it, in new memory: from 248 characters on, which older programs
 * may not use, as a full path behind a prefix that allows 32,767. NULL: no UTF-8, or no memory. */
static wchar_t *wide_name(const char *path) {
  enum { PLAIN = 248, PREFIX = 8 };
  int size = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, NULL, 0);
  wchar_t *wide = size > 0 ? malloc((size_t)size * sizeof *wide) : NULL;
  if (!wide) return NULL;
  MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, size);
  DWORD length = GetFullPathNameW(wide, 0, NULL, NULL);
  if (length < PLAIN || !wcsncmp(wide, L"\\\\?\\", 4)) return wide;
  wchar_t *full = malloc(((size_t)length + PREFIX) * sizeof *full);
  if (full) {
    GetFullPathNameW(wide, length, full + PREFIX, NULL);
    int share = !wcsncmp(full + PREFIX, L"\\\\", 2); /* \\server\share becomes \\?\UNC\server\share */
    const wchar_t *prefix = share ? L"\\\\?\\UNC" : L"\\\\?\\";
    size_t count = wcslen(prefix);
    memcpy(full, prefix, count * sizeof *full);
    memmove(full + count, full + PREFIX + share,
            (wcslen(full + PREFIX + share) + 1) * sizeof *full);
  }
  free(wide);
  return full;
}

/* A file by its name in UTF-8, or INVALID_HANDLE_VALUE. Others may replace the file meanwhile. */
static HANDLE open_file(const char *path) {
  wchar_t *wide = wide_name(path);
  if (!wide) return INVALID_HANDLE_VALUE;
  HANDLE file = CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, NULL,
                            OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, NULL);
  free(wide);
  return file;
}

/* An open file, mapped; the mapping owns it then. NULL where that fails. */
static mapping *map(HANDLE file, size_t size) {
  mapping *m = malloc(sizeof *m);
  HANDLE section = m ? CreateFileMappingW(file, NULL, PAGE_READONLY, 0, 0, NULL) : NULL;
  void *data = section ? MapViewOfFile(section, FILE_MAP_READ, 0, 0, size) : NULL;
  if (section) CloseHandle(section);
  if (!data) {
    free(m);
    return NULL;
  }
  *m = (mapping){data, file};
  return m;
}

/* Read a whole file into memory that nobody else can change. */
static od_status copy(HANDLE file, size_t size, void **data, od_error *error) {
  *data = malloc(size);
  if (!*data) return od_fail(error, OD_E_MEMORY, "out of memory for the file");
  od_status status = OD_OK;
  for (size_t at = 0; status == OD_OK && at < size;) {
    DWORD got = 0, part = size - at < MOST_READ ? (DWORD)(size - at) : MOST_READ;
    if (!ReadFile(file, (char *)*data + at, part, &got, NULL))
      status = refused(error);
    else if (!got)
      status = od_fail(error, OD_E_FORMAT, "the file was truncated while it was read");
    at += got;
  }
  if (status != OD_OK) free(*data);
  return status;
}

static void discard(void *data, size_t size) {
  (void)size;
  free(data);
}

/* The size of a model file, or 0: no regular file, too short or too large. */
static size_t size_of(HANDLE file) {
  LARGE_INTEGER end;
  if (GetFileType(file) != FILE_TYPE_DISK || !GetFileSizeEx(file, &end) || end.QuadPart < 8) return 0;
  return (uint64_t)end.QuadPart > SIZE_MAX / 2 ? 0 : (size_t)end.QuadPart;
}

/* Room for locked memory in what Windows keeps of this process. */
static int grow_working_set(SIZE_T more, SIZE_T less) {
  SIZE_T least, most;
  HANDLE self = GetCurrentProcess();
  return GetProcessWorkingSetSize(self, &least, &most) &&
         SetProcessWorkingSetSize(self, least + more - less, most + more - less);
}

od_status od_lock_copy(const void *data, size_t size, void **copy, od_error *error) {
  void *memory = VirtualAlloc(NULL, size, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
  if (!memory) return od_fail(error, OD_E_MEMORY, "out of memory for the file");
  if (!grow_working_set(size, 0) || !VirtualLock(memory, size)) {
    uint64_t number = GetLastError();
    VirtualFree(memory, 0, MEM_RELEASE);
    return od_fail(error, OD_E_LOCK, "%u bytes cannot be locked in memory: error %u of Windows",
                   (uint64_t)size, number);
  }
  memcpy(memory, data, size);
  *copy = memory;
  return OD_OK;
}

void od_lock_release(void *copy, size_t size) {
  VirtualFree(copy, 0, MEM_RELEASE);
  grow_working_set(0, size);
}

/* Open a file, mapped if it has more than `most_copied` bytes. */
static od_status open_model(const char *path, size_t most_copied, const od_options *options,
                            od_model **model, od_error *error) {
  *model = NULL;
  HANDLE file = open_file(path);
  if (file == INVALID_HANDLE_VALUE) return refused(error);
  size_t size = size_of(file);
  mapping *mapped = size > most_copied ? map(file, size) : NULL;
  void *data = mapped ? mapped->data : NULL;
  od_status status = OD_OK;
  if (!size)
    status = od_fail(error, OD_E_FORMAT, "not a regular file, or too short for a model file");
  else if (!mapped)
    status = size > most_copied ? refused(error) : copy(file, size, &data, error);
  if (!mapped) CloseHandle(file);
  if (status != OD_OK) return status;
  void (*end)(void *, size_t) = mapped ? unmap : discard;
  void *owned = mapped ? (void *)mapped : data;
  status = od_open_memory(data, size, options, model, error);
  if (status != OD_OK || (options && options->lock)) { /* a locked model has its own copy */
    end(owned, size);
    return status;
  }
  (*model)->unmap = end;
  (*model)->mapped = owned;
  (*model)->mapped_size = size;
  return OD_OK;
}

od_status od_open_path(const char *path, const od_options *options, od_model **model,
                       od_error *error) {
  return open_model(path, OD_FULL_CHECK_BYTES, options, model, error);
}

od_status od_open_copied(const char *path, const od_options *options, od_model **model,
                         od_error *error) {
  return open_model(path, SIZE_MAX, options, model, error);
}

od_file_stamp od_stamp_of(const char *path) {
  od_file_stamp stamp = {0, 0, 0, 0, 0};
  BY_HANDLE_FILE_INFORMATION of;
  wchar_t *wide = wide_name(path);
  HANDLE file = wide ? CreateFileW(wide, FILE_READ_ATTRIBUTES,
                                   FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL,
                                   OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, NULL)
                     : INVALID_HANDLE_VALUE;
  free(wide);
  if (file == INVALID_HANDLE_VALUE) return stamp;
  if (GetFileInformationByHandle(file, &of))
    stamp = (od_file_stamp){of.dwVolumeSerialNumber,
                            (uint64_t)of.nFileIndexHigh << 32 | of.nFileIndexLow,
                            (uint64_t)of.nFileSizeHigh << 32 | of.nFileSizeLow,
                            of.ftLastWriteTime.dwHighDateTime, of.ftLastWriteTime.dwLowDateTime};
  CloseHandle(file);
  return stamp;
}

uint64_t od_clock_ns(void) {
  LARGE_INTEGER now, second;
  QueryPerformanceCounter(&now);
  QueryPerformanceFrequency(&second);
  uint64_t ticks = (uint64_t)now.QuadPart, rate = (uint64_t)second.QuadPart;
  return ticks / rate * 1000000000u + ticks % rate * 1000000000u / rate;
}
