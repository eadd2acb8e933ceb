/* The processes of a queue, in a table in the memory they share, and which of them are alive.
 *
 * Never by PID alone: PIDs are used again, and mean nothing in another namespace. A participant holds a lock on the
 * byte of its index (F_OFD_SETLK, fcntl(2)), through an open file description that no other process has: the kernel
 * releases it when the process ends or execs, and anybody may ask for it. Where /proc or such locks are refused: PID
 * and start time. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"

/* With this many entries in use, those of ended processes are freed before another one is used. */
#define MANY 32

#define LINE 64 /* bytes that two CPUs cannot write at once without waiting for each other */
_Static_assert(sizeof(struct pipecap_participant) == LINE, "neighbours in one cache line");
_Static_assert(offsetof(struct pipecap_shared, reading) == LINE, "the writer's words and the reader's in one cache line");
_Static_assert(offsetof(struct pipecap_shared, broken) == 2 * LINE, "the reader's words and others in one cache line");
_Static_assert(offsetof(struct pipecap_shared, participants) == 3 * LINE, "a participant in two cache lines");

static int byte_lock(int fd, int command, short type, uint32_t index)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = index, .l_len = 1};

    if (fcntl(fd, command, &lock) == -1)
        return -errno;
    return lock.l_type == F_UNLCK;
}

static uint32_t namespace_of_pids(void)
{
    struct stat status;

    return stat("/proc/self/ns/pid", &status) == 0 ? (uint32_t)status.st_ino : 0;
}

/* Field 22 of /proc/PID/stat, in clock ticks since boot; 0 where it cannot be read. */
static uint64_t start_time_of(uint32_t pid)
{
    char path[32], text[1024];
    const char *at;
    uint64_t ticks = 0;
    ssize_t count;
    int fd;

    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd == -1)
        return 0;
    count = read(fd, text, sizeof text - 1);
    close(fd);
    text[count > 0 ? count : 0] = 0;
    at = strrchr(text, ')'); /* field 2 may have anything in it */
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    if (at)
        ticks = strtoull(at, NULL, 10);
    return ticks;
}

/* Whether a process of this namespace ended, also as a zombie that nobody waited for. */
static int has_ended(uint32_t pid)
{
    struct pollfd end = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
    int ended;

    if (end.fd == -1)
        return errno == ESRCH || (kill((pid_t)pid, 0) == -1 && errno == ESRCH);
    ended = poll(&end, 1, 0) == 1;
    close(end.fd);
    return ended;
}

int pipecap_is_alive(struct pipecap_member *member, uint32_t index)
{
    const struct pipecap_participant *entry = &member->shared->participants[index % PIPECAP_PARTICIPANTS];
    uint32_t pid = load(&entry->pid);
    uint64_t started;
    int is_free;

    if (!index || !pid)
        return 0;
    if (index == member->index)
        return 1;
    if (load(&entry->has_lock) && member->fd >= 0) {
        is_free = byte_lock(member->fd, F_OFD_GETLK, F_WRLCK, index);
        if (is_free >= 0)
            return !is_free;
    }
    if (entry->namespace_ != member->namespace_)
        return 1;
    if (has_ended(pid))
        return 0;
    started = start_time_of(pid);
    return !entry->start_time || !started || entry->start_time == started;
}

/* Another description of the same memory, or -1 without /proc. */
static int reopen(int fd)
{
    char path[32];

    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, O_RDWR | O_CLOEXEC);
}

/* A lock is held as long as its description is open anywhere. So it is taken on one that is this process's own: one
 * that came by fork or by a message is another one's, and one that memory is mapped through stays open in each child. */
static int own_description(struct pipecap_member *member)
{
    int own = reopen(member->fd);

    if (own == -1) {
        member->can_lock = 0;
        return 0;
    }
    close(member->fd);
    member->fd = own;
    return 1;
}

int pipecap_member_open(struct pipecap_member *member, int fd, uint32_t maxsize)
{
    void *memory;
    int own = maxsize ? -1 : reopen(fd), error;

    if (own != -1) {
        close(fd);
        fd = own;
    }
    if (maxsize && ftruncate(fd, sizeof *member->shared) == -1)
        goto failed;
    memory = mmap(NULL, sizeof *member->shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        goto failed;
    *member = (struct pipecap_member){.shared = memory, .fd = fd, .pid = (uint32_t)getpid(), .can_lock = 1,
                                      .namespace_ = namespace_of_pids()};
    if (maxsize) {
        member->shared->maxsize = member->shared->credits = maxsize;
        member->shared->places[0].limit = member->shared->places[1].limit = PIPECAP_BLOCK;
    }
    own_description(member);
    return 0;
failed:
    error = errno;
    close(fd);
    return -error;
}

void pipecap_member_close(struct pipecap_member *member)
{
    if (!member->shared)
        return;
    munmap(member->shared, sizeof *member->shared);
    if (member->fd >= 0)
        close(member->fd);
    member->shared = NULL;
    member->fd = -1;
}

void pipecap_member_forked(struct pipecap_member *member)
{
    member->index = 0;
    member->mutex = 0;
    member->read_locked_by_user = 0;
    member->excused = 0;
    member->audited = 0;
    member->pid = (uint32_t)getpid();
    member->namespace_ = namespace_of_pids();
    if (!own_description(member) && member->fd >= 0) { /* the parent's, which would seem alive as long as this one is */
        close(member->fd);
        member->fd = -1;
    }
}

static int owns_a_lock(const struct pipecap_shared *shared, uint32_t index)
{
    return (load(&shared->writing) & ~PIPECAP_WAITERS) == index ||
           (load(&shared->reading) & ~PIPECAP_WAITERS) == index || load(&shared->auditing) == index;
}

/* Use a free entry from now on; 0 where another process was faster. */
static int claim(struct pipecap_member *member, uint32_t index)
{
    struct pipecap_participant *entry = &member->shared->participants[index];
    uint32_t highest = load(&member->shared->highest);
    int locked = member->fd >= 0 && member->can_lock ? byte_lock(member->fd, F_OFD_SETLK, F_WRLCK, index) : -EBADF;

    if (locked == -EAGAIN || locked == -EACCES)
        return 0;
    if (locked < 0)
        member->can_lock = 0;
    else
        store(&entry->has_lock, 1); /* before the PID: from then on others may ask */
    if (!swap(&entry->pid, 0, member->pid)) {
        if (locked >= 0) {
            store(&entry->has_lock, 0);
            byte_lock(member->fd, F_OFD_SETLK, F_UNLCK, index);
        }
        return 0;
    }
    if (locked < 0)
        store(&entry->has_lock, 0);
    entry->namespace_ = member->namespace_;
    store64(&entry->start_time, locked >= 0 ? 0 : start_time_of(member->pid));
    while (highest < index && !swap(&member->shared->highest, highest, index))
        highest = load(&member->shared->highest);
    member->index = index;
    return 1;
}

/* Make an entry free whose process ended. */
static void reset(struct pipecap_participant *entry, uint32_t pid)
{
    store(&entry->has_lock, 0);
    store64(&entry->start_time, 0);
    store(&entry->held, 0);
    __atomic_store_n(&entry->undone, 0, __ATOMIC_SEQ_CST);
    store64(&entry->at, 0);
    store(&entry->begun, load(&entry->ended));
    swap(&entry->pid, pid, 0);
}

/* Free the entries of ended processes. What they held is found by the next audit. */
static void free_the_dead(struct pipecap_member *member)
{
    struct pipecap_shared *shared = member->shared;

    for (uint32_t i = 1; i < PIPECAP_ABANDONED; i++) {
        struct pipecap_participant *entry = &shared->participants[i];
        uint32_t pid = load(&entry->pid);

        if (!pid || owns_a_lock(shared, i) || pipecap_is_alive(member, i))
            continue;
        if (member->fd < 0 || !member->can_lock) {
            reset(entry, pid);
        } else if (byte_lock(member->fd, F_OFD_SETLK, F_WRLCK, i) >= 0) { /* no other process frees it meanwhile */
            reset(entry, pid);
            byte_lock(member->fd, F_OFD_SETLK, F_UNLCK, i);
        }
    }
}

static void find_entry(struct pipecap_member *member, uint32_t last)
{
    for (uint32_t i = 1; i <= last && !member->index; i++) {
        if (!load(&member->shared->participants[i].pid) && !owns_a_lock(member->shared, i))
            claim(member, i);
    }
}

int pipecap_participate(struct pipecap_member *member)
{
    struct pipecap_shared *shared = member->shared;
    int result;

    if (!shared) /* the garbage collector was here before the caller, who is garbage, too */
        return -EBADF;
    if (member->index)
        return 0;
    result = pipecap_mutex_lock(&member->mutex, WITHOUT_LIMIT);
    if (result)
        return result;
    find_entry(member, load(&shared->highest));
    if (!member->index && load(&shared->highest) >= MANY) {
        free_the_dead(member); /* else every audit would look at more and more of them */
        find_entry(member, load(&shared->highest));
    }
    if (!member->index)
        find_entry(member, PIPECAP_ABANDONED - 1);
    result = member->index ? 0 : PIPECAP_TABLE_FULL;
    pipecap_mutex_unlock(&member->mutex);
    return result;
}
