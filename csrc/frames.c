/* The memory that frames arrive in, and headers. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define FIRST_ALLOCATION ((size_t)64 << 10)

static int set_block(struct pipecap_frames *frames, uint8_t *data, size_t room)
{
    if (!data)
        return -ENOMEM;
    frames->data = data;
    frames->allocated = room;
    frames->moved = 1;
    return 0;
}

int pipecap_reserve(struct pipecap_frames *frames, size_t bytes)
{
    size_t room = 0;
    uint8_t *data;

    if (bytes <= frames->allocated && !pipecap_block_is_shared(frames->data))
        return 0;
    if (bytes < FIRST_ALLOCATION)
        bytes = FIRST_ALLOCATION;
    data = pipecap_block_new(bytes, &room);
    if (data && frames->data)
        pipecap_drop(frames->data);
    return set_block(frames, data, room);
}

int pipecap_grow(struct pipecap_frames *frames, size_t bytes)
{
    size_t room = 0;
    uint8_t *data = pipecap_block_grow(frames->data, bytes, &room);

    return set_block(frames, data, room);
}

int pipecap_reserve_for_objects(struct pipecap_frames *frames, size_t bytes)
{
    size_t room = 0;
    uint8_t *data;

    if (bytes <= PIPECAP_SMALL)
        return pipecap_reserve(frames, bytes);
    if (bytes <= frames->allocated && frames->allocated / 2 <= bytes && !pipecap_block_is_shared(frames->data))
        return 0;
    data = pipecap_block_new(bytes, &room);
    if (data && frames->data)
        pipecap_drop(frames->data);
    return set_block(frames, data, room);
}

int pipecap_reserve_bounds(struct pipecap_frames *frames, size_t count)
{
    size_t more = frames->bounds_allocated ? 2 * frames->bounds_allocated : 64;
    uint64_t *bounds;

    if (count <= frames->bounds_allocated)
        return 0;
    if (more < count)
        more = count;
    bounds = realloc(frames->bounds, more * 2 * sizeof *bounds);
    if (!bounds)
        return -ENOMEM;
    frames->bounds = bounds;
    frames->bounds_allocated = more;
    return 0;
}

void pipecap_note_frame(struct pipecap_frames *frames, uint64_t begin, uint64_t payload)
{
    frames->bounds[2 * frames->count] = begin;
    frames->bounds[2 * frames->count + 1] = payload;
    frames->count++;
}

void pipecap_frames_free(struct pipecap_frames *frames)
{
    if (frames->data)
        pipecap_drop(frames->data);
    free(frames->bounds);
    *frames = (struct pipecap_frames){0};
}

/* Exchange the memory of two, and what is in it. */
void pipecap_exchange(struct pipecap_frames *one, struct pipecap_frames *other)
{
    struct pipecap_frames kept = *one;

    *one = *other;
    *other = kept;
    one->moved = other->moved = 1;
    one->next = NULL;
}

/* ---- headers ---- */

static uint64_t big_endian(const uint8_t *bytes, size_t count)
{
    uint64_t value = 0;

    for (size_t i = 0; i < count; i++)
        value = value << 8 | bytes[i];
    return value;
}

/* Parse a header of which `have` bytes are here: its size, 0 when more are needed, or an outcome. */
int pipecap_parse_header(const uint8_t *bytes, size_t have, uint64_t longest, uint64_t *payload)
{
    int size = SHORT_HEADER;

    if (have < SHORT_HEADER)
        return 0;
    *payload = big_endian(bytes, SHORT_HEADER);
    if (*payload == UINT32_MAX) {
        if (have < LONG_HEADER)
            return 0;
        *payload = big_endian(bytes + SHORT_HEADER, LONG_HEADER - SHORT_HEADER);
        size = LONG_HEADER;
    } else if (*payload > LARGEST_SHORT_PAYLOAD) {
        return PIPECAP_BAD_HEADER;
    }
    return *payload > longest ? PIPECAP_TOO_LONG : size;
}

/* ---- frames that were given back ---- */

/* Held for the time of a list operation. */
static void lock_owed(struct pipecap_receiver *receiver)
{
    while (pipecap_mutex_lock(&receiver->owed_mutex, WITHOUT_LIMIT))
        ;
}

static void unlock_owed(struct pipecap_receiver *receiver)
{
    pipecap_mutex_unlock(&receiver->owed_mutex);
}

static int64_t take_owed(struct pipecap_receiver *receiver, struct pipecap_frames *frames, uint64_t max_frames)
{
    struct pipecap_frames *owed = receiver->owed;
    size_t count, at = SHORT_HEADER;

    frames->count = frames->taken = 0;
    if (!owed)
        return PIPECAP_AGAIN;
    count = owed->count - owed->taken;
    if (count > max_frames)
        count = (size_t)max_frames;
    if (pipecap_reserve_bounds(frames, count))
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        at += (size_t)owed->bounds[2 * (owed->taken + i) + 1];
    if (pipecap_reserve(frames, at))
        return -ENOMEM;
    at = SHORT_HEADER;
    for (size_t i = 0; i < count; i++) {
        const uint64_t *bounds = &owed->bounds[2 * (owed->taken + i)];

        memcpy(frames->data + at, owed->data + bounds[0], (size_t)bounds[1]);
        pipecap_note_frame(frames, at, bounds[1]);
        at += (size_t)bounds[1];
    }
    frames->serial = owed->serial + owed->taken;
    owed->taken += count;
    if (owed->taken == owed->count) {
        receiver->owed = owed->next;
        pipecap_frames_free(owed);
        free(owed);
    }
    return (int64_t)frames->bounds[1];
}

/* Take at most max_frames of the frames that were given back: bytes of the first, -errno, PIPECAP_AGAIN for none. */
int64_t pipecap_take_owed(struct pipecap_receiver *receiver, struct pipecap_frames *frames, uint64_t max_frames)
{
    int64_t result;

    lock_owed(receiver);
    result = take_owed(receiver, frames, max_frames);
    unlock_owed(receiver);
    return result;
}

int pipecap_has_spare(struct pipecap_receiver *receiver)
{
    if (!receiver->spare) {
        lock_owed(receiver);
        if (!receiver->spare)
            receiver->spare = malloc(sizeof *receiver->spare);
        unlock_owed(receiver);
    }
    return receiver->spare != NULL;
}

void pipecap_give_back(struct pipecap_receiver *receiver, struct pipecap_frames *frames)
{
    struct pipecap_frames *kept, **place;

    if (frames->taken >= frames->count)
        return;
    lock_owed(receiver);
    kept = receiver->spare ? receiver->spare : malloc(sizeof *kept);
    receiver->spare = NULL;
    if (!kept) { /* several threads at once, without memory */
        unlock_owed(receiver);
        return;
    }
    *kept = (struct pipecap_frames){0};
    pipecap_exchange(kept, frames);
    place = &receiver->owed;
    while (*place && (*place)->serial + (*place)->taken < kept->serial + kept->taken)
        place = &(*place)->next;
    kept->next = *place;
    *place = kept;
    unlock_owed(receiver);
}

uint64_t pipecap_owed(struct pipecap_receiver *receiver)
{
    uint64_t count = 0;

    if (!receiver->owed)
        return 0;
    lock_owed(receiver);
    for (const struct pipecap_frames *owed = receiver->owed; owed; owed = owed->next)
        count += owed->count - owed->taken;
    unlock_owed(receiver);
    return count;
}
