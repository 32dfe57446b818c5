/* files_in_use.c: what others may do with a model file on Windows while the engine has it open.
 *
 *   files_in_use MODEL.odm OTHER.odm
 *
 * Prints whether the file can be opened for writing, and whether OTHER can take its place.
 */
#define WIN32_LEAN_AND_MEAN
#include <stdio.h>
#include <windows.h>

#include "ondevice.h"

int main(int count, char **arguments) {
  od_model *model;
  od_error error;
  if (count != 3) return 2;
  if (od_open_path(arguments[1], NULL, &model, &error) != OD_OK) {
    fprintf(stderr, "%s\n", error.text);
    return 1;
  }
  HANDLE file = CreateFileA(arguments[1], GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE, NULL,
                            OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, NULL);
  printf("write %lu\n", file == INVALID_HANDLE_VALUE ? GetLastError() : 0ul);
  if (file != INVALID_HANDLE_VALUE) CloseHandle(file);
  int moved = MoveFileExA(arguments[2], arguments[1], MOVEFILE_REPLACE_EXISTING);
  printf("replace %lu\n", moved ? 0ul : GetLastError());
  od_close(model);
  file = CreateFileA(arguments[1], GENERIC_WRITE, 0, NULL, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL,
                     NULL);
  printf("closed %lu\n", file == INVALID_HANDLE_VALUE ? GetLastError() : 0ul);
  return 0;
}
