/* The C surface of pipecap. Read twice: by the compiler, and by cffi as its cdef; so no preprocessor lines here.
 * Every function takes descriptors, returns a result >= 0 or -errno. */

/* ---- pipe.c: what the kernel says about one pipe ---- */

/* 1 when this build can ask the kernel for a pipe's capacity (F_GETPIPE_SZ), else 0. */
int pipecap_has_pipe_size(void);

/* Capacity of a pipe in bytes, from either end (F_GETPIPE_SZ). -ENOTSUP without it; -EBADF for what is no pipe. */
int64_t pipecap_capacity(int fd);

/* Set a pipe's capacity (F_SETPIPE_SZ); gives the capacity the kernel granted. -EINVAL above 2 GiB. */
int64_t pipecap_resize(int fd, uint64_t size);

/* Unread bytes in a pipe, from either end (FIONREAD). */
int64_t pipecap_unread(int fd);

/* 1 when the pipe has no free slot, 0 when it has one. Takes a write end: poll(2) says POLLOUT of nothing else. */
int pipecap_full(int fd);

/* ---- probe.c: the fill probe ---- */

/* What a fill probe found. */
struct pipecap_fill {
    uint64_t accepted;   /* bytes taken before EAGAIN */
    uint64_t writes;     /* writes taken whole */
    uint64_t partial;    /* bytes of a last write that was cut short; 0 when none was */
    uint64_t elapsed_ns; /* of the writes alone, CLOCK_MONOTONIC */
};

/* Write zeros to a pipe or socket of our own, sizes[0], sizes[1], ... and again from the start, until a write is
 * refused or cut short. The descriptor must be O_NONBLOCK already (-EINVAL): this never sets a flag. */
int pipecap_fill(int fd, const size_t *sizes, size_t count, struct pipecap_fill *result);

/* ---- headroom.c: the quota of pipe pages ---- */

/* What growing scratch pipes found. */
struct pipecap_headroom {
    uint64_t pages;      /* pages granted and given back */
    int exact;           /* 1: the quota refused the next page; 0: stopped earlier, pages is a lower bound */
    int stopped_by;      /* why not exact: ETIME (deadline), EAGAIN (others gave pages back), E2BIG, EMFILE, ... */
    uint64_t elapsed_ns; /* from the first page taken to the last one given back */
};

/* Take pages of the pipe quota in scratch pipes of at most max_pages (a power of two) each until the kernel refuses one
 * more or deadline_ns have passed, then give all back. */
int pipecap_headroom(uint32_t max_pages, uint64_t deadline_ns, struct pipecap_headroom *result);

/* ---- what end.c to queue.c share ---- */

/* What a call gives besides 0 and -errno. */
enum pipecap_outcome {
    PIPECAP_END_OF_FILE = -1001, /* between two frames */
    PIPECAP_CUT_SHORT = -1002,   /* end of file, or the writer died, in the middle of a frame */
    PIPECAP_TOO_LONG = -1003,    /* the header claims more than the caller allows; only the header was read */
    PIPECAP_BAD_HEADER = -1004,  /* no length that a frame can have */
    PIPECAP_READER_DIED = -1005, /* another reader died in the middle of a frame: where the next begins is unknown */
    PIPECAP_WOULD_WAIT = -1006,  /* nothing was written */
    PIPECAP_LARGE_BYTES = -1007  /* the frame that begins is one pickled bytes object: see pipecap_get_body() */
};

/* ---- end.c: one end of a pipe ---- */

/* 1 for a pipe from pipe(2), 0 for a FIFO with a name. Also through an O_PATH descriptor. -ENOTSUP where the system
 * does not tell. */
int pipecap_is_anonymous(int fd);

/* A descriptor that one thread may close while others wait in it: whoever leaves last really closes it, so its number
 * is never another file's under a call that still runs. */
struct pipecap_end {
    int fd;
    uint32_t users; /* twice the calls under way; bit 0: closed. After a fork the child keeps bit 0 alone */
    int elastic;    /* grow the pipe for what would not fit */
};

/* 0, or -EBADF where it was closed before. */
int pipecap_end_close(struct pipecap_end *end);

/* Wait until something can be read, at most until `deadline` (see below): 1, 0 at the deadline, -errno. */
int pipecap_readable(struct pipecap_end *end, int64_t deadline);

/* ---- receive.c: frames of multiprocessing's wire format on their way in ---- */

/* Frames on their way in. All zeros at first; data is malloc'ed and reused from frame to frame. */
struct pipecap_incoming {
    uint8_t *data;        /* headers and payloads; the payload of the first frame begins at data + 4 */
    size_t allocated;     /* bytes at data */
    size_t filled;        /* bytes received */
    size_t start;         /* where the frame under way begins; equal to filled between two frames */
    uint64_t payload;     /* of the frame under way, once header_known */
    int header_known;
    int locked;           /* a queue's read lock is held for the frame under way */
    int looked;           /* nothing came at once: the next call may sleep */
    uint64_t *frames;     /* of each whole frame but the first: where its payload begins, its bytes */
    size_t frames_allocated;
    size_t frame_count;   /* whole frames */
    size_t body;          /* bytes of the object of PIPECAP_LARGE_BYTES, which are not at data but with the caller; else 0 */
    size_t body_filled;   /* bytes received of them */
};

enum {
    PIPECAP_BODY_HEAD = 7, /* bytes of a pickle before those of its one large bytes object: PROTO, BINBYTES, length, ... */
    PIPECAP_BODY_TAIL = 2  /* ... and after: MEMOIZE, STOP */
};

void pipecap_incoming_free(struct pipecap_incoming *incoming);

/* Receive one frame as pipecap_receive() does, but -EAGAIN instead of waiting, whatever the descriptor's flags. */
int64_t pipecap_receive_now(struct pipecap_end *end, struct pipecap_incoming *incoming, uint64_t longest);

/* Receive one frame; its payload is at incoming->data + 4 and its bytes are the result, or -errno, or an outcome. After
 * -EINTR or -EAGAIN call again: what came so far is kept. A header that claims more than `longest` bytes is an outcome
 * before memory is taken. */
int64_t pipecap_receive(struct pipecap_end *end, struct pipecap_incoming *incoming, uint64_t longest);

/* Bring what is in `body` to the rest of the frame: then it is one like any other, half or whole. 0 or -ENOMEM. */
int pipecap_keep_body(struct pipecap_incoming *incoming, const uint8_t *body);

/* ---- send.c: frames on their way out ---- */

/* Most bytes of one write(2) to a pipe. Its reader and writer never overlap within one write: by small ones they work
 * side by side. */
enum { PIPECAP_CHUNK = 8192 };

struct pipecap_piece {
    const void *data;
    size_t size;
};

/* Frames on their way out: the payloads lie one after the other in the pieces. */
struct pipecap_outgoing {
    const struct pipecap_piece *pieces;
    size_t piece_count;
    const uint64_t *payloads; /* bytes of each frame's payload */
    size_t frame_count;
    size_t chunk;             /* most bytes of one write(2) */
    int patient;              /* of a thread that no signal handler waits for: sleep again without coming back */
    size_t piece;             /* how far it came: in the pieces, ... */
    size_t piece_done;
    size_t frame;             /* ... in the frames, ... */
    uint64_t frame_done;      /* ... in the frame under way, header included */
    uint64_t sent;            /* bytes, headers included */
};

/* Count the first bytes, headers included, as sent. */
void pipecap_skip(struct pipecap_outgoing *outgoing, uint64_t bytes);

/* Write all: 0 or -errno. After -EINTR or -EAGAIN call again. */
int pipecap_send(struct pipecap_end *end, struct pipecap_outgoing *outgoing);

/* Write one frame by one writev(2): bytes written, header included, perhaps fewer than all; or -errno. */
int64_t pipecap_send_once(struct pipecap_end *end, const char *data, size_t size);

/* ---- lock.c: what the processes of a queue share, without a name, and the locks in it ---- */

/* The pid of a process of another PID namespace: never told dead. */
enum { PIPECAP_SOMEBODY = 0x7fffffff };

/* In a shared mapping of zeros. A lock holds the pid of its holder, so that a dead one can be told. Times are
 * nanoseconds of CLOCK_MONOTONIC: 0 does not wait at all, -1 waits for ever. */
struct pipecap_shared {
    uint32_t writing;      /* lock: who writes frames; bit 31: others wait */
    uint32_t reading;      /* lock: who reads frames */
    uint32_t frame_open;   /* the writer may be in the middle of a frame */
    uint32_t reader_open;  /* the reader may be in the middle of a frame */
    uint32_t broken;       /* where the next frame begins is not known any more */
    uint32_t cut_short;    /* frames cut short that no reader was told of yet */
    uint32_t slots;        /* items that may still be put */
    uint32_t slot_waiters;
    uint32_t ahead_count;  /* bytes of the next frame's header that were read with the frame before */
    uint8_t ahead[4];      /* these */
    uint32_t last_reader;  /* pid of who read last; 0: nobody yet */
    uint32_t unfinished;   /* items without task_done() */
    uint32_t all_done;     /* counts how often unfinished came down to 0 */
};

/* Take a lock: 0, -ETIMEDOUT, -EINTR, or PIPECAP_READER_DIED for the read lock of a broken queue. A lock whose holder
 * died between two frames is taken over. */
int pipecap_lock(struct pipecap_shared *shared, int end_fd, int reading, uint32_t pid, int64_t deadline);
/* 0, or -EPERM when it was not locked. */
int pipecap_unlock(struct pipecap_shared *shared, int reading);

/* Whether a process has ended, reaped or not; 0 also where that cannot be told. */
int pipecap_has_ended(uint32_t pid);
/* Free the write lock if its holder died and all that it wrote was read: 1 if it did, else 0. `amid_frame`: of the frame
 * that the caller reads, under the read lock; else a frame that it left half written keeps the lock until a reader finds
 * that. */
int pipecap_free_abandoned(struct pipecap_shared *shared, int fd, uint32_t pid, int amid_frame);

/* ---- counters.c: the slots and the tasks of a queue ---- */

/* Take slots, at least one and at most `most`, all that are free: how many, or -ETIMEDOUT, -EINTR. Give some back: 0, or
 * -EINVAL for more than `most` in all. */
int64_t pipecap_take_slots(struct pipecap_shared *shared, uint32_t most, int64_t deadline);
int pipecap_give_slots(struct pipecap_shared *shared, uint32_t count, uint32_t most);

/* task_done(): 0, or -EINVAL when called too often. join(): 0, -ETIMEDOUT, -EINTR. */
void pipecap_add_unfinished(struct pipecap_shared *shared, uint32_t count);
int pipecap_task_done(struct pipecap_shared *shared, uint32_t count);
int pipecap_all_done(struct pipecap_shared *shared, int64_t deadline);

/* ---- queue.c: frames through a pipe that several processes share ---- */

/* One side of a queue in one process. */
struct pipecap_port {
    struct pipecap_shared *shared;
    struct pipecap_end *end;
    uint32_t pid;   /* of this process, as its locks are to have it */
    uint32_t slots; /* of the queue, all in all; 0: it does not count */
    int tasks;      /* whether each item put is a task, until task_done() */
};

/* How far a put came when it did not come to its end, or an exception came in between. */
struct pipecap_progress {
    uint64_t sent; /* bytes of an item that is half in the pipe, with the write lock held for it; else 0 */
    int taken;     /* its slot is taken, and its task counted, and not all of it was sent */
};

/* Take a slot and count the task, in `progress` too: 0, or -ETIMEDOUT where there is no slot. */
int pipecap_take_one(struct pipecap_port *port, struct pipecap_progress *progress);

/* Put frames without waiting for more than a moment: 0, -errno, or PIPECAP_WOULD_WAIT. Then, where frames->sent is not 0,
 * the write lock is still held and pipecap_put() goes on. */
int pipecap_put_now(struct pipecap_port *port, struct pipecap_outgoing *frames);
/* Take a slot, where the queue counts them, and put one frame the same way: besides, -ETIMEDOUT where there is no slot. */
int pipecap_put_one_now(struct pipecap_port *port, const char *data, size_t size, struct pipecap_progress *progress);
/* The same, of a payload in three parts: what a pickler makes of an item with one large bytes object. */
int pipecap_put_three_now(
    struct pipecap_port *port, const char *head, size_t head_size, const char *body, size_t body_size,
    const char *tail, size_t tail_size, struct pipecap_progress *progress);

/* Put frames, waiting as long as it takes: 0, -errno. After -EINTR call again: the write lock is still held when
 * frames->sent is not 0. */
int pipecap_put(struct pipecap_port *port, struct pipecap_outgoing *frames);

/* Get at least one frame and at most max_frames, all that is there: as pipecap_receive(), or -ETIMEDOUT. A queue that
 * counts its slots gets one back for each frame, and then the header of the next frame is read along with one, which
 * saves a read(2) each time; in one that does not, whose reader is also used without this, nothing is. Gives the
 * payload bytes of the first. After -EINTR, and after -ETIMEDOUT while incoming->locked (a frame is half here and the
 * read lock held for it), call again.
 *
 * A payload of at least `body_from` bytes (0: never) that begins as the pickle of one bytes object is left at that, with
 * the read lock, as PIPECAP_LARGE_BYTES: incoming->data + 4 has its head, incoming->body is the size of the object. */
int64_t pipecap_get(
    struct pipecap_port *port, struct pipecap_incoming *incoming, int64_t deadline, uint64_t longest,
    uint64_t max_frames, uint64_t body_from);

/* Go on, with the object's bytes into `body`: 0 when the frame is whole, or -errno or an outcome. Its tail is at
 * incoming->data, behind its head. After -EINTR call again. -EINVAL where no such frame is under way, or it is not one of
 * `size` bytes. */
int64_t pipecap_get_body(struct pipecap_port *port, struct pipecap_incoming *incoming, uint8_t *body, size_t size);
