/* The kernel calls behind pipecap: plain C, no Python.h, testable alone. pipecap.h says what each function gives. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/vfs.h>
#endif

#include "pipecap.h"

/* PIPECAP_NO_PIPE_SIZE builds what other Unixes get, on Linux too, so that CI can test it there. */
#if defined(F_GETPIPE_SZ) && defined(F_SETPIPE_SZ) && !defined(PIPECAP_NO_PIPE_SIZE)
#define HAS_PIPE_SIZE 1
#else
#define HAS_PIPE_SIZE 0
#endif

/* fs/pipe.c: round_pipe_size() rejects more. Kernels differ in what they do above 32 bits, so they are never asked. */
#define LARGEST_PIPE (UINT64_C(1) << 31)

/* Scratch pipes one headroom run may hold, one descriptor each. A caller's RLIMIT_NOFILE is often 1024, and its other
 * threads want some. With 4 KiB pages 64 reach the default quota; with 64 KiB pages 1024 would. */
#define HEADROOM_PIPES 256

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int pipecap_has_pipe_size(void)
{
    return HAS_PIPE_SIZE;
}

#if HAS_PIPE_SIZE

/* fcntl(2) on pipes takes pipe->mutex and so does not sleep interruptibly; EINTR is retried all the same, as another
 * filesystem or a sandbox under us may answer it. A 2 GiB pipe's capacity does not fit an int: only -1 is an error. */
static int64_t pipe_fcntl(int fd, int command, unsigned long argument)
{
    int result;

    do {
        result = fcntl(fd, command, argument);
    } while (result == -1 && errno == EINTR);
    return result == -1 ? -errno : (int64_t)(unsigned int)result;
}

int64_t pipecap_capacity(int fd)
{
    return pipe_fcntl(fd, F_GETPIPE_SZ, 0);
}

int64_t pipecap_resize(int fd, uint64_t size)
{
    if (size > LARGEST_PIPE)
        return -EINVAL;
    return pipe_fcntl(fd, F_SETPIPE_SZ, (unsigned long)size);
}

#else

int64_t pipecap_capacity(int fd)
{
    (void)fd;
    return -ENOTSUP;
}

int64_t pipecap_resize(int fd, uint64_t size)
{
    (void)fd;
    (void)size;
    return -ENOTSUP;
}

#endif

#ifdef __linux__

/* include/uapi/linux/magic.h: pipes from pipe(2) live on a filesystem of their own. */
#define PIPEFS_MAGIC_NUMBER 0x50495045

int pipecap_is_anonymous(int fd)
{
    struct statfs filesystem;

    if (fstatfs(fd, &filesystem) == -1)
        return -errno;
    return filesystem.f_type == PIPEFS_MAGIC_NUMBER;
}

#else

int pipecap_is_anonymous(int fd)
{
    (void)fd;
    return -ENOTSUP;
}

#endif

int64_t pipecap_unread(int fd)
{
    int unread = 0;
    int result;

    do {
        result = ioctl(fd, FIONREAD, &unread);
    } while (result == -1 && errno == EINTR);
    return result == -1 ? -errno : (int64_t)(unsigned int)unread;
}

int pipecap_full(int fd)
{
    struct pollfd end = {.fd = fd, .events = POLLOUT};
    int result;

    do {
        result = poll(&end, 1, 0);
    } while (result == -1 && errno == EINTR);
    if (result == -1)
        return -errno;
    if (end.revents & POLLNVAL)
        return -EBADF;
    return !(end.revents & POLLOUT);
}

/* What most probes write: a page fault for each page of a fresh mapping would cost more than the writes. */
static const char small_zeros[65536];

/* The fill loop proper. It ends where a blocking writer would sleep: with the first write not taken whole. */
static int fill(int fd, const char *zeros, const size_t *sizes, size_t count, struct pipecap_fill *result)
{
    for (size_t next = 0;; next = (next + 1) % count) {
        ssize_t written;

        do {
            written = write(fd, zeros, sizes[next]);
        } while (written == -1 && errno == EINTR);
        if (written == -1)
            return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
        result->accepted += (uint64_t)written;
        if ((size_t)written < sizes[next]) {
            result->partial = (uint64_t)written;
            return 0;
        }
        result->writes++;
        if (result->accepted > LARGEST_PIPE)
            return -EFBIG; /* somebody reads what we write: this is no scratch pipe */
    }
}

int pipecap_fill(int fd, const size_t *sizes, size_t count, struct pipecap_fill *result)
{
    struct stat status;
    size_t largest = 0;
    const char *zeros = small_zeros;
    void *large = NULL;
    uint64_t start;
    int flags, error;

    *result = (struct pipecap_fill){0};
    for (size_t i = 0; i < count; i++) {
        if (sizes[i] == 0 || sizes[i] > SSIZE_MAX)
            return -EINVAL;
        if (sizes[i] > largest)
            largest = sizes[i];
    }
    if (largest == 0)
        return -EINVAL;
    flags = fcntl(fd, F_GETFL);
    if (flags == -1 || fstat(fd, &status) == -1)
        return -errno;
    if (!(flags & O_NONBLOCK) || !(S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode)))
        return -EINVAL;
    if (largest > sizeof small_zeros) {
        /* Private, read-only and untouched: all its pages are the kernel's one zero page; any size costs no memory. */
        zeros = large = mmap(NULL, largest, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (large == MAP_FAILED)
            return -errno;
    }
    start = now_ns();
    error = fill(fd, zeros, sizes, count, result);
    result->elapsed_ns = now_ns() - start;
    if (large)
        munmap(large, largest);
    return error;
}

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
        if (hoard->pledged && now_ns() > deadline)
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
            return 0;
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
    /* ENFILE: over the hard quota, a new pipe is refused while the old ones may still grow by less than its 16 pages. */
    return error == -EPERM || error == -ENFILE ? take_rest(hoard, spare, max_pages) : error;
}

int pipecap_headroom(uint32_t max_pages, uint64_t deadline_ns, struct pipecap_headroom *result)
{
    struct hoard hoard = {.count = 0};
    uint64_t start = now_ns();
    int error;

    *result = (struct pipecap_headroom){0};
    if (!HAS_PIPE_SIZE)
        return -ENOTSUP;
    if (max_pages < 2)
        return -EINVAL;
    error = take_all(&hoard, max_pages, start + deadline_ns);
    result->stopped_by = -error;
    result->exact = !error;
    result->pages = error ? held_pages(&hoard) : pages_within_quota(&hoard);
    while (hoard.count > 0)
        close(hoard.pipes[--hoard.count].fd);
    result->elapsed_ns = now_ns() - start;
    return 0;
}
