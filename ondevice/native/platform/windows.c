/* windows.c: files by mapping them, and the clock, where the system is Windows. */
#define WIN32_LEAN_AND_MEAN
#include "core/model.h"
#include "platform/allocator.h"
#include "platform/clock.h"

#include <windows.h>

static void unmap(void *data, size_t size) {
  (void)size;
  UnmapViewOfFile(data);
}

static od_status refused(od_error *error) {
  return od_fail(error, OD_E_SYSTEM, "cannot be read: error %u of Windows",
                 (uint64_t)GetLastError());
}

/* A file by its name in UTF-8, or INVALID_HANDLE_VALUE. Others may replace the file meanwhile. */
static HANDLE open_file(const char *path) {
  HANDLE file = INVALID_HANDLE_VALUE;
  int size = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, NULL, 0);
  wchar_t *wide = size > 0 ? malloc((size_t)size * sizeof *wide) : NULL;
  if (!wide) return file;
  if (MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, size) == size)
    file = CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, NULL, OPEN_EXISTING,
                       FILE_ATTRIBUTE_NORMAL, NULL);
  free(wide);
  return file;
}

/* The bytes of an open file, mapped; NULL where that fails. */
static void *map(HANDLE file, size_t size) {
  HANDLE section = CreateFileMappingW(file, NULL, PAGE_READONLY, 0, 0, NULL);
  if (!section) return NULL;
  void *data = MapViewOfFile(section, FILE_MAP_READ, 0, 0, size);
  CloseHandle(section);
  return data;
}

od_status od_open_path(const char *path, const od_options *options, od_model **model,
                       od_error *error) {
  *model = NULL;
  HANDLE file = open_file(path);
  if (file == INVALID_HANDLE_VALUE) return refused(error);
  LARGE_INTEGER end;
  if (GetFileType(file) != FILE_TYPE_DISK || !GetFileSizeEx(file, &end) || end.QuadPart < 8) {
    CloseHandle(file);
    return od_fail(error, OD_E_FORMAT, "not a regular file, or too short for a model file");
  }
  size_t size = (uint64_t)end.QuadPart > SIZE_MAX / 2 ? 0 : (size_t)end.QuadPart;
  void *data = size ? map(file, size) : NULL;
  od_status status = data ? OD_OK : refused(error); /* before CloseHandle changes the reason */
  CloseHandle(file);
  if (status != OD_OK) return status;
  od_status opened = od_open_memory(data, size, options, model, error);
  if (opened != OD_OK) {
    UnmapViewOfFile(data);
    return opened;
  }
  (*model)->unmap = unmap;
  (*model)->mapped = data;
  (*model)->mapped_size = size;
  return OD_OK;
}

uint64_t od_clock_ns(void) {
  LARGE_INTEGER now, second;
  QueryPerformanceCounter(&now);
  QueryPerformanceFrequency(&second);
  uint64_t ticks = (uint64_t)now.QuadPart, rate = (uint64_t)second.QuadPart;
  return ticks / rate * 1000000000u + ticks % rate * 1000000000u / rate;
}
