/* multiprocessing's wire format: a header of 4 bytes, the payload's length in network order, then the payload. Above
 * 2 GiB - 1 bytes: -1 in those 4 and the length in 8 more (Lib/multiprocessing/connection.py: _send_bytes). */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "clock.h"
#include "frames.h"

#define SHORT_HEADER 4u
#define LONG_HEADER 12u
#define LARGEST_SHORT_PAYLOAD UINT64_C(0x7fffffff)

/* Below this, a frame's memory is taken at once; above, as its bytes arrive, so that a header which lies costs little. */
#define TRUSTED_LENGTH ((size_t)64 << 20)
#define FIRST_ALLOCATION ((size_t)64 << 10)
/* malloc gives large blocks at 16 bytes past a page: this far into them, the payload begins on a cache line. */
#define HEAD_ROOM 44u

/* Parts no larger than this are copied together: the kernel takes longer over an iovec than over the bytes. */
#define SMALL_PART 1024u
#define STAGE ((size_t)32 << 10)
#define MOST_PARTS 64
#define SHORTER 64

int pipecap_enter(struct pipecap_end *end)
{
    uint32_t users = __atomic_load_n(&end->users, __ATOMIC_SEQ_CST);

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
    uint32_t users;

    users = __atomic_fetch_or(&end->users, 1, __ATOMIC_SEQ_CST);
    if (users & 1)
        return -EBADF;
    return users == 0 && close(end->fd) == -1 ? -errno : 0;
}

/* ---- in ---- */

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

int pipecap_readable(struct pipecap_end *end, int64_t deadline)
{
    int fd = pipecap_enter(end);
    int result;

    if (fd < 0)
        return fd;
    result = wait_readable(fd, deadline);
    pipecap_leave(end);
    return result;
}

/* ---- room ---- */

/* Pages that are surely free. What is unread lies in slots of which any two neighbours hold more than a page together
 * (fs/pipe.c merges what fits), so it takes at most two slots a page, and one at either end. */
static int64_t free_pages(int fd, int64_t capacity, long page)
{
    int64_t unread = pipecap_unread(fd);

    return unread <= 0 ? capacity / page : capacity / page - 2 * (unread / page) - 2;
}

void pipecap_make_room(int fd, uint64_t bytes)
{
    long page = sysconf(_SC_PAGESIZE);
    int64_t pages = ((int64_t)(bytes < INT_MAX ? bytes : INT_MAX) + page - 1) / page;
    int64_t capacity = pipecap_capacity(fd);
    int64_t needed, wanted = capacity;

    if (capacity < 0)
        return; /* no pipe, or none that can be resized */
    needed = capacity + (pages - free_pages(fd, capacity, page)) * page;
    while (wanted < needed && wanted < (INT64_C(1) << 31))
        wanted *= 2;
    for (; wanted > capacity; wanted /= 2) {
        int64_t granted = pipecap_resize(fd, (uint64_t)wanted);

        if (granted >= 0 || (granted != -EPERM && granted != -ENOMEM))
            return;
    }
}

/* ---- out ---- */

size_t pipecap_header(uint64_t payload, uint8_t *header)
{
    uint64_t rest = payload;

    if (payload <= LARGEST_SHORT_PAYLOAD) {
        for (size_t i = SHORT_HEADER; i-- > 0; rest >>= 8)
            header[i] = (uint8_t)rest;
        return SHORT_HEADER;
    }
    memset(header, 0xff, SHORT_HEADER);
    for (size_t i = LONG_HEADER; i-- > SHORT_HEADER; rest >>= 8)
        header[i] = (uint8_t)rest;
    return LONG_HEADER;
}

/* The parts of one write. */
struct gather {
    struct iovec parts[MOST_PARTS];
    int count;
    size_t staged;
    char stage[STAGE];
};

/* Add bytes to a write; 0 when it has no room for them. */
static int add(struct gather *gather, const void *data, size_t size, size_t header)
{
    struct iovec *last = gather->count ? &gather->parts[gather->count - 1] : NULL;

    if (size > SMALL_PART && !header) {
        if (gather->count == MOST_PARTS)
            return 0;
        gather->parts[gather->count++] = (struct iovec){(void *)data, size};
        return 1;
    }
    if (size > STAGE - gather->staged)
        return 0;
    if (last && (char *)last->iov_base + last->iov_len == gather->stage + gather->staged) {
        last->iov_len += size;
    } else {
        if (gather->count == MOST_PARTS)
            return 0;
        gather->parts[gather->count++] = (struct iovec){gather->stage + gather->staged, size};
    }
    memcpy(gather->stage + gather->staged, data, size);
    gather->staged += size;
    return 1;
}

/* Move on by at most `limit` bytes, adding them to a write if there is one; gives how many. */
static size_t advance(struct pipecap_outgoing *out, size_t limit, struct gather *gather)
{
    size_t moved = 0;

    while (out->frame < out->frame_count && moved < limit) {
        uint64_t payload = out->payloads[out->frame];
        uint8_t header[LONG_HEADER];
        size_t header_size = pipecap_header(payload, header);
        int in_header = out->frame_done < header_size;
        const char *data;
        size_t size;

        if (in_header) {
            data = (const char *)header + out->frame_done;
            size = header_size - (size_t)out->frame_done;
        } else if (out->frame_done == header_size + payload) { /* an empty payload */
            out->frame++;
            out->frame_done = 0;
            continue;
        } else {
            const struct pipecap_piece *piece = &out->pieces[out->piece];
            uint64_t left = header_size + payload - out->frame_done;

            if (out->piece_done == piece->size) {
                out->piece++;
                out->piece_done = 0;
                continue;
            }
            data = (const char *)piece->data + out->piece_done;
            size = piece->size - out->piece_done;
            if (size > left)
                size = (size_t)left;
        }
        if (size > limit - moved)
            size = limit - moved;
        if (gather && !add(gather, data, size, in_header))
            break;
        moved += size;
        out->frame_done += size;
        if (!in_header)
            out->piece_done += size;
        if (out->frame_done == header_size + payload) {
            out->frame++;
            out->frame_done = 0;
        }
    }
    out->sent += moved;
    return moved;
}

void pipecap_skip(struct pipecap_outgoing *outgoing, uint64_t bytes)
{
    advance(outgoing, (size_t)bytes, NULL);
}

/* Write some without sleeping. RWF_NOWAIT is per call: O_NONBLOCK would be seen by every process that shares the
 * description. Where pipes do not know it, poll(2) promises room for PIPE_BUF bytes. */
static ssize_t write_now(int fd, struct gather *gather)
{
    ssize_t written = pwritev2(fd, gather->parts, gather->count, -1, RWF_NOWAIT);

    if (written >= 0 || (errno != EOPNOTSUPP && errno != ENOSYS))
        return written;
    if (pipecap_full(fd) != 0) {
        errno = EAGAIN;
        return -1;
    }
    if (gather->parts[0].iov_len > PIPE_BUF)
        gather->parts[0].iov_len = PIPE_BUF;
    return write(fd, gather->parts[0].iov_base, gather->parts[0].iov_len);
}

/* Bytes of the next write. On some processors the kernel's copy (rep movsb) is six times slower where the destination
 * lies 1 to 31 bytes behind the source, by their places in a page. All of a large payload is copied by the same distance:
 * a first write that is a little shorter changes it for the rest, as each write of whole pages begins a page. */
static size_t next_write(const struct pipecap_outgoing *out)
{
    uint8_t header[LONG_HEADER];
    size_t before = pipecap_header(out->payloads[out->frame], header);
    size_t distance;

    /* Not where the frame would take a page more for it. */
    if (out->frame_done || out->chunk % 4096 || (before + out->payloads[out->frame] - 1) % 4096 >= 4096 - SHORTER)
        return out->chunk;
    for (size_t i = out->piece; i < out->piece_count && before < SMALL_PART; before += out->pieces[i++].size) {
        if (out->pieces[i].size < 2 * out->chunk)
            continue;
        distance = (before - (uintptr_t)out->pieces[i].data) % 4096;
        return distance > 0 && distance < 32 ? out->chunk - SHORTER : out->chunk;
    }
    return out->chunk;
}

int pipecap_send_all(int fd, struct pipecap_outgoing *outgoing, int wait)
{
    int again = 0;

    while (outgoing->frame < outgoing->frame_count) {
        struct pipecap_outgoing next = *outgoing;
        struct gather gather; /* only what is staged is written to */
        size_t size;
        ssize_t written;

        gather.count = 0;
        gather.staged = 0;
        size = advance(&next, next_write(outgoing), &gather);
        written = wait ? writev(fd, gather.parts, gather.count) : write_now(fd, &gather);
        if (written == -1)
            return errno == EAGAIN && again ? -EINTR : -errno;
        if (wait && !outgoing->patient) {
            wait = 0; /* not before the caller looked for signals that came meanwhile */
            again = 1;
        }
        if ((size_t)written == size)
            *outgoing = next;
        else
            advance(outgoing, (size_t)written, NULL);
    }
    return 0;
}

uint64_t pipecap_bytes_left(const struct pipecap_outgoing *outgoing)
{
    uint8_t header[LONG_HEADER];
    uint64_t bytes = 0;

    for (size_t i = outgoing->frame; i < outgoing->frame_count; i++)
        bytes += pipecap_header(outgoing->payloads[i], header) + outgoing->payloads[i];
    return bytes - outgoing->frame_done;
}

int pipecap_send(struct pipecap_end *end, struct pipecap_outgoing *outgoing)
{
    int fd = pipecap_enter(end);
    int result;

    if (fd < 0)
        return fd;
    if (end->elastic && outgoing->sent == 0)
        pipecap_make_room(fd, pipecap_bytes_left(outgoing));
    result = pipecap_send_all(fd, outgoing, 1);
    pipecap_leave(end);
    return result;
}

int64_t pipecap_send_once(struct pipecap_end *end, const char *data, size_t size)
{
    int fd = pipecap_enter(end);
    uint8_t header[LONG_HEADER];
    struct iovec parts[] = {{header, pipecap_header(size, header)}, {(void *)data, size}};
    ssize_t written;

    if (fd < 0)
        return fd;
    written = end->elastic ? pwritev2(fd, parts, 2, -1, RWF_NOWAIT) : -1;
    if (written == -1) {
        if (end->elastic)
            pipecap_make_room(fd, parts[0].iov_len + size);
        written = writev(fd, parts, 2);
    }
    if (written == -1)
        written = -errno;
    pipecap_leave(end);
    return written;
}
