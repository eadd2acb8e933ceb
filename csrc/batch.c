/* The batch: the frames that the write lock's owner has under way, published before their first byte is written, so
 * that the process that finds the owner dead knows where they end and how many they are. */
#define _GNU_SOURCE
#include "internal.h"

/* Return how many frames of an item, counted from its first, a batch of *size bytes takes besides: one of any size, or
 * several small ones, up to one write. However large that may be: what is in a batch cannot be dropped any more. */
static size_t batch_of(const struct pipecap_item *item, size_t chunk, size_t *size)
{
    size_t frames = item->published;

    if (!chunk || chunk > PIPECAP_CHUNK)
        chunk = PIPECAP_CHUNK;
    while (frames < item->frame_count && (!*size || *size + frame_size(item->payloads[frames]) <= chunk))
        *size += frame_size(item->payloads[frames++]);
    return frames;
}

/* Publish where the frames that begin now end, and how many they are, before their first byte is written. */
void pipecap_publish(struct pipecap_sender *sender, struct pipecap_item *first)
{
    struct pipecap_shared *shared = sender->member->shared;
    size_t size = 0, count = 0;
    uint32_t held = 0;

    if (first->is_held) /* else the whole put is a change */
        pipecap_change_begin(sender->member);
    for (struct pipecap_item *item = first; item; item = __atomic_load_n(&item->next, __ATOMIC_SEQ_CST)) {
        size_t frames = batch_of(item, sender->chunk, &size);

        count += frames - item->published;
        if (item->is_held)
            held += (uint32_t)(frames - item->published);
        item->published = frames;
        if (frames < item->frame_count)
            break;
    }
    store64(&shared->batch_begin, shared->written);
    store64(&shared->batch_end, shared->written + size);
    store64(&shared->batch_put, shared->put + count);
    if (!first->is_held)
        return;
    __atomic_sub_fetch(&self(sender->member)->held, held, __ATOMIC_SEQ_CST);
    pipecap_change_end(sender->member);
}

/* The opposite, for the frames of a batch of which nothing was written yet, or whose rest nobody can read. */
void pipecap_unpublish(struct pipecap_sender *sender, struct pipecap_item *first)
{
    struct pipecap_shared *shared = sender->member->shared;
    uint32_t count = 0;

    if (first->is_held)
        pipecap_change_begin(sender->member);
    for (struct pipecap_item *item = first; item && item->published > item->frame;
         item = __atomic_load_n(&item->next, __ATOMIC_SEQ_CST)) {
        count += (uint32_t)(item->published - item->frame);
        item->published = item->frame;
    }
    store64(&shared->put, shared->batch_put - count); /* the others of the batch are in the pipe */
    store64(&shared->batch_begin, shared->written);
    store64(&shared->batch_end, shared->written);
    store64(&shared->batch_put, shared->put);
    if (!first->is_held)
        return;
    add(&self(sender->member)->held, count);
    pipecap_change_end(sender->member);
}
