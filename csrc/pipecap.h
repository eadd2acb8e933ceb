/* The C surface of pipecap. Read twice: by the compiler, and by cffi as its cdef; so no preprocessor lines here.
 * Every function returns a result >= 0, -errno or an outcome. */

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

/* ---- end.c: a descriptor that one thread may close while others wait in it ---- */

/* 1 for a pipe from pipe(2), 0 for a FIFO with a name. Also through an O_PATH descriptor. -ENOTSUP where the system
 * does not tell. */
int pipecap_is_anonymous(int fd);

/* What a call returns besides a result >= 0 and -errno. */
enum pipecap_outcome {
    PIPECAP_AGAIN = -1001,       /* nothing failed, nothing is lost: let Python run its signal handlers, call again */
    PIPECAP_TIMED_OUT = -1002,   /* at the deadline */
    PIPECAP_QUEUED = -1003,      /* all or a part of it waits in the line of this process */
    PIPECAP_CLOSED = -1004,      /* the sender takes no more */
    PIPECAP_END_OF_FILE = -1005, /* between two frames */
    PIPECAP_TRUNCATED = -1006,   /* end of file, or the writer died, in the middle of a frame */
    PIPECAP_LOST = -1007,        /* a reader died with a frame in its hands */
    PIPECAP_TOO_LONG = -1008,    /* the header claims more than the caller allows; only the header was read */
    PIPECAP_BAD_HEADER = -1009,  /* no length that a frame can have */
    PIPECAP_BROKEN = -1010,      /* where the next frame begins is unknown */
    PIPECAP_TABLE_FULL = -1011   /* no place left in the table of participants */
};

/* Whoever leaves a call last really closes it, so its number is never another file's under a call that still runs. */
struct pipecap_end {
    int fd;
    uint32_t users; /* twice the calls under way; bit 0: closed */
    int elastic;    /* grow the pipe for what would not fit */
};

/* 0, or -EBADF where it was closed before. */
int pipecap_end_close(struct pipecap_end *end);
/* In the child of a fork: the calls of other threads are not under way here. */
void pipecap_end_forked(struct pipecap_end *end);

/* ---- participants.c, lock.c, counters.c: what the processes of a queue share; csrc/PROTOCOL.md has the rules ---- */

enum {
    PIPECAP_PARTICIPANTS = 1024, /* entries of the table; entry 0 is nobody */
    PIPECAP_ABANDONED = 1023,    /* the last entry is nobody, too: it owns what its owner gave up */
    PIPECAP_BLOCK = 65536,       /* bytes of a place */
    PIPECAP_WAITERS = 0x40000000 /* in a lock word: others wait */
};

/* Deadlines are nanoseconds of CLOCK_MONOTONIC: 0 does not wait at all, -1 waits without a limit. */

/* The deadline that is `length` nanoseconds from now. */
int64_t pipecap_deadline_in(int64_t length);

/* pidfd_getfd(2): a descriptor of another process, by its pidfd, as one of this process, close-on-exec; or -errno. */
int pipecap_pidfd_getfd(int pidfd, int fd);

/* One process that uses the queue: a cache line. */
struct pipecap_participant {
    uint32_t pid;        /* 0: the entry is free */
    uint32_t namespace_; /* of the pid: inode of its PID namespace; 0 unknown */
    uint64_t start_time; /* of a process that holds no lock on its byte: /proc/PID/stat; else 0 */
    uint32_t has_lock;   /* it is alive while it holds a lock on the byte of its index (F_OFD_SETLK) */
    uint32_t begun;      /* changes of the counters begun ... */
    uint32_t ended;      /* ... and ended: equal between two of them */
    uint32_t held;       /* credits of items that are not in the pipe yet */
    int32_t undone;      /* items got without task_done() */
    uint64_t at;         /* 1 + the number of the frame that its last call received, or is about to; 0: it received none */
    uint64_t padding[2];
};

/* Where the reader's next frame begins. Bytes from `boundary` on are in `bytes`, as far as they were read, up to
 * `limit`; bytes beyond are with the reader, and lost when it dies. */
struct pipecap_place {
    uint64_t boundary;
    uint64_t got; /* frames before it */
    uint64_t limit;
    uint8_t bytes[65536];
};

struct pipecap_shared {
    /* A cache line of the writer's, */
    uint32_t writing;        /* lock: 0, or the owner's index, or'ed with PIPECAP_WAITERS */
    uint32_t writer_busy;    /* bytes that the system call moves at most in which its owner is; 0: in none */
    uint64_t written;        /* bytes that went into the pipe */
    uint64_t batch_begin;    /* the frames under way, or the last ones: where they begin, */
    uint64_t batch_end;      /* ... where they end, */
    uint64_t batch_put;      /* ... and what `put` is when they are in the pipe */
    uint64_t put;            /* frames that are in the pipe or came out of it */
    uint64_t padding[2];
    /* ... one of the reader's, */
    uint32_t reading;        /* lock */
    uint32_t reader_busy;
    uint64_t consumed;       /* bytes that came out of the pipe */
    uint32_t turn;           /* which place is valid */
    uint32_t last_reader;    /* pid of the last reader; 0: none yet */
    uint64_t more_padding[5];
    /* ... and one of both's. */
    uint32_t broken;         /* where the next frame begins is unknown */
    uint32_t lost;           /* frames that readers died with; each is reported once */
    uint32_t lost_unseen;    /* items that no reader missed: they died in feeders, or with task_done() owed; likewise */
    uint32_t credits;        /* items that may still be put */
    uint32_t credit_waiters;
    uint32_t maxsize;
    uint32_t unfinished;     /* items without task_done() */
    uint32_t all_done;       /* counts how often unfinished came down to 0 */
    uint32_t tasks_crossed;  /* some process called task_done() for items that another one got */
    uint32_t auditing;       /* index of the participant that mends the counters */
    uint32_t highest;        /* the highest index in use so far */
    uint32_t forgiven;       /* tasks reported as lost: task_done() for them is allowed, and not needed */
    uint64_t last_padding[2];
    struct pipecap_participant participants[1024];
    struct pipecap_place places[2];
};

/* This process among them. */
struct pipecap_member {
    struct pipecap_shared *shared;
    int fd;              /* of the memory; an open file description of this process alone; -1 where there is none */
    uint32_t index;      /* 0: not registered yet */
    uint32_t pid;
    uint32_t namespace_;
    uint32_t mutex;      /* of registration */
    uint32_t read_locked_by_user; /* by SharedLock.acquire() */
    uint32_t can_lock;   /* byte locks work here */
    uint32_t excused;    /* frames reported as truncated or lost: task_done() for them is allowed, and not needed */
    int64_t audited;     /* when the counters were looked through last */
};

/* Map the memory behind `fd`, which is the member's from now on; of a new one maxsize > 0 is how many items it takes.
 * 0 or -errno. */
int pipecap_member_open(struct pipecap_member *member, int fd, uint32_t maxsize);
void pipecap_member_close(struct pipecap_member *member);
void pipecap_member_forked(struct pipecap_member *member);
/* Register, if that was not done: 0, -errno or PIPECAP_TABLE_FULL. */
int pipecap_participate(struct pipecap_member *member);
/* Whether the participant with this index is a process that has not ended; 1 also where that is not known. */
int pipecap_is_alive(struct pipecap_member *member, uint32_t index);

/* Where an `end` is asked for it is either end of the pipe in this process. */

/* Take a lock: 0, or an outcome, or -errno. One whose owner ended is taken over, as soon as what the owner left is
 * known. */
int pipecap_acquire(struct pipecap_member *member, struct pipecap_end *end, int reading, int64_t deadline);
/* 0, or -EPERM when this process does not own it. */
int pipecap_unlock(struct pipecap_member *member, int reading);

/* Items put and not got, as the credits say. */
int64_t pipecap_queue_size(struct pipecap_member *member, struct pipecap_end *end);
/* How many items died in feeders, and in the hands of consumers that owed task_done(); each is returned once. Or
 * -errno. */
int64_t pipecap_claim_lost(struct pipecap_member *member, struct pipecap_end *end);
/* task_done(): 0, or -EINVAL when called too often. */
int pipecap_task_done(struct pipecap_member *member);
/* join(): 0 when no task is left, a number of tasks that will never be done, or an outcome. */
int64_t pipecap_wait_for_tasks(struct pipecap_member *member, struct pipecap_end *end, int64_t deadline);

/* ---- receive.c: multiprocessing's wire format, in ---- */

enum {
    PIPECAP_EAGER = -2,
    PIPECAP_SMALL = 16384,      /* a frame up to this may come together with others; a larger one comes alone */
    PIPECAP_WITH_BUFFERS = 0x01 /* first byte of a payload that is a pickle and its buffers: no pickle begins so */
};
#define PIPECAP_MOVED 0x4000000000000000 /* in the result of pipecap_receive(): the frames have other memory now */

/* Whole frames, with the caller. All zeros at first; the memory is used again. */
struct pipecap_frames {
    uint8_t *data;       /* a block; the payload of the first begins at data + 4 */
    size_t allocated;
    uint64_t *bounds;    /* of each: where its payload begins, its bytes */
    size_t bounds_allocated;
    size_t count;
    size_t taken;        /* how many of them the caller has used */
    int has_buffers;     /* it is one payload of a queue, a pickle with buffers */
    int moved;           /* `data` is another than when PIPECAP_MOVED was last told */
    uint64_t serial;     /* number of the first among those that the receiver received */
    struct pipecap_frames *next;
};

/* One process's receiving side: the record of the frame under way. C alone changes it. */
struct pipecap_receiver {
    struct pipecap_end *end;
    struct pipecap_member *member; /* NULL: a plain connection */
    int counts;                    /* its frames are items with credits */
    int tasks;                     /* each of them is a task until task_done() */
    uint32_t mutex;
    int locked;                    /* the read lock is owned for the frame under way */
    int moved;                     /* bytes came in this call: before it sleeps, Python looks for signals once more */
    int partial;                   /* a part of its payload is in half.data */
    size_t have;                   /* bytes in the place, from its boundary on */
    uint64_t payload;              /* bytes of the partial one's payload, ... */
    uint64_t filled;               /* ... and of it that are here */
    uint64_t received;             /* frames so far */
    struct pipecap_frames half;
    uint32_t owed_mutex;
    struct pipecap_frames *owed;   /* whole ones that were given back */
    struct pipecap_frames *spare;  /* for the next that are: giving back must not fail for want of memory */
    uint8_t head[16];              /* the header under way of a plain connection */
};

/* Receive at least one frame and at most max_frames, all that are there: bytes of the first payload, or'ed with
 * PIPECAP_MOVED where they came to other memory than those before; or -errno, or an outcome. After PIPECAP_AGAIN call
 * again. Deadline 0 never waits, and leaves an item in the pipe that is not whole there, unless the pipe cannot hold it
 * whole; PIPECAP_EAGER never waits either, but takes as much of an item as there is. */
int64_t pipecap_receive(
    struct pipecap_receiver *receiver, struct pipecap_frames *frames, int64_t deadline, uint64_t longest,
    uint64_t max_frames);
/* Give back what the caller did not use of its frames; the next pipecap_receive() returns it first. */
void pipecap_give_back(struct pipecap_receiver *receiver, struct pipecap_frames *frames);
/* Wait until something can be received, or an error is owed, at most until the deadline: 1, 0, -errno,
 * PIPECAP_AGAIN. */
int pipecap_poll(struct pipecap_receiver *receiver, int64_t deadline);
/* Frames that were given back. */
uint64_t pipecap_owed(struct pipecap_receiver *receiver);
/* After its end was closed: give up a frame that is partly here. */
void pipecap_receiver_closed(struct pipecap_receiver *receiver);
void pipecap_receiver_forked(struct pipecap_receiver *receiver);
void pipecap_receiver_free(struct pipecap_receiver *receiver);
void pipecap_frames_free(struct pipecap_frames *frames);
/* Hold the memory of frames for an object made out of it: their `data`. Other frames come to other memory then. */
uint8_t *pipecap_hold(struct pipecap_frames *frames);
void pipecap_drop(uint8_t *data);
/* In the child of a fork. */
void pipecap_blocks_forked(void);

/* ---- send.c: out ---- */

enum {
    PIPECAP_IN_LINE = 1 << 30, /* in the result of pipecap_put_frames(): some wait in the line */
    /* Most bytes of one write(2) to a pipe, whose reader and writer never overlap within one; but a frame up to
     * PIPECAP_WHOLE goes as a whole: of several, the reader and the writer are at work on different ones. */
    PIPECAP_CHUNK = 8192,
    PIPECAP_WHOLE = 73728,
    PIPECAP_COPIED = 4092 /* payloads up to this are copied where they must wait */
};

/* One process's sending side: the record of the frames under way, and the line behind them. C alone changes it. */
struct pipecap_sender {
    struct pipecap_end *end;
    struct pipecap_member *member; /* NULL: a plain connection */
    int counts;
    int tasks;
    size_t chunk;                  /* most bytes of one write(2); 0: PIPECAP_CHUNK or a whole frame */
    int64_t patience;              /* how long a small put waits for room before its rest goes to the line */
    uint32_t driving;              /* a thread is at work at the first in line, or at its own frames */
    uint32_t mutex;                /* of the line */
    uint32_t changed;              /* counts what waiting threads want to know of */
    uint32_t waiters;
    uint32_t closing;
    uint32_t taking_back;          /* threads that wait for the driver to pause, to change the line */
    uint32_t used;                 /* this process has put something */
    uint32_t feeding;              /* the driver is the feeder thread, which no signal handler waits for */
    uint32_t moved;                /* bytes went out in this call: as of a receiver */
    int64_t patient_until;         /* the driver waits as long as a reader moves, and until then; 0: it does not */
    uint32_t stalled;              /* no reader moved for so long that a put gave up waiting, ... */
    uint64_t stalled_at;           /* ... since this many bytes had come out of the pipe */
    uint64_t seen;                 /* of the driver: bytes that had come out when it last looked */
    int locked;                    /* the write lock is owned for the frame under way */
    int64_t owner_since;           /* when it was taken again and again although others waited; 0 where none waits */
    struct pipecap_item *first;
    struct pipecap_item *last;
    struct pipecap_item *finished; /* of those with a ticket */
    uint64_t items;                /* frames in the line */
    uint64_t lined_up;             /* items that joined the line, ... */
    uint64_t left;                 /* ... and that left it */
    uint32_t turns;                /* counts how often a driver has stopped */
    uint32_t turn_waiters;         /* threads that wait for that */
    uint64_t failures;             /* frames without a ticket that could not be sent, ... */
    int failure;                   /* ... and why: -errno */
};

/* Send one frame: 0, PIPECAP_QUEUED, -errno, PIPECAP_TIMED_OUT where there is no credit until the deadline,
 * PIPECAP_AGAIN, PIPECAP_CLOSED. A ticket names it in the line; 0 for none. Where it must wait, a payload above
 * PIPECAP_COPIED is not copied: its bytes must stay until the ticket is finished. */
int64_t pipecap_put(struct pipecap_sender *sender, const char *data, size_t size, uint64_t ticket, int64_t deadline);
/* The same of several frames, whose payloads lie one after the other in the pieces. Where they must wait they are
 * not copied: all arrays must stay until the ticket is finished. Without a ticket what is left of them is copied.
 * Returns how many frames are sent or in the line, as
 * many as there are credits for, or'ed with PIPECAP_IN_LINE where some are in the line. */
int64_t pipecap_put_frames(
    struct pipecap_sender *sender, const void *const *pieces, const uint64_t *piece_sizes, size_t piece_count,
    const uint64_t *payloads, size_t frame_count, uint64_t ticket, int64_t deadline);
/* Work at the line until the ticket is finished: 0, -errno, or an outcome. */
int pipecap_flush(struct pipecap_sender *sender, uint64_t ticket, int64_t deadline);
/* Take back what is in the line under a ticket: 1, or 0 where it is not there, or partly sent; then its rest is copied.
 * Waits for a round of the thread that sends. */
int pipecap_withdraw(struct pipecap_sender *sender, uint64_t ticket);
/* Work at the line as a thread of its own: 1 when tickets are finished or frames failed, 0 when the sender is
 * closing and the line is empty, PIPECAP_AGAIN. */
int pipecap_feed(struct pipecap_sender *sender);
/* A ticket that is finished; each is returned once, 0 when there is none. */
uint64_t pipecap_finished(struct pipecap_sender *sender);
/* Whether a ticket is in the line. */
int pipecap_is_in_line(struct pipecap_sender *sender, uint64_t ticket);
/* Frames that failed without a ticket since the last call; sender->failure says why. */
uint64_t pipecap_failures(struct pipecap_sender *sender);
/* Take no more frames; what is in the line is still sent. */
void pipecap_sender_closing(struct pipecap_sender *sender);

struct pipecap_line {
    uint64_t items;  /* frames in the line */
    uint64_t size;   /* bytes of their payloads */
    int partial;     /* the first one is partly in the pipe */
};
void pipecap_line(struct pipecap_sender *sender, struct pipecap_line *line);
/* Drop what is in the line but not partly in the pipe. */
void pipecap_discard(struct pipecap_sender *sender, struct pipecap_line *dropped);
/* After its end was closed: give up what is in the line. */
void pipecap_sender_closed(struct pipecap_sender *sender);
void pipecap_sender_forked(struct pipecap_sender *sender);
void pipecap_sender_free(struct pipecap_sender *sender);
