/* A disk under test, by LD_PRELOAD: records what a sync makes durable, and fails calls on demand.

   DISK_ROOT     folder; only files below it are looked at
   DISK_LOG      file; each successful sync appends what is durable from then on: the content of the file, or the names
                 in the folder (see Record); of a file system, all of its files and folders below DISK_ROOT
   DISK_CONTROL  symbolic link; while it is there, where it leads says which calls fail: "<calls> <errno> <part of a
                 path>", where calls are of w (write), s (sync), r (rename), l (link), o (open for creation), m (make a folder),
                 i (open for reading). A link, because processes that may open nothing but their own files can read it.
*/
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct Record {
    uint64_t kind; /* 'F' content of a file, 'D' names in a folder: "<inode> <birth> <d or f> <name>\n" */
    uint64_t inode, birth;
    uint64_t began_ns, length;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int below_root(const char *path) {
    const char *root = getenv("DISK_ROOT");
    return root && !strncmp(path, root, strlen(root));
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below_root(path);
}

/* The path itself of what is named below a folder that is open: /proc/self/fd/N/rest. */
static const char *resolved(const char *path, char *whole) {
    int fd, end = 0;
    if (sscanf(path, "/proc/self/fd/%d%n", &fd, &end) != 1 || path[end] != '/' || !path_of(fd, whole)) return path;
    strncat(whole, path + end, PATH_MAX - 1 - strlen(whole));
    return whole;
}

/* The errno that this call must fail with, or 0. */
static int fault(char call, const char *path) {
    const char *control = getenv("DISK_CONTROL");
    char whole[PATH_MAX], said[PATH_MAX], calls[16], part[PATH_MAX];
    int error = 0, found = 0;
    if (!control) return 0;
    path = resolved(path, whole);
    if (!below_root(path)) return 0;
    ssize_t length = readlink(control, said, sizeof said - 1);
    if (length < 0) return 0;
    said[length] = 0;
    found = sscanf(said, "%15s %d %4095s", calls, &error, part) == 3;
    return found && strchr(calls, call) && strstr(path, part) ? error : 0;
}

static int faulty_fd(char call, int fd) {
    char path[PATH_MAX];
    int before = errno, error = 0;
    if (getenv("DISK_CONTROL") && path_of(fd, path)) error = fault(call, path);
    errno = error ? error : before;
    return error;
}

static void identify(int folder, const char *name, struct Record *record, mode_t *mode) {
    struct statx status;
    memset(&status, 0, sizeof status);
    if (statx(folder, name, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, &status)) return;
    record->inode = status.stx_ino;
    record->birth = (uint64_t)status.stx_btime.tv_sec * 1000000000u + status.stx_btime.tv_nsec;
    *mode = status.stx_mode;
}

static int ends_with(const char *path, const char *end) {
    size_t length = strlen(path), wanted = strlen(end);
    return length >= wanted && !strcmp(path + length - wanted, end);
}

/* To close any descriptor of a file gives up all locks that the process has on it: not on those of SQLite. */
static void close_without_unlocking(int fd, const char *path) {
    if (!ends_with(path, ".sqlite")) close(fd);
}

static char *content_of(int fd, const char *path, uint64_t *length) {
    char link[64], *content;
    struct stat status;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int copy = open(link, O_RDONLY | O_CLOEXEC);
    if (copy < 0 || fstat(copy, &status)) abort();
    content = malloc((size_t)status.st_size + 1);
    *length = 0;
    ssize_t got;
    while (*length < (uint64_t)status.st_size &&
           (got = pread(copy, content + *length, (size_t)status.st_size - *length, (off_t)*length)) > 0)
        *length += (uint64_t)got;
    close_without_unlocking(copy, path);
    return content;
}

static char *names_in(const char *path, uint64_t *length) {
    char *names = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&names, &size);
    DIR *folder = opendir(path);
    for (struct dirent *entry; folder && (entry = readdir(folder));) { /* else it was removed meanwhile */
        struct Record found = {0};
        mode_t mode = 0;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        identify(dirfd(folder), entry->d_name, &found, &mode);
        if (found.inode)
            fprintf(out, "%llu %llu %c %s\n", (unsigned long long)found.inode, (unsigned long long)found.birth,
                    S_ISDIR(mode) ? 'd' : 'f', entry->d_name);
    }
    if (folder) closedir(folder);
    fclose(out);
    *length = size;
    return names;
}

/* Append a record to `out`: what is there now of the file or folder that is open. */
static void record_open(FILE *out, int fd, const char *path, uint64_t began_ns) {
    struct Record record = {.began_ns = began_ns};
    mode_t mode = 0;
    identify(fd, "", &record, &mode);
    record.kind = S_ISDIR(mode) ? 'D' : 'F';
    char *payload = S_ISDIR(mode) ? names_in(path, &record.length) : content_of(fd, path, &record.length);
    fwrite(&record, sizeof record, 1, out);
    fwrite(payload, record.length, 1, out);
    free(payload);
}

/* Of the sync of a file system; the lock is held. */
static FILE *records;
static uint64_t records_began_ns;
static dev_t records_device;

static int record_path(const char *path, const struct stat *status, int kind, struct FTW *place) {
    (void)kind, (void)place;
    if (status->st_dev != records_device) return 0; /* a disk that is mounted below */
    if (!S_ISREG(status->st_mode) && !S_ISDIR(status->st_mode)) return 0; /* a socket */
    if (ends_with(path, "-shm")) return 0; /* has locks, too, and is worth nothing after a power cut */
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) { /* else it is gone meanwhile */
        record_open(records, fd, path, records_began_ns);
        close_without_unlocking(fd, path);
    }
    return 0;
}

static int sync_recorded(int fd, int (*call)(int), int of_file_system) {
    char path[PATH_MAX], *found = NULL;
    struct stat status;
    size_t size = 0;
    const char *log = getenv("DISK_LOG");
    if (!log || !path_of(fd, path)) return call(fd);
    pthread_mutex_lock(&lock); /* what is recorded is what was there before the call: later changes are not durable */
    records = open_memstream(&found, &size);
    records_began_ns = now_ns();
    if (!of_file_system)
        record_open(records, fd, path, records_began_ns);
    else if (!fstat(fd, &status)) {
        records_device = status.st_dev;
        nftw(getenv("DISK_ROOT"), record_path, 16, FTW_PHYS); /* what is removed meanwhile is no error */
    }
    fclose(records);
    int result = call(fd);
    if (result == 0) {
        static ssize_t (*real_write)(int, const void *, size_t);
        if (!real_write) real_write = (ssize_t(*)(int, const void *, size_t))real("write");
        int out = open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        if (out < 0 || real_write(out, found, size) != (ssize_t)size) abort();
        close(out);
    }
    free(found);
    pthread_mutex_unlock(&lock);
    return result;
}

int fsync(int fd) {
    if (faulty_fd('s', fd)) return -1;
    return sync_recorded(fd, (int (*)(int))real("fsync"), 0);
}

int fdatasync(int fd) {
    if (faulty_fd('s', fd)) return -1;
    return sync_recorded(fd, (int (*)(int))real("fdatasync"), 0);
}

int syncfs(int fd) {
    if (faulty_fd('s', fd)) return -1;
    return sync_recorded(fd, (int (*)(int))real("syncfs"), 1);
}

ssize_t write(int fd, const void *data, size_t size) {
    static ssize_t (*call)(int, const void *, size_t);
    if (!call) call = (ssize_t(*)(int, const void *, size_t))real("write");
    return faulty_fd('w', fd) ? -1 : call(fd, data, size);
}

/* The C library has pwrite and open under a second name each, for files of more than 2 GiB. */
#define PWRITE(name, offset)                                                                  \
    ssize_t name(int fd, const void *data, size_t size, offset at) {                          \
        static ssize_t (*call)(int, const void *, size_t, offset);                            \
        if (!call) call = (ssize_t(*)(int, const void *, size_t, offset))real(#name);         \
        return faulty_fd('w', fd) ? -1 : call(fd, data, size, at);                            \
    }

PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

/* Python takes one of these, as the C library has them. */
#define WRITES_VECTORS(name)                                                                                           \
    ssize_t name(int fd, const struct iovec *parts, int count, off_t at) {                                             \
        static ssize_t (*call)(int, const struct iovec *, int, off_t);                                                 \
        if (!call) call = (ssize_t(*)(int, const struct iovec *, int, off_t))real(#name);                              \
        return faulty_fd('w', fd) ? -1 : call(fd, parts, count, at);                                                   \
    }
#define WRITES_VECTORS_WITH_FLAGS(name)                                                                                \
    ssize_t name(int fd, const struct iovec *parts, int count, off_t at, int flags) {                                  \
        static ssize_t (*call)(int, const struct iovec *, int, off_t, int);                                            \
        if (!call) call = (ssize_t(*)(int, const struct iovec *, int, off_t, int))real(#name);                         \
        return faulty_fd('w', fd) ? -1 : call(fd, parts, count, at, flags);                                            \
    }
WRITES_VECTORS(pwritev)
WRITES_VECTORS(pwritev64)
WRITES_VECTORS_WITH_FLAGS(pwritev2)
WRITES_VECTORS_WITH_FLAGS(pwritev64v2)

int rename(const char *from, const char *to) {
    int error = fault('r', to);
    if (error) {
        errno = error;
        return -1;
    }
    return ((int (*)(const char *, const char *))real("rename"))(from, to);
}

int link(const char *from, const char *to) {
    int error = fault('l', to);
    if (error) {
        errno = error;
        return -1;
    }
    return ((int (*)(const char *, const char *))real("link"))(from, to);
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    int error = fault('l', to);
    if (error) {
        errno = error;
        return -1;
    }
    return ((int (*)(int, const char *, int, const char *, int))real("linkat"))(from_folder, from, to_folder, to, flags);
}

int mkdir(const char *path, mode_t mode) {
    int error = fault('m', path);
    if (error) {
        errno = error;
        return -1;
    }
    return ((int (*)(const char *, mode_t))real("mkdir"))(path, mode);
}

static int opened(const char *name, const char *path, int flags, mode_t mode) {
    int creates = flags & O_CREAT && access(path, F_OK); /* what is there needs no room */
    int error = fault(creates ? 'o' : 'i', path);
    if (error) {
        errno = error;
        return -1;
    }
    return ((int (*)(const char *, int, ...))real(name))(path, flags, mode);
}

#define OPEN(name)                                                                            \
    int name(const char *path, int flags, ...) {                                              \
        va_list rest;                                                                         \
        va_start(rest, flags);                                                                \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;               \
        va_end(rest);                                                                         \
        return opened(#name, path, flags, mode);                                              \
    }

OPEN(open)
OPEN(open64)
