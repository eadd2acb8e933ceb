/* Frames through a pipe that several processes share, each under the lock of its side, in one call each way. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "internal.h"

#define READING 1
#define WRITING 0
/* In the middle of a frame, how often the reader looks whether its writer still lives. */
#define LOOK_NS 100000000
/* A writer holds the lock for a microsecond, or, on a full pipe, for long: this often it is worth another try. */
#define TRIES 32
#define MOMENT_NS 200000
/* Going to sleep and being woken takes both sides longer than the next piece takes to come, where the other side is at
 * work: so many looks first. */
#define LOOKS 40
#define NO_MEMORY_PAUSE_NS 10000000

static void store(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

/* ---- put ---- */

static int try_lock(struct pipecap_shared *shared, uint32_t pid)
{
    for (int i = 0; i < TRIES; i++) {
        if (pipecap_try_lock(shared, WRITING, pid))
            return 1;
        sched_yield();
    }
    return 0;
}

/* Wait a moment for a free slot: a reader at work makes one in less than handing over to the feeder would take. */
static int room_in_a_moment(int fd)
{
    struct pollfd end = {.fd = fd, .events = POLLOUT};
    struct timespec moment = {.tv_nsec = MOMENT_NS};

    return ppoll(&end, 1, &moment, NULL) == 1;
}

int pipecap_put_now(struct pipecap_port *port, struct pipecap_outgoing *frames)
{
    struct pipecap_shared *shared = port->shared;
    int fd = pipecap_enter(port->end);
    int result = PIPECAP_WOULD_WAIT;
    int grown = !port->end->elastic;

    if (fd < 0)
        return fd;
    if (try_lock(shared, port->pid)) {
        store(&shared->frame_open, 1);
        do {
            result = pipecap_send_all(fd, frames, 0);
            if (result == -EAGAIN && !grown) {
                pipecap_make_room(fd, pipecap_bytes_left(frames));
                grown = 1;
                result = pipecap_send_all(fd, frames, 0);
            }
        } while (result == -EINTR || (result == -EAGAIN && room_in_a_moment(fd)));
        if (result == -EAGAIN || (result == -ENOMEM && frames->sent)) /* of a frame begun the lock is kept */
            result = PIPECAP_WOULD_WAIT;
        if (result != PIPECAP_WOULD_WAIT || frames->sent == 0) {
            store(&shared->frame_open, 0);
            pipecap_unlock(shared, WRITING);
        }
    }
    pipecap_leave(port->end);
    return result;
}

/* The common case in the fewest steps: a frame that one write puts whole or not at all. 1 when it is put. */
static int put_small(struct pipecap_port *port, const char *data, size_t size)
{
    uint8_t frame[PIPE_BUF];
    size_t header = pipecap_header(size, frame);
    struct iovec part = {frame, header + size}; /* one part: the kernel takes longer over two */
    int fd = pipecap_enter(port->end);
    int done = 0;

    if (fd < 0)
        return 0;
    memcpy(frame + header, data, size);
    if (pipecap_try_lock(port->shared, WRITING, port->pid)) {
        done = pwritev2(fd, &part, 1, -1, RWF_NOWAIT) > 0;
        pipecap_unlock(port->shared, WRITING);
    }
    pipecap_leave(port->end);
    return done;
}

static int put_frame_now(
    struct pipecap_port *port, const struct pipecap_piece *pieces, size_t count, struct pipecap_progress *progress)
{
    uint64_t payload = 0;
    struct pipecap_outgoing frame = {.pieces = pieces, .piece_count = count, .payloads = &payload, .frame_count = 1,
                                     .chunk = PIPECAP_CHUNK};
    int result;

    for (size_t i = 0; i < count; i++)
        payload += pieces[i].size;
    result = pipecap_put_now(port, &frame);
    if (result == PIPECAP_WOULD_WAIT)
        progress->sent = frame.sent;
    progress->taken = result != 0;
    return result;
}

int pipecap_take_one(struct pipecap_port *port, struct pipecap_progress *progress)
{
    *progress = (struct pipecap_progress){0};
    if (port->slots && pipecap_take_slots(port->shared, 1, 0) < 0)
        return -ETIMEDOUT;
    if (port->tasks)
        pipecap_add_unfinished(port->shared, 1); /* before a reader can call task_done() */
    progress->taken = 1;
    return 0;
}

int pipecap_put_one_now(struct pipecap_port *port, const char *data, size_t size, struct pipecap_progress *progress)
{
    struct pipecap_piece piece = {data, size};

    if (pipecap_take_one(port, progress) < 0)
        return -ETIMEDOUT;
    if (size <= PIPE_BUF - 4 && put_small(port, data, size)) {
        progress->taken = 0;
        return 0;
    }
    return put_frame_now(port, &piece, 1, progress);
}

int pipecap_put_three_now(
    struct pipecap_port *port, const char *head, size_t head_size, const char *body, size_t body_size,
    const char *tail, size_t tail_size, struct pipecap_progress *progress)
{
    struct pipecap_piece pieces[] = {{head, head_size}, {body, body_size}, {tail, tail_size}};

    return pipecap_take_one(port, progress) < 0 ? -ETIMEDOUT : put_frame_now(port, pieces, 3, progress);
}

int pipecap_put(struct pipecap_port *port, struct pipecap_outgoing *frames)
{
    struct pipecap_shared *shared = port->shared;
    int fd = pipecap_enter(port->end);
    int result = 0;

    if (fd < 0)
        return fd;
    if (frames->sent == 0) {
        result = pipecap_lock(shared, fd, WRITING, port->pid, -1);
        if (result == 0 && port->end->elastic)
            pipecap_make_room(fd, pipecap_bytes_left(frames));
    }
    if (result == 0) {
        store(&shared->frame_open, 1);
        result = pipecap_send_all(fd, frames, 1);
        if (result == -ENOMEM && (frames->sent || frames->patient)) { /* it must follow: try again, as if interrupted */
            nanosleep(&(struct timespec){.tv_nsec = NO_MEMORY_PAUSE_NS}, NULL);
            result = -EINTR;
        }
        if (result == 0 || frames->sent == 0 || (result != -EINTR && result != -EAGAIN)) {
            store(&shared->frame_open, 0);
            pipecap_unlock(shared, WRITING);
        }
    }
    pipecap_leave(port->end);
    return result;
}

/* ---- get ---- */

/* In the middle of a frame: whether its rest will never come, because its writer died and all is read. Then the lock is
 * freed for the others: what they write begins a frame, as nobody else wrote meanwhile. */
static int is_cut_short(struct pipecap_shared *shared, int fd, uint32_t pid)
{
    return pipecap_free_abandoned(shared, fd, pid, 1);
}

static int comes_at_once(int fd)
{
    for (int i = 0; i < LOOKS; i++) {
        if (wait_readable(fd, 0) == 1)
            return 1;
        sched_yield(); /* to the writer, where it has no CPU of its own */
    }
    return 0;
}

/* Wait for the rest of a frame: 1, -errno, -ETIMEDOUT or PIPECAP_CUT_SHORT. Who did not want to wait at all (deadline
 * 0) waits here: an item that has begun to arrive is there. */
static int wait_for_rest(struct pipecap_shared *shared, int fd, uint32_t pid, int64_t deadline)
{
    int64_t look = (int64_t)now_ns() + LOOK_NS;
    int result;

    if (comes_at_once(fd))
        return 1;
    result = wait_readable(fd, deadline > 0 && deadline < look ? deadline : look);
    if (result)
        return result;
    if (is_cut_short(shared, fd, pid))
        return PIPECAP_CUT_SHORT;
    /* As if interrupted: a signal that came between two waits has its turn, then the caller comes again. */
    return deadline > 0 && (int64_t)now_ns() >= deadline ? -ETIMEDOUT : -EINTR;
}

/* Wait for a frame to begin: 1, -errno or -ETIMEDOUT. It looks for a while, or sleeps; in between the caller sees to the
 * signals that came meanwhile. */
static int wait_for_frame(struct pipecap_incoming *incoming, int fd, int64_t deadline)
{
    int result;

    if (deadline && !incoming->looked) {
        incoming->looked = !comes_at_once(fd);
        return incoming->looked ? -EINTR : 1;
    }
    incoming->looked = 0;
    result = wait_readable(fd, deadline);
    return result == 0 ? -ETIMEDOUT : result;
}

/* What one call of pipecap_get() works on. */
struct get {
    struct pipecap_shared *shared;
    struct pipecap_incoming *incoming;
    int fd;
    uint32_t pid;
    int64_t deadline;
    uint64_t longest;
    uint64_t max_frames;
    uint64_t body_from;
    size_t ahead;
};

/* Bytes here of the frame under way. */
static size_t begun(const struct pipecap_incoming *incoming)
{
    return incoming->filled - incoming->start;
}

/* Whether nothing was read since the last whole frame but, at most, what can be left to the next reader. */
static int can_leave(const struct get *get)
{
    const struct pipecap_incoming *incoming = get->incoming;

    if (incoming->frame_count == 0)
        return begun(incoming) == get->shared->ahead_count;
    /* All of a long header cannot be left. */
    return begun(incoming) <= get->ahead && !(incoming->header_known && incoming->payload > INT32_MAX);
}

/* Leave what was read of the next frame's header, and the lock, to the next reader. */
static void leave(const struct get *get)
{
    struct pipecap_shared *shared = get->shared;
    struct pipecap_incoming *incoming = get->incoming;

    if (can_leave(get)) {
        size_t count = begun(incoming);

        for (size_t i = 0; i < count && i < sizeof shared->ahead; i++)
            shared->ahead[i] = incoming->data[incoming->start + i];
        shared->ahead_count = (uint32_t)count;
        incoming->filled = incoming->start;
        incoming->header_known = 0;
    }
    store(&shared->reader_open, 0);
    incoming->locked = 0;
    pipecap_unlock(shared, READING);
}

/* Read until there is a frame and no more to be had at once. */
static int64_t read_frames(const struct get *get)
{
    struct pipecap_shared *shared = get->shared;
    struct pipecap_incoming *incoming = get->incoming;
    int wait = 0;

    while (incoming->frame_count < get->max_frames) {
        int head_only = pipecap_may_be_large_bytes(incoming, get->body_from);
        int64_t result;

        store(&shared->reader_open, 1); /* before the first byte is taken: who dies now was in a frame */
        result = pipecap_receive_some(get->fd, incoming, get->longest, get->max_frames, get->ahead,
                                      get->body_from, wait);
        wait = 0;
        if (result == 1) {
            if (head_only && !pipecap_may_be_large_bytes(incoming, get->body_from) && pipecap_is_large_bytes(incoming))
                return PIPECAP_LARGE_BYTES;
            continue;
        }
        if (result != -EAGAIN && result != -EOPNOTSUPP && result != -ENOSYS)
            return result;
        wait = result != -EAGAIN; /* no RWF_NOWAIT here: poll(2) first, then read(2) does not sleep under the lock */
        if (can_leave(get)) {
            if (incoming->frame_count && (!wait || wait_readable(get->fd, 0) != 1))
                return 0;
            store(&shared->reader_open, 0);
        }
        result = begun(incoming) ? wait_for_rest(shared, get->fd, get->pid, get->deadline)
                                 : wait_for_frame(incoming, get->fd, get->deadline);
        if (result < 0)
            return result;
    }
    return 0;
}

/* The frame under way will never be whole. */
static void forget_frame(struct pipecap_shared *shared, uint32_t slots)
{
    shared->ahead_count = 0;
    if (slots)
        pipecap_give_slots(shared, 1, slots);
}

/* Read frames; what went wrong after whole ones is told to who reads next. */
static int64_t take_frames(const struct get *get, uint32_t slots)
{
    struct pipecap_shared *shared = get->shared;
    struct pipecap_incoming *incoming = get->incoming;
    int64_t result = 0;

    if (!begun(incoming) && incoming->frame_count == 0) {
        if (__atomic_load_n(&shared->cut_short, __ATOMIC_SEQ_CST)) {
            __atomic_sub_fetch(&shared->cut_short, 1, __ATOMIC_SEQ_CST);
            return PIPECAP_CUT_SHORT;
        }
        if (shared->ahead_count)
            result = pipecap_incoming_begin(incoming, shared->ahead, shared->ahead_count, get->longest);
    }
    if (result == 0)
        result = read_frames(get);
    if ((result < 0 && result > PIPECAP_END_OF_FILE) || result == PIPECAP_LARGE_BYTES)
        return result;
    if (result == PIPECAP_CUT_SHORT)
        forget_frame(shared, slots);
    if (result == PIPECAP_TOO_LONG || result == PIPECAP_BAD_HEADER)
        store(&shared->broken, 1);
    if (incoming->frame_count == 0)
        return result;
    if (result == PIPECAP_CUT_SHORT) {
        __atomic_add_fetch(&shared->cut_short, 1, __ATOMIC_SEQ_CST);
        incoming->filled = incoming->start;
    }
    return 0;
}

static struct get getting(struct pipecap_port *port, struct pipecap_incoming *incoming)
{
    return (struct get){.shared = port->shared, .incoming = incoming, .fd = pipecap_enter(port->end), .pid = port->pid,
                        .deadline = -1, .ahead = port->slots ? sizeof port->shared->ahead : 0};
}

/* The end was closed: nobody here will read the rest of a frame that is half here. */
static int64_t give_up(const struct get *get)
{
    if (get->incoming->locked) {
        if (!can_leave(get))
            store(&get->shared->broken, 1);
        leave(get);
    }
    return get->fd;
}

int64_t pipecap_get(
    struct pipecap_port *port, struct pipecap_incoming *incoming, int64_t deadline, uint64_t longest,
    uint64_t max_frames, uint64_t body_from)
{
    struct get get = getting(port, incoming);
    int64_t result = 0;

    if (get.fd < 0)
        return give_up(&get);
    get.deadline = deadline;
    get.longest = longest;
    get.max_frames = max_frames;
    get.body_from = max_frames == 1 ? body_from : 0;
    if (incoming->locked && get.max_frames <= incoming->frame_count)
        get.max_frames = incoming->frame_count + 1; /* begun by a call that allowed more: that frame is finished first */
    if (!incoming->locked) {
        pipecap_incoming_clear(incoming);
        result = pipecap_lock(get.shared, get.fd, READING, get.pid, deadline);
        incoming->locked = result == 0;
    }
    if (incoming->locked) {
        store(&get.shared->last_reader, get.pid);
        result = take_frames(&get, port->slots);
        if (can_leave(&get) || (result <= PIPECAP_END_OF_FILE && result != PIPECAP_LARGE_BYTES))
            leave(&get); /* else a frame is half here: come again */
    }
    pipecap_leave(port->end);
    if (result < 0)
        return result;
    if (port->slots)
        pipecap_give_slots(get.shared, (uint32_t)incoming->frame_count, port->slots);
    return (int64_t)incoming->frames[1];
}

/* Read the rest of a frame with one large bytes object: 0, -errno or an outcome. */
static int64_t read_body(const struct get *get, uint8_t *body)
{
    int wait = 0;

    for (;;) {
        int64_t result = pipecap_receive_body(get->fd, get->incoming, body, get->ahead, wait);

        wait = 0;
        if (result == 1)
            return 0;
        if (result == 0)
            continue;
        if (result != -EAGAIN && result != -EOPNOTSUPP && result != -ENOSYS)
            return result;
        wait = result != -EAGAIN; /* as in read_frames() */
        result = wait_for_rest(get->shared, get->fd, get->pid, get->deadline);
        if (result < 0)
            return result;
    }
}

int64_t pipecap_get_body(struct pipecap_port *port, struct pipecap_incoming *incoming, uint8_t *body, size_t size)
{
    struct get get;
    int64_t result;

    if (!incoming->locked || !incoming->body || incoming->body != size)
        return -EINVAL;
    get = getting(port, incoming);
    if (get.fd < 0)
        return give_up(&get);
    result = read_body(&get, body);
    if (result == PIPECAP_CUT_SHORT)
        forget_frame(get.shared, port->slots);
    if (result == 0 || result == PIPECAP_CUT_SHORT)
        leave(&get);
    pipecap_leave(port->end);
    if (result == 0 && port->slots)
        pipecap_give_slots(get.shared, 1, port->slots);
    return result;
}
