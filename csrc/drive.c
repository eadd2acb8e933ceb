/* Writing frames as owner of the write lock, with what that publishes. One thread of a process at a time drives its
 * sender: sends a frame of its own, or those in line. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdlib.h>

#include "internal.h"

#define NO_MEMORY_PAUSE_NS 10000000
#define FAIR_NS 2000000
#define GIVE_WAY_NS 500000

int pipecap_may_wait(struct pipecap_sender *sender)
{
    if (sender->stalled && sender->stalled_at == load64(&sender->member->shared->consumed))
        return 0;
    sender->stalled = 0;
    return 1;
}

int pipecap_moves(struct pipecap_sender *sender, uint64_t *seen, int64_t round_end, int64_t *until)
{
    uint64_t consumed = load64(&sender->member->shared->consumed);

    sender->stalled = consumed == *seen;
    sender->stalled_at = *seen;
    *seen = consumed;
    *until = by_itself(within(round_end, STALL_NS));
    return !sender->stalled && !is_past(round_end);
}

static int64_t wait_until(struct pipecap_sender *sender, int64_t *until)
{
    if (*until != NOT_YET_WAITING)
        return *until;
    *until = sender->patience ? by_itself(within(WITHOUT_LIMIT, sender->patience)) : 0;
    if (sender->patient_until) {
        sender->seen = load64(&sender->member->shared->consumed);
        *until = by_itself(within(sender->patient_until, STALL_NS));
    }
    return *until;
}

static int waits_on(struct pipecap_sender *sender, int64_t *until)
{
    return sender->patient_until && pipecap_moves(sender, &sender->seen, sender->patient_until, until);
}

/* Own the write lock, or keep it: 0, -errno, or an outcome. */
static int lock(struct pipecap_sender *sender, int fd, int64_t *until)
{
    struct pipecap_member *member = sender->member;
    int result;

    if (!member || sender->locked)
        return 0;
    result = pipecap_try_lock(member, WRITING) ? 0 : pipecap_lock(member, fd, WRITING, wait_until(sender, until));
    sender->locked = result == 0;
    return result;
}

/* Give way to other processes that have waited while this one sent for a while: the one that is woken would come too
 * late each time. */
static void give_way(struct pipecap_sender *sender)
{
    const uint32_t *word = &sender->member->shared->writing;
    int64_t now = now_ns();

    if (now - sender->owner_since < FAIR_NS)
        return;
    for (int64_t end = now + GIVE_WAY_NS; !(load(word) & ~PIPECAP_WAITERS) && now_ns() < end;)
        sched_yield();
    sender->owner_since = 0;
}

/* Between two frames only. */
static void unlock(struct pipecap_sender *sender)
{
    int others_wait;

    if (!sender->member || !sender->locked)
        return;
    sender->locked = 0;
    others_wait = (load(&sender->member->shared->writing) & PIPECAP_WAITERS) != 0;
    if (others_wait && !sender->owner_since)
        sender->owner_since = now_ns();
    else if (!others_wait)
        sender->owner_since = 0;
    pipecap_unlock(sender->member, WRITING);
    if (others_wait)
        give_way(sender);
}

static int is_between_frames(const struct pipecap_sender *sender)
{
    const struct pipecap_shared *shared = sender->member->shared;

    return shared->written == shared->batch_end;
}

/* One write of an item and, of a queue, of those behind it that are in its batch: bytes or -errno. */
static ssize_t write_item(struct pipecap_sender *sender, int fd, struct pipecap_item *item)
{
    struct pipecap_shared *shared = sender->member ? sender->member->shared : NULL;
    size_t limit = pipecap_next_write(item, sender->chunk);
    struct pipecap_item next = *item;
    struct gather gather; /* only what is staged is written to */
    ssize_t written;

    gather.count = 0;
    gather.size = gather.staged = 0;
    if (shared) {
        if (item->published == item->frame) {
            pipecap_publish(sender, item);
            next.published = item->published;
        }
        pipecap_move_on(&next, limit, next.published, &gather);
        /* The items behind it in the batch, each only where all of the one before is gathered. */
        while (next.frame == next.frame_count && next.next && next.next->published > next.next->frame) {
            next = *next.next;
            pipecap_move_on(&next, limit - gather.size, next.published, &gather);
        }
        store(&shared->writer_busy, gather.size < INT_MAX ? (uint32_t)gather.size : INT_MAX);
    } else {
        pipecap_move_on(&next, limit, next.frame_count, &gather);
    }
    written = pipecap_write(fd, &gather);
    sender->moved |= written > 0;
    if (shared) {
        if (written > 0) {
            store64(&shared->written, shared->written + (uint64_t)written);
            if (shared->written == shared->batch_end)
                store64(&shared->put, shared->batch_put);
        }
        store(&shared->writer_busy, 0);
    }
    for (size_t left = written > 0 ? (size_t)written : 0; left; item = item->next)
        left -= pipecap_move_on(item, left, shared ? item->published : item->frame_count, NULL);
    return written;
}

/* ---- driving: one thread of the process at a time ---- */

static int has_no_reader(int fd)
{
    struct pollfd end = {.fd = fd, .events = POLLOUT};

    return poll(&end, 1, 0) == 1 && (end.revents & POLLERR);
}

/* Write an item as far as it goes until then: 0 when all of it is sent, PIPECAP_QUEUED when it is not, or -errno. */
int pipecap_drive(struct pipecap_sender *sender, int fd, struct pipecap_item *item, int64_t until)
{
    int grown = !sender->end->elastic, result;

    sender->moved = 0;
    while (!is_sent(item)) {
        ssize_t written;

        result = lock(sender, fd, &until);
        if (result == PIPECAP_TIMED_OUT && waits_on(sender, &until))
            continue;
        if (result == PIPECAP_TIMED_OUT || result == PIPECAP_AGAIN)
            return has_no_reader(fd) ? -EPIPE : PIPECAP_QUEUED; /* then nobody frees the lock of a dead writer */
        if (result)
            return result;
        written = write_item(sender, fd, item);
        if (written >= 0)
            continue;
        if (sender->member && !item->frame_done)
            pipecap_unpublish(sender, item); /* nothing of it is in the pipe */
        if (written == -EAGAIN && !grown) {
            pipecap_make_room(fd, pipecap_bytes_left(item));
            grown = 1;
        } else if (written == -EAGAIN && !sender->member && pipecap_is_nonblocking(fd)) {
            return -EAGAIN;
        } else if (written == -EAGAIN) {
            if (!item->frame_done)
                unlock(sender); /* no need to keep others from theirs */
            if (sender->moved && !sender->feeding && sender->patience >= ROUND_NS)
                return PIPECAP_QUEUED;
            result = wait_until(sender, &until) ? pipecap_wait_for(fd, POLLOUT, until) : 0;
            if (result == 1 || (result == 0 && waits_on(sender, &until)))
                continue;
            return PIPECAP_QUEUED;
        } else if (written == -ENOMEM && (is_begun(item) || item->is_in_line)) { /* the rest must follow */
            struct timespec pause = {.tv_nsec = NO_MEMORY_PAUSE_NS};

            if (is_past(wait_until(sender, &until)))
                return PIPECAP_QUEUED;
            nanosleep(&pause, NULL);
        } else if (written != -EINTR) {
            return (int)written;
        }
    }
    if (sender->member && is_between_frames(sender))
        unlock(sender);
    return 0;
}

/* Credits and tasks of the frames that have not begun come back. */
void pipecap_give_back_credits(struct pipecap_sender *sender, const struct pipecap_item *item)
{
    uint32_t left = (uint32_t)(item->frame_count - item->published);

    if (!sender->counts)
        return;
    pipecap_change_begin(sender->member);
    if (item->is_held)
        __atomic_sub_fetch(&self(sender->member)->held, left, __ATOMIC_SEQ_CST);
    pipecap_give_credits(sender->member->shared, left);
    if (sender->tasks)
        pipecap_drop_tasks(sender->member->shared, left);
    pipecap_change_end(sender->member);
}

/* An item that cannot be sent. */
void pipecap_give_up(struct pipecap_sender *sender, struct pipecap_item *item, int error)
{
    if (!sender->member)
        return;
    if (sender->locked && item->frame_done && error != -EPIPE) {
        /* A reader finds the frame cut short, and frees the lock. */
        sender->locked = 0;
        pipecap_abandon_lock(sender->member);
    } else if (sender->locked && item->published > item->frame) {
        pipecap_unpublish(sender, item);
    }
    pipecap_give_back_credits(sender, item);
    unlock(sender);
}

void pipecap_changed(struct pipecap_sender *sender)
{
    add(&sender->changed, 1);
    if (load(&sender->waiters))
        pipecap_wake(&sender->changed, INT32_MAX);
}

void pipecap_lock_line(struct pipecap_sender *sender)
{
    while (pipecap_mutex_lock(&sender->mutex, WITHOUT_LIMIT))
        ;
}

void pipecap_unlock_line(struct pipecap_sender *sender)
{
    pipecap_mutex_unlock(&sender->mutex);
}

int pipecap_start_driving(struct pipecap_sender *sender)
{
    return swap(&sender->driving, 0, 1);
}

void pipecap_stop_driving(struct pipecap_sender *sender)
{
    add(&sender->turns, 1);
    store(&sender->driving, 0);
    if ((load(&sender->end->users) & 1) && __atomic_load_n(&sender->first, __ATOMIC_SEQ_CST))
        pipecap_sender_closed(sender); /* the last one settles what cannot be sent */
    /* Not for a feeder thread that sleeps over an empty line: it would be woken at each put. */
    if (__atomic_load_n(&sender->first, __ATOMIC_SEQ_CST) || load(&sender->closing) || load(&sender->turn_waiters))
        pipecap_changed(sender);
}

/* Take the first item out of the line: it is sent, or failed. Those with a ticket are kept until they are asked for. */
void pipecap_finish_first(struct pipecap_sender *sender, int error)
{
    struct pipecap_item *item;

    pipecap_lock_line(sender);
    item = sender->first;
    __atomic_store_n(&sender->first, item->next, __ATOMIC_SEQ_CST);
    if (!item->next)
        sender->last = NULL;
    sender->items -= item->frame_count;
    store64(&sender->left, sender->left + 1);
    item->error = error;
    if (error && !item->ticket) {
        sender->failures += item->frame_count - item->frame;
        sender->failure = error;
    }
    if (item->ticket) {
        item->next = sender->finished;
        sender->finished = item;
    } else {
        free(item);
    }
    pipecap_unlock_line(sender);
    pipecap_changed(sender);
}

void pipecap_fail_line(struct pipecap_sender *sender, int error)
{
    while (__atomic_load_n(&sender->first, __ATOMIC_SEQ_CST)) {
        pipecap_give_up(sender, sender->first, error);
        pipecap_finish_first(sender, error);
    }
}

/* Work at the line, as its driver: until it is empty, until then, or until this ticket is finished. */
int pipecap_drive_line(struct pipecap_sender *sender, int fd, int64_t until, uint64_t ticket)
{
    struct pipecap_item *item;

    while ((item = __atomic_load_n(&sender->first, __ATOMIC_SEQ_CST)) != NULL) {
        int wanted = ticket && item->ticket == ticket;
        int result = pipecap_drive(sender, fd, item, until);

        if (result == PIPECAP_QUEUED || result == -EAGAIN)
            return result;
        if (result == -EPIPE) { /* so will it be with the others */
            pipecap_fail_line(sender, result);
            return 0;
        }
        if (result)
            pipecap_give_up(sender, item, result);
        pipecap_finish_first(sender, result);
        if (wanted)
            break;
    }
    return 0;
}
