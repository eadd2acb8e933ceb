/* The monotonic clock in nanoseconds, and waiting by it. */
#ifndef PIPECAP_CLOCK_H
#define PIPECAP_CLOCK_H

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <time.h>

static inline uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Wait until `fd` can be read or is at its end: 1; 0 at the deadline; -errno. deadline: 0 does not wait, -1 for ever. */
static inline int wait_readable(int fd, int64_t deadline)
{
    struct pollfd end = {.fd = fd, .events = POLLIN};

    for (;;) {
        int64_t left = deadline <= 0 ? deadline : deadline - (int64_t)now_ns();
        int timeout = -1, result;

        if (deadline == 0 || (deadline > 0 && left <= 0))
            timeout = 0;
        else if (deadline > 0)
            timeout = left / 1000000 >= INT_MAX ? INT_MAX : (int)((left + 999999) / 1000000);
        result = poll(&end, 1, timeout);
        if (result == -1)
            return -errno;
        if (result > 0)
            return end.revents & POLLNVAL ? -EBADF : 1;
        if (timeout <= 0 || deadline - (int64_t)now_ns() <= 0)
            return 0;
    }
}

#endif
