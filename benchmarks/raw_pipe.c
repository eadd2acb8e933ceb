/* What a pipe can do: items from one process to another with nothing but read(2) and write(2), into warm memory.
 *
 *     raw_pipe SIZE COUNT WARM CHUNK PRODUCER_CPU CONSUMER_CPU
 *
 * prints the nanoseconds that COUNT items of SIZE bytes took, after WARM items that are not timed. An item is a header of
 * 4 bytes and SIZE bytes, written by CHUNK at most, through a pipe of 1 MiB. A CPU of -1 is any. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CAPACITY (1 << 20)

static void fail(const char *what)
{
    perror(what);
    _exit(1);
}

static void pin(int cpu)
{
    cpu_set_t set;

    if (cpu < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) == -1)
        fail("sched_setaffinity");
}

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Bytes past a page. Where malloc puts large blocks, 16, the kernel's copy (rep movsb) is several times slower on some
 * processors: the pipe's pages have the payload 4 bytes in, just below. Best of a dozen tried. */
#define PRODUCERS_OFFSET 4
#define CONSUMERS_OFFSET 64

static char *warm_memory(size_t size, size_t offset)
{
    size_t pages = (size + offset) / 4096 + 1;
    char *memory = aligned_alloc(4096, pages * 4096);

    if (!memory)
        fail("aligned_alloc");
    memset(memory, 'x', pages * 4096);
    return memory + offset;
}

static void put(int fd, char *item, uint32_t size, size_t chunk)
{
    size_t sent = chunk - sizeof size < size ? chunk - sizeof size : size;
    struct iovec parts[] = {{&size, sizeof size}, {item, sent}};

    if (writev(fd, parts, 2) != (ssize_t)(sizeof size + sent))
        fail("writev");
    while (sent < size) {
        size_t next = size - sent < chunk ? size - sent : chunk;

        if (write(fd, item + sent, next) != (ssize_t)next)
            fail("write");
        sent += next;
    }
}

static void get(int fd, char *item)
{
    uint32_t size = 0;

    if (read(fd, &size, sizeof size) != sizeof size)
        fail("read of a header");
    for (size_t have = 0; have < size;) {
        ssize_t got = read(fd, item + have, size - have);

        if (got <= 0)
            fail("read");
        have += (size_t)got;
    }
}

int main(int argc, char **argv)
{
    int items[2], go[2], status;
    char *item, byte = 0;
    long size, count, warm, chunk;
    int64_t start;

    if (argc != 7 || pipe(items) == -1 || pipe(go) == -1)
        return 2;
    size = atol(argv[1]);
    count = atol(argv[2]);
    warm = atol(argv[3]);
    chunk = atol(argv[4]);
    if (size < 1 || chunk < 8)
        return 2;
    fcntl(items[1], F_SETPIPE_SZ, CAPACITY);
    item = warm_memory((size_t)size, CONSUMERS_OFFSET);
    switch (fork()) {
    case -1:
        fail("fork");
        break;
    case 0:
        close(items[0]);
        pin(atoi(argv[5]));
        item = warm_memory((size_t)size, PRODUCERS_OFFSET);
        for (long i = 0; i < warm; i++)
            put(items[1], item, (uint32_t)size, (size_t)chunk);
        if (read(go[0], &byte, 1) != 1)
            fail("read of the start");
        for (long i = 0; i < count; i++)
            put(items[1], item, (uint32_t)size, (size_t)chunk);
        _exit(0);
    default:
        break;
    }
    close(items[1]);
    pin(atoi(argv[6]));
    for (long i = 0; i < warm; i++)
        get(items[0], item);
    start = now_ns();
    if (write(go[1], &byte, 1) != 1)
        fail("write of the start");
    for (long i = 0; i < count; i++)
        get(items[0], item);
    printf("%lld\n", (long long)(now_ns() - start));
    return wait(&status) > 0 && status == 0 ? 0 : 1;
}
