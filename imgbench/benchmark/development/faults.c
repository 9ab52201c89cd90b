// Fails one call of this process that has to do with a file below a folder, as a disk does that is full, breaks or is
// another's. Preloaded, it meets the calls of Python and of the libraries in C++ alike.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { FULL, BROKEN, DENIED };  // no space from then on; one input/output error; one lack of permission or handles

static char folder[PATH_MAX];
static enum kind kind;
static long at, seen;
static char met[PATH_MAX + 32];

// Arms the n-th call; 0 only counts.
void faults_arm(const char *below, enum kind which, long n) {
    snprintf(folder, sizeof folder, "%s/", below);
    kind = which, at = n, seen = 0, met[0] = 0;
}

void faults_disarm(void) { folder[0] = 0; }

long faults_seen(void) { return seen; }

const char *faults_met(void) { return met; }

static int is_below(int directory, const char *path) {
    char whole[2 * PATH_MAX], base[PATH_MAX];
    if (!folder[0] || !path) return 0;
    if (path[0] != '/') {
        if (directory == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) return 0;
        } else {
            char link[64];
            snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
            ssize_t n = readlink(link, base, sizeof base - 1);
            if (n < 0) return 0;
            base[n] = 0;
        }
        snprintf(whole, sizeof whole, "%s/%s", base, path);
        path = whole;
    }
    return !strncmp(path, folder, strlen(folder));
}

static int is_open_below(int file) {
    char link[64], path[PATH_MAX];
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return is_below(AT_FDCWD, path);
}

// Whether this call is to fail; `errors` are those of the three kinds, 0 where the call cannot fail so.
static int fails(const char *call, const char *path, int full, int broken, int denied) {
    int error = kind == FULL ? full : kind == BROKEN ? broken : denied;
    if (!error) return 0;
    long n = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
    if (!at || n < at || (n > at && kind != FULL)) return 0;
    if (n == at) snprintf(met, sizeof met, "%s %s", call, path ? path : "");
    errno = error;
    return 1;
}

// The library's own function.
#define NEXT(name)                                                                                       \
    ({                                                                                                   \
        static __typeof__(&name) next;                                                                   \
        if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name);                                    \
        next;                                                                                            \
    })

#define OPEN(name)                                                                                       \
    int name(const char *path, int flags, ...) {                                                         \
        va_list more;                                                                                    \
        va_start(more, flags);                                                                           \
        mode_t mode = va_arg(more, mode_t);                                                              \
        va_end(more);                                                                                    \
        if (is_below(AT_FDCWD, path) && fails(#name, path, flags & O_CREAT ? ENOSPC : 0, EIO, EMFILE))   \
            return -1;                                                                                   \
        return NEXT(name)(path, flags, mode);                                                            \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                                     \
    int name(int directory, const char *path, int flags, ...) {                                          \
        va_list more;                                                                                    \
        va_start(more, flags);                                                                           \
        mode_t mode = va_arg(more, mode_t);                                                              \
        va_end(more);                                                                                    \
        if (is_below(directory, path) && fails(#name, path, flags & O_CREAT ? ENOSPC : 0, EIO, EACCES))  \
            return -1;                                                                                   \
        return NEXT(name)(directory, path, flags, mode);                                                 \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                                                                      \
    FILE *name(const char *path, const char *mode) {                                                     \
        if (is_below(AT_FDCWD, path) && fails(#name, path, strpbrk(mode, "wa") ? ENOSPC : 0, EIO, EACCES)) \
            return NULL;                                                                                 \
        return NEXT(name)(path, mode);                                                                   \
    }
FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int file, const void *bytes, size_t n) {
    return is_open_below(file) && fails("write", NULL, ENOSPC, EIO, 0) ? -1 : NEXT(write)(file, bytes, n);
}
ssize_t writev(int file, const struct iovec *parts, int n) {
    return is_open_below(file) && fails("writev", NULL, ENOSPC, EIO, 0) ? -1 : NEXT(writev)(file, parts, n);
}
ssize_t pwrite64(int file, const void *bytes, size_t n, off64_t place) {
    return is_open_below(file) && fails("pwrite", NULL, ENOSPC, EIO, 0) ? -1 : NEXT(pwrite64)(file, bytes, n, place);
}
int fsync(int file) { return is_open_below(file) && fails("fsync", NULL, ENOSPC, EIO, 0) ? -1 : NEXT(fsync)(file); }
int fdatasync(int file) {
    return is_open_below(file) && fails("fdatasync", NULL, ENOSPC, EIO, 0) ? -1 : NEXT(fdatasync)(file);
}
int ftruncate64(int file, off64_t size) {
    return is_open_below(file) && fails("ftruncate", NULL, ENOSPC, EIO, 0) ? -1 : NEXT(ftruncate64)(file, size);
}
int posix_fallocate64(int file, off64_t start, off64_t size) {
    return is_open_below(file) && fails("posix_fallocate", NULL, ENOSPC, EIO, 0)
               ? errno
               : NEXT(posix_fallocate64)(file, start, size);
}
int rename(const char *from, const char *to) {
    return is_below(AT_FDCWD, to) && fails("rename", to, ENOSPC, EIO, EACCES) ? -1 : NEXT(rename)(from, to);
}
int mkdir(const char *path, mode_t mode) {
    return is_below(AT_FDCWD, path) && fails("mkdir", path, ENOSPC, EIO, EACCES) ? -1 : NEXT(mkdir)(path, mode);
}
#define MMAP(name)                                                                                       \
    void *name(void *where, size_t size, int access, int flags, int file, off64_t start) {               \
        if (file >= 0 && !(flags & MAP_ANONYMOUS) && is_open_below(file) && fails(#name, NULL, 0, ENOMEM, 0)) \
            return MAP_FAILED;                                                                           \
        return NEXT(name)(where, size, access, flags, file, start);                                      \
    }
MMAP(mmap)
MMAP(mmap64)
