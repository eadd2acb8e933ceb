/* One end of a pipe: what it belongs to, its use by several threads, and waiting until it can be read. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/vfs.h>
#endif

#include "internal.h"

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

int pipecap_enter(struct pipecap_end *end)
{
    uint32_t users = __atomic_load_n(&end->users, __ATOMIC_SEQ_CST);

    do {
        if (users & 1)
            return -EBADF;
    } while (!__atomic_compare_exchange_n(&end->users, &users, users + 2, 1, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    return end->fd;
}

void pipecap_leave(struct pipecap_end *end)
{
    if (__atomic_sub_fetch(&end->users, 2, __ATOMIC_SEQ_CST) == 1)
        close(end->fd);
}

int pipecap_end_close(struct pipecap_end *end)
{
    uint32_t users;

    users = __atomic_fetch_or(&end->users, 1, __ATOMIC_SEQ_CST);
    if (users & 1)
        return -EBADF;
    return users == 0 && close(end->fd) == -1 ? -errno : 0;
}

int pipecap_readable(struct pipecap_end *end, int64_t deadline)
{
    int fd = pipecap_enter(end);
    int result;

    if (fd < 0)
        return fd;
    result = wait_readable(fd, deadline);
    pipecap_leave(end);
    return result;
}
