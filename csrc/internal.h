/* What the C files need of each other and Python does not: the wire format on a bare descriptor, locks, the clock. */
#ifndef PIPECAP_INTERNAL_H
#define PIPECAP_INTERNAL_H

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "pipecap.h"

/* ---- the clock: CLOCK_MONOTONIC in nanoseconds, and waiting by it ---- */

#define FOR_EVER (-1)

static inline uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline int past(int64_t deadline)
{
    return deadline != FOR_EVER && (int64_t)now_ns() >= deadline;
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

/* ---- pipe.c, probe.c ---- */

/* fs/pipe.c: round_pipe_size() rejects more. Kernels differ in what they do above 32 bits, so they are never asked. */
#define LARGEST_PIPE (UINT64_C(1) << 31)

/* ---- end.c ---- */

/* Take part in the use of an end: its descriptor, or -EBADF once it was closed. Each enter needs its leave. */
int pipecap_enter(struct pipecap_end *end);
void pipecap_leave(struct pipecap_end *end);

/* ---- multiprocessing's wire format ---- */

/* A header of 4 bytes, the payload's length in network order, then the payload. Above 2 GiB - 1 bytes: -1 in those 4 and
 * the length in 8 more (Lib/multiprocessing/connection.py: _send_bytes). */
#define SHORT_HEADER 4u
#define LONG_HEADER 12u
#define LARGEST_SHORT_PAYLOAD UINT64_C(0x7fffffff)

/* ---- receive.c ---- */

/* Forget the frames of before, for new ones. */
void pipecap_incoming_clear(struct pipecap_incoming *incoming);

/* Begin with the first bytes of a frame, read before. 0 or an outcome. */
int pipecap_incoming_begin(struct pipecap_incoming *incoming, const uint8_t *bytes, size_t count, uint64_t longest);

/* One read(2) of what is missing: of the frame under way, of as many frames after it as `max_frames` allows for
 * certain, and of `ahead` bytes more, at most a header. With `wait` 0 it gives -EAGAIN instead of sleeping, without
 * touching O_NONBLOCK. Of a payload of `body_from` bytes (0: never) or more the head comes alone. Gives 1 when it read
 * something, or what pipecap_receive() gives. */
int pipecap_receive_some(int fd, struct pipecap_incoming *incoming, uint64_t longest, uint64_t max_frames, size_t ahead,
                         uint64_t body_from, int wait);

/* Whether the head alone is to be read of the first frame; once it is here: whether it is that of one bytes object. Then
 * incoming->body is set, and the rest is for pipecap_receive_body(): one readv(2), of the object's bytes, of the tail and
 * of `ahead` bytes more. 1 when the frame is whole, 0 when not, or what pipecap_receive_some() gives. */
int pipecap_may_be_large_bytes(const struct pipecap_incoming *incoming, uint64_t body_from);
int pipecap_is_large_bytes(struct pipecap_incoming *incoming);
int pipecap_receive_body(int fd, struct pipecap_incoming *incoming, uint8_t *body, size_t ahead, int wait);

/* ---- send.c ---- */

/* Bytes of the header of a frame with so many bytes of payload; written to header, which has room for 12. */
size_t pipecap_header(uint64_t payload, uint8_t *header);

/* Grow the pipe where so many bytes, written in whole pages, may not fit beside what is unread; as far as the kernel
 * grants, and never shrink it. */
void pipecap_make_room(int fd, uint64_t bytes);

/* Bytes still to be sent, headers included. */
uint64_t pipecap_bytes_left(const struct pipecap_outgoing *outgoing);

/* Write all, in pieces of at most outgoing->chunk bytes. 0 or -errno; outgoing remembers how far it came. With `wait` 0
 * it gives -EAGAIN instead of sleeping. */
int pipecap_send_all(int fd, struct pipecap_outgoing *outgoing, int wait);

/* ---- lock.c, counters.c ---- */

/* How often who waits looks again, without being woken: at a lock whether its holder still lives, at the slots whether one
 * is free. */
#define LOCK_LOOK_NS 500000000

static inline uint32_t load(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

/* Sleep while *word is value: 0 woken or changed, -ETIMEDOUT, -EINTR. */
int pipecap_sleep_on(uint32_t *word, uint32_t value, int64_t deadline);
/* Wake at most `count` of those that sleep on *word. */
void pipecap_wake(uint32_t *word, int count);

/* Take a lock that is free: 1, else 0, without a look at its holder. */
int pipecap_try_lock(struct pipecap_shared *shared, int reading, uint32_t pid);

#endif
