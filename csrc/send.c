/* Frames on their way out, into a pipe or socket, and room for them. internal.h describes the wire format. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "internal.h"

/* Parts no larger than this are copied together: the kernel takes longer over an iovec than over the bytes. */
#define SMALL_PART 1024u
#define STAGE ((size_t)32 << 10)
#define MOST_PARTS 64
#define SHORTER 64

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
