/* What is still whole in the pipe after both a reader and a writer died inside a system call. What they published
 * are lower bounds of both positions; only the difference is known, the bytes in the pipe. So each position that is
 * possible is tried: from the frame under way on, the headers must lead from frame to frame, through the beginning
 * of the last batch, to no further than its end. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "internal.h"

/* One try: the bytes in the pipe are data[0..count), and the first of them is at position `begin`. */
struct attempt {
    struct pipecap_shared *shared;
    const uint8_t *data;
    uint64_t count;
    uint64_t begin;
    uint64_t first_end; /* end of the frame at the boundary: the header behind it may be in the next place */
};

/* The byte at a position, or -1 where it went to a reader that died. */
static int byte_at(const struct attempt *attempt, uint64_t position)
{
    const struct pipecap_place *place = place_of(attempt->shared);

    if (position >= attempt->begin)
        return position - attempt->begin < attempt->count ? attempt->data[position - attempt->begin] : -1;
    if (position - place->boundary < place->limit)
        return place->bytes[position - place->boundary];
    if (attempt->first_end && position - attempt->first_end < SHORT_HEADER)
        return next_place(attempt->shared)->bytes[position - attempt->first_end];
    return -1;
}

/* The end of the frame at a position; 0 where its header is not all known, or none. */
static uint64_t end_of(const struct attempt *attempt, uint64_t position)
{
    uint8_t bytes[LONG_HEADER];
    uint64_t payload;
    int have = 0, byte, header = 0;

    while (header == 0 && have < (int)LONG_HEADER && (byte = byte_at(attempt, position + (uint64_t)have)) >= 0) {
        bytes[have++] = (uint8_t)byte;
        header = pipecap_parse_header(bytes, (size_t)have, UINT64_MAX / 2, &payload);
    }
    return header > 0 ? position + (uint64_t)header + payload : 0;
}

/* Follow the headers: 1 when they fit, with the whole frames that are all in the pipe, else 0. */
static int follow(struct attempt *attempt, struct salvage *found)
{
    const struct pipecap_shared *shared = attempt->shared;
    uint64_t batch_begin = shared->batch_begin, batch_end = shared->batch_end;
    uint64_t position = place_of(attempt->shared)->boundary, last = attempt->begin + attempt->count;
    uint64_t most = shared->batch_put - place_of(attempt->shared)->got, frames = 0;

    *found = (struct salvage){0};
    while (position < last) {
        uint64_t end;

        if (frames++ == most) /* more than there can be: a walk through the payloads */
            return 0;
        end = end_of(attempt, position);

        if (!end && position >= attempt->begin && last - position < SHORT_HEADER)
            break; /* a header cut short */
        if (!end || end > batch_end || (position < batch_begin && end > batch_begin))
            return 0;
        if (!attempt->first_end)
            attempt->first_end = end;
        if (position >= attempt->begin && end <= last) {
            if (!found->frames++)
                found->from = position - attempt->begin;
            found->to = end - attempt->begin;
        }
        position = end;
    }
    return 1;
}

static int find_whole_frames(
    struct pipecap_shared *shared, const uint8_t *data, uint64_t count, uint64_t most, struct salvage *found)
{
    int fits = 0;

    for (uint64_t moved = 0; moved <= most; moved++) {
        struct attempt attempt = {shared, data, count, shared->written + moved - count, 0};
        struct salvage now;

        if (shared->written + moved < count || attempt.begin < shared->consumed || !follow(&attempt, &now))
            continue;
        if (fits && (now.from != found->from || now.to != found->to))
            return 0; /* two ways to read it */
        *found = now;
        fits = 1;
    }
    return fits;
}

/* Write bytes into the empty pipe behind a descriptor of its read end: 1, or 0 where it cannot be opened for
 * writing. */
static int write_back(int fd, const uint8_t *data, uint64_t count)
{
    char path[32];
    uint64_t done = 0;
    int end;

    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    end = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (end == -1)
        return 0;
    while (done < count) {
        ssize_t written = write(end, data + done, (size_t)(count - done));

        if (written <= 0)
            break; /* nobody else writes, and it held as much before */
        done += (uint64_t)written;
    }
    close(end);
    return done == count;
}

int pipecap_salvage(struct pipecap_shared *shared, int fd, struct salvage *found)
{
    int64_t count = pipecap_unread(fd), capacity = pipecap_capacity(fd);
    uint64_t most = load(&shared->writer_busy); /* of the dead writer's last system call */
    uint8_t *data = count > 0 ? malloc((size_t)count) : NULL;
    char dropped[4096];
    int kept = 0;

    if (capacity >= 0 && most > (uint64_t)capacity)
        most = (uint64_t)capacity;
    *found = (struct salvage){0};
    if (data && read(fd, data, (size_t)count) == count)
        kept = find_whole_frames(shared, data, (uint64_t)count, most, found) && found->frames;
    while (pipecap_unread(fd) > 0 && read(fd, dropped, sizeof dropped) > 0)
        ;
    kept = kept && write_back(fd, data + found->from, found->to - found->from);
    free(data);
    return kept;
}
