/* One read of a frame's bytes, and waiting for more. */
#define _GNU_SOURCE
#include <sys/uio.h>

#include "internal.h"

/* In the middle of a frame, how often the reader checks that its writer is alive. */
#define CHECK_NS 100000000

/* Read without sleeping. RWF_NOWAIT is per call: O_NONBLOCK would be seen by every process that shares the description.
 * Bytes, 0 at the end of the file, -errno. */
ssize_t pipecap_read_some(const struct op *op, const struct iovec *parts, int count)
{
    ssize_t got;

    if (op->shared)
        store(&op->shared->reader_busy, 1);
    got = preadv2(op->fd, parts, count, -1, RWF_NOWAIT);
    if (got == -1 && (errno == EOPNOTSUPP || errno == ENOSYS)) {
        got = pipecap_wait_for(op->fd, POLLIN, 0);
        if (got == 1)
            got = readv(op->fd, parts, count);
        else
            errno = got ? (int)-got : EAGAIN, got = -1;
    }
    if (op->shared) {
        if (got > 0)
            store64(&op->shared->consumed, op->shared->consumed + (uint64_t)got);
        store(&op->shared->reader_busy, 0);
    }
    if (got > 0)
        op->receiver->moved = 1;
    return got == -1 ? -errno : got;
}

/* Wait for more bytes: GO_ON, -errno or an outcome. A frame that is partly in memory of this process is waited for past
 * the deadline, but not by a call that does not wait at all. */
int64_t pipecap_wait_for_bytes(const struct op *op)
{
    const struct pipecap_receiver *receiver = op->receiver;
    int begun = receiver->partial || receiver->have;
    int result;

    if (op->deadline) {
        if (pipecap_comes_at_once(op->fd, POLLIN))
            return GO_ON;
        if (receiver->moved)
            return PIPECAP_AGAIN;
        if (!op->shared && pipecap_is_nonblocking(op->fd))
            return -EAGAIN;
        result = pipecap_wait_for(op->fd, POLLIN, within(receiver->partial ? WITHOUT_LIMIT : op->deadline,
                                                         begun && op->shared ? CHECK_NS : ROUND_NS));
        if (result)
            return result == 1 ? GO_ON : result == -EINTR ? PIPECAP_AGAIN : result;
    }
    if (begun && op->shared && pipecap_take_over_gone_writer(op->member, op->fd))
        return PIPECAP_TRUNCATED;
    return receiver->partial && op->deadline ? PIPECAP_AGAIN : round_over(op->deadline);
}
