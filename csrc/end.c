/* A descriptor: what it is, closing it while other threads wait in it, and waiting for it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/vfs.h>
#endif

#include "internal.h"

/* Going to sleep and being woken takes both sides longer than the next piece takes to come, where the other side is at
 * work: it polls this often first. */
#define POLLS 40

/* A wait in rounds that has no limit says so to who reads its arguments in /proc/PID/syscall, by an entry that poll(2)
 * passes over; src/pipecap/proc/syscalls.py. */
#define UNTIMED 0x7063

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

int pipecap_is_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    return flags != -1 && (flags & O_NONBLOCK);
}

int pipecap_enter(struct pipecap_end *end)
{
    uint32_t users = load(&end->users);

    do {
        if (users & 1)
            return -EBADF;
    } while (!__atomic_compare_exchange_n(&end->users, &users, users + 2, 1, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    return end->fd;
}

void pipecap_leave(struct pipecap_end *end)
{
    if (__atomic_sub_fetch(&end->users, 2, __ATOMIC_SEQ_CST) == 1)
        close(end->fd);
}

int pipecap_end_close(struct pipecap_end *end)
{
    uint32_t users = __atomic_fetch_or(&end->users, 1, __ATOMIC_SEQ_CST);

    if (users & 1)
        return -EBADF;
    return users == 0 && close(end->fd) == -1 ? -errno : 0;
}

void pipecap_end_forked(struct pipecap_end *end)
{
    int closing = (end->users & 1) && end->users > 1; /* by a thread that is not here to see its call end */

    end->users &= 1;
    if (closing)
        close(end->fd);
}

int64_t pipecap_deadline_in(int64_t length)
{
    return (now_ns() + length) & ~(int64_t)1;
}

int pipecap_wait_for(int fd, short events, int64_t deadline)
{
    struct pollfd ends[2] = {{.fd = fd, .events = events}, {.fd = -1, .events = UNTIMED}};
    nfds_t count = deadline & 1 ? 2 : 1;

    for (;;) {
        int64_t left = deadline > 0 ? deadline - now_ns() : deadline;
        int timeout = -1, result;

        if (deadline == 0 || (deadline > 0 && left <= 0))
            timeout = 0;
        else if (deadline > 0)
            timeout = left / 1000000 >= INT_MAX ? INT_MAX : (int)((left + 999999) / 1000000);
        result = poll(ends, count, timeout);
        if (result == -1)
            return -errno;
        if (result > 0)
            return ends[0].revents & POLLNVAL ? -EBADF : 1;
        if (timeout == 0 || (deadline > 0 && now_ns() >= deadline))
            return 0;
    }
}

int pipecap_comes_at_once(int fd, short events)
{
    for (int i = 0; i < POLLS; i++) {
        if (pipecap_wait_for(fd, events, 0) == 1)
            return 1;
        sched_yield(); /* to the other side, where it has no CPU of its own */
    }
    return 0;
}

int pipecap_pidfd_getfd(int pidfd, int fd)
{
#ifdef SYS_pidfd_getfd
    long result = syscall(SYS_pidfd_getfd, pidfd, fd, 0);

    return result < 0 ? -errno : (int)result;
#else
    (void)pidfd, (void)fd;
    return -ENOSYS;
#endif
}
