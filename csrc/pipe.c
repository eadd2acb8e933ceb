/* What the kernel says about one pipe: its capacity, its unread bytes, whether it is full. Plain C, no Python.h,
 * testable alone; pipecap.h says what each function returns. Besides F_GETPIPE_SZ and F_SETPIPE_SZ nothing here
 * needs Linux. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "internal.h"

/* PIPECAP_NO_PIPE_SIZE builds what other Unixes get, on Linux too, so that CI can test it there. */
#if defined(F_GETPIPE_SZ) && defined(F_SETPIPE_SZ) && !defined(PIPECAP_NO_PIPE_SIZE)
#define HAS_PIPE_SIZE 1
#else
#define HAS_PIPE_SIZE 0
#endif

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
