/* The fill probe: how many bytes a pipe of our own takes, by writes of given sizes. Nothing here needs Linux. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include "internal.h"

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
    start = (uint64_t)now_ns();
    error = fill(fd, zeros, sizes, count, result);
    result->elapsed_ns = (uint64_t)now_ns() - start;
    if (large)
        munmap(large, largest);
    return error;
}
