/* multiprocessing's wire format, out: what one write(2) takes of the frames under way. Every frame that leaves this
 * process, of a queue or a plain connection, put directly or out of the line, is written by pipecap_write(). */
#define _GNU_SOURCE
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "internal.h"

/* Parts no larger than this are copied together: the kernel takes longer over an iovec than over the bytes. */
#define SMALL_PART 1024u
#define SHORTER 64

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

/* Add bytes to a write; 0 when it has no room for them. */
static int add_part(struct gather *gather, const void *data, size_t size, int is_header)
{
    struct iovec *last = gather->count ? &gather->parts[gather->count - 1] : NULL;

    if (size > SMALL_PART && !is_header) {
        if (gather->count == MOST_PARTS)
            return 0;
        gather->parts[gather->count++] = (struct iovec){(void *)data, size};
        gather->size += size;
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
    gather->size += size;
    return 1;
}

/* Advance an item by at most `limit` bytes, and not beyond its first `frames` frames, adding the bytes to a write if
 * there is one; return how many. */
size_t pipecap_move_on(struct pipecap_item *item, size_t limit, size_t frames, struct gather *gather)
{
    size_t moved = 0;

    while (item->frame < frames && moved < limit) {
        uint64_t payload = item->payloads[item->frame];
        uint8_t header[LONG_HEADER];
        size_t header_size = pipecap_header(payload, header), size;
        int in_header = item->frame_done < header_size;
        const char *data;

        if (in_header) {
            data = (const char *)header + item->frame_done;
            size = header_size - (size_t)item->frame_done;
        } else if (item->frame_done == header_size + payload) { /* an empty payload */
            item->frame++;
            item->frame_done = 0;
            continue;
        } else {
            uint64_t piece_size = item->piece_sizes[item->piece];
            uint64_t left = header_size + payload - item->frame_done;

            if (item->piece_done == piece_size) {
                item->piece++;
                item->piece_done = 0;
                continue;
            }
            data = (const char *)item->pieces[item->piece] + item->piece_done;
            piece_size -= item->piece_done;
            size = (size_t)(piece_size < left ? piece_size : left);
        }
        if (size > limit - moved)
            size = limit - moved;
        if (gather && !add_part(gather, data, size, in_header))
            break;
        moved += size;
        item->frame_done += size;
        if (!in_header)
            item->piece_done += size;
        if (item->frame_done == header_size + payload) {
            item->frame++;
            item->frame_done = 0;
        }
    }
    return moved;
}

static size_t most_of_a_write(const struct pipecap_item *item, size_t chunk)
{
    uint64_t frame = frame_size(item->payloads[item->frame]);

    if (chunk)
        return chunk;
    return frame > PIPECAP_CHUNK && frame <= PIPECAP_WHOLE ? (size_t)frame : PIPECAP_CHUNK;
}

/* Bytes of the next write. On some processors the kernel's copy (rep movsb) is six times slower where the
 * destination lies 1 to 31 bytes behind the source, by their places in a page. All of a large payload is copied by
 * the same distance: a first write that is a little shorter changes it for the rest, as each write of whole pages
 * begins a page. */
size_t pipecap_next_write(const struct pipecap_item *item, size_t chunk)
{
    uint8_t header[LONG_HEADER];
    size_t before = pipecap_header(item->payloads[item->frame], header);
    size_t most = most_of_a_write(item, chunk);
    size_t distance;

    /* Not where the frame would take a page more for it. */
    if (item->frame_done || chunk % 4096 || (before + item->payloads[item->frame] - 1) % 4096 >= 4096 - SHORTER)
        return most;
    if (!chunk)
        chunk = PIPECAP_CHUNK;
    for (size_t i = item->piece; i < item->piece_count && before < SMALL_PART; before += item->piece_sizes[i++]) {
        if (item->piece_sizes[i] < 2 * chunk)
            continue;
        distance = (before - (uintptr_t)item->pieces[i]) % 4096;
        return distance > 0 && distance < 32 ? chunk - SHORTER : most;
    }
    return most;
}

/* Write without sleeping. RWF_NOWAIT is per call: O_NONBLOCK would be seen by every process that shares the
 * description. Where that is not known, poll(2) promises room for PIPE_BUF bytes. Bytes or -errno. */
ssize_t pipecap_write(int fd, struct gather *gather)
{
    ssize_t written = pwritev2(fd, gather->parts, gather->count, -1, RWF_NOWAIT);

    if (written == -1 && (errno == EOPNOTSUPP || errno == ENOSYS)) {
        if (pipecap_wait_for(fd, POLLOUT, 0) == 0)
            return -EAGAIN;
        if (gather->parts[0].iov_len > PIPE_BUF)
            gather->parts[0].iov_len = PIPE_BUF;
        written = write(fd, gather->parts[0].iov_base, gather->parts[0].iov_len);
    }
    return written == -1 ? -errno : written;
}

/* ---- room ---- */

/* Pages that are surely free. What is unread lies in slots of which any two neighbours hold more than a page together
 * (fs/pipe.c merges what fits), so it takes at most two slots a page, and one at either end. */
static int64_t free_pages(int fd, int64_t capacity, long page)
{
    int64_t unread = pipecap_unread(fd);
    int64_t pages = unread <= 0 ? capacity / page : capacity / page - 2 * (unread / page) - 2;

    return pages > 0 ? pages : 0;
}

/* Grow the pipe where `bytes`, written in whole pages, may not fit beside what is unread; as far as the kernel
 * grants, and never shrink it. */
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

uint64_t pipecap_bytes_left(const struct pipecap_item *item)
{
    uint64_t bytes = 0;

    for (size_t i = item->frame; i < item->frame_count; i++)
        bytes += frame_size(item->payloads[i]);
    return bytes - item->frame_done;
}
