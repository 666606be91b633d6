/* Stands between the server and its disk (LD_PRELOAD). Which fault there is says a file in the folder DISK_FAULTS, made and removed
 * by the test while the server runs:
 *   fail-sync        no sync succeeds, as after a write error that the kernel has noticed
 *   fail-checkpoint  the log can be synced, the database file can't
 *   hang             writes to the database's files do not return */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int has(const char *fault) {
    char path[4096];
    const char *folder = getenv("DISK_FAULTS");
    if (!folder) return 0;
    snprintf(path, sizeof path, "%s/%s", folder, fault);
    return access(path, F_OK) == 0;
}

/* 1: the database file; 2: its log. */
static int which(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    const char *name = strrchr(path, '/');
    if (!name) return 0;
    return strcmp(name, "/porter.db") == 0 ? 1 : strcmp(name, "/porter.db-wal") == 0 ? 2 : 0;
}

static int fails(int fd) {
    return has("fail-sync") || (has("fail-checkpoint") && which(fd) == 1);
}

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

int fsync(int fd) {
    if (fails(fd)) { errno = EIO; return -1; }
    return ((int (*)(int))real("fsync"))(fd);
}

int fdatasync(int fd) {
    if (fails(fd)) { errno = EIO; return -1; }
    return ((int (*)(int))real("fdatasync"))(fd);
}

static void hang(int fd) {
    while (has("hang") && which(fd)) usleep(5000);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    hang(fd);
    return ((ssize_t (*)(int, const void *, size_t))real("write"))(fd, bytes, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    hang(fd);
    return ((ssize_t (*)(int, const void *, size_t, off64_t))real("pwrite64"))(fd, bytes, count, at);
}
