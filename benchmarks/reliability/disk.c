/* A disk between a program and the system, loaded with LD_PRELOAD: it writes down what reaches the
   disk, or lets a call fail. It does nothing before disk_record() or disk_fail() is called, and
   looks at nothing outside the folder that these are given.

   A record: op (1 byte), inode (8), offset or size (8), lengths of two byte strings (4 + 4), and
   these strings; paths are relative to the folder. What is written through mmap is not seen. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/types.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char folder[PATH_MAX];
static size_t folder_length;
static int log_fd = -1;
static long fail_at, calls;
static int fail_code, fail_mode; /* modes: 0 once, 1 from then on, 2 half a write, 3 SIGKILL */
static char fired[32];

#define REAL(name) static __typeof__(&name) real_##name; \
    if (!real_##name) real_##name = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static ssize_t put(int fd, const void *data, size_t size) {
    REAL(write);
    size_t done = 0;
    while (done < size) {
        ssize_t n = real_write(fd, (const char *)data + done, size - done);
        if (n < 0) { if (errno == EINTR) continue; abort(); }
        done += n;
    }
    return size;
}

static void note(char op, uint64_t inode, uint64_t at, const void *a, uint32_t na, const void *b, uint32_t nb) {
    int kept = errno;
    if (log_fd >= 0) {
        char head[25];
        head[0] = op;
        memcpy(head + 1, &inode, 8); memcpy(head + 9, &at, 8);
        memcpy(head + 17, &na, 4); memcpy(head + 21, &nb, 4);
        put(log_fd, head, sizeof head);
        if (na) put(log_fd, a, na);
        if (nb) put(log_fd, b, nb);
    }
    errno = kept;
}

void disk_record(const char *root, const char *log) {
    REAL(open);
    if (!realpath(root, folder)) abort();
    folder_length = strlen(folder);
    log_fd = real_open(log, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (log_fd < 0) abort();
}

void disk_acknowledge(const char *text) { pthread_mutex_lock(&lock); note('A', 0, 0, text, strlen(text), 0, 0); pthread_mutex_unlock(&lock); }

void disk_fail(const char *root, long at, int code, int mode) {
    if (!realpath(root, folder)) abort();
    folder_length = strlen(folder);
    fail_at = at; fail_code = code; fail_mode = mode; calls = 0;
}

const char *disk_fired(void) { return fired; }
long disk_calls(void) { return calls; }

/* Where a path lies below the folder, or NULL. Its parent may be a link, its last part is itself. */
static const char *below(int dirfd, const char *path, char *out) {
    char whole[PATH_MAX], base[PATH_MAX], parent[PATH_MAX];
    if (!folder_length || !path) return NULL;
    if (path[0] == '/') snprintf(whole, sizeof whole, "%s", path);
    else {
        if (dirfd == AT_FDCWD) { if (!getcwd(base, sizeof base)) return NULL; }
        else {
            char link[64];
            snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
            ssize_t n = readlink(link, base, sizeof base - 1);
            if (n < 0) return NULL;
            base[n] = 0;
        }
        if (strlen(base) + strlen(path) + 2 > sizeof whole) return NULL;
        strcpy(whole, base); strcat(whole, "/"); strcat(whole, path);
    }
    char *slash = strrchr(whole, '/');
    *slash = 0;
    if (!realpath(whole[0] ? whole : "/", parent)) return NULL;
    if (strncmp(parent, folder, folder_length) || (parent[folder_length] && parent[folder_length] != '/')) return NULL;
    if (strlen(parent) + strlen(slash + 1) + 2 > PATH_MAX) return NULL;
    strcpy(out, parent + folder_length); strcat(out, "/"); strcat(out, slash + 1);
    return out + 1;
}

/* Whether an open file is one below the folder; its inode, and its path. */
static int watched(int fd, struct stat *about, char *path) {
    char link[64];
    int kept = errno;
    if (!folder_length || fd == log_fd) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    int is = 0;
    if (n > 0) {
        path[n] = 0;
        is = !strncmp(path, folder, folder_length) && (!path[folder_length] || path[folder_length] == '/')
             && !fstat(fd, about);
    }
    errno = kept;
    return is;
}

/* Count a call; whether it shall fail. *size is halved for half a write. */
static int fails(const char *name, size_t *size) {
    if (!fail_at || (fail_mode == 2 && (!size || *size < 2))) return 0;
    calls++;
    if (calls != fail_at && !(fail_mode == 1 && calls > fail_at)) return 0;
    if (!fired[0]) snprintf(fired, sizeof fired, "%s", name);
    if (fail_mode == 3) kill(getpid(), SIGKILL);
    if (fail_mode == 2) { *size /= 2; return 0; }
    errno = fail_code;
    return 1;
}

#define GUARD pthread_mutex_lock(&lock)
#define DONE(value) do { __typeof__(value) given = (value); pthread_mutex_unlock(&lock); return given; } while (0)

static int opened(int dirfd, const char *path, int flags, mode_t mode) {
    REAL(openat);
    char place[PATH_MAX];
    struct stat about;
    const char *name = (flags & (O_CREAT | O_TRUNC)) ? below(dirfd, path, place) : NULL;
    if (!name) return real_openat(dirfd, path, flags, mode);
    GUARD;
    int kept = errno;
    int existed = !fstatat(dirfd, path, &about, 0);
    errno = kept;
    if (fails("open", NULL)) DONE(-1);
    int fd = real_openat(dirfd, path, flags, mode);
    if (fd >= 0 && !fstat(fd, &about)) {
        if (!existed) note('C', about.st_ino, 0, name, strlen(name), 0, 0);
        else if (flags & O_TRUNC) note('T', about.st_ino, 0, 0, 0, 0, 0);
    }
    DONE(fd);
}

#define MODE mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list args; va_start(args, flags); mode = va_arg(args, mode_t); va_end(args); }
int open(const char *path, int flags, ...) { MODE return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE return opened(AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int dirfd, const char *path, int flags, ...) { MODE return opened(dirfd, path, flags, mode); }
int openat64(int dirfd, const char *path, int flags, ...) { MODE return opened(dirfd, path, flags | O_LARGEFILE, mode); }
int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    char path[PATH_MAX];
    struct stat about;
    if (!watched(fd, &about, path)) return real_write(fd, data, size);
    GUARD;
    if (fails("write", &size)) DONE((ssize_t)-1);
    ssize_t n = real_write(fd, data, size);
    if (n > 0) note('W', about.st_ino, lseek(fd, 0, SEEK_CUR) - n, data, n, 0, 0);
    DONE(n);
}

static ssize_t written_at(int fd, const void *data, size_t size, off_t at) {
    REAL(pwrite);
    char path[PATH_MAX];
    struct stat about;
    if (!watched(fd, &about, path)) return real_pwrite(fd, data, size, at);
    GUARD;
    if (fails("write", &size)) DONE((ssize_t)-1);
    ssize_t n = real_pwrite(fd, data, size, at);
    if (n > 0) note('W', about.st_ino, at, data, n, 0, 0);
    DONE(n);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return written_at(fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { return written_at(fd, data, size, at); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    char path[PATH_MAX];
    struct stat about;
    if (!watched(fd, &about, path)) return real_writev(fd, parts, count);
    for (int i = 0; i < count; i++) if (parts[i].iov_len) return write(fd, parts[i].iov_base, parts[i].iov_len);
    return 0;
}

static int truncated(int fd, off_t size) {
    REAL(ftruncate);
    char path[PATH_MAX];
    struct stat about;
    if (!watched(fd, &about, path)) return real_ftruncate(fd, size);
    GUARD;
    if (fails("ftruncate", NULL)) DONE(-1);
    int result = real_ftruncate(fd, size);
    if (!result) note('T', about.st_ino, size, 0, 0, 0, 0);
    DONE(result);
}
int ftruncate(int fd, off_t size) { return truncated(fd, size); }
int ftruncate64(int fd, off64_t size) { return truncated(fd, size); }

static int synced(int fd, int (*real)(int)) {
    char path[PATH_MAX];
    struct stat about;
    if (!watched(fd, &about, path)) return real(fd);
    GUARD;
    if (fails("fsync", NULL)) DONE(-1);
    /* the disk is pretended: nothing has to be waited for */
    if (S_ISDIR(about.st_mode)) {
        const char *name = path + folder_length + (path[folder_length] == '/');
        note('D', 0, 0, name, strlen(name), 0, 0);
    } else note('S', about.st_ino, 0, 0, 0, 0, 0);
    DONE(0);
}
int fsync(int fd) { REAL(fsync); return synced(fd, real_fsync); }
int fdatasync(int fd) { REAL(fdatasync); return synced(fd, real_fdatasync); }

static int renamed(int fd1, const char *from, int fd2, const char *to) {
    REAL(renameat);
    char a[PATH_MAX], b[PATH_MAX];
    const char *old = below(fd1, from, a), *new = below(fd2, to, b);
    if (!old || !new) return real_renameat(fd1, from, fd2, to);
    GUARD;
    if (fails("rename", NULL)) DONE(-1);
    int result = real_renameat(fd1, from, fd2, to);
    if (!result) note('R', 0, 0, old, strlen(old), new, strlen(new));
    DONE(result);
}
int rename(const char *from, const char *to) { return renamed(AT_FDCWD, from, AT_FDCWD, to); }
int renameat(int fd1, const char *from, int fd2, const char *to) { return renamed(fd1, from, fd2, to); }

static int removed(int dirfd, const char *path, int flags) {
    REAL(unlinkat);
    char place[PATH_MAX];
    const char *name = below(dirfd, path, place);
    if (!name) return real_unlinkat(dirfd, path, flags);
    GUARD;
    if (fails("unlink", NULL)) DONE(-1);
    int result = real_unlinkat(dirfd, path, flags);
    if (!result) note('U', 0, 0, name, strlen(name), 0, 0);
    DONE(result);
}
int unlink(const char *path) { return removed(AT_FDCWD, path, 0); }
int unlinkat(int dirfd, const char *path, int flags) { return removed(dirfd, path, flags); }
int rmdir(const char *path) { return removed(AT_FDCWD, path, AT_REMOVEDIR); }

static int made(int dirfd, const char *path, mode_t mode) {
    REAL(mkdirat);
    char place[PATH_MAX];
    const char *name = below(dirfd, path, place);
    if (!name) return real_mkdirat(dirfd, path, mode);
    GUARD;
    if (fails("mkdir", NULL)) DONE(-1);
    int result = real_mkdirat(dirfd, path, mode);
    if (!result) note('M', 0, 0, name, strlen(name), 0, 0);
    DONE(result);
}
int mkdir(const char *path, mode_t mode) { return made(AT_FDCWD, path, mode); }
int mkdirat(int dirfd, const char *path, mode_t mode) { return made(dirfd, path, mode); }
