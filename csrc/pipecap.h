/* The C surface of pipecap. Read twice: by the compiler, and by cffi as its cdef; so no preprocessor lines here.
 * Every function takes descriptors, returns a result >= 0 or -errno. */

/* 1 when this build can ask the kernel for a pipe's capacity (F_GETPIPE_SZ), else 0. */
int pipecap_has_pipe_size(void);

/* Capacity of a pipe in bytes, from either end (F_GETPIPE_SZ). -ENOTSUP without it; -EBADF for what is no pipe. */
int64_t pipecap_capacity(int fd);

/* Set a pipe's capacity (F_SETPIPE_SZ); gives the capacity the kernel granted. -EINVAL above 2 GiB. */
int64_t pipecap_resize(int fd, uint64_t size);

/* 1 for a pipe from pipe(2), 0 for a FIFO with a name. Also through an O_PATH descriptor. -ENOTSUP where the system
 * does not tell. */
int pipecap_is_anonymous(int fd);

/* Unread bytes in a pipe, from either end (FIONREAD). */
int64_t pipecap_unread(int fd);

/* 1 when the pipe has no free slot, 0 when it has one. Takes a write end: poll(2) says POLLOUT of nothing else. */
int pipecap_full(int fd);

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
