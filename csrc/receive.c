/* multiprocessing's wire format, in: a header of 4 bytes, the payload's length in network order, then the payload.
 * Above 2 GiB - 1 bytes: -1 in those 4 and the length in 8 more (Lib/multiprocessing/connection.py: _send_bytes).
 *
 * Of a queue, headers and small frames are read into the place in shared memory, where the next reader finds them if
 * this one dies; the payload of a larger frame goes straight into memory of this process. */
#define _GNU_SOURCE
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "internal.h"

/* Below this, a frame's memory is taken at once; above, as its bytes arrive, so that a header which lies costs
 * little. */
#define TRUSTED_LENGTH ((size_t)64 << 20)
#define SKIPPED ((size_t)64 << 10) /* bytes of one read */

/* Where the header under way is, with the small frames after it. */
static uint8_t *block_of(const struct op *op)
{
    return op->shared ? place_of(op->shared)->bytes : op->receiver->head;
}

static size_t block_size(const struct op *op)
{
    return op->shared ? PIPECAP_BLOCK : LONG_HEADER;
}

/* ---- frames that came ---- */

/* The next frame begins here; `extra` bytes of it are in the next place already. */
static void advance(const struct op *op, uint64_t bytes, size_t count, size_t extra)
{
    struct pipecap_receiver *receiver = op->receiver;
    struct pipecap_place *place;

    receiver->partial = 0;
    receiver->have = extra;
    op->frames->serial = receiver->received;
    receiver->received += count;
    if (!op->shared)
        return;
    place = place_of(op->shared);
    if (!receiver->counts) {
        pipecap_commit(op->shared, place->boundary + bytes, place->got + count);
        return;
    }
    pipecap_change_begin(op->member);
    pipecap_commit(op->shared, place->boundary + bytes, place->got + count);
    if (receiver->tasks)
        __atomic_add_fetch(&self(op->member)->undone, (int32_t)count, __ATOMIC_SEQ_CST);
    pipecap_give_credits(op->shared, (uint32_t)count);
    pipecap_change_end(op->member);
}

/* Return the credit and the task of an item that is reported as truncated or lost. */
static void drop_item(const struct op *op)
{
    if (op->receiver->counts)
        pipecap_give_credits(op->shared, 1);
    if (op->receiver->tasks)
        pipecap_drop_tasks(op->shared, 1);
}

/* The frame under way will never be whole, and nothing is in the pipe behind it: its writer is `gone`, and its lock
 * ours, or the pipe is at its end. */
static int64_t forget_frame(const struct op *op, int gone, int64_t outcome)
{
    op->receiver->partial = 0;
    op->receiver->have = 0;
    if (!op->shared)
        return outcome;
    pipecap_change_begin(op->member);
    pipecap_commit(op->shared, load64(&op->shared->consumed), place_of(op->shared)->got);
    if (gone)
        pipecap_settle_gone_writer(op->member); /* after the commit: the next writer's bytes are not of this frame */
    drop_item(op);
    pipecap_change_end(op->member);
    return outcome;
}

/* Skip the rest of a frame that another reader died with. It can be left at any moment, for the next reader. */
static int64_t skip(const struct op *op)
{
    struct pipecap_receiver *receiver = op->receiver;
    uint64_t payload, end;
    int header = pipecap_parse_header(block_of(op), receiver->have, UINT64_MAX, &payload);
    int64_t result;

    if (header <= 0 || pipecap_reserve(op->frames, SKIPPED)) {
        if (header > 0)
            return -ENOMEM;
        store(&op->shared->broken, 1);
        return PIPECAP_BROKEN;
    }
    end = (uint64_t)header + payload;
    while (receiver->have < end) {
        struct iovec part = {op->frames->data, SKIPPED};

        if (part.iov_len > end - receiver->have)
            part.iov_len = (size_t)(end - receiver->have);
        result = pipecap_read_some(op, &part, 1);
        if (result > 0)
            receiver->have += (size_t)result;
        if (result == -EAGAIN)
            result = pipecap_wait_for_bytes(op);
        if (result == 0 || result == PIPECAP_TRUNCATED)
            return forget_frame(op, result != 0, PIPECAP_LOST);
        if (result < 0)
            return result;
    }
    pipecap_change_begin(op->member);
    receiver->have -= (size_t)end;
    pipecap_commit(op->shared, place_of(op->shared)->boundary + end, place_of(op->shared)->got + 1);
    drop_item(op);
    pipecap_change_end(op->member);
    return PIPECAP_LOST;
}

/* ---- the payload of a larger frame ---- */

/* Whether to begin: a call that does not wait leaves a frame in the pipe that is not all there yet, unless the pipe
 * cannot hold all of it, or its writer ended. */
static int may_begin(const struct op *op, uint64_t rest)
{
    int64_t capacity;

    if (op->deadline || op->is_eager || !op->shared || pipecap_unread(op->fd) >= (int64_t)rest)
        return 1;
    capacity = pipecap_capacity(op->fd);
    return (capacity >= 0 && rest > (uint64_t)capacity) || pipecap_is_orphan(op->member, WRITING);
}

static int64_t begin_payload(const struct op *op, size_t header, uint64_t payload)
{
    struct pipecap_receiver *receiver = op->receiver;
    size_t here = receiver->have - header;

    if (!may_begin(op, payload - here))
        return PIPECAP_TIMED_OUT;
    if (pipecap_reserve_for_objects(
            op->frames, SHORT_HEADER + (payload < TRUSTED_LENGTH ? (size_t)payload : TRUSTED_LENGTH)) ||
        pipecap_reserve_bounds(op->frames, 1))
        return -ENOMEM;
    memcpy(op->frames->data + SHORT_HEADER, block_of(op) + header, here);
    if (op->shared)
        store64(&place_of(op->shared)->limit, receiver->have);
    receiver->payload = payload;
    receiver->filled = here;
    receiver->partial = (int)header;
    return GO_ON;
}

/* Read the rest of the payload and, of a queue, the next header along with it. */
static int64_t receive_payload(const struct op *op)
{
    struct pipecap_receiver *receiver = op->receiver;
    struct pipecap_frames *frames = op->frames;
    size_t extra = 0;

    while (receiver->filled < receiver->payload) {
        size_t room = frames->allocated - SHORT_HEADER - (size_t)receiver->filled;
        uint64_t rest = receiver->payload - receiver->filled;
        struct iovec parts[2];
        int64_t result;

        if (room == 0) {
            size_t more = receiver->filled < rest ? (size_t)receiver->filled : (size_t)rest;

            if (pipecap_grow(frames, frames->allocated + more))
                return -ENOMEM;
            continue;
        }
        parts[0] = (struct iovec){frames->data + SHORT_HEADER + receiver->filled, rest < room ? (size_t)rest : room};
        if (op->shared)
            parts[1] = (struct iovec){next_place(op->shared)->bytes, SHORT_HEADER};
        result = pipecap_read_some(op, parts, op->shared && parts[0].iov_len == rest ? 2 : 1);
        if (result > (int64_t)rest) {
            extra = (size_t)(result - (int64_t)rest);
            result = (int64_t)rest;
        }
        if (result > 0)
            receiver->filled += (uint64_t)result;
        if (result == -EAGAIN)
            result = pipecap_wait_for_bytes(op);
        if (result == 0 || result == PIPECAP_TRUNCATED)
            return forget_frame(op, result != 0, PIPECAP_TRUNCATED);
        if (result < 0)
            return result;
    }
    pipecap_note_frame(frames, SHORT_HEADER, receiver->payload);
    advance(op, (uint64_t)receiver->partial + receiver->payload, 1, extra);
    return 0;
}

/* ---- small frames ---- */

/* Bytes of the next read into the block: of the frame under way, as many more as the call allows for certain, and a
 * header of the frame behind them. */
static size_t wanted(const struct op *op, uint64_t rest, int header_known)
{
    uint64_t more = op->max_frames - op->frames->count - 1;
    uint64_t want = rest;

    if (op->shared && header_known)
        want += SHORT_HEADER;
    want += more < PIPECAP_BLOCK ? more * SHORT_HEADER : PIPECAP_BLOCK;
    if (!op->shared)
        want = rest;
    return want < block_size(op) - op->receiver->have ? (size_t)want : block_size(op) - op->receiver->have;
}

/* Hand the frames in the first `end` bytes of the block to the caller. */
static int64_t take_from_block(const struct op *op, size_t end)
{
    size_t extra = op->receiver->have - end;
    uint64_t shift = op->frames->bounds[0] - SHORT_HEADER; /* of a long header */

    if (pipecap_reserve_for_objects(op->frames, end)) {
        op->frames->count = 0;
        return -ENOMEM;
    }
    for (size_t i = 0; i < op->frames->count; i++)
        op->frames->bounds[2 * i] -= shift;
    memcpy(op->frames->data, block_of(op) + shift, end - shift);
    memcpy(next_place(op->shared)->bytes, block_of(op) + end, extra);
    advance(op, end, op->frames->count, extra);
    return 0;
}

/* Read headers and small frames until there is a frame and no more at once: 0, GO_ON when a larger one has begun, or
 * why not. */
static int64_t receive_block(const struct op *op)
{
    struct pipecap_receiver *receiver = op->receiver;
    struct pipecap_frames *frames = op->frames;
    size_t end = 0; /* of the whole frames in the block */

    for (;;) {
        uint64_t payload = 0, rest;
        size_t here = receiver->have - end;
        int header = pipecap_parse_header(block_of(op) + end, here, op->longest, &payload);
        struct iovec part;
        int64_t result;

        if (header > 0 && op->shared && here - (size_t)header >= payload) {
            int is_large = payload > PIPECAP_SMALL - SHORT_HEADER;

            if (is_large && frames->count)
                return take_from_block(op, end);
            if (pipecap_reserve_bounds(frames, frames->count + 1)) {
                frames->count = 0;
                return -ENOMEM;
            }
            pipecap_note_frame(frames, end + (size_t)header, payload);
            end += (size_t)header + (size_t)payload;
            if (is_large || frames->count == op->max_frames)
                return take_from_block(op, end);
            continue;
        }
        rest = header > 0            ? (uint64_t)header + payload - here
               : here < SHORT_HEADER ? SHORT_HEADER - here
                                     : LONG_HEADER - here;
        if (frames->count && (header < 0 || rest > PIPECAP_BLOCK - receiver->have))
            return take_from_block(op, end);
        if (header < 0) {
            if (op->shared)
                store(&op->shared->broken, 1);
            return header;
        }
        if (header > 0 && !frames->count &&
            (!op->shared || header != SHORT_HEADER || payload > PIPECAP_SMALL - SHORT_HEADER))
            return begin_payload(op, (size_t)header, payload);
        part = (struct iovec){block_of(op) + receiver->have, wanted(op, rest, header > 0)};
        result = pipecap_read_some(op, &part, 1);
        if (result > 0) {
            receiver->have += (size_t)result;
            continue;
        }
        if (frames->count)
            return take_from_block(op, end);
        if (result == 0)
            return receiver->have ? forget_frame(op, 0, PIPECAP_TRUNCATED) : PIPECAP_END_OF_FILE;
        if (result == -EAGAIN)
            result = pipecap_wait_for_bytes(op);
        if (result == PIPECAP_TRUNCATED)
            return forget_frame(op, 1, PIPECAP_TRUNCATED);
        if (result < 0)
            return result;
    }
}

/* ---- one call ---- */

int64_t pipecap_receive_frames(const struct op *op)
{
    struct pipecap_receiver *receiver = op->receiver;
    int64_t result = 0;

    if (receiver->partial && receiver->payload > op->longest) /* it began in a call that allowed more */
        return PIPECAP_TOO_LONG;
    if (receiver->partial)
        pipecap_exchange(&receiver->half, op->frames);
    else if (op->shared)
        result = pipecap_error_owed(op->shared);
    op->frames->count = 0;
    if (!result && op->shared && !receiver->partial && receiver->have > place_of(op->shared)->limit)
        result = skip(op);
    if (!result && !receiver->partial)
        result = receive_block(op);
    if (receiver->partial && (result == 0 || result == GO_ON))
        result = receive_payload(op);
    if (receiver->partial)
        pipecap_exchange(&receiver->half, op->frames);
    return result;
}
