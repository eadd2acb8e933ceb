/* What the C files need of each other and Python does not: mostly the wire format on a bare descriptor. */
#ifndef PIPECAP_FRAMES_H
#define PIPECAP_FRAMES_H

#include <stddef.h>
#include <stdint.h>

#include "pipecap.h"

/* Take part in the use of an end: its descriptor, or -EBADF once it was closed. Each enter needs its leave. */
int pipecap_enter(struct pipecap_end *end);
void pipecap_leave(struct pipecap_end *end);

/* Forget the frames of before, for new ones. */
void pipecap_incoming_clear(struct pipecap_incoming *incoming);

/* Begin with the first bytes of a frame, read before. 0 or an outcome. */
int pipecap_incoming_begin(struct pipecap_incoming *incoming, const uint8_t *bytes, size_t count, uint64_t longest);

/* One read(2) of what is missing: of the frame under way, of as many frames after it as `max_frames` allows for
 * certain, and of `ahead` bytes more, at most a header. With `wait` 0 it gives -EAGAIN instead of sleeping, without
 * touching O_NONBLOCK. Of a payload of `body_from` bytes (0: never) or more the head comes alone. Gives 1 when it read
 * something, or what pipecap_receive() gives. */
int pipecap_receive_some(int fd, struct pipecap_incoming *incoming, uint64_t longest, uint64_t max_frames, size_t ahead,
                         uint64_t body_from, int wait);

/* Whether the head alone is to be read of the first frame; once it is here: whether it is that of one bytes object. Then
 * incoming->body is set, and the rest is for pipecap_receive_body(): one readv(2), of the object's bytes, of the tail and
 * of `ahead` bytes more. 1 when the frame is whole, 0 when not, or what pipecap_receive_some() gives. */
int pipecap_may_be_large_bytes(const struct pipecap_incoming *incoming, uint64_t body_from);
int pipecap_is_large_bytes(struct pipecap_incoming *incoming);
int pipecap_receive_body(int fd, struct pipecap_incoming *incoming, uint8_t *body, size_t ahead, int wait);

/* Grow the pipe where so many bytes, written in whole pages, may not fit beside what is unread; as far as the kernel
 * grants, and never shrink it. */
void pipecap_make_room(int fd, uint64_t bytes);

/* Bytes still to be sent, headers included. */
uint64_t pipecap_bytes_left(const struct pipecap_outgoing *outgoing);

/* Write all, in pieces of at most outgoing->chunk bytes. 0 or -errno; outgoing remembers how far it came. With `wait` 0
 * it gives -EAGAIN instead of sleeping. */
int pipecap_send_all(int fd, struct pipecap_outgoing *outgoing, int wait);

/* Take a lock that is free: 1, else 0, without a look at its holder. */
int pipecap_try_lock(struct pipecap_shared *shared, int reading, uint32_t pid);

/* Bytes of the header of a frame with so many bytes of payload; written to header, which has room for 12. */
size_t pipecap_header(uint64_t payload, uint8_t *header);

#endif
