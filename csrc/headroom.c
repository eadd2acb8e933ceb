/* The quota's headroom: how many more pages the pipes of this user may take. Found by taking them, in scratch pipes,
 * until the kernel refuses (fs/pipe.c: pipe_set_size() checks the user's pages when a pipe grows), and giving all
 * back. In C because other processes of the user go short meanwhile: no interpreter, no other thread's turn in
 * between. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <unistd.h>

#include "internal.h"

/* Scratch pipes one headroom run may hold, one descriptor each. A caller's RLIMIT_NOFILE is often 1024, and its other
 * threads want some. With 4 KiB pages 64 reach the default quota; with 64 KiB pages 1024 would. */
#define HEADROOM_PIPES 256

/* A scratch pipe, held by its write end alone, and the pages it is charged with. */
struct scratch {
    int fd;
    uint32_t pages;
};

static int set_pages(struct scratch *pipe, uint32_t pages)
{
    int64_t granted = pipecap_resize(pipe->fd, pages * (uint64_t)sysconf(_SC_PAGESIZE));

    if (granted < 0)
        return (int)granted;
    pipe->pages = pages;
    return 0;
}

/* Close-on-exec from the start: another thread may exec at any moment. */
static int scratch_ends(int ends[2])
{
#ifdef __linux__
    return pipe2(ends, O_CLOEXEC);
#else
    return pipe(ends);
#endif
}

static int open_scratch(struct scratch *scratch)
{
    int ends[2], error;

    if (scratch_ends(ends) == -1)
        return -errno;
    close(ends[0]);
    scratch->fd = ends[1];
    error = set_pages(scratch, 1);
    if (error)
        close(scratch->fd);
    return error;
}

/* What one headroom run holds. */
struct hoard {
    struct scratch pipes[HEADROOM_PIPES];
    int count;
    uint32_t pledged; /* pages that were granted and given back at once: sure to be had, but not held */
};

static int add_pipe(struct hoard *hoard)
{
    int error;

    if (hoard->count == HEADROOM_PIPES)
        return -E2BIG;
    error = open_scratch(&hoard->pipes[hoard->count]);
    if (!error)
        hoard->count++;
    return error;
}

/* Take pieces of max_pages until one is refused. Somebody else's pipe made while less than 16 pages are left would be
 * shrunk for good, so a piece is kept only once the next one was granted as well: until the last one is refused, at
 * least a whole piece is free at all times but for the microseconds between a grant and its return. */
static int take_pieces(struct hoard *hoard, uint32_t max_pages, uint64_t deadline)
{
    struct scratch *last = NULL;
    int error;

    for (;;) {
        if (hoard->pledged && (uint64_t)now_ns() > deadline)
            return -ETIME;
        if (last) {
            hoard->pledged = 0;
            error = set_pages(last, max_pages);
            if (error)
                return error;
        }
        error = add_pipe(hoard);
        if (error)
            return error;
        last = &hoard->pipes[hoard->count - 1];
        error = set_pages(last, max_pages);
        if (error)
            return error;
        error = set_pages(last, 1);
        if (error)
            return error;
        hoard->pledged = max_pages - 1;
    }
}

/* Take what is left, less than a piece, into the first `count` pipes: the largest power of two that is granted, and so
 * on down to a single page. That leaves nothing, for some microseconds. */
static int take_rest(struct hoard *hoard, int count, uint32_t max_pages)
{
    int next = 0;

    for (uint32_t pages = max_pages / 2; pages > 1;) {
        int error = next < count ? set_pages(&hoard->pipes[next], pages) : -EAGAIN;

        if (!error)
            next++;
        else if (error == -EPERM)
            pages /= 2;
        else
            return error;
    }
    return 0;
}

static uint64_t held_pages(const struct hoard *hoard)
{
    uint64_t pages = hoard->pledged;

    for (int i = 0; i < hoard->count; i++)
        pages += hoard->pipes[i].pages;
    return pages;
}

/* Pages held that are within the quota. A new pipe is never refused by the soft quota, so the last single pages may be
 * beyond it: close such pipes until one that was shrunk can be grown back. Where no pipe could grow at all, until one
 * can: it takes two pages then. A single page that is left is no use to anybody, and counts as none. */
static uint64_t pages_within_quota(struct hoard *hoard)
{
    struct scratch *gauge = &hoard->pipes[0];
    uint32_t pages = gauge->pages > 1 ? gauge->pages : 2;

    for (int i = 0; i < hoard->count; i++) {
        if (hoard->pipes[i].pages > gauge->pages)
            gauge = &hoard->pipes[i];
    }
    if (gauge->pages > 1) {
        pages = gauge->pages;
        set_pages(gauge, pages / 2);
    }
    while (set_pages(gauge, pages) != 0) {
        int i = hoard->count - 1;

        while (i >= 0 && (hoard->pipes[i].pages > 1 || &hoard->pipes[i] == gauge))
            i--;
        if (i < 0)
            return gauge->pages > 1 ? held_pages(hoard) : 0;
        close(hoard->pipes[i].fd);
        hoard->pipes[i] = hoard->pipes[--hoard->count];
        if (gauge == &hoard->pipes[hoard->count])
            gauge = &hoard->pipes[i];
    }
    return held_pages(hoard);
}

static int take_all(struct hoard *hoard, uint32_t max_pages, uint64_t deadline)
{
    int error, spare = 0;

    /* Opened before there is any hurry: enough for every power of two below max_pages, one of them twice. */
    for (uint32_t pages = max_pages; pages; pages /= 2, spare++) {
        error = add_pipe(hoard);
        if (error)
            return error;
    }
    while ((error = take_pieces(hoard, max_pages, deadline)) == -ENOMEM && max_pages > 2)
        max_pages /= 2; /* one allocation holds all slots of a pipe, so a very large pipe is not to be had */
    /* ENFILE: over the hard quota, a new pipe is refused while the old ones may still grow by less than its 16
     * pages. */
    return error == -EPERM || error == -ENFILE ? take_rest(hoard, spare, max_pages) : error;
}

int pipecap_headroom(uint32_t max_pages, uint64_t deadline_ns, struct pipecap_headroom *result)
{
    struct hoard hoard = {.count = 0};
    uint64_t start = (uint64_t)now_ns();
    int error;

    *result = (struct pipecap_headroom){0};
    if (!pipecap_has_pipe_size())
        return -ENOTSUP;
    if (max_pages < 2)
        return -EINVAL;
    error = take_all(&hoard, max_pages, start + deadline_ns);
    result->stopped_by = -error;
    result->exact = !error;
    result->pages = error ? held_pages(&hoard) : pages_within_quota(&hoard);
    while (hoard.count > 0)
        close(hoard.pipes[--hoard.count].fd);
    result->elapsed_ns = (uint64_t)now_ns() - start;
    return 0;
}
