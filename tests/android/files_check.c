/* files_check.c: the system calls of files.c against what this system's C library says.
 *
 *   files_check FOLDER
 *
 * In an empty folder; linked with files.c and system.c. The first difference is the exit code.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"

static char a[256], b[256], folder[256], link_name[256];

static int differs(const char *path) {
  struct stat right;
  int64_t got[5];
  if (stat(path, &right) || od_stamp(path, got)) return 1;
  return got[0] != (int64_t)right.st_dev || got[1] != (int64_t)right.st_ino ||
         got[2] != (int64_t)right.st_size || got[3] != (int64_t)right.st_mtim.tv_sec ||
         got[4] != (int64_t)right.st_mtim.tv_nsec;
}

int main(int count, char **words) {
  struct stat one, other;
  int64_t none[5];
  if (count != 2) return 99;
  snprintf(a, sizeof a, "%s/a", words[1]);
  snprintf(b, sizeof b, "%s/b", words[1]);
  snprintf(folder, sizeof folder, "%s/folder", words[1]);
  snprintf(link_name, sizeof link_name, "%s/link", words[1]);
  FILE *file = fopen(a, "wb");
  if (!file || fwrite("12345", 1, 5, file) != 5 || fclose(file) || chmod(a, 0640)) return 98;
  if (mkdir(folder, 0700) || symlink(folder, link_name)) return 97;
  if (differs(a) || differs(folder)) return 1;
  if (od_stamp(b, none) != -2) return 2;
  if (od_link(a, b) || stat(a, &one) || stat(b, &other) || one.st_ino != other.st_ino) return 3;
  if (od_link(a, b) != -17 || unlink(b)) return 4; /* it exists */
  int lock = od_lock(b, 1, 0); /* a new file */
  if (lock < 0 || stat(b, &other) || (other.st_mode & 0777) != 0600) return 5;
  int second = open(b, O_RDWR);
  if (flock(second, LOCK_EX | LOCK_NB) != -1) return 6; /* others cannot have it */
  if (od_lock(b, 0, 0) != -11 || od_is_locked(lock, b) || !od_is_locked(lock, a)) return 7;
  od_unlock(lock);
  if (flock(second, LOCK_EX | LOCK_NB)) return 8;
  close(second);
  if (od_copy_permissions(a, b) || stat(b, &other) || (other.st_mode & 07777) != 0640) return 9;
  if (other.st_uid != one.st_uid || other.st_gid != one.st_gid) return 10;
  if (od_sync(a) || od_sync(folder) || od_sync("/nowhere/at/all") != -2) return 11;
  if (od_is_own_folder(folder, words[1]) != 1) return 12;
  if (od_is_own_folder(a, words[1]) != 0) return 13;
  if (od_is_own_folder(link_name, words[1]) == 1) return 14;
  lock = od_lock(words[1], 0, 1); /* a folder */
  if (lock < 0) return 15;
  od_unlock(lock);
  return 0;
}
