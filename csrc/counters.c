/* Counters in shared memory, on futex(2): the free slots of a queue, and its tasks. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>

#include "internal.h"

int64_t pipecap_take_slots(struct pipecap_shared *shared, uint32_t most, int64_t deadline)
{
    int result = 0;

    for (;;) {
        uint32_t free = load(&shared->slots);
        int64_t look;

        while (free) {
            uint32_t count = free < most ? free : most;

            if (__atomic_compare_exchange_n(&shared->slots, &free, free - count, 1, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
                return count;
        }
        if (deadline == 0 || result == -ETIMEDOUT)
            return -ETIMEDOUT;
        if (result)
            return result;
        /* Not for ever: who was woken for a slot may have died before it took it. */
        look = (int64_t)now_ns() + LOCK_LOOK_NS;
        __atomic_add_fetch(&shared->slot_waiters, 1, __ATOMIC_SEQ_CST);
        result = pipecap_sleep_on(&shared->slots, 0, deadline != FOR_EVER && deadline < look ? deadline : look);
        __atomic_sub_fetch(&shared->slot_waiters, 1, __ATOMIC_SEQ_CST);
        if (result == -ETIMEDOUT && !past(deadline))
            result = -EINTR; /* as if: a signal that came between two waits has its turn */
    }
}

int pipecap_give_slots(struct pipecap_shared *shared, uint32_t count, uint32_t most)
{
    uint32_t free = load(&shared->slots);

    do {
        if (count > most - free)
            return -EINVAL;
    } while (
        !__atomic_compare_exchange_n(&shared->slots, &free, free + count, 1, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    if (load(&shared->slot_waiters))
        pipecap_wake(&shared->slots, (int)count);
    return 0;
}

void pipecap_add_unfinished(struct pipecap_shared *shared, uint32_t count)
{
    __atomic_add_fetch(&shared->unfinished, count, __ATOMIC_SEQ_CST);
}

int pipecap_task_done(struct pipecap_shared *shared, uint32_t count)
{
    uint32_t left = load(&shared->unfinished);

    do {
        if (left < count)
            return -EINVAL;
    } while (
        !__atomic_compare_exchange_n(&shared->unfinished, &left, left - count, 1, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    if (left == count) {
        __atomic_add_fetch(&shared->all_done, 1, __ATOMIC_SEQ_CST);
        pipecap_wake(&shared->all_done, INT32_MAX);
    }
    return 0;
}

int pipecap_all_done(struct pipecap_shared *shared, int64_t deadline)
{
    uint32_t before = load(&shared->all_done);

    while (load(&shared->unfinished) && load(&shared->all_done) == before) {
        int result = pipecap_sleep_on(&shared->all_done, before, deadline);

        if (result)
            return result;
    }
    return 0;
}
