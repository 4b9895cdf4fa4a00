/* A disk that forgets, as one does in a power cut: what was written to the registry's files and not synced is undone.
 *
 * Loaded into the server (LD_PRELOAD). Before each write to a file whose name ends in .db, -wal or .log, what it will overwrite is appended
 * to the file's journal (CUT_DIR/<name>); a sync empties the journal. After the server was killed, the test plays the journals
 * backwards. With CUT_LIE set, a sync does nothing and says that it did: the disk that loses what it promised to keep.
 * With CUT_FAIL naming a file that is there, a sync fails with EIO.
 *
 * A journal's entry: offset (8), the file's length before (8), how many bytes are kept (8), those bytes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* The file's journal, or -1 where it is none of ours. Opened each time: slow, and without a table of descriptors. */
static int journal(int fd, int flags) {
    char link[64], path[512], name[1024];
    const char *dir = getenv("CUT_DIR");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    if (!dir || len <= 0) return -1;
    path[len] = 0;
    size_t n = (size_t)len;
    int ours = (n > 3 && !strcmp(path + n - 3, ".db")) || (n > 4 && (!strcmp(path + n - 4, "-wal") || !strcmp(path + n - 4, ".log")));
    if (!ours) return -1;
    const char *base = strrchr(path, '/');
    snprintf(name, sizeof name, "%s/%s", dir, base ? base + 1 : path);
    return open(name, flags | O_CLOEXEC, 0600);
}

#define REAL(name, type) ((type)dlsym(RTLD_NEXT, name))
typedef ssize_t (*pwrite_t)(int, const void *, size_t, off_t);
typedef ssize_t (*write_t)(int, const void *, size_t);
typedef int (*sync_t)(int);
typedef int (*truncate_t)(int, off_t);

static void put(int to, const void *bytes, size_t len) {
    if (len && REAL("write", write_t)(to, bytes, len) != (ssize_t)len) abort();
}

/* Keeps what lies at `offset`, `len` bytes, and the file's length. */
static void keep(int fd, uint64_t offset, size_t len) {
    int to = journal(fd, O_WRONLY | O_CREAT | O_APPEND);
    if (to < 0) return;
    struct stat stat;
    if (fstat(fd, &stat)) abort();
    uint64_t size = (uint64_t)stat.st_size, kept = offset >= size ? 0 : size - offset < len ? size - offset : len;
    char *bytes = malloc(kept + 1);
    /* The log is opened for reading too, as SQLite's files are. */
    if (!bytes || pread(fd, bytes, kept, (off_t)offset) != (ssize_t)kept) abort();
    put(to, &offset, 8), put(to, &size, 8), put(to, &kept, 8), put(to, bytes, kept);
    free(bytes);
    close(to);
}

static ssize_t do_pwrite(int fd, const void *bytes, size_t len, off_t offset) {
    pthread_mutex_lock(&lock);
    keep(fd, (uint64_t)offset, len);
    ssize_t done = REAL("pwrite64", pwrite_t)(fd, bytes, len, offset);
    pthread_mutex_unlock(&lock);
    return done;
}
ssize_t pwrite(int fd, const void *bytes, size_t len, off_t offset) { return do_pwrite(fd, bytes, len, offset); }
ssize_t pwrite64(int fd, const void *bytes, size_t len, off_t offset) { return do_pwrite(fd, bytes, len, offset); }

ssize_t write(int fd, const void *bytes, size_t len) {
    struct stat stat;
    pthread_mutex_lock(&lock);
    int flags = fcntl(fd, F_GETFL), error = errno;
    off_t at = flags >= 0 && (flags & O_APPEND) && !fstat(fd, &stat) ? stat.st_size : lseek(fd, 0, SEEK_CUR);
    errno = error;
    if (at >= 0) keep(fd, (uint64_t)at, len);
    ssize_t done = REAL("write", write_t)(fd, bytes, len);
    pthread_mutex_unlock(&lock);
    return done;
}

static int do_truncate(int fd, off_t len) {
    pthread_mutex_lock(&lock);
    struct stat stat;
    if (!fstat(fd, &stat) && stat.st_size > len) keep(fd, (uint64_t)len, (size_t)(stat.st_size - len));
    else keep(fd, (uint64_t)len, 0);
    int done = REAL("ftruncate64", truncate_t)(fd, len);
    pthread_mutex_unlock(&lock);
    return done;
}
int ftruncate(int fd, off_t len) { return do_truncate(fd, len); }
int ftruncate64(int fd, off_t len) { return do_truncate(fd, len); }

static int do_sync(int fd, const char *name) {
    const char *fail = getenv("CUT_FAIL");
    if (fail && !access(fail, F_OK)) return errno = EIO, -1;
    if (getenv("CUT_LIE")) return 0;
    pthread_mutex_lock(&lock);
    int done = REAL(name, sync_t)(fd);
    int to = done ? -1 : journal(fd, O_WRONLY | O_TRUNC);
    if (to >= 0) close(to);
    pthread_mutex_unlock(&lock);
    return done;
}
int fsync(int fd) { return do_sync(fd, "fsync"); }
int fdatasync(int fd) { return do_sync(fd, "fdatasync"); }
