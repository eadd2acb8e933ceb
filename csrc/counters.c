/* Credits and tasks. Each is one word that everybody changes; what a dead process took with it is found by looking
 * through the table: credits + frames in the pipe + credits held by the living == maxsize, and likewise for tasks. */
#define _GNU_SOURCE
#include "internal.h"

#define AUDIT_EVERY_NS 100000000
#define AUDIT_PAUSE_NS 5000000
#define AUDIT_TRIES 100

void pipecap_change_begin(struct pipecap_member *member)
{
    add(&self(member)->begun, 1);
}

void pipecap_change_end(struct pipecap_member *member)
{
    add(&self(member)->ended, 1);
}

/* ---- credits ---- */

uint32_t pipecap_take_credits(struct pipecap_shared *shared, uint32_t most)
{
    uint32_t credits = load(&shared->credits), count;

    do {
        count = credits < most ? credits : most;
    } while (count && !__atomic_compare_exchange_n(&shared->credits, &credits, credits - count, 1, __ATOMIC_SEQ_CST,
                                                   __ATOMIC_SEQ_CST));
    return count;
}

void pipecap_give_credits(struct pipecap_shared *shared, uint32_t count)
{
    uint32_t credits = load(&shared->credits), given;

    do {
        given = count < shared->maxsize - credits ? count : shared->maxsize - credits;
    } while (!__atomic_compare_exchange_n(&shared->credits, &credits, credits + given, 1, __ATOMIC_SEQ_CST,
                                          __ATOMIC_SEQ_CST));
    if (given && load(&shared->credit_waiters))
        pipecap_wake(&shared->credits, given > INT32_MAX ? INT32_MAX : (int)given);
}

static int audit_now_and_then(struct pipecap_member *member, int fd)
{
    if (now_ns() - member->audited < AUDIT_EVERY_NS)
        return 0;
    member->audited = now_ns();
    return pipecap_audit(member, fd);
}

int pipecap_wait_for_credit(struct pipecap_member *member, int fd, int64_t deadline)
{
    struct pipecap_shared *shared = member->shared;
    int result;

    if (deadline == 0)
        return audit_now_and_then(member, fd) && load(&shared->credits) ? 0 : PIPECAP_TIMED_OUT;
    add(&shared->credit_waiters, 1);
    result = pipecap_sleep_on(&shared->credits, 0, within(deadline, ROUND_NS));
    __atomic_sub_fetch(&shared->credit_waiters, 1, __ATOMIC_SEQ_CST);
    if (result == -EINTR)
        return PIPECAP_AGAIN;
    if (result != -ETIMEDOUT)
        return result;
    /* The process woken for a credit may have died before it took it, or holding others. */
    audit_now_and_then(member, fd);
    return load(&shared->credits) ? 0 : round_over(deadline);
}

int64_t pipecap_queue_size(struct pipecap_member *member, struct pipecap_end *end)
{
    struct pipecap_shared *shared = member->shared;
    int fd;

    if (load(&shared->credits) != shared->maxsize && pipecap_participate(member) == 0) {
        fd = pipecap_enter(end);
        if (fd >= 0) {
            audit_now_and_then(member, fd);
            pipecap_leave(end);
        }
    }
    return (int64_t)shared->maxsize - load(&shared->credits);
}

/* ---- tasks ---- */

static void drop_tasks(struct pipecap_shared *shared, uint32_t count, int are_lost)
{
    uint32_t left = load(&shared->unfinished), dropped;

    do {
        dropped = count < left ? count : left;
    } while (!__atomic_compare_exchange_n(&shared->unfinished, &left, left - dropped, 1, __ATOMIC_SEQ_CST,
                                          __ATOMIC_SEQ_CST));
    if (are_lost) { /* after it: an auditor that dies in between is not repeated; before the waiters see it */
        add(&shared->lost_unseen, dropped);
        add(&shared->forgiven, dropped);
    }
    if (dropped && dropped == left) {
        add(&shared->all_done, 1);
        pipecap_wake(&shared->all_done, INT32_MAX);
    }
}

void pipecap_drop_tasks(struct pipecap_shared *shared, uint32_t count)
{
    drop_tasks(shared, count, 0);
}

/* Whether a task was reported as lost that is done after all: its consumer ended and had handed it on. */
static int is_forgiven(struct pipecap_shared *shared)
{
    uint32_t forgiven = load(&shared->forgiven);

    while (forgiven && !swap(&shared->forgiven, forgiven, forgiven - 1))
        forgiven = load(&shared->forgiven);
    return forgiven != 0;
}

int pipecap_task_done(struct pipecap_member *member)
{
    struct pipecap_shared *shared = member->shared;
    int result = pipecap_participate(member);
    uint32_t left;

    if (result)
        return result;
    if (member->excused && __atomic_load_n(&self(member)->undone, __ATOMIC_SEQ_CST) <= 0) {
        member->excused--;
        return 0;
    }
    pipecap_change_begin(member);
    left = load(&shared->unfinished);
    do {
        if (!left) {
            pipecap_change_end(member);
            return is_forgiven(shared) ? 0 : -EINVAL;
        }
    } while (!__atomic_compare_exchange_n(&shared->unfinished, &left, left - 1, 1, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    if (__atomic_fetch_sub(&self(member)->undone, 1, __ATOMIC_SEQ_CST) <= 0)
        store(&shared->tasks_crossed, 1);
    pipecap_change_end(member);
    if (left == 1) {
        add(&shared->all_done, 1);
        pipecap_wake(&shared->all_done, INT32_MAX);
    }
    return 0;
}

/* ---- the audit ---- */

struct sums {
    uint64_t changes; /* begun by the living */
    uint64_t in_pipe;
    uint64_t held;
    int64_t undone;
    uint32_t credits;
    uint32_t unfinished;
};

/* Add up what the living hold: 1, or 0 where one of them is amid a change. */
static int add_up(struct pipecap_member *member, struct sums *sums)
{
    struct pipecap_shared *shared = member->shared;

    *sums = (struct sums){0};
    for (uint32_t i = 1; i <= load(&shared->highest); i++) {
        struct pipecap_participant *entry = &shared->participants[i];
        uint32_t begun;

        if (!load(&entry->pid) || !pipecap_is_alive(member, i))
            continue;
        begun = load(&entry->begun);
        if (begun != load(&entry->ended))
            return 0;
        sums->changes = sums->changes * 31 + begun;
        sums->held += load(&entry->held);
        sums->undone += __atomic_load_n(&entry->undone, __ATOMIC_SEQ_CST);
    }
    sums->in_pipe = load64(&shared->batch_put) - load64(&place_of(shared)->got);
    sums->credits = load(&shared->credits);
    sums->unfinished = load(&shared->unfinished);
    return (int64_t)sums->in_pipe >= 0; /* more came out than went in: somebody writes past the protocol */
}

/* A difference between a word and its sum is what the dead took with them: no change of the living alters it. It is
 * also the number of lost items that no reader reported. */
static void mend(struct pipecap_shared *shared, const struct sums *sums)
{
    uint64_t used = sums->in_pipe + sums->held;
    int64_t credits = (int64_t)shared->maxsize - (int64_t)used - sums->credits;
    int64_t tasks = (int64_t)sums->unfinished - (int64_t)used - sums->undone;

    if (credits > 0)
        pipecap_give_credits(shared, (uint32_t)credits);
    if (tasks > 0 && !load(&shared->tasks_crossed)) {
        drop_tasks(shared, (uint32_t)tasks, 1);
    } else if (credits > 0 && !sums->unfinished) {
        add(&shared->lost_unseen, (uint32_t)credits);
    }
}

int pipecap_audit(struct pipecap_member *member, int fd)
{
    struct pipecap_shared *shared = member->shared;
    uint32_t auditor = load(&shared->auditing);
    struct sums first, second;
    int done = 0;

    /* Of a writer that died: what it left in the pipe is settled first, if that is possible. Until then its frames
     * count as if all were in the pipe, so the sum gives back too little rather than too much. */
    if (pipecap_is_orphan(member, WRITING) && pipecap_lock(member, fd, WRITING, 0) == 0)
        pipecap_unlock(member, WRITING);
    if (auditor && pipecap_is_alive(member, auditor))
        return 0;
    if (!swap(&shared->auditing, auditor, member->index))
        return 0;
    if (add_up(member, &first) && add_up(member, &second) && first.changes == second.changes &&
        first.in_pipe == second.in_pipe && first.credits == second.credits && first.held == second.held &&
        first.unfinished == second.unfinished) {
        mend(shared, &first); /* exact, as nothing began since */
        done = 1;
    }
    store(&shared->auditing, 0);
    return done;
}

static uint32_t claim_lost(struct pipecap_member *member, int fd)
{
    struct timespec pause = {.tv_nsec = AUDIT_PAUSE_NS};

    for (int i = 0; i < AUDIT_TRIES && !pipecap_audit(member, fd); i++)
        nanosleep(&pause, NULL); /* a change of a living process is under way */
    return __atomic_exchange_n(&member->shared->lost_unseen, 0, __ATOMIC_SEQ_CST);
}

int64_t pipecap_claim_lost(struct pipecap_member *member, struct pipecap_end *end)
{
    int fd = pipecap_enter(end);
    int64_t result = pipecap_participate(member);

    if (!result)
        result = claim_lost(member, fd);
    if (fd >= 0)
        pipecap_leave(end);
    return result;
}

static int wait_for_tasks(struct pipecap_member *member, int fd, int64_t deadline)
{
    struct pipecap_shared *shared = member->shared;
    uint32_t before = load(&shared->all_done);
    int64_t end = within(deadline, ROUND_NS);

    while (load(&shared->unfinished) && load(&shared->all_done) == before) {
        int result = deadline == 0 ? -ETIMEDOUT : pipecap_sleep_on(&shared->all_done, before, end);

        if (result == -EINTR)
            return PIPECAP_AGAIN;
        if (result != -ETIMEDOUT)
            continue;
        if (load(&shared->tasks_crossed) || !pipecap_audit(member, fd) || load(&shared->unfinished))
            return round_over(deadline);
    }
    return 0;
}

int64_t pipecap_wait_for_tasks(struct pipecap_member *member, struct pipecap_end *end, int64_t deadline)
{
    int fd = pipecap_enter(end);
    int64_t result = pipecap_participate(member);

    if (!result)
        result = wait_for_tasks(member, fd, deadline);
    if (!result)
        result = __atomic_exchange_n(&member->shared->lost_unseen, 0, __ATOMIC_SEQ_CST);
    if (fd >= 0)
        pipecap_leave(end);
    return result;
}
