/* Receiving, as a thread of Python calls it: under the read lock of a queue, out of the record of this process. */
#define _GNU_SOURCE
#include <stdlib.h>

#include "internal.h"

/* Return an error that is owed to the next reader, once. */
int64_t pipecap_error_owed(struct pipecap_shared *shared)
{
    if (load(&shared->broken))
        return PIPECAP_BROKEN;
    if (load(&shared->lost)) {
        __atomic_sub_fetch(&shared->lost, 1, __ATOMIC_SEQ_CST);
        return PIPECAP_LOST;
    }
    return 0;
}

static void release(struct pipecap_receiver *receiver)
{
    if (receiver->locked && receiver->member->shared && !receiver->member->read_locked_by_user)
        pipecap_unlock(receiver->member, READING);
    receiver->locked = 0;
}

/* Give up a frame that is partly here: it is lost, and the next reader reports it. */
static void abandon(struct pipecap_receiver *receiver)
{
    release(receiver);
    receiver->partial = 0;
}

/* Under the read lock, but for what stays half received: then the lock stays, too. */
static int64_t receive_shared(struct op *op)
{
    struct pipecap_receiver *receiver = op->receiver;
    int64_t result;

    if (receiver->locked && (load(&op->shared->reading) & ~PIPECAP_WAITERS) != op->member->index)
        abandon(receiver); /* released by SharedLock.release() */
    if (!receiver->locked) {
        result = receiver->member->read_locked_by_user ? 0 : pipecap_lock(op->member, op->fd, READING, op->deadline);
        if (result)
            return result;
        receiver->locked = 1;
        receiver->partial = 0;
        receiver->have = (size_t)(load64(&op->shared->consumed) - place_of(op->shared)->boundary);
        store64(&self(op->member)->at, place_of(op->shared)->got + 1);
        store(&op->shared->last_reader, op->member->pid);
    }
    result = pipecap_receive_frames(op);
    if (!receiver->partial) {
        if (result < 0)
            store64(&self(op->member)->at, 0); /* before another process can receive the frame */
        release(receiver);
    }
    if (receiver->tasks && (result == PIPECAP_TRUNCATED || result == PIPECAP_LOST))
        op->member->excused++;
    return result;
}

void pipecap_receiver_closed(struct pipecap_receiver *receiver)
{
    if (pipecap_mutex_lock(&receiver->mutex, 0))
        return; /* a thread is in a call, and does it at its end */
    abandon(receiver);
    pipecap_mutex_unlock(&receiver->mutex);
}

int64_t pipecap_receive(
    struct pipecap_receiver *receiver, struct pipecap_frames *frames, int64_t deadline, uint64_t longest,
    uint64_t max_frames)
{
    struct op op = {receiver, frames, receiver->member, receiver->member ? receiver->member->shared : NULL,
                    pipecap_enter(receiver->end), deadline == PIPECAP_EAGER ? 0 : deadline, longest, max_frames,
                    deadline == PIPECAP_EAGER};
    int64_t result;

    if (op.fd >= 0 && receiver->owed) {
        result = pipecap_take_owed(receiver, frames, max_frames);
        if (result != PIPECAP_AGAIN)
            goto out;
    }
    receiver->moved = 0;
    if (op.fd >= 0) {
        frames->count = frames->taken = 0;
        result = pipecap_mutex_lock(&receiver->mutex, op.deadline);
    } else {
        result = pipecap_mutex_lock(&receiver->mutex, WITHOUT_LIMIT);
    }
    if (result)
        goto out;
    if (op.fd < 0)
        result = op.fd;
    else if (receiver->owed)
        result = pipecap_take_owed(receiver, frames, max_frames);
    else if (!pipecap_has_spare(receiver))
        result = -ENOMEM;
    else
        result = op.shared ? receive_shared(&op) : pipecap_receive_frames(&op);
    if (result == 0 && frames->count)
        result = (int64_t)frames->bounds[1];
    if (load(&receiver->end->users) & 1)
        abandon(receiver);
    pipecap_mutex_unlock(&receiver->mutex);
out:
    if (op.fd >= 0)
        pipecap_leave(receiver->end);
    frames->has_buffers = op.shared && result > PIPECAP_SMALL && frames->data[frames->bounds[0]] == PIPECAP_WITH_BUFFERS;
    if (result >= 0 && frames->moved) {
        frames->moved = 0;
        result |= PIPECAP_MOVED;
    }
    return result;
}

/* Whether a frame or an error waits for a reader although nothing is in the pipe. */
static int is_owed(const struct op *op)
{
    struct pipecap_shared *shared = op->shared;
    const struct pipecap_place *place;
    uint64_t have, payload;
    int header;

    if (pipecap_is_orphan(op->member, READING) && pipecap_lock(op->member, op->fd, READING, 0) == 0)
        pipecap_unlock(op->member, READING);
    if (load(&shared->broken) || load(&shared->lost))
        return 1;
    if (op->receiver->locked) /* a part of a frame is here */
        return pipecap_is_orphan(op->member, WRITING);
    place = place_of(shared);
    have = load64(&shared->consumed) - place->boundary;
    if (!have || (load(&shared->reading) & ~PIPECAP_WAITERS))
        return 0; /* nothing, or somebody is at it */
    if (have > place->limit || pipecap_is_orphan(op->member, WRITING))
        return 1;
    header = pipecap_parse_header(place->bytes, (size_t)have, UINT64_MAX, &payload);
    return header < 0 || (header > 0 && have >= (uint64_t)header + payload);
}

int pipecap_poll(struct pipecap_receiver *receiver, int64_t deadline)
{
    struct op op = {.receiver = receiver, .member = receiver->member, .fd = pipecap_enter(receiver->end)};
    int result;

    if (op.fd < 0)
        return op.fd;
    op.shared = op.member ? op.member->shared : NULL;
    result = pipecap_owed(receiver) ? 1 : pipecap_wait_for(op.fd, POLLIN, deadline ? within(deadline, ROUND_NS) : 0);
    if (result == 0 && op.shared && is_owed(&op))
        result = 1;
    else if (result == 0)
        result = round_over(deadline) == PIPECAP_AGAIN ? PIPECAP_AGAIN : 0;
    pipecap_leave(receiver->end);
    return result == -EINTR ? PIPECAP_AGAIN : result;
}

void pipecap_receiver_forked(struct pipecap_receiver *receiver)
{
    receiver->mutex = receiver->owed_mutex = 0;
    receiver->locked = 0;
    receiver->partial = 0;
    receiver->have = 0;
    receiver->owed = NULL; /* the parent's to receive */
}

void pipecap_receiver_free(struct pipecap_receiver *receiver)
{
    while (receiver->owed) {
        struct pipecap_frames *owed = receiver->owed;

        receiver->owed = owed->next;
        pipecap_frames_free(owed);
        free(owed);
    }
    free(receiver->spare);
    receiver->spare = NULL;
    pipecap_frames_free(&receiver->half);
}
