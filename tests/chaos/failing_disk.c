/* A disk that fails at will: preloaded, it makes system calls on files below one folder return an error.
 *
 *   FAULT_FOLDER   calls on files below it are counted and may fail; any other call is passed on
 *   FAULT_FROM     the first call, counted from 1, that fails
 *   FAULT_COUNT    how many fail from there on
 *   FAULT_ERRNO    with which error: 28 is "no space left on device", 5 an input/output error
 *   FAULT_CALLS    a file that gets the number of calls when the process ends, or nothing
 *
 * Counted are open for writing, write, pwrite, writev, ftruncate, fsync, fdatasync, rename and mkdir.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long calls;

static int fails(const char *path) {
  const char *folder = getenv("FAULT_FOLDER");
  if (!folder || !*folder || strncmp(path, folder, strlen(folder)) != 0) return 0;
  const char *from = getenv("FAULT_FROM"), *count = getenv("FAULT_COUNT"), *number = getenv("FAULT_ERRNO");
  long call = atomic_fetch_add(&calls, 1) + 1;
  if (!from || !count || !number || call < atol(from) || call >= atol(from) + atol(count)) return 0;
  errno = atoi(number);
  return 1;
}

static int fails_on(int descriptor) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return fails(path);
}

static int writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY; }

void failing_disk_report(void) {
  const char *path = getenv("FAULT_CALLS");
  if (!path || !*path) return;
  FILE *file = fopen(path, "w");
  if (file) { fprintf(file, "%ld\n", atomic_load(&calls)); fclose(file); }
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                                      \
  int name(const char *path, int flags, ...) {                                          \
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
    return writes(flags) && fails(path) ? -1 : NEXT(name)(path, flags, mode);           \
  }
#define OPENAT(name)                                                                    \
  int name(int folder, const char *path, int flags, ...) {                              \
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
    return writes(flags) && fails(path) ? -1 : NEXT(name)(folder, path, flags, mode);   \
  }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)

ssize_t write(int fd, const void *from, size_t n) { return fails_on(fd) ? -1 : NEXT(write)(fd, from, n); }
ssize_t pwrite64(int fd, const void *from, size_t n, off_t at) { return fails_on(fd) ? -1 : NEXT(pwrite64)(fd, from, n, at); }
ssize_t writev(int fd, const struct iovec *parts, int n) { return fails_on(fd) ? -1 : NEXT(writev)(fd, parts, n); }
int ftruncate64(int fd, off_t n) { return fails_on(fd) ? -1 : NEXT(ftruncate64)(fd, n); }
int fsync(int fd) { return fails_on(fd) ? -1 : NEXT(fsync)(fd); }
int fdatasync(int fd) { return fails_on(fd) ? -1 : NEXT(fdatasync)(fd); }
int rename(const char *from, const char *to) { return fails(from) ? -1 : NEXT(rename)(from, to); }
int mkdir(const char *path, mode_t mode) { return fails(path) ? -1 : NEXT(mkdir)(path, mode); }
