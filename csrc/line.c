/* The line of a sender: items that wait for the pipe, in the order they were put. Only its driver takes one out. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "internal.h"

struct pipecap_item *pipecap_line_copy(const struct pipecap_item *item, enum keeping keeping)
{
    struct {
        struct pipecap_item item;
        const void *piece;
        uint64_t payload;
    } *copy;

    if (keeping == COPIED)
        return pipecap_copy_rest(item);
    copy = malloc(sizeof *copy);

    if (!copy)
        return NULL;
    copy->item = *item;
    if (keeping != IN_PLACE) {
        copy->payload = item->payloads[0];
        copy->piece = item->pieces[0];
        copy->item.payloads = copy->item.piece_sizes = &copy->payload;
        copy->item.pieces = &copy->piece;
    }
    return &copy->item;
}

struct pipecap_item *pipecap_copy_rest(const struct pipecap_item *item)
{
    size_t size = 0, at = 0, count = item->frame_count - item->frame;
    struct {
        struct pipecap_item item;
        const void *piece;
        uint64_t size;
        uint64_t payloads[];
    } *copy;

    for (size_t i = item->piece; i < item->piece_count; i++)
        size += (size_t)item->piece_sizes[i];
    size -= item->piece_done;
    copy = malloc(sizeof *copy + count * sizeof *copy->payloads + size);
    if (!copy)
        return NULL;
    copy->item = *item;
    copy->size = size;
    copy->piece = copy->payloads + count;
    memcpy(copy->payloads, item->payloads + item->frame, count * sizeof *copy->payloads);
    for (size_t i = item->piece; i < item->piece_count; i++) {
        size_t skipped = i == item->piece ? item->piece_done : 0, more = (size_t)item->piece_sizes[i] - skipped;

        memcpy((char *)(copy->payloads + count) + at, (const char *)item->pieces[i] + skipped, more);
        at += more;
    }
    copy->item.pieces = &copy->piece;
    copy->item.piece_sizes = &copy->size;
    copy->item.piece_count = 1;
    copy->item.piece = copy->item.piece_done = 0;
    copy->item.payloads = copy->payloads;
    copy->item.frame_count = count;
    copy->item.published -= item->frame;
    copy->item.frame = 0;
    return &copy->item;
}

/* Put an item in line, in front where nothing may come before it. */
void pipecap_line_up(struct pipecap_sender *sender, struct pipecap_item *item, int in_front)
{
    uint32_t held = (uint32_t)(item->frame_count - item->published);

    item->is_in_line = 1;
    item->is_held = sender->counts;
    pipecap_lock_line(sender);
    if (in_front || !sender->last) {
        item->next = sender->first;
        if (!sender->last)
            sender->last = item;
        __atomic_store_n(&sender->first, item, __ATOMIC_SEQ_CST);
    } else {
        item->next = NULL;
        __atomic_store_n(&sender->last->next, item, __ATOMIC_SEQ_CST);
        sender->last = item;
    }
    sender->items += item->frame_count;
    store64(&sender->lined_up, sender->lined_up + 1);
    if (item->is_held)
        add(&self(sender->member)->held, held);
    pipecap_unlock_line(sender);
}

/* Sleep until something changes, or the round is over: 0, -ETIMEDOUT or -EINTR. */
int pipecap_wait_for_change(struct pipecap_sender *sender, uint32_t before, int64_t until)
{
    int result;

    add(&sender->waiters, 1);
    result = pipecap_sleep_on(&sender->changed, before, until);
    __atomic_sub_fetch(&sender->waiters, 1, __ATOMIC_SEQ_CST);
    return result;
}

struct pipecap_item **pipecap_find(struct pipecap_item **list, uint64_t ticket)
{
    while (*list && (*list)->ticket != ticket)
        list = &(*list)->next;
    return list;
}

uint64_t pipecap_finished(struct pipecap_sender *sender)
{
    struct pipecap_item *item;
    uint64_t ticket;

    pipecap_lock_line(sender);
    item = sender->finished;
    ticket = item ? item->ticket : 0;
    if (item && item->error) {
        sender->failures += item->frame_count - item->frame;
        sender->failure = item->error;
    }
    if (item)
        sender->finished = item->next;
    pipecap_unlock_line(sender);
    free(item);
    return ticket;
}

int pipecap_is_in_line(struct pipecap_sender *sender, uint64_t ticket)
{
    int found;

    pipecap_lock_line(sender);
    found = *pipecap_find(&sender->first, ticket) != NULL;
    pipecap_unlock_line(sender);
    return found;
}

uint64_t pipecap_failures(struct pipecap_sender *sender)
{
    uint64_t failures;

    pipecap_lock_line(sender);
    failures = sender->failures;
    sender->failures = 0;
    pipecap_unlock_line(sender);
    return failures;
}

/* ---- taking back ---- */

/* Be the driver, to change the line: the one of now pauses at the end of its round. */
static void become_driver(struct pipecap_sender *sender)
{
    add(&sender->taking_back, 1);
    while (!pipecap_start_driving(sender)) {
        uint32_t before = load(&sender->changed);

        if (load(&sender->driving))
            pipecap_wait_for_change(sender, before, within(WITHOUT_LIMIT, FEED_NS / 10));
    }
}

static void resign(struct pipecap_sender *sender)
{
    __atomic_sub_fetch(&sender->taking_back, 1, __ATOMIC_SEQ_CST);
    pipecap_stop_driving(sender);
}

/* Take an item out of the line that has not begun, as its driver. */
static void drop(struct pipecap_sender *sender, struct pipecap_item **place, struct pipecap_item *before)
{
    struct pipecap_item *item = *place;

    __atomic_store_n(place, item->next, __ATOMIC_SEQ_CST);
    if (sender->last == item)
        sender->last = before;
    sender->items -= item->frame_count;
    store64(&sender->left, sender->left + 1);
    pipecap_give_back_credits(sender, item);
}

/* Copy what is left of an item in line, whose owner may change it from now on. */
static int own(struct pipecap_item **place)
{
    struct pipecap_item *item = *place, *copy = pipecap_copy_rest(item);

    if (!copy)
        return -ENOMEM;
    *place = copy;
    free(item);
    return 0;
}

int pipecap_withdraw(struct pipecap_sender *sender, uint64_t ticket)
{
    struct pipecap_item *before = NULL, **place;
    int withdrawn = 0;

    become_driver(sender);
    pipecap_lock_line(sender);
    for (place = &sender->first; *place && (*place)->ticket != ticket; place = &(*place)->next)
        before = *place;
    if (*place && !is_begun(*place) && (*place)->published == (*place)->frame) {
        struct pipecap_item *item = *place;

        drop(sender, place, before);
        free(item);
        withdrawn = 1;
    } else if (*place) {
        uint64_t frames = (*place)->frame_count;
        int was_last = sender->last == *place;

        if (own(place) == 0)
            (*place)->ticket = 0; /* nobody waits for it any more */
        sender->items -= frames - (*place)->frame_count;
        if (was_last)
            sender->last = *place;
    }
    pipecap_unlock_line(sender);
    resign(sender);
    return withdrawn;
}

static uint64_t size_of(const struct pipecap_item *item)
{
    uint64_t size = 0;

    for (size_t i = item->frame; i < item->frame_count; i++)
        size += item->payloads[i];
    return size;
}

void pipecap_line(struct pipecap_sender *sender, struct pipecap_line *line)
{
    *line = (struct pipecap_line){0};
    pipecap_lock_line(sender);
    if (sender->first)
        line->partial = sender->first->published > sender->first->frame;
    for (const struct pipecap_item *item = sender->first; item; item = item->next) {
        line->items += item->frame_count - item->frame;
        line->size += size_of(item);
    }
    pipecap_unlock_line(sender);
}

/* Drop the frames of an item that have not begun: all, or those behind its batch in the pipe. */
static void drop_unbegun(struct pipecap_sender *sender, struct pipecap_item *item, struct pipecap_line *dropped)
{
    uint64_t left = item->frame_count - item->published;

    for (size_t i = item->published; i < item->frame_count; i++)
        dropped->size += item->payloads[i];
    dropped->items += left;
    pipecap_give_back_credits(sender, item);
    sender->items -= left;
    item->frame_count = item->published;
}

void pipecap_discard(struct pipecap_sender *sender, struct pipecap_line *dropped)
{
    struct pipecap_item **place, *before = NULL;

    *dropped = (struct pipecap_line){0};
    become_driver(sender);
    pipecap_lock_line(sender);
    for (place = &sender->first; *place;) {
        struct pipecap_item *item = *place;

        dropped->partial |= item->published > item->frame;
        drop_unbegun(sender, item, dropped);
        if (item->frame_count) { /* a part of it was sent, or is being sent */
            before = item;
            place = &item->next;
            continue;
        }
        __atomic_store_n(place, item->next, __ATOMIC_SEQ_CST);
        store64(&sender->left, sender->left + 1);
        if (item->ticket) {
            item->next = sender->finished;
            sender->finished = item;
        } else {
            free(item);
        }
    }
    sender->last = before;
    pipecap_unlock_line(sender);
    resign(sender);
    pipecap_changed(sender);
}

void pipecap_sender_closed(struct pipecap_sender *sender)
{
    if (sender->member && !sender->member->shared)
        return; /* garbage: others find that this process does not hold its locks any more */
    if (!pipecap_start_driving(sender))
        return; /* a thread is at work, and finds the end closed */
    pipecap_fail_line(sender, -EBADF);
    pipecap_stop_driving(sender);
}

void pipecap_sender_closing(struct pipecap_sender *sender)
{
    store(&sender->closing, 1);
    pipecap_changed(sender);
}

void pipecap_sender_forked(struct pipecap_sender *sender)
{
    sender->driving = sender->mutex = sender->waiters = sender->closing = sender->taking_back = sender->used = 0;
    sender->turn_waiters = 0;
    sender->locked = 0;
    sender->feeding = sender->moved = sender->stalled = 0;
    sender->patient_until = 0;
    sender->owner_since = 0;
    sender->failure = 0;
    sender->first = sender->last = sender->finished = NULL; /* the parent's to send */
    sender->items = sender->failures = sender->lined_up = sender->left = 0;
}

void pipecap_sender_free(struct pipecap_sender *sender)
{
    for (struct pipecap_item *list = sender->first; list || sender->finished;) {
        struct pipecap_item *item = list ? list : sender->finished;

        if (list)
            list = item->next;
        else
            sender->finished = item->next;
        free(item);
    }
    sender->first = sender->last = NULL;
}
