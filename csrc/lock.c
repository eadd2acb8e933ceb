/* Locks in shared memory, on futex(2), and which processes have ended. Without names: they live as long as somebody maps
 * them, so there is nothing to unlink too early or to leave behind. A lock is the pid of its holder, taken by one
 * compare-and-swap, so there is no moment in which it is held and nobody knows by whom. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/futex.h>
#endif

#include "internal.h"

#define WAITERS (UINT32_C(1) << 31)
#define LOOKS 2

static int swap(uint32_t *word, uint32_t expected, uint32_t value)
{
    return __atomic_compare_exchange_n(word, &expected, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

#ifdef __linux__

int pipecap_sleep_on(uint32_t *word, uint32_t value, int64_t deadline)
{
    struct timespec until = {.tv_sec = deadline / 1000000000, .tv_nsec = deadline % 1000000000};

    /* FUTEX_WAIT_BITSET takes an absolute time of CLOCK_MONOTONIC. */
    if (syscall(SYS_futex, word, FUTEX_WAIT_BITSET, value, deadline == FOR_EVER ? NULL : &until, NULL,
                FUTEX_BITSET_MATCH_ANY) == 0 ||
        errno == EAGAIN)
        return 0;
    return -errno;
}

void pipecap_wake(uint32_t *word, int count)
{
    syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
}

int pipecap_has_ended(uint32_t pid)
{
#ifdef SYS_pidfd_open
    struct pollfd end = {.fd = -1, .events = POLLIN};
#endif

    if (pid == PIPECAP_SOMEBODY)
        return 0;
#ifdef SYS_pidfd_open
    end.fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (end.fd >= 0) {
        int ended = poll(&end, 1, 0) == 1; /* also true of a zombie, which kill(2) would call alive */
        close(end.fd);
        return ended;
    }
    if (errno == ESRCH)
        return 1;
#endif
    return kill((pid_t)pid, 0) == -1 && errno == ESRCH;
}

#else

int pipecap_sleep_on(uint32_t *word, uint32_t value, int64_t deadline)
{
    (void)word, (void)value, (void)deadline;
    return -ENOSYS;
}

void pipecap_wake(uint32_t *word, int count)
{
    (void)word, (void)count;
}

int pipecap_has_ended(uint32_t pid)
{
    return kill((pid_t)pid, 0) == -1 && errno == ESRCH;
}

#endif

/* Whether the stream is between two frames although its dead writer may have been in one: all was read, and the reader
 * is in none. */
static int between_frames(struct pipecap_shared *shared, int fd)
{
    return pipecap_unread(fd) == 0 && !load(&shared->reader_open) && !load(&shared->ahead_count);
}

/* What a lock holds, if that is a holder that died; else 0. */
static uint32_t abandoned(const uint32_t *lock)
{
    uint32_t value = load(lock);
    uint32_t holder = value & ~WAITERS;

    return holder && pipecap_has_ended(holder) ? value : 0;
}

/* Take a lock over from a holder that died: 1 taken, 0 not to be had (yet). `quiet` counts the looks in a row that
 * found the stream between two frames. */
static int take_over(struct pipecap_shared *shared, int reading, int fd, uint32_t pid, int *quiet)
{
    uint32_t *lock = reading ? &shared->reading : &shared->writing;
    uint32_t value = abandoned(lock);

    if (!value)
        return 0;
    if (!reading && load(&shared->frame_open)) {
        /* The reader will find it cut short, and free the lock. Unless there is nothing to find. */
        *quiet = between_frames(shared, fd) ? *quiet + 1 : 0;
        if (*quiet < 2)
            return 0;
    }
    if (!swap(lock, value, pid | WAITERS))
        return 0;
    if (!reading)
        __atomic_store_n(&shared->frame_open, 0, __ATOMIC_SEQ_CST);
    else if (load(&shared->reader_open))
        __atomic_store_n(&shared->broken, 1, __ATOMIC_SEQ_CST);
    return 1;
}

int pipecap_free_abandoned(struct pipecap_shared *shared, int fd, uint32_t pid, int amid_frame)
{
    uint32_t value = abandoned(&shared->writing); /* first: what is in the pipe now is all that it wrote */

    if (!value || !(amid_frame ? pipecap_unread(fd) == 0 : between_frames(shared, fd)))
        return 0;
    if (!swap(&shared->writing, value, pid | WAITERS))
        return 0;
    __atomic_store_n(&shared->frame_open, 0, __ATOMIC_SEQ_CST); /* ours now: no writer's flag is cleared */
    pipecap_unlock(shared, 0);
    return 1;
}

int pipecap_try_lock(struct pipecap_shared *shared, int reading, uint32_t pid)
{
    return swap(reading ? &shared->reading : &shared->writing, 0, pid);
}

int pipecap_lock(struct pipecap_shared *shared, int end_fd, int reading, uint32_t pid, int64_t deadline)
{
    uint32_t *lock = reading ? &shared->reading : &shared->writing;
    uint32_t mine = pid;
    int quiet = 0, looks = 0;

    while (!swap(lock, 0, mine)) {
        uint32_t value = load(lock);
        int64_t look = (int64_t)now_ns() + LOCK_LOOK_NS;
        int result;

        if (deadline == 0) {
            if (take_over(shared, reading, end_fd, pid, &quiet))
                break;
            return -ETIMEDOUT;
        }
        if (!value || (!(value & WAITERS) && !swap(lock, value, value | WAITERS)))
            continue;
        result = pipecap_sleep_on(lock, value | WAITERS, deadline != FOR_EVER && deadline < look ? deadline : look);
        mine = pid | WAITERS; /* others may be waiting, too: whoever unlocks looks */
        if (result == -ETIMEDOUT && take_over(shared, reading, end_fd, pid, &quiet))
            break;
        if (result == -ETIMEDOUT && past(deadline))
            return result;
        if (result == -ETIMEDOUT && ++looks == LOOKS)
            return -EINTR; /* as if: a signal that came between two waits has its turn */
        if (result && result != -ETIMEDOUT)
            return result;
    }
    if (reading && load(&shared->broken)) {
        pipecap_unlock(shared, reading);
        return PIPECAP_READER_DIED;
    }
    return 0;
}

int pipecap_unlock(struct pipecap_shared *shared, int reading)
{
    uint32_t *lock = reading ? &shared->reading : &shared->writing;
    uint32_t value = __atomic_exchange_n(lock, 0, __ATOMIC_SEQ_CST);

    if (value & WAITERS)
        pipecap_wake(lock, 1);
    return value ? 0 : -EPERM;
}
