/* Frames through a pipe that several processes share, each under the lock of its side, in one call each way. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <sys/uio.h>
#include <unistd.h>

#include "clock.h"
#include "frames.h"

#define READING 1
#define WRITING 0
/* In the middle of a frame, how often the reader looks whether its writer still lives. */
#define LOOK_NS 100000000
/* A writer holds the lock for a microsecond, or, on a full pipe, for long: this often it is worth another try. */
#define TRIES 32

static void store(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

/* ---- put ---- */

/* One write of all or nothing, of at most PIPE_BUF bytes, that never sleeps. RWF_NOWAIT is per call: O_NONBLOCK would
 * be seen by every process that shares the description. */
static int write_now(int fd, const struct iovec *parts, int count)
{
    if (pwritev2(fd, parts, count, -1, RWF_NOWAIT) >= 0)
        return 0;
    if (errno != EOPNOTSUPP && errno != ENOSYS)
        return errno == EAGAIN ? PIPECAP_WOULD_WAIT : -errno;
    if (pipecap_full(fd) != 0)
        return PIPECAP_WOULD_WAIT;
    return writev(fd, parts, count) >= 0 ? 0 : -errno;
}

static int try_lock(struct pipecap_shared *shared, int fd, uint32_t pid)
{
    for (int i = 0; i < TRIES; i++) {
        if (pipecap_lock(shared, fd, WRITING, pid, 0) == 0)
            return 1;
        sched_yield();
    }
    return 0;
}

static int send_now(struct pipecap_shared *shared, int fd, struct pipecap_outgoing *frames, int elastic)
{
    int result;

    if (!pipecap_fits(fd, pipecap_bytes_left(frames), elastic))
        return PIPECAP_WOULD_WAIT;
    store(&shared->frame_open, 1);
    do {
        result = pipecap_send_all(fd, frames); /* it fits: EINTR would take somebody else who writes here */
    } while (result == -EINTR);
    store(&shared->frame_open, 0);
    return result;
}

int pipecap_put_frames_now(
    struct pipecap_shared *shared, struct pipecap_end *end, struct pipecap_outgoing *frames, uint32_t pid)
{
    int fd = pipecap_enter(end);
    int result = PIPECAP_WOULD_WAIT;

    if (fd < 0)
        return fd;
    if (try_lock(shared, fd, pid)) {
        result = send_now(shared, fd, frames, end->elastic);
        pipecap_unlock(shared, WRITING);
    }
    pipecap_leave(end);
    return result;
}

static int put_small(struct pipecap_shared *shared, int fd, const struct iovec *parts, int elastic)
{
    int result;

    store(&shared->frame_open, 1);
    result = write_now(fd, parts, 2);
    if (result == PIPECAP_WOULD_WAIT && elastic) {
        pipecap_fits(fd, parts[0].iov_len + parts[1].iov_len, elastic);
        result = write_now(fd, parts, 2);
    }
    store(&shared->frame_open, 0);
    return result;
}

int pipecap_put_now(
    struct pipecap_shared *shared, struct pipecap_end *end, const char *data, size_t size, uint32_t pid)
{
    uint8_t header[12];
    struct iovec parts[] = {{header, pipecap_header(size, header)}, {(void *)data, size}};
    struct pipecap_piece piece = {data, size};
    uint64_t payload = size;
    struct pipecap_outgoing frame = {.pieces = &piece, .piece_count = 1, .payloads = &payload, .frame_count = 1,
                                     .chunk = PIPECAP_CHUNK};
    int fd = pipecap_enter(end);
    int result = PIPECAP_WOULD_WAIT;

    if (fd < 0)
        return fd;
    if (try_lock(shared, fd, pid)) {
        result = parts[0].iov_len + size <= PIPE_BUF ? put_small(shared, fd, parts, end->elastic)
                                                     : send_now(shared, fd, &frame, end->elastic);
        pipecap_unlock(shared, WRITING);
    }
    pipecap_leave(end);
    return result;
}

int pipecap_put(
    struct pipecap_shared *shared, struct pipecap_end *end, struct pipecap_outgoing *frames, uint32_t pid)
{
    int fd = pipecap_enter(end);
    int result = 0;

    if (fd < 0)
        return fd;
    if (frames->sent == 0)
        result = pipecap_lock(shared, fd, WRITING, pid, -1);
    if (result == 0) {
        if (frames->sent == 0 && end->elastic)
            pipecap_fits(fd, pipecap_bytes_left(frames), 1);
        store(&shared->frame_open, 1);
        result = pipecap_send_all(fd, frames);
        if (result == 0 || frames->sent == 0 || (result != -EINTR && result != -EAGAIN)) {
            store(&shared->frame_open, 0);
            pipecap_unlock(shared, WRITING);
        }
    }
    pipecap_leave(end);
    return result;
}

/* ---- get ---- */

/* In the middle of a frame and nothing to read: whether its rest will never come, because its writer died or gave up
 * the lock. Then the lock is freed for the others: between two frames, as nobody else wrote meanwhile. */
static int is_cut_short(struct pipecap_shared *shared, int fd)
{
    uint32_t value = __atomic_load_n(&shared->writing, __ATOMIC_SEQ_CST);
    uint32_t holder = value & ~(UINT32_C(1) << 31);

    if (!holder || !pipecap_has_ended(holder) || pipecap_unread(fd) != 0)
        return 0;
    store(&shared->frame_open, 0);
    pipecap_unlock(shared, WRITING);
    return 1;
}

/* Wait for the rest of a frame: 0, -errno, or PIPECAP_CUT_SHORT. */
static int wait_for_rest(struct pipecap_shared *shared, int fd)
{
    for (;;) {
        int result = wait_readable(fd, (int64_t)now_ns() + LOOK_NS);

        if (result)
            return result == 1 ? 0 : result;
        if (is_cut_short(shared, fd))
            return PIPECAP_CUT_SHORT;
    }
}

/* Read until there is a frame and no more to be had at once. */
static int64_t read_frames(struct pipecap_shared *shared, int fd, struct pipecap_incoming *incoming, int64_t deadline,
                           uint64_t longest, uint64_t max_frames)
{
    int wait = 0;

    for (;;) {
        int result;

        store(&shared->reader_open, 1); /* before the first byte is taken: who dies now was in a frame */
        result = pipecap_receive_some(fd, incoming, longest, max_frames, wait);
        if (at_boundary(incoming))
            store(&shared->reader_open, 0);
        wait = 0;
        if (result == 1) {
            if (at_boundary(incoming) && incoming->frame_count == max_frames)
                return 0;
            continue;
        }
        if (result != -EAGAIN && result != -EOPNOTSUPP && result != -ENOSYS)
            return result;
        wait = result != -EAGAIN; /* no RWF_NOWAIT here: poll(2) first, then read(2) does not sleep under the lock */
        if (at_boundary(incoming)) {
            if (incoming->frame_count && (!wait || wait_readable(fd, 0) != 1))
                return 0;
            result = wait_readable(fd, deadline);
            if (result == 0)
                return -ETIMEDOUT;
        } else {
            result = wait_for_rest(shared, fd);
        }
        if (result < 0)
            return result;
    }
}

/* Read frames; what went wrong after whole ones is told to who reads next. */
static int64_t take_frames(struct pipecap_shared *shared, int fd, struct pipecap_incoming *incoming, int64_t deadline,
                           uint64_t longest, uint64_t max_frames, uint32_t most_slots)
{
    int64_t result = PIPECAP_CUT_SHORT;

    if (at_boundary(incoming) && __atomic_load_n(&shared->cut_short, __ATOMIC_SEQ_CST)) {
        __atomic_sub_fetch(&shared->cut_short, 1, __ATOMIC_SEQ_CST);
        return result;
    }
    result = read_frames(shared, fd, incoming, deadline, longest, max_frames);
    if (result == -EINTR && !at_boundary(incoming))
        return result;
    if (result == PIPECAP_CUT_SHORT && most_slots)
        pipecap_give_slots(shared, 1, most_slots);
    if (result == PIPECAP_TOO_LONG || result == PIPECAP_BAD_HEADER)
        store(&shared->broken, 1);
    if (incoming->frame_count == 0)
        return result;
    if (result == PIPECAP_CUT_SHORT)
        __atomic_add_fetch(&shared->cut_short, 1, __ATOMIC_SEQ_CST);
    return 0;
}

int64_t pipecap_get(
    struct pipecap_shared *shared, struct pipecap_end *end, struct pipecap_incoming *incoming, uint32_t pid,
    int64_t deadline, uint64_t longest, uint64_t max_frames, uint32_t most_slots)
{
    int fd = pipecap_enter(end);
    int64_t result = 0;

    if (fd < 0)
        return fd;
    if (!incoming->locked) {
        pipecap_incoming_clear(incoming);
        result = pipecap_lock(shared, fd, READING, pid, deadline);
        incoming->locked = result == 0;
    }
    if (incoming->locked) {
        store(&shared->last_reader, pid);
        result = take_frames(shared, fd, incoming, deadline, longest, max_frames, most_slots);
        if (result != -EINTR || at_boundary(incoming)) {
            store(&shared->reader_open, 0);
            incoming->locked = 0;
            pipecap_unlock(shared, READING);
        }
    }
    pipecap_leave(end);
    if (result < 0)
        return result;
    if (most_slots)
        pipecap_give_slots(shared, (uint32_t)incoming->frame_count, most_slots);
    return (int64_t)incoming->frames[1];
}
