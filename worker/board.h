/* The board: shared memory in which the parent and its workers see what each worker is doing.
 *
 * The parent makes it before its first fork, so it lies at the same address in all of them. A
 * worker writes its own entry, the parent writes all entries; every field is atomic, and nothing is
 * locked. An atomic that is exchanged, compared or added to has at least 32 bits: riscv64 has no
 * instruction for less. */
#ifndef RELAY_BOARD_H
#define RELAY_BOARD_H

#include "worker/porch.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum worker_state {
    WORKER_NONE, /* the entry is free */
    WORKER_IDLE,
    WORKER_BUSY,
    WORKER_LEAVING, /* told to end while it was idle */
};

struct board_entry {
    _Atomic int32_t pid;
    _Atomic uint32_t state;   /* enum worker_state */
    _Atomic int64_t since;    /* when it was started, or became busy: milliseconds */
    _Atomic uint64_t crowd;   /* the source whose unfinished greeting holds it; 0: none does */
    _Atomic uint32_t visit;   /* number of its connection, or of its last one */
    _Atomic uint32_t hurried; /* number of the connection that has to give way to others */
};

struct board {
    size_t size;                   /* entries: --max-workers */
    _Atomic uint64_t accepts;      /* connections that all workers have taken so far */
    _Atomic bool closing;          /* the server stops: a new client is only told so */
    _Atomic bool forwarder_sought; /* a worker found no forwarder */
    _Atomic int32_t porch;         /* its process id; 0: it is being replaced; PORCH_CLOSED */
    _Atomic uint32_t porch_used;   /* 1: connections may stand on the porch: the parent looks */
    struct porch_pulse porch_pulse;
    struct board_entry workers[];
};

/* A board for `size` workers. NULL, and errno, on failure. */
struct board *board_make(size_t size);

size_t board_count(const struct board *board, enum worker_state state);
/* Whether at least `count` workers are idle. */
bool board_has_idle(const struct board *board, size_t count);
/* The entry of a worker. NULL: no worker has this process id. */
struct board_entry *board_find(struct board *board, pid_t pid);
/* Whether a worker still has the connection that it had at `since` (milliseconds). */
bool board_is_busy_since(const struct board *board, int64_t since);

/* Also notes the time, and that no greeting holds the worker. */
void board_set_state(struct board_entry *entry, enum worker_state state);

/* Has every busy worker's connection give way, however short it has lasted. */
void board_hurry_all(struct board *board);
/* Has the connection that has lasted longest give way, unless it came just now. */
void board_hurry_slowest(struct board *board);

/* For an unfinished greeting that the porch cannot wait for: lets it hold the worker of `entry`, if
 * its source may hold another worker. 0, or -EAGAIN: it may not. */
int board_hold(struct board *board, struct board_entry *entry, uint64_t source);

#endif
