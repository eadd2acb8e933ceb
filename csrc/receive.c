/* Frames on their way in, out of a pipe or socket. internal.h describes the wire format. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "internal.h"

/* Below this, a frame's memory is taken at once; above, as its bytes arrive, so that a header which lies costs little. */
#define TRUSTED_LENGTH ((size_t)64 << 20)
#define FIRST_ALLOCATION ((size_t)64 << 10)
/* malloc gives large blocks at 16 bytes past a page: this far into them, the payload begins on a cache line. */
#define HEAD_ROOM 44u

void pipecap_incoming_clear(struct pipecap_incoming *incoming)
{
    incoming->filled = incoming->start = 0;
    incoming->header_known = 0;
    incoming->frame_count = 0;
    incoming->body = incoming->body_filled = 0;
}

void pipecap_incoming_free(struct pipecap_incoming *incoming)
{
    if (incoming->data)
        free(incoming->data - HEAD_ROOM);
    free(incoming->frames);
    *incoming = (struct pipecap_incoming){0};
}

static int reserve(struct pipecap_incoming *incoming, size_t bytes)
{
    uint8_t *block = incoming->data ? incoming->data - HEAD_ROOM : NULL;

    if (bytes <= incoming->allocated)
        return 0;
    if (bytes < FIRST_ALLOCATION)
        bytes = FIRST_ALLOCATION;
    if (bytes > (size_t)SSIZE_MAX - HEAD_ROOM)
        return -ENOMEM;
    block = realloc(block, bytes + HEAD_ROOM); /* moves pages, not bytes, where it is large */
    if (!block)
        return -ENOMEM;
    incoming->data = block + HEAD_ROOM;
    incoming->allocated = bytes;
    return 0;
}

static int note_frame(struct pipecap_incoming *incoming, size_t begin)
{
    if (incoming->frame_count == incoming->frames_allocated) {
        size_t more = incoming->frames_allocated ? 2 * incoming->frames_allocated : 64;
        uint64_t *frames = realloc(incoming->frames, more * 2 * sizeof *frames);

        if (!frames)
            return -ENOMEM;
        incoming->frames = frames;
        incoming->frames_allocated = more;
    }
    incoming->frames[2 * incoming->frame_count] = begin;
    incoming->frames[2 * incoming->frame_count + 1] = incoming->payload;
    return 0;
}

static uint64_t big_endian(const uint8_t *bytes, size_t count)
{
    uint64_t value = 0;

    for (size_t i = 0; i < count; i++)
        value = value << 8 | bytes[i];
    return value;
}

/* Read the header of the frame under way: 1 known, 0 not all of it here, or an outcome. The 8 bytes of a long one are
 * taken out, so that a payload always begins 4 bytes after its frame does. */
static int parse_header(struct pipecap_incoming *incoming, uint64_t longest)
{
    uint8_t *header = incoming->data + incoming->start;
    size_t have = incoming->filled - incoming->start;

    if (have < SHORT_HEADER)
        return 0;
    incoming->payload = big_endian(header, SHORT_HEADER);
    if (incoming->payload == UINT32_MAX) {
        if (have < LONG_HEADER)
            return 0;
        incoming->payload = big_endian(header + SHORT_HEADER, LONG_HEADER - SHORT_HEADER);
        memmove(header + SHORT_HEADER, header + LONG_HEADER, have - LONG_HEADER);
        incoming->filled -= LONG_HEADER - SHORT_HEADER;
    } else if (incoming->payload > LARGEST_SHORT_PAYLOAD) {
        return PIPECAP_BAD_HEADER;
    }
    incoming->header_known = 1;
    return incoming->payload > longest ? PIPECAP_TOO_LONG : 1;
}

/* Take note of the frames that are whole, of at most max_frames: 0, or an outcome. */
static int parse(struct pipecap_incoming *incoming, uint64_t longest, uint64_t max_frames)
{
    while (incoming->filled > incoming->start && incoming->frame_count < max_frames) {
        size_t begin = incoming->start + SHORT_HEADER;
        int known = incoming->header_known ? 1 : parse_header(incoming, longest);

        if (known <= 0)
            return known;
        if (incoming->filled - begin < incoming->payload)
            return 0;
        if (note_frame(incoming, begin) < 0)
            return -ENOMEM;
        incoming->frame_count++;
        incoming->header_known = 0;
        incoming->start = begin + (size_t)incoming->payload;
    }
    return 0;
}

int pipecap_incoming_begin(struct pipecap_incoming *incoming, const uint8_t *bytes, size_t count, uint64_t longest)
{
    int error = reserve(incoming, count);

    if (error)
        return error;
    memcpy(incoming->data, bytes, count);
    incoming->filled = count;
    return parse(incoming, longest, 1);
}

static uint64_t little_endian(const uint8_t *bytes, size_t count)
{
    uint64_t value = 0;

    while (count-- > 0)
        value = value << 8 | bytes[count];
    return value;
}

int pipecap_is_large_bytes(struct pipecap_incoming *incoming)
{
    const uint8_t *pickle = incoming->data + incoming->start + SHORT_HEADER;
    uint64_t size;

    /* Lib/pickle.py: PROTO, its number, BINBYTES, 4 bytes of length. */
    if (pickle[0] != 0x80 || pickle[1] < 4 || pickle[1] > 5 || pickle[2] != 'B')
        return 0;
    size = little_endian(pickle + 3, 4);
    if (size + PIPECAP_BODY_HEAD + PIPECAP_BODY_TAIL != incoming->payload)
        return 0;
    if (note_frame(incoming, incoming->start + SHORT_HEADER) < 0 || reserve(incoming, FIRST_ALLOCATION) < 0)
        return 0; /* as any other, then */
    incoming->body = (size_t)size;
    incoming->body_filled = 0;
    return 1;
}

int pipecap_receive_body(int fd, struct pipecap_incoming *incoming, uint8_t *body, size_t ahead, int wait)
{
    size_t tail = incoming->filled - incoming->start - SHORT_HEADER - PIPECAP_BODY_HEAD;
    struct iovec parts[] = {
        {body + incoming->body_filled, incoming->body - incoming->body_filled},
        {incoming->data + incoming->filled, PIPECAP_BODY_TAIL + ahead - tail},
    };
    ssize_t got = wait ? readv(fd, parts, 2) : preadv2(fd, parts, 2, -1, RWF_NOWAIT);

    if (got == -1)
        return -errno;
    if (got == 0)
        return PIPECAP_CUT_SHORT;
    if ((size_t)got < parts[0].iov_len) {
        incoming->body_filled += (size_t)got;
        return 0;
    }
    incoming->body_filled = incoming->body;
    incoming->filled += (size_t)got - parts[0].iov_len;
    tail += (size_t)got - parts[0].iov_len;
    if (tail < PIPECAP_BODY_TAIL)
        return 0;
    incoming->start += SHORT_HEADER + PIPECAP_BODY_HEAD + PIPECAP_BODY_TAIL;
    incoming->header_known = 0;
    incoming->frame_count = 1;
    return 1;
}

int pipecap_keep_body(struct pipecap_incoming *incoming, const uint8_t *body)
{
    size_t head = SHORT_HEADER + PIPECAP_BODY_HEAD;
    size_t count = incoming->body_filled;
    uint8_t *data;

    if (reserve(incoming, incoming->filled + count))
        return -ENOMEM;
    data = incoming->data + head;
    memmove(data + count, data, incoming->filled - head);
    memcpy(data, body, count);
    incoming->filled += count;
    if (incoming->frame_count)
        incoming->start += count;
    incoming->body = incoming->body_filled = 0;
    return 0;
}

int pipecap_may_be_large_bytes(const struct pipecap_incoming *incoming, uint64_t body_from)
{
    return body_from && incoming->header_known && incoming->payload >= body_from &&
           incoming->payload <= TRUSTED_LENGTH && incoming->frame_count == 0 &&
           incoming->filled - incoming->start < SHORT_HEADER + PIPECAP_BODY_HEAD;
}

/* Bytes that belong to the frame under way and to `more` further ones, however small: never a byte too many, but for
 * `ahead` bytes, which are at most a header. */
static size_t wanted(const struct pipecap_incoming *incoming, uint64_t more, size_t ahead, uint64_t body_from)
{
    size_t have = incoming->filled - incoming->start;
    uint64_t missing;

    if (pipecap_may_be_large_bytes(incoming, body_from))
        missing = SHORT_HEADER + PIPECAP_BODY_HEAD - have;
    else if (incoming->header_known)
        missing = SHORT_HEADER + incoming->payload - have + ahead;
    else
        missing = (have < SHORT_HEADER ? SHORT_HEADER : LONG_HEADER) - have;
    if (more > SIZE_MAX / SHORT_HEADER / 2)
        more = SIZE_MAX / SHORT_HEADER / 2;
    if (more) {
        missing += more * SHORT_HEADER;
        if (missing > FIRST_ALLOCATION && missing - more * SHORT_HEADER < FIRST_ALLOCATION)
            missing = FIRST_ALLOCATION;
    }
    return missing > (uint64_t)SSIZE_MAX / 2 ? SSIZE_MAX / 2 : (size_t)missing;
}

int pipecap_receive_some(int fd, struct pipecap_incoming *incoming, uint64_t longest, uint64_t max_frames, size_t ahead,
                         uint64_t body_from, int wait)
{
    size_t want = wanted(incoming, max_frames - incoming->frame_count - 1, ahead, body_from);
    size_t room = want;
    ssize_t got;
    int error;

    if (room > TRUSTED_LENGTH && room > incoming->filled)
        room = incoming->filled > TRUSTED_LENGTH ? incoming->filled : TRUSTED_LENGTH;
    error = reserve(incoming, incoming->filled + room);
    if (error)
        return error;
    if (want > incoming->allocated - incoming->filled)
        want = incoming->allocated - incoming->filled;
    if (wait) {
        got = read(fd, incoming->data + incoming->filled, want);
    } else {
        struct iovec part = {incoming->data + incoming->filled, want};
        got = preadv2(fd, &part, 1, -1, RWF_NOWAIT);
    }
    if (got == -1)
        return -errno;
    if (got == 0)
        return incoming->filled == incoming->start ? PIPECAP_END_OF_FILE : PIPECAP_CUT_SHORT;
    incoming->filled += (size_t)got;
    error = parse(incoming, longest, max_frames);
    return error ? error : 1;
}

static int64_t receive(struct pipecap_end *end, struct pipecap_incoming *incoming, uint64_t longest, int wait)
{
    int fd = pipecap_enter(end);
    int may_sleep = wait;
    int result;

    if (fd < 0)
        return fd;
    if (incoming->filled == incoming->start) /* the frame of before was taken */
        pipecap_incoming_clear(incoming);
    if (incoming->header_known && incoming->payload > longest) { /* begun by a call that allowed more */
        pipecap_leave(end);
        return PIPECAP_TOO_LONG;
    }
    do {
        result = pipecap_receive_some(fd, incoming, longest, 1, 0, 0, may_sleep);
        if (!wait && (result == -EOPNOTSUPP || result == -ENOSYS)) /* no RWF_NOWAIT here */
            result = wait_readable(fd, 0) == 1 ? pipecap_receive_some(fd, incoming, longest, 1, 0, 0, 1) : -EAGAIN;
        else if (result < 0 && wait && !may_sleep)
            result = result > PIPECAP_END_OF_FILE ? -EINTR : result;
        may_sleep = 0; /* not before the caller looked for signals that came meanwhile */
    } while (result == 1 && incoming->frame_count == 0);
    pipecap_leave(end);
    return result == 1 ? (int64_t)incoming->frames[1] : result;
}

int64_t pipecap_receive(struct pipecap_end *end, struct pipecap_incoming *incoming, uint64_t longest)
{
    return receive(end, incoming, longest, 1);
}

int64_t pipecap_receive_now(struct pipecap_end *end, struct pipecap_incoming *incoming, uint64_t longest)
{
    return receive(end, incoming, longest, 0);
}
