// Fails one call of this process that has to do with a file below a folder, as a disk does that is full, breaks or is
// another's; or records what is changed there and what is brought to disk. Preloaded, it meets the calls of Python and
// of the libraries in C++ alike.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

// No space from then on; no quota from then on; one input/output error; one lack of permission or handles; one file for
// which there is no memory to map it.
enum kind { FULL, QUOTA, BROKEN, DENIED, UNMAPPED };

static char folder[PATH_MAX];
static enum kind kind;
static long at, seen;
static char met[PATH_MAX + 32];
static char store[PATH_MAX];  // where is recorded; empty: nowhere

// Arms the n-th call; 0 only counts.
void faults_arm(const char *below, enum kind which, long n) {
    snprintf(folder, sizeof folder, "%s/", below);
    kind = which, at = n, seen = 0, met[0] = 0, store[0] = 0;
}

// Lets no call fail, but writes what is done to `into`/log, and there a copy of each file that is brought to disk.
void faults_record(const char *below, const char *into) {
    faults_arm(below, BROKEN, 0);
    snprintf(store, sizeof store, "%s", into);
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

static int path_of(int file, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return 1;
}

static int is_open_below(int file) {
    char path[PATH_MAX + 1];
    if (!folder[0] || !path_of(file, path) || path[0] != '/') return 0;  // pipes and sockets have other names
    return is_below(AT_FDCWD, strcat(path, "/"));  // the folder itself, too
}

// Whether this call is to fail, with the error of its kind, 0 where it cannot fail so.
static int fails(const char *call, const char *path, int full, int broken, int denied) {
    int errors[] = {full, full ? EDQUOT : 0, broken, denied, 0}, error = errors[kind];
    if (!strncmp(call, "mmap", 4)) error = kind == UNMAPPED ? ENOMEM : 0;
    if (!error || store[0]) return 0;
    long n = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
    if (!at || n < at || (n > at && kind != FULL && kind != QUOTA)) return 0;
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

// The absolute path of what is named in a directory; 0 where nothing is recorded of it.
static int recorded(int directory, const char *path, char *whole) {
    if (!store[0] || !is_below(directory, path)) return 0;
    char base[PATH_MAX] = "";
    int found = directory == AT_FDCWD ? getcwd(base, sizeof base) != NULL : path_of(directory, base);
    if (path[0] != '/' && !found) return 0;
    snprintf(whole, PATH_MAX, path[0] == '/' ? "%.0s%s" : "%s/%s", base, path);
    return 1;
}

static long note(const char *what, const char *path, const char *more) {
    char name[PATH_MAX + 8], line[3 * PATH_MAX];
    snprintf(name, sizeof name, "%s/log", store);
    int log = NEXT(open)(name, O_WRONLY | O_CREAT | O_APPEND, 0600);
    int n = snprintf(line, sizeof line, "%s\t%s\t%s\n", what, path, more);
    NEXT(write)(log, line, n);
    close(log);
    return __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
}

// An opened file, which may be new or emptied by that; `was` tells whether it was there.
static void opened(int file, const char *path, int flags, int was) {
    if (file < 0) return;
    if (!was) note("create", path, "");
    else if (flags & O_TRUNC) note("size", path, "0");
}

static void grown(int file, ssize_t result) {
    char path[PATH_MAX], size[32];
    struct stat facts;
    if (result < 0 || !store[0] || !is_open_below(file) || !path_of(file, path) || fstat(file, &facts)) return;
    snprintf(size, sizeof size, "%ld", (long)facts.st_size);
    note("size", path, size);
}

static void synced(const char *path) {
    static long copies;
    char name[PATH_MAX + 64], bytes[1 << 16];
    struct stat facts;
    if (stat(path, &facts)) return;
    if (S_ISDIR(facts.st_mode)) {
        note("syncdir", path, "");
        return;
    }
    snprintf(name, sizeof name, "%s/%d-%ld", store, getpid(), __atomic_add_fetch(&copies, 1, __ATOMIC_SEQ_CST));
    int from = NEXT(open)(path, O_RDONLY), to = NEXT(open)(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    for (ssize_t n; (n = read(from, bytes, sizeof bytes)) > 0;) NEXT(write)(to, bytes, n);
    close(from);
    close(to);
    note("sync", path, name);
}

static int synced_file(int file, int result) {
    char path[PATH_MAX];
    if (!result && store[0] && is_open_below(file) && path_of(file, path)) synced(path);
    return result;
}

#define OPEN(name)                                                                                       \
    int name(const char *path, int flags, ...) {                                                         \
        va_list more;                                                                                    \
        va_start(more, flags);                                                                           \
        mode_t mode = va_arg(more, mode_t);                                                              \
        va_end(more);                                                                                    \
        if (is_below(AT_FDCWD, path) && fails(#name, path, flags & O_CREAT ? ENOSPC : 0, EIO, EMFILE))   \
            return -1;                                                                                   \
        char whole[PATH_MAX];                                                                            \
        if (!(flags & (O_CREAT | O_TRUNC)) || !recorded(AT_FDCWD, path, whole))                          \
            return NEXT(name)(path, flags, mode);                                                        \
        int was = !access(path, F_OK), file = NEXT(name)(path, flags, mode);                             \
        opened(file, whole, flags, was);                                                                 \
        return file;                                                                                     \
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
        char whole[PATH_MAX];                                                                            \
        if (!(flags & (O_CREAT | O_TRUNC)) || !recorded(directory, path, whole))                         \
            return NEXT(name)(directory, path, flags, mode);                                             \
        int was = !faccessat(directory, path, F_OK, 0), file = NEXT(name)(directory, path, flags, mode); \
        opened(file, whole, flags, was);                                                                 \
        return file;                                                                                     \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                                                                      \
    FILE *name(const char *path, const char *mode) {                                                     \
        if (is_below(AT_FDCWD, path) && fails(#name, path, strpbrk(mode, "wa") ? ENOSPC : 0, EIO, EACCES)) \
            return NULL;                                                                                 \
        char whole[PATH_MAX];                                                                            \
        if (!strpbrk(mode, "wa") || !recorded(AT_FDCWD, path, whole)) return NEXT(name)(path, mode);     \
        int was = !access(path, F_OK);                                                                   \
        FILE *file = NEXT(name)(path, mode);                                                             \
        opened(file ? 0 : -1, whole, strchr(mode, 'w') ? O_TRUNC : 0, was);                              \
        return file;                                                                                     \
    }
FOPEN(fopen)
FOPEN(fopen64)

#define WRITTEN(call, error, ...)                                                                        \
    if (is_open_below(file) && fails(call, NULL, ENOSPC, EIO, 0)) return error;                          \
    __auto_type result = __VA_ARGS__;                                                                    \
    grown(file, result);                                                                                 \
    return result;
ssize_t write(int file, const void *bytes, size_t n) { WRITTEN("write", -1, NEXT(write)(file, bytes, n)) }
ssize_t writev(int file, const struct iovec *parts, int n) { WRITTEN("writev", -1, NEXT(writev)(file, parts, n)) }
ssize_t pwrite64(int file, const void *bytes, size_t n, off64_t place) {
    WRITTEN("pwrite", -1, NEXT(pwrite64)(file, bytes, n, place))
}
int ftruncate64(int file, off64_t size) {
    struct stat facts;
    int grows = is_open_below(file) && !fstat(file, &facts) && size > facts.st_size;  // else it takes no space
    if (is_open_below(file) && fails("ftruncate", NULL, grows ? ENOSPC : 0, EIO, 0)) return -1;
    int result = NEXT(ftruncate64)(file, size);
    grown(file, result);
    return result;
}
int posix_fallocate64(int file, off64_t start, off64_t size) {
    WRITTEN("posix_fallocate", errno, NEXT(posix_fallocate64)(file, start, size))
}
ssize_t sendfile64(int file, int from, off64_t *start, size_t n) {
    WRITTEN("sendfile", -1, NEXT(sendfile64)(file, from, start, n))
}
int fsync(int file) {
    return is_open_below(file) && fails("fsync", NULL, ENOSPC, EIO, 0) ? -1 : synced_file(file, NEXT(fsync)(file));
}
int fdatasync(int file) {
    if (is_open_below(file) && fails("fdatasync", NULL, ENOSPC, EIO, 0)) return -1;
    return synced_file(file, NEXT(fdatasync)(file));
}
int msync(void *where, size_t size, int flags) {
    int result = NEXT(msync)(where, size, flags);
    if (result || !store[0] || !(flags & MS_SYNC)) return result;
    FILE *maps = NEXT(fopen)("/proc/self/maps", "r");
    char line[PATH_MAX + 128], path[PATH_MAX];
    unsigned long from, to;
    while (maps && fgets(line, sizeof line, maps))
        if (sscanf(line, "%lx-%lx %*s %*s %*s %*s %[^\n]", &from, &to, path) == 3 && from <= (unsigned long)where &&
            (unsigned long)where < to && is_below(AT_FDCWD, path))
            synced(path);
    if (maps) fclose(maps);
    return result;
}
int rename(const char *from, const char *to) {
    if (is_below(AT_FDCWD, to) && fails("rename", to, ENOSPC, EIO, EACCES)) return -1;
    int result = NEXT(rename)(from, to);
    char old[PATH_MAX], new[PATH_MAX];
    if (!result && recorded(AT_FDCWD, from, old) && recorded(AT_FDCWD, to, new)) note("rename", old, new);
    return result;
}
int link(const char *from, const char *to) {
    if (is_below(AT_FDCWD, to) && fails("link", to, ENOSPC, EIO, EACCES)) return -1;
    int result = NEXT(link)(from, to);
    char old[PATH_MAX], new[PATH_MAX];
    if (!result && recorded(AT_FDCWD, from, old) && recorded(AT_FDCWD, to, new)) note("link", old, new);
    return result;
}
int mkdir(const char *path, mode_t mode) {
    if (is_below(AT_FDCWD, path) && fails("mkdir", path, ENOSPC, EIO, EACCES)) return -1;
    int result = NEXT(mkdir)(path, mode);
    char whole[PATH_MAX];
    if (!result && recorded(AT_FDCWD, path, whole)) note("mkdir", whole, "");
    return result;
}
#define REMOVED(directory, path, ...)                                                                    \
    char whole[PATH_MAX];                                                                                \
    int known = recorded(directory, path, whole), result = __VA_ARGS__;                                  \
    if (!result && known) note("remove", whole, "");                                                     \
    return result;
int unlink(const char *path) { REMOVED(AT_FDCWD, path, NEXT(unlink)(path)) }
int rmdir(const char *path) { REMOVED(AT_FDCWD, path, NEXT(rmdir)(path)) }
int unlinkat(int directory, const char *path, int flags) {
    REMOVED(directory, path, NEXT(unlinkat)(directory, path, flags))
}
#define MMAP(name)                                                                                       \
    void *name(void *where, size_t size, int access, int flags, int file, off64_t start) {               \
        if (file >= 0 && !(flags & MAP_ANONYMOUS) && is_open_below(file) && fails(#name, NULL, 0, 0, 0)) \
            return MAP_FAILED;                                                                           \
        return NEXT(name)(where, size, access, flags, file, start);                                      \
    }
MMAP(mmap)
MMAP(mmap64)
