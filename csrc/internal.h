/* What the C files need of each other, and Python does not. */
#ifndef PIPECAP_INTERNAL_H
#define PIPECAP_INTERNAL_H

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

#include "pipecap.h"

#define WITHOUT_LIMIT (-1)
/* What waits does it in rounds, in which Python's signal handlers run and the dead are looked for. */
#define ROUND_NS 500000000

#define SHORT_HEADER 4u
#define LONG_HEADER 12u
#define LARGEST_SHORT_PAYLOAD UINT64_C(0x7fffffff)

/* ---- words of shared memory, sequentially consistent ---- */

static inline uint32_t load(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

static inline void store(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

static inline uint64_t load64(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

static inline void store64(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

static inline int swap(uint32_t *word, uint32_t expected, uint32_t value)
{
    return __atomic_compare_exchange_n(word, &expected, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static inline uint32_t add(uint32_t *word, uint32_t count)
{
    return __atomic_add_fetch(word, count, __ATOMIC_SEQ_CST);
}

/* ---- pipe.c, probe.c ---- */

/* fs/pipe.c: round_pipe_size() rejects more. Kernels differ in what they do above 32 bits, so they are never asked. */
#define LARGEST_PIPE (UINT64_C(1) << 31)

/* ---- time ---- */

static inline int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline int is_past(int64_t deadline)
{
    return deadline != WITHOUT_LIMIT && (deadline == 0 || now_ns() >= deadline);
}

/* The deadline, or `length` from now if that comes first. Odd while the caller's own deadline is WITHOUT_LIMIT, even
 * while it has a limit: another process reads in the arguments of a futex(2) on shared memory (/proc/PID/syscall) whether
 * the wait ends by itself; src/pipecap/proc/syscalls.py. For poll(2) pipecap_wait_for() has a mark of its own. */
static inline int64_t within(int64_t deadline, int64_t length)
{
    int64_t end = now_ns() + length;

    if (deadline != WITHOUT_LIMIT && deadline < end)
        return deadline;
    return deadline & 1 ? end | 1 : end & ~(int64_t)1;
}

/* A deadline after which the call does something else than wait for another round: even, as one with a limit. */
static inline int64_t by_itself(int64_t deadline)
{
    return deadline & ~(int64_t)1;
}

/* What a wait that ended without its event comes to. */
static inline int round_over(int64_t deadline)
{
    return is_past(deadline) ? PIPECAP_TIMED_OUT : PIPECAP_AGAIN;
}

/* ---- end.c ---- */

/* Whether its description has O_NONBLOCK. */
int pipecap_is_nonblocking(int fd);
/* Take part in the use of an end: its descriptor, or -EBADF once it was closed. Each enter needs its leave. */
int pipecap_enter(struct pipecap_end *end);
void pipecap_leave(struct pipecap_end *end);
/* Wait for poll(2) to report `events` or an end of file: 1, 0 at the deadline, -errno. */
int pipecap_wait_for(int fd, short events, int64_t deadline);
/* Wait for that while giving way to other threads, a bounded number of times: shorter than going to sleep, where the
 * other side is at work. */
int pipecap_comes_at_once(int fd, short events);

/* ---- participants.c ---- */

static inline struct pipecap_participant *self(const struct pipecap_member *member)
{
    return &member->shared->participants[member->index];
}

/* ---- lock.c ---- */

#define READING 1
#define WRITING 0

/* Sleep while *word is value: 0 woken or changed, -ETIMEDOUT, -EINTR. */
int pipecap_sleep_on(uint32_t *word, uint32_t value, int64_t deadline);
void pipecap_wake(uint32_t *word, int count);
/* A lock among threads of one process: 0 or an outcome. */
int pipecap_mutex_lock(uint32_t *mutex, int64_t deadline);
void pipecap_mutex_unlock(uint32_t *mutex);
/* As pipecap_acquire(), with a descriptor. */
int pipecap_lock(struct pipecap_member *member, int fd, int reading, int64_t deadline);
/* Take a lock that is free: 1, else 0, without a liveness check. */
int pipecap_try_lock(struct pipecap_member *member, int reading);
/* Take the write lock over where its owner ended amid a frame and all that it wrote was read, so that the rest will
 * never come: 1, else 0. The reader then makes its next frame begin here, and settles what the writer left; that
 * frees the lock. */
int pipecap_take_over_gone_writer(struct pipecap_member *member, int fd);
void pipecap_settle_gone_writer(struct pipecap_member *member);
/* Leave the write lock to the reader, as if this process had ended: amid a frame that it cannot send. */
void pipecap_abandon_lock(struct pipecap_member *member);
/* Whether the owner of a lock has ended. */
int pipecap_is_orphan(struct pipecap_member *member, int reading);
/* Make places[1 - turn] the valid one. */
void pipecap_commit(struct pipecap_shared *shared, uint64_t boundary, uint64_t got);

static inline struct pipecap_place *place_of(struct pipecap_shared *shared)
{
    return &shared->places[shared->turn & 1];
}

static inline struct pipecap_place *next_place(struct pipecap_shared *shared)
{
    return &shared->places[1 - (shared->turn & 1)];
}

/* ---- salvage.c ---- */

/* Whole frames in the pipe: bytes from .. to of what is in it. */
struct salvage {
    uint64_t from;
    uint64_t to;
    uint64_t frames;
};

/* After the death of both sides inside a system call: drop what is in the pipe but for the whole frames, where they
 * can be known: 1, or 0 and the pipe is empty. As owner of both locks. */
int pipecap_salvage(struct pipecap_shared *shared, int fd, struct salvage *found);

/* ---- counters.c ---- */

/* Bracket a change of the counters: an audit waits until no change of a living process is under way. */
void pipecap_change_begin(struct pipecap_member *member);
void pipecap_change_end(struct pipecap_member *member);
/* At most `most` credits, all that are free: how many. */
uint32_t pipecap_take_credits(struct pipecap_shared *shared, uint32_t most);
void pipecap_give_credits(struct pipecap_shared *shared, uint32_t count);
/* Wait until there may be a credit: 0 or an outcome. */
int pipecap_wait_for_credit(struct pipecap_member *member, int fd, int64_t deadline);
/* Make credits and tasks those of the living: 1 when done, 0 when something was in motion. */
int pipecap_audit(struct pipecap_member *member, int fd);
/* Take tasks back that were never sent. */
void pipecap_drop_tasks(struct pipecap_shared *shared, uint32_t count);

/* ---- block.c ---- */

/* A block of at least `bytes`, with one holder, and how many it has room for; NULL without memory. */
uint8_t *pipecap_block_new(size_t bytes, size_t *room);
/* The same block of 1 MiB or more, larger: it may be somewhere else then. It is as it was where this returns NULL. */
uint8_t *pipecap_block_grow(uint8_t *data, size_t bytes, size_t *room);
int pipecap_block_is_shared(uint8_t *data);

/* ---- frames.c ---- */

/* Have memory of `bytes` that nobody else holds, with nothing in it; room for the bounds of `count` frames; more
 * memory behind what is there: 0 or -ENOMEM. */
int pipecap_reserve(struct pipecap_frames *frames, size_t bytes);
int pipecap_grow(struct pipecap_frames *frames, size_t bytes);
/* The same for one frame of which objects may be made: memory that is not much too large, as they may be kept. */
int pipecap_reserve_for_objects(struct pipecap_frames *frames, size_t bytes);
int pipecap_reserve_bounds(struct pipecap_frames *frames, size_t count);
void pipecap_note_frame(struct pipecap_frames *frames, uint64_t begin, uint64_t payload);
/* Exchange the memory of two, and what is in it. */
void pipecap_exchange(struct pipecap_frames *one, struct pipecap_frames *other);
/* Parse a header of which `have` bytes are here: its size, 0 when more are needed, or an outcome. */
int pipecap_parse_header(const uint8_t *bytes, size_t have, uint64_t longest, uint64_t *payload);
/* Take at most max_frames of the frames that were given back: bytes of the first, -errno, PIPECAP_AGAIN for none. */
int64_t pipecap_take_owed(struct pipecap_receiver *receiver, struct pipecap_frames *frames, uint64_t max_frames);
/* Have the memory with which frames can be given back: 1, 0 without memory. */
int pipecap_has_spare(struct pipecap_receiver *receiver);

/* ---- read.c, receive.c ---- */

#define GO_ON 1

/* What one call works on. */
struct op {
    struct pipecap_receiver *receiver;
    struct pipecap_frames *frames;
    struct pipecap_member *member;
    struct pipecap_shared *shared; /* NULL: a plain connection */
    int fd;
    int64_t deadline;
    uint64_t longest;
    uint64_t max_frames;
    int is_eager;
};

/* Read without sleeping: bytes, 0 at the end of the file, -errno. */
ssize_t pipecap_read_some(const struct op *op, const struct iovec *parts, int count);
/* Wait for more bytes: GO_ON, -errno or an outcome. */
int64_t pipecap_wait_for_bytes(const struct op *op);
/* Receive as the owner of the read lock, or of a plain connection: 0, -errno or an outcome. */
int64_t pipecap_receive_frames(const struct op *op);
/* Return an error that is owed to the next reader, once. */
int64_t pipecap_error_owed(struct pipecap_shared *shared);

/* ---- send.c ---- */

/* Frames under way or in line. */
struct pipecap_item {
    struct pipecap_item *next;
    const void *const *pieces;
    const uint64_t *piece_sizes;
    size_t piece_count;
    const uint64_t *payloads; /* bytes of each frame's payload */
    size_t frame_count;
    size_t piece;             /* how far it came: in the pieces, ... */
    size_t piece_done;
    size_t frame;             /* ... in the frames, ... */
    uint64_t frame_done;      /* ... in the frame under way, header included */
    size_t published;         /* frames of it that began */
    uint64_t ticket;
    int is_in_line;
    int is_held;              /* its frames that have not begun are in the participant's `held` */
    int error;
};

static inline int is_sent(const struct pipecap_item *item)
{
    return item->frame == item->frame_count;
}

static inline int is_begun(const struct pipecap_item *item)
{
    return item->frame || item->frame_done;
}

static inline uint64_t frame_size(uint64_t payload)
{
    return payload + (payload <= LARGEST_SHORT_PAYLOAD ? SHORT_HEADER : LONG_HEADER);
}

#define STAGE ((size_t)9 << 10)
#define MOST_PARTS 64

/* The parts of one write. */
struct gather {
    struct iovec parts[MOST_PARTS];
    int count;
    size_t size;
    size_t staged;
    char stage[STAGE];
};

/* Write the header of a frame of `payload` bytes; return its size, at most 12. */
size_t pipecap_header(uint64_t payload, uint8_t *header);
/* Advance an item by at most `limit` bytes, and not beyond its first `frames` frames, adding the bytes to a write if
 * there is one; return how many. */
size_t pipecap_move_on(struct pipecap_item *item, size_t limit, size_t frames, struct gather *gather);
/* Bytes of the next write of an item, of a sender with this `chunk`. */
size_t pipecap_next_write(const struct pipecap_item *item, size_t chunk);
/* Write without sleeping: bytes or -errno. */
ssize_t pipecap_write(int fd, struct gather *gather);
/* Grow the pipe where `bytes` may not fit beside what is unread; as far as the kernel grants, never shrink it. */
void pipecap_make_room(int fd, uint64_t bytes);
uint64_t pipecap_bytes_left(const struct pipecap_item *item);

/* ---- batch.c ---- */

/* Publish where the frames that begin now end, and how many they are, before their first byte is written. */
void pipecap_publish(struct pipecap_sender *sender, struct pipecap_item *first);
/* The opposite, for the frames of a batch of which nothing was written yet, or whose rest nobody can read. */
void pipecap_unpublish(struct pipecap_sender *sender, struct pipecap_item *first);

/* ---- drive.c ---- */

/* Until when a put waits: its patience begins where it first has to. */
#define NOT_YET_WAITING (-2)

/* How long a put waits for a reader that takes nothing. */
#define STALL_NS 10000000

/* Be the one thread that sends: 1, or 0 where another one is. */
int pipecap_start_driving(struct pipecap_sender *sender);
void pipecap_stop_driving(struct pipecap_sender *sender);
/* Whether a reader took something since a put gave up waiting for one. */
int pipecap_may_wait(struct pipecap_sender *sender);
/* Whether to wait on: a reader took something since `seen`, which is brought up to date, and the round is not over. */
int pipecap_moves(struct pipecap_sender *sender, uint64_t *seen, int64_t round_end, int64_t *until);
/* Write an item as far as it goes until then: 0 when all of it is sent, PIPECAP_QUEUED when it is not, or -errno. */
int pipecap_drive(struct pipecap_sender *sender, int fd, struct pipecap_item *item, int64_t until);
/* Work at the line, as its driver: until it is empty, until then, or until this ticket is finished. */
int pipecap_drive_line(struct pipecap_sender *sender, int fd, int64_t until, uint64_t ticket);
/* Credits and tasks of the frames of an item that have not begun come back. */
void pipecap_give_back_credits(struct pipecap_sender *sender, const struct pipecap_item *item);
/* An item that cannot be sent. */
void pipecap_give_up(struct pipecap_sender *sender, struct pipecap_item *item, int error);
/* Nothing in line can be sent any more. */
void pipecap_fail_line(struct pipecap_sender *sender, int error);
/* Wake the threads that wait for a change. */
void pipecap_changed(struct pipecap_sender *sender);
/* Take the first item out of the line: it is sent, or failed. */
void pipecap_finish_first(struct pipecap_sender *sender, int error);

/* ---- line.c ---- */

/* How long a feeder thread works before others may change the line. */
#define FEED_NS 100000000

/* What becomes of an item's arrays when it must wait: they stay where they are (of put_frames(), the caller's), or
 * the one piece and its size go along with the item; or all that is left is copied, with its bytes. */
enum keeping { IN_PLACE, BUT_FOR_THE_BYTES, COPIED };

/* Make the memory in which an item waits; NULL without memory. */
struct pipecap_item *pipecap_line_copy(const struct pipecap_item *item, enum keeping keeping);
/* Put an item in line, in front where nothing may come before it. */
void pipecap_line_up(struct pipecap_sender *sender, struct pipecap_item *item, int in_front);
void pipecap_lock_line(struct pipecap_sender *sender);
void pipecap_unlock_line(struct pipecap_sender *sender);
/* Where a ticket is in a list, or the list's end. */
struct pipecap_item **pipecap_find(struct pipecap_item **list, uint64_t ticket);
/* Copy what is left of an item, with its bytes; NULL without memory. */
struct pipecap_item *pipecap_copy_rest(const struct pipecap_item *item);
/* Sleep until something changes in the line: 0, -ETIMEDOUT or -EINTR. */
int pipecap_wait_for_change(struct pipecap_sender *sender, uint32_t before, int64_t until);

#endif
