/* The two locks of a queue, on futex(2), in memory without a name. A lock word is the index of its owner in the
 * table of participants, taken by one compare-and-swap, so there is no moment in which it is owned and nobody knows
 * by whom. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"

#define SPINS 100
#define FIRST_CHECK_NS 10000000
#define TAKE_OVER_NS 5000000

int pipecap_sleep_on(uint32_t *word, uint32_t value, int64_t deadline)
{
    struct timespec until = {.tv_sec = deadline / 1000000000, .tv_nsec = deadline % 1000000000};

    /* FUTEX_WAIT_BITSET takes an absolute time of CLOCK_MONOTONIC. */
    if (syscall(SYS_futex, word, FUTEX_WAIT_BITSET, value, deadline == WITHOUT_LIMIT ? NULL : &until, NULL,
                FUTEX_BITSET_MATCH_ANY) == 0 ||
        errno == EAGAIN)
        return 0;
    return -errno;
}

void pipecap_wake(uint32_t *word, int count)
{
    syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
}

/* 0 free, 1 locked, 2 locked and others wait. */
int pipecap_mutex_lock(uint32_t *mutex, int64_t deadline)
{
    uint32_t locked = 1;

    if (swap(mutex, 0, 1))
        return 0;
    for (int64_t end = within(deadline, ROUND_NS); !swap(mutex, 0, locked);) {
        int result;

        if (deadline == 0)
            return PIPECAP_TIMED_OUT;
        locked = 2;
        if (__atomic_exchange_n(mutex, 2, __ATOMIC_SEQ_CST) == 0)
            return 0;
        result = pipecap_sleep_on(mutex, 2, end);
        if (result == -ETIMEDOUT)
            return round_over(deadline);
        if (result == -EINTR)
            return PIPECAP_AGAIN;
    }
    return 0;
}

void pipecap_mutex_unlock(uint32_t *mutex)
{
    if (__atomic_exchange_n(mutex, 0, __ATOMIC_SEQ_CST) == 2)
        pipecap_wake(mutex, 1);
}

static uint32_t *lock_word(struct pipecap_shared *shared, int reading)
{
    return reading ? &shared->reading : &shared->writing;
}

int pipecap_is_orphan(struct pipecap_member *member, int reading)
{
    uint32_t owner = load(lock_word(member->shared, reading)) & ~PIPECAP_WAITERS;

    return owner && !pipecap_is_alive(member, owner);
}

void pipecap_commit(struct pipecap_shared *shared, uint64_t boundary, uint64_t got)
{
    struct pipecap_place *next = next_place(shared);

    next->boundary = boundary;
    next->limit = PIPECAP_BLOCK;
    store64(&next->got, got);
    store(&shared->turn, 1 - (shared->turn & 1));
}

/* ---- what a dead owner left ---- */

/* Bytes that one side moved, where it may have died inside a system call: out of what the other side published and
 * what is in the pipe. 1 known, 0 not now: the other side is in a system call, too. */
static int position(
    const uint32_t *busy, const uint64_t *moved, int64_t unread, uint64_t moved_before, uint64_t *result, int reading)
{
    if (load(busy) || load64(moved) != moved_before || unread < 0)
        return 0;
    *result = reading ? moved_before - (uint64_t)unread : moved_before + (uint64_t)unread;
    return 1;
}

static int written_by_the_dead(struct pipecap_shared *shared, int fd, uint64_t *written)
{
    uint64_t consumed = load64(&shared->consumed);

    if (!load(&shared->writer_busy)) {
        *written = load64(&shared->written);
        return 1;
    }
    return position(&shared->reader_busy, &shared->consumed, pipecap_unread(fd), consumed, written, WRITING);
}

static int consumed_by_the_dead(struct pipecap_shared *shared, int fd, uint64_t *consumed)
{
    uint64_t written = load64(&shared->written);

    if (!load(&shared->reader_busy)) {
        *consumed = load64(&shared->consumed);
        return 1;
    }
    return position(&shared->writer_busy, &shared->written, pipecap_unread(fd), written, consumed, READING);
}

/* Whether what a dead writer left ends with a whole frame: the frames under way are in the pipe, or none of their
 * bytes is, or all that was written came out and was whole. */
static int ends_whole(const struct pipecap_shared *shared, uint64_t written)
{
    return written == load64(&shared->batch_begin) || written == load64(&shared->batch_end) ||
           (written == load64(&shared->consumed) && written == shared->places[load(&shared->turn) & 1].boundary);
}

/* As owner of the write lock: no frame is under way, at this position. */
static void settle_writer(struct pipecap_shared *shared, uint64_t written)
{
    const struct pipecap_place *place = place_of(shared);
    uint64_t put = load64(&shared->put);

    if (written == load64(&shared->batch_end) && written != load64(&shared->batch_begin)) {
        put = load64(&shared->batch_put);
    } else if (written != load64(&shared->batch_begin)) {
        put = place->got; /* all that was written came out; the rest of the batch was never sent */
    }
    store64(&shared->batch_put, put);
    store64(&shared->put, put);
    store64(&shared->batch_end, written);
    store64(&shared->batch_begin, written);
    store64(&shared->written, written);
    store(&shared->writer_busy, 0);
}

/* Both sides died inside a system call, and how far they came cannot be known: keep the whole frames that are
 * certainly in the pipe, and start from there. Only a reader can, as the next owner of both locks. */
static int start_anew(struct pipecap_member *member, int fd, uint32_t reader, uint32_t writer)
{
    struct pipecap_shared *shared = member->shared;
    uint64_t got = place_of(shared)->got, put, base;
    struct salvage kept;
    uint32_t lost;

    if (pipecap_unread(fd) < 0 || !swap(&shared->writing, writer, member->index | PIPECAP_WAITERS))
        return 0;
    if (!swap(&shared->reading, reader, member->index | PIPECAP_WAITERS)) {
        /* Not the dead owner: its index is in no other lock word meanwhile, and may be used again. */
        swap(&shared->writing, member->index | PIPECAP_WAITERS, PIPECAP_ABANDONED | PIPECAP_WAITERS);
        return 0;
    }
    if (!pipecap_salvage(shared, fd, &kept))
        kept = (struct salvage){0};
    base = shared->batch_end > shared->written ? shared->batch_end : shared->written;
    put = load64(&shared->batch_put);
    lost = put - got > kept.frames ? (uint32_t)(put - got - kept.frames) : 0;
    pipecap_change_begin(member);
    pipecap_commit(shared, base, put - kept.frames);
    pipecap_give_credits(shared, lost);
    pipecap_drop_tasks(shared, lost);
    add(&shared->lost, lost);
    pipecap_change_end(member);
    store64(&shared->consumed, base);
    store(&shared->reader_busy, 0);
    base += kept.to - kept.from;
    store64(&shared->put, put);
    store64(&shared->batch_begin, base);
    settle_writer(shared, base);
    pipecap_unlock(member, WRITING);
    return 1;
}

/* Take a lock over from an owner that ended: 1 taken, 0 not now. What it left is worked out before, as nobody but
 * the next owner changes it. */
static int take_over(struct pipecap_member *member, int reading, int fd)
{
    struct pipecap_shared *shared = member->shared;
    uint32_t *lock = lock_word(shared, reading);
    uint32_t value = load(lock), other = load(lock_word(shared, !reading));
    uint64_t moved;
    int known;

    if (!(value & ~PIPECAP_WAITERS) || pipecap_is_alive(member, value & ~PIPECAP_WAITERS))
        return 0;
    for (int64_t end = now_ns() + TAKE_OVER_NS;;) { /* the other side is between two system calls most of the time */
        known = reading ? consumed_by_the_dead(shared, fd, &moved) : written_by_the_dead(shared, fd, &moved);
        if (known || now_ns() > end || pipecap_is_orphan(member, !reading))
            break;
        sched_yield();
    }
    if (known) {
        if (!reading && !ends_whole(shared, moved))
            return 0; /* a reader will find the frame cut short, and free the lock */
        if (!swap(lock, value, member->index | PIPECAP_WAITERS))
            return 0;
        if (reading) {
            if (moved < load64(&shared->consumed))
                store(&shared->broken, 1); /* somebody writes past the protocol */
            store64(&shared->consumed, moved);
            store(&shared->reader_busy, 0);
        } else {
            settle_writer(shared, moved);
        }
        return 1;
    }
    if (reading && load(&shared->writer_busy) && (other & ~PIPECAP_WAITERS) &&
        !pipecap_is_alive(member, other & ~PIPECAP_WAITERS))
        return start_anew(member, fd, value, other);
    return 0;
}

int pipecap_take_over_gone_writer(struct pipecap_member *member, int fd)
{
    struct pipecap_shared *shared = member->shared;
    uint32_t value = load(&shared->writing); /* first: what is in the pipe now is all that it wrote */

    if (!(value & ~PIPECAP_WAITERS) || pipecap_is_alive(member, value & ~PIPECAP_WAITERS) || pipecap_unread(fd) != 0)
        return 0;
    return swap(&shared->writing, value, member->index | PIPECAP_WAITERS);
}

void pipecap_settle_gone_writer(struct pipecap_member *member)
{
    settle_writer(member->shared, load64(&member->shared->consumed));
    pipecap_unlock(member, WRITING);
}

/* ---- taking and giving ---- */

int pipecap_try_lock(struct pipecap_member *member, int reading)
{
    return swap(lock_word(member->shared, reading), 0, member->index);
}

int pipecap_lock(struct pipecap_member *member, int fd, int reading, int64_t deadline)
{
    uint32_t *lock = lock_word(member->shared, reading);
    uint32_t mine;
    int64_t end = 0, step = FIRST_CHECK_NS;
    int result = pipecap_participate(member);

    if (result)
        return result;
    mine = member->index;
    for (int spins = 0; !swap(lock, 0, mine); spins++) {
        uint32_t value = load(lock);

        if (deadline == 0) {
            if (take_over(member, reading, fd))
                return 0;
            return PIPECAP_TIMED_OUT;
        }
        if (!value)
            continue;
        if (spins < SPINS && !(value & PIPECAP_WAITERS)) {
            sched_yield();
            continue;
        }
        if (!end) {
            if (take_over(member, reading, fd))
                return 0;
            end = within(deadline, ROUND_NS);
        }
        if (!(value & PIPECAP_WAITERS) && !swap(lock, value, value | PIPECAP_WAITERS))
            continue;
        result = pipecap_sleep_on(lock, value | PIPECAP_WAITERS, within(end, step));
        mine = member->index | PIPECAP_WAITERS; /* others may be waiting, too: the next unlock wakes one */
        if (result == -EINTR)
            return PIPECAP_AGAIN;
        if (result == -ETIMEDOUT && take_over(member, reading, fd))
            return 0;
        if (result == -ETIMEDOUT && is_past(end))
            return round_over(deadline);
        if (result == -ETIMEDOUT)
            step *= 2; /* a killed process releases its byte lock late in its exit: ask soon, then less often */
        if (result && result != -ETIMEDOUT)
            return result;
    }
    return 0;
}

int pipecap_unlock(struct pipecap_member *member, int reading)
{
    uint32_t *lock = lock_word(member->shared, reading);
    uint32_t value = load(lock);

    if (!member->index || (value & ~PIPECAP_WAITERS) != member->index)
        return -EPERM;
    if (__atomic_exchange_n(lock, 0, __ATOMIC_SEQ_CST) & PIPECAP_WAITERS)
        pipecap_wake(lock, 1);
    return 0;
}

int pipecap_acquire(struct pipecap_member *member, struct pipecap_end *end, int reading, int64_t deadline)
{
    int fd = pipecap_enter(end);
    int result = pipecap_lock(member, fd, reading, deadline);

    if (fd >= 0)
        pipecap_leave(end);
    return result;
}

void pipecap_abandon_lock(struct pipecap_member *member)
{
    if (!swap(&member->shared->writing, member->index, PIPECAP_ABANDONED))
        swap(&member->shared->writing, member->index | PIPECAP_WAITERS, PIPECAP_ABANDONED | PIPECAP_WAITERS);
}
