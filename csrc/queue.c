/* Putting frames, and waiting until they are sent: what a thread of Python calls. */
#define _GNU_SOURCE
#include <stdlib.h>

#include "internal.h"

/* Take credits and tasks for at most `count` frames: how many, or an outcome. */
static int64_t reserve_credits(struct pipecap_sender *sender, size_t count)
{
    if (sender->counts) {
        count = pipecap_take_credits(sender->member->shared, count > INT32_MAX ? INT32_MAX : (uint32_t)count);
        if (!count)
            return PIPECAP_TIMED_OUT;
    }
    if (sender->tasks)
        add(&sender->member->shared->unfinished, (uint32_t)count); /* before a reader can call task_done() */
    return (int64_t)count;
}

/* Bring what was sent of an item to its copy. */
static void catch_up(struct pipecap_item *copy, const struct pipecap_item *item)
{
    copy->piece = item->piece;
    copy->piece_done = item->piece_done;
    copy->frame = item->frame;
    copy->frame_done = item->frame_done;
    copy->published = item->published;
}

static int must_wait(const struct pipecap_item *item, int result)
{
    return result == PIPECAP_QUEUED || (result == -EAGAIN && is_begun(item));
}

/* Send an item directly, where nothing is in line before it, and put in line what does not go at once: 0,
 * PIPECAP_QUEUED or why not. */
static int put(
    struct pipecap_sender *sender, int fd, struct pipecap_item *item, enum keeping keeping, int64_t patient_until)
{
    struct pipecap_item *copy = NULL;
    int direct = !__atomic_load_n(&sender->first, __ATOMIC_SEQ_CST) && pipecap_start_driving(sender);
    int result = PIPECAP_QUEUED;

    if (direct && __atomic_load_n(&sender->first, __ATOMIC_SEQ_CST)) {
        pipecap_stop_driving(sender);
        direct = 0;
    }
    /* The memory first: of what has begun the rest must follow. A small frame is written as a whole, or not at all. The
     * rest of arrays is copied late: without memory for it this waits on, and where no reader moves for a round, the
     * reader finds the frame cut short. */
    if (!direct || keeping != COPIED)
        copy = pipecap_line_copy(item, keeping);
    if (!copy && (!direct || keeping != COPIED)) {
        result = -ENOMEM;
    } else if (direct) {
        sender->patient_until = patient_until && pipecap_may_wait(sender) ? patient_until : 0;
        result = pipecap_drive(sender, fd, item, NOT_YET_WAITING);
        sender->patient_until = 0;
    }
    while (must_wait(item, result) && !copy && !(copy = pipecap_line_copy(item, keeping))) {
        if (!is_begun(item) || !sender->moved) /* else the rest must follow, and what is left becomes less */
            result = -ENOMEM;
        else
            result = pipecap_drive(sender, fd, item, within(WITHOUT_LIMIT, ROUND_NS));
    }
    if (must_wait(item, result)) {
        if (keeping != COPIED)
            catch_up(copy, item);
        pipecap_line_up(sender, copy, direct);
        copy = NULL;
    } else if (result && direct) {
        pipecap_give_up(sender, item, result);
    } else if (result) { /* the lock is the driver's */
        pipecap_give_back_credits(sender, item);
    }
    if (direct)
        pipecap_stop_driving(sender);
    else if (result == PIPECAP_QUEUED)
        pipecap_changed(sender);
    free(copy);
    return result;
}

/* Whether what joined the line up to `last` has left it, and the driver of that turn has stopped. */
static int has_turn(const struct pipecap_sender *sender, uint64_t last, uint32_t turn)
{
    return load64(&sender->left) >= last && (!load(&sender->driving) || load(&sender->turns) != turn);
}

/* Wait for what this process put before, as long as a reader moves: 0 or PIPECAP_AGAIN. Of large items as many as a
 * reader cannot take would fill the memory, and their copies cost more than the wait. Not for what joins the line
 * meanwhile: else this might wait for ever. */
static int wait_for_turn(struct pipecap_sender *sender, int64_t deadline)
{
    uint64_t last = load64(&sender->lined_up), seen;
    uint32_t turn = load(&sender->turns);
    int64_t round_end, until;
    int result = 0;

    if (has_turn(sender, last, turn) || !pipecap_may_wait(sender))
        return 0;
    seen = load64(&sender->member->shared->consumed);
    round_end = within(deadline, ROUND_NS);
    until = by_itself(within(round_end, STALL_NS));
    add(&sender->turn_waiters, 1);
    for (;;) {
        uint32_t before = load(&sender->changed);

        if (has_turn(sender, last, turn) || load(&sender->closing))
            break;
        result = pipecap_wait_for_change(sender, before, until);
        if (result == -EINTR || (result == -ETIMEDOUT && !pipecap_moves(sender, &seen, round_end, &until)))
            break;
        result = 0;
    }
    __atomic_sub_fetch(&sender->turn_waiters, 1, __ATOMIC_SEQ_CST);
    return result == 0 || (result == -ETIMEDOUT && (sender->stalled || is_past(deadline))) ? 0 : PIPECAP_AGAIN;
}

static int64_t put_item(
    struct pipecap_sender *sender, struct pipecap_item *item, enum keeping keeping, int is_large, int64_t deadline)
{
    struct pipecap_member *member = sender->member;
    int fd = pipecap_enter(sender->end);
    int patient = member && is_large && deadline != 0 && sender->patience < ROUND_NS;
    int64_t count, result;

    if (fd < 0)
        return load(&sender->closing) ? PIPECAP_CLOSED : fd;
    sender->used = 1;
    result = load(&sender->closing) ? PIPECAP_CLOSED : member ? pipecap_participate(member) : 0;
    if (result)
        goto out;
    if (!member) {
        result = put(sender, fd, item, keeping, 0);
        goto out;
    }
    result = patient ? wait_for_turn(sender, deadline) : 0;
    if (!result && load(&sender->closing))
        result = PIPECAP_CLOSED;
    if (result)
        goto out;
    for (;;) {
        pipecap_change_begin(member);
        count = reserve_credits(sender, item->frame_count);
        if (count > 0)
            break;
        pipecap_change_end(member);
        result = pipecap_wait_for_credit(member, fd, deadline);
        if (result)
            goto out;
    }
    item->frame_count = (size_t)count;
    result = put(sender, fd, item, keeping, patient ? deadline : 0);
    pipecap_change_end(member);
out:
    pipecap_leave(sender->end);
    return result;
}

int64_t pipecap_put(struct pipecap_sender *sender, const char *data, size_t size, uint64_t ticket, int64_t deadline)
{
    const void *piece = data;
    uint64_t payload = size;
    struct pipecap_item item = {.pieces = &piece, .piece_sizes = &payload, .piece_count = 1, .payloads = &payload,
                                .frame_count = 1, .ticket = ticket};
    int is_large = size > PIPECAP_COPIED;

    return put_item(sender, &item, is_large ? BUT_FOR_THE_BYTES : COPIED, is_large, deadline);
}

int64_t pipecap_put_frames(
    struct pipecap_sender *sender, const void *const *pieces, const uint64_t *piece_sizes, size_t piece_count,
    const uint64_t *payloads, size_t frame_count, uint64_t ticket, int64_t deadline)
{
    struct pipecap_item item = {.pieces = pieces, .piece_sizes = piece_sizes, .piece_count = piece_count,
                                .payloads = payloads, .frame_count = frame_count, .ticket = ticket};
    int64_t result;

    if (!frame_count)
        return 0;
    result = put_item(sender, &item, ticket ? IN_PLACE : COPIED, 1, deadline);
    if (result == PIPECAP_QUEUED)
        return (int64_t)item.frame_count | PIPECAP_IN_LINE;
    return result == 0 ? (int64_t)item.frame_count : result;
}

/* ---- waiting for it, and working at it ---- */

/* Whether a ticket is finished; then its error is forgotten with it. */
static int is_finished(struct pipecap_sender *sender, uint64_t ticket, int *error)
{
    struct pipecap_item **place, *item;
    int finished;

    pipecap_lock_line(sender);
    place = pipecap_find(&sender->finished, ticket);
    item = *place;
    finished = item || !*pipecap_find(&sender->first, ticket);
    *error = item ? item->error : 0;
    if (item)
        *place = item->next;
    pipecap_unlock_line(sender);
    free(item);
    return finished;
}

int pipecap_flush(struct pipecap_sender *sender, uint64_t ticket, int64_t deadline)
{
    int64_t until = within(deadline, ROUND_NS);
    int fd = pipecap_enter(sender->end);
    int result, error;

    if (fd < 0) {
        pipecap_sender_closed(sender);
        return fd;
    }
    for (;;) {
        uint32_t before = load(&sender->changed);

        result = 0;
        if (is_finished(sender, ticket, &error)) {
            result = error;
            break;
        }
        if (!load(&sender->taking_back) && pipecap_start_driving(sender)) {
            result = pipecap_drive_line(sender, fd, until, ticket);
            pipecap_stop_driving(sender);
            if (result == -EAGAIN)
                break;
        } else {
            result = pipecap_wait_for_change(sender, before, until);
        }
        if (result == 0)
            continue;
        if (result == -EINTR || is_past(until)) {
            result = round_over(deadline);
            break;
        }
        if (result == PIPECAP_QUEUED) { /* a signal, perhaps */
            result = PIPECAP_AGAIN;
            break;
        }
    }
    pipecap_leave(sender->end);
    return result;
}

int pipecap_feed(struct pipecap_sender *sender)
{
    for (int64_t until = within(WITHOUT_LIMIT, FEED_NS); !is_past(until);) {
        uint32_t before = load(&sender->changed);
        int fd;

        if (sender->finished || sender->failures)
            return 1;
        if (load(&sender->driving) && load(&sender->closing)) { /* what it does not send at once joins the line */
            pipecap_wait_for_change(sender, before, until);
            continue;
        }
        if (!__atomic_load_n(&sender->first, __ATOMIC_SEQ_CST)) {
            if (load(&sender->closing))
                return 0;
            pipecap_wait_for_change(sender, before, WITHOUT_LIMIT);
            until = within(WITHOUT_LIMIT, FEED_NS);
        } else if (load(&sender->taking_back) || !pipecap_start_driving(sender)) {
            pipecap_wait_for_change(sender, before, until);
        } else {
            fd = pipecap_enter(sender->end);
            if (fd < 0) {
                pipecap_fail_line(sender, fd);
            } else {
                sender->feeding = 1;
                pipecap_drive_line(sender, fd, until, 0);
                sender->feeding = 0;
                pipecap_leave(sender->end);
            }
            pipecap_stop_driving(sender);
        }
    }
    return PIPECAP_AGAIN;
}
