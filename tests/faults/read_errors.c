/* Loaded before libc: the n-th read below a folder fails once with EIO. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static char under[4096];
static atomic_long left = -1;

void fail_read(const char *folder, long n) {
  strncpy(under, folder, sizeof under - 1);
  left = n;
}

/* Below 0 where the error was raised. */
long reads_left(void) { return left; }

static int fails(int file) {
  char link[64], path[4096];
  if (left < 0) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  if (strncmp(path, under, strlen(under)) || left-- > 0) return 0;
  errno = EIO;
  return 1;
}

#define READ(name, parameters, arguments)                           \
  ssize_t name parameters {                                         \
    ssize_t (*real) parameters = dlsym(RTLD_NEXT, #name);           \
    return fails(file) ? -1 : real arguments;                       \
  }

READ(read, (int file, void *to, size_t n), (file, to, n))
READ(pread, (int file, void *to, size_t n, off_t at), (file, to, n, at))
READ(pread64, (int file, void *to, size_t n, off64_t at), (file, to, n, at))
READ(readv, (int file, const struct iovec *to, int n), (file, to, n))
READ(preadv, (int file, const struct iovec *to, int n, off_t at),
     (file, to, n, at))
READ(preadv64, (int file, const struct iovec *to, int n, off64_t at),
     (file, to, n, at))
