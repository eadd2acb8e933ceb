/* Memory that frames arrive in. A block is held by its frames and by each object that was made out of it; when the last
 * one lets go it is kept for a later frame: fresh memory costs a page fault for each of its pages. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>

#include "internal.h"

#define PAGE ((size_t)4096)
#define HUGE_PAGE ((size_t)2 << 20)
#define MAPPED ((size_t)1 << 20) /* from here on; below, malloc keeps memory warm, and the kernel's mappings are few */
#define MOST_KEPT 64
#define MOST_KEPT_BYTES ((size_t)64 << 20)

/* In front of the data. A payload begins 4 bytes into that, and so on a cache line. */
struct block {
    size_t size; /* with this */
    uint32_t holders;
};

#define HEAD ((size_t)64 - SHORT_HEADER)

static struct block *kept[MOST_KEPT];
static size_t kept_bytes;
static uint32_t busy;

static struct block *block_of(uint8_t *data)
{
    return (struct block *)(data - HEAD);
}

/* One that is large enough, and not much too large; none where another thread is here. */
static struct block *take_kept(size_t size)
{
    struct block *found = NULL;

    if (!swap(&busy, 0, 1))
        return NULL;
    for (int i = 0; i < MOST_KEPT && !found; i++) {
        if (!kept[i] || kept[i]->size < size || kept[i]->size / 2 > size)
            continue;
        found = kept[i];
        kept[i] = NULL;
        kept_bytes -= found->size;
    }
    store(&busy, 0);
    return found;
}

static int keep(struct block *block)
{
    int done = 0;

    if (!swap(&busy, 0, 1))
        return 0;
    for (int i = 0; i < MOST_KEPT && !done && kept_bytes + block->size <= MOST_KEPT_BYTES; i++) {
        if (kept[i])
            continue;
        kept[i] = block;
        kept_bytes += block->size;
        done = 1;
    }
    store(&busy, 0);
    return done;
}

/* Map memory, from 2 MiB on in huge pages where the system allows it. */
static struct block *map(size_t size)
{
    size_t more = size >= HUGE_PAGE ? HUGE_PAGE : 0, before;
    char *memory = mmap(NULL, size + more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        return NULL;
    if (more) { /* a huge page begins at a multiple of its size */
        before = (HUGE_PAGE - (uintptr_t)memory % HUGE_PAGE) % HUGE_PAGE;
        if (before)
            munmap(memory, before);
        memory += before;
        if (more > before)
            munmap(memory + size, more - before);
        madvise(memory, size, MADV_HUGEPAGE);
    }
    ((struct block *)memory)->size = size;
    return (struct block *)memory;
}

/* Whole cache lines, or pages; 0 for too much. */
static size_t size_for(size_t bytes)
{
    size_t unit = bytes + HEAD < MAPPED ? 64 : PAGE;

    return bytes > SSIZE_MAX - HEAD - PAGE ? 0 : (bytes + HEAD + unit - 1) / unit * unit;
}

uint8_t *pipecap_block_new(size_t bytes, size_t *room)
{
    size_t size = size_for(bytes);
    struct block *block = NULL;

    if (size && size < MAPPED) {
        block = aligned_alloc(64, size);
        if (block)
            block->size = size;
    } else if (size) {
        block = take_kept(size);
        if (!block)
            block = map(size);
    }
    if (!block)
        return NULL;
    store(&block->holders, 1);
    *room = block->size - HEAD;
    return (uint8_t *)block + HEAD;
}

uint8_t *pipecap_block_grow(uint8_t *data, size_t bytes, size_t *room)
{
    size_t size = size_for(bytes);
    struct block *block = size ? mremap(block_of(data), block_of(data)->size, size, MREMAP_MAYMOVE) : MAP_FAILED;

    if (block == MAP_FAILED)
        return NULL;
    block->size = size;
    *room = size - HEAD;
    return (uint8_t *)block + HEAD;
}

int pipecap_block_is_shared(uint8_t *data)
{
    return load(&block_of(data)->holders) > 1;
}

uint8_t *pipecap_hold(struct pipecap_frames *frames)
{
    add(&block_of(frames->data)->holders, 1);
    return frames->data;
}

void pipecap_drop(uint8_t *data)
{
    struct block *block = block_of(data);

    if (__atomic_sub_fetch(&block->holders, 1, __ATOMIC_SEQ_CST))
        return;
    if (block->size < MAPPED)
        free(block);
    else if (!keep(block))
        munmap(block, block->size);
}

void pipecap_blocks_forked(void)
{
    store(&busy, 0);
}
