/* The kernel calls behind pipecap: plain C, no Python.h, testable alone. pipecap.h says what each function gives. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/vfs.h>
#endif

#include "clock.h"
#include "pipecap.h"

/* PIPECAP_NO_PIPE_SIZE builds what other Unixes get, on Linux too, so that CI can test it there. */
#if defined(F_GETPIPE_SZ) && defined(F_SETPIPE_SZ) && !defined(PIPECAP_NO_PIPE_SIZE)
#define HAS_PIPE_SIZE 1
#else
#define HAS_PIPE_SIZE 0
#endif

/* fs/pipe.c: round_pipe_size() rejects more. Kernels differ in what they do above 32 bits, so they are never asked. */
#define LARGEST_PIPE (UINT64_C(1) << 31)

int pipecap_has_pipe_size(void)
{
    return HAS_PIPE_SIZE;
}

#if HAS_PIPE_SIZE

/* fcntl(2) on pipes takes pipe->mutex and so does not sleep interruptibly; EINTR is retried all the same, as another
 * filesystem or a sandbox under us may answer it. A 2 GiB pipe's capacity does not fit an int: only -1 is an error. */
static int64_t pipe_fcntl(int fd, int command, unsigned long argument)
{
    int result;

    do {
        result = fcntl(fd, command, argument);
    } while (result == -1 && errno == EINTR);
    return result == -1 ? -errno : (int64_t)(unsigned int)result;
}

int64_t pipecap_capacity(int fd)
{
    return pipe_fcntl(fd, F_GETPIPE_SZ, 0);
}

int64_t pipecap_resize(int fd, uint64_t size)
{
    if (size > LARGEST_PIPE)
        return -EINVAL;
    return pipe_fcntl(fd, F_SETPIPE_SZ, (unsigned long)size);
}

#else

int64_t pipecap_capacity(int fd)
{
    (void)fd;
    return -ENOTSUP;
}

int64_t pipecap_resize(int fd, uint64_t size)
{
    (void)fd;
    (void)size;
    return -ENOTSUP;
}

#endif

#ifdef __linux__

/* include/uapi/linux/magic.h: pipes from pipe(2) live on a filesystem of their own. */
#define PIPEFS_MAGIC_NUMBER 0x50495045

int pipecap_is_anonymous(int fd)
{
    struct statfs filesystem;

    if (fstatfs(fd, &filesystem) == -1)
        return -errno;
    return filesystem.f_type == PIPEFS_MAGIC_NUMBER;
}

#else

int pipecap_is_anonymous(int fd)
{
    (void)fd;
    return -ENOTSUP;
}

#endif

int64_t pipecap_unread(int fd)
{
    int unread = 0;
    int result;

    do {
        result = ioctl(fd, FIONREAD, &unread);
    } while (result == -1 && errno == EINTR);
    return result == -1 ? -errno : (int64_t)(unsigned int)unread;
}

int pipecap_full(int fd)
{
    struct pollfd end = {.fd = fd, .events = POLLOUT};
    int result;

    do {
        result = poll(&end, 1, 0);
    } while (result == -1 && errno == EINTR);
    if (result == -1)
        return -errno;
    if (end.revents & POLLNVAL)
        return -EBADF;
    return !(end.revents & POLLOUT);
}

/* What most probes write: a page fault for each page of a fresh mapping would cost more than the writes. */
static const char small_zeros[65536];

/* The fill loop proper. It ends where a blocking writer would sleep: with the first write not taken whole. */
static int fill(int fd, const char *zeros, const size_t *sizes, size_t count, struct pipecap_fill *result)
{
    for (size_t next = 0;; next = (next + 1) % count) {
        ssize_t written;

        do {
            written = write(fd, zeros, sizes[next]);
        } while (written == -1 && errno == EINTR);
        if (written == -1)
            return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
        result->accepted += (uint64_t)written;
        if ((size_t)written < sizes[next]) {
            result->partial = (uint64_t)written;
            return 0;
        }
        result->writes++;
        if (result->accepted > LARGEST_PIPE)
            return -EFBIG; /* somebody reads what we write: this is no scratch pipe */
    }
}

int pipecap_fill(int fd, const size_t *sizes, size_t count, struct pipecap_fill *result)
{
    struct stat status;
    size_t largest = 0;
    const char *zeros = small_zeros;
    void *large = NULL;
    uint64_t start;
    int flags, error;

    *result = (struct pipecap_fill){0};
    for (size_t i = 0; i < count; i++) {
        if (sizes[i] == 0 || sizes[i] > SSIZE_MAX)
            return -EINVAL;
        if (sizes[i] > largest)
            largest = sizes[i];
    }
    if (largest == 0)
        return -EINVAL;
    flags = fcntl(fd, F_GETFL);
    if (flags == -1 || fstat(fd, &status) == -1)
        return -errno;
    if (!(flags & O_NONBLOCK) || !(S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode)))
        return -EINVAL;
    if (largest > sizeof small_zeros) {
        /* Private, read-only and untouched: all its pages are the kernel's one zero page; any size costs no memory. */
        zeros = large = mmap(NULL, largest, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (large == MAP_FAILED)
            return -errno;
    }
    start = now_ns();
    error = fill(fd, zeros, sizes, count, result);
    result->elapsed_ns = now_ns() - start;
    if (large)
        munmap(large, largest);
    return error;
}
