/* The porch: a small process beside the workers of `relay serve`, in which connections wait for the
 * rest of their greeting, so that they do not hold a worker.
 *
 * A worker sends a connection to the porch without having consumed any of its greeting. The porch
 * waits until more has come than the worker has seen, reads nothing itself, and sends the
 * connection back to any idle worker. A client that sends its greeting in small pieces is sent back
 * less and less often. At its deadline a connection is sent back to be ended, as only workers write
 * to clients and count them. If the porch is full, the source with the most connections loses the
 * one that has waited longest: it is sent back in the same way.
 *
 * A client that was refused waits here, too, until it has read why. The porch closes it.
 *
 * The parent owns the two sockets, so connections in them outlive the porch: the next porch, or a
 * worker, takes them. Connections that wait on the porch are lost with it, as a worker's connection
 * is lost with the worker. */
#ifndef RELAY_PORCH_H
#define RELAY_PORCH_H

#include "pair.h"
#include "usage/usage.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

/* What is known of a connection on its way from its first byte to its handoff. */
struct visit {
    struct pair_ref ref; /* its slot; PAIR_NONE: it has none */
    struct usage_start start;
    int64_t deadline; /* of its greeting: milliseconds, CLOCK_MONOTONIC */

    struct sockaddr_storage address; /* the client's; of no family: it was not needed yet */
    uint64_t source;                 /* for --per-source: pair_source(); 0: not counted */
    bool is_proxy;                   /* a trusted proxy, for itself */
    bool known; /* the three above are settled, and a PROXY header has been read */

    uint8_t protocol; /* as it was recognised last */
    bool resumed;     /* its protocol's resume() goes on; else its greeting begins anew */

    uint64_t crowd;   /* the source whose share of the porch it takes from */
    uint64_t enough;  /* bytes that have to be there before a worker looks again */
    uint32_t returns; /* how often it was sent back */
    bool crowded;     /* it waits for a worker that it may hold, not for the client */

    bool parting;     /* refused: it only waits until the client has read why: parting.h */
    uint32_t dropped; /* bytes that have come since it was refused */
};

struct porch {
    int enter[2]; /* workers send to [1], the porch receives from [0] */
    int leave[2]; /* the porch sends to [0], workers receive from [1] */
};

/* Signs of life for the parent, in memory that both share. */
struct porch_pulse {
    _Atomic uint32_t turns; /* counts the porch's moves */
    _Atomic int64_t due;    /* when it moves next at the latest: milliseconds, CLOCK_MONOTONIC;
                               INT64_MAX: no connection waits there */
};

/* Makes the sockets. 0 or a negative errno. */
int porch_open(struct porch *porch);
void porch_close(struct porch *porch);

/* Runs the porch, in a process of its own, whose other descriptors it closes. At most `standing`
 * connections wait there, and at most `per_source` from one source; fewer, if the limit on
 * descriptors is lower. Keeps *pulse true. Returns the exit status when no process can send to it
 * any more; after SIGTERM, when all connections have been sent back to be ended. */
int porch_run(
    const struct porch *porch, size_t standing, size_t per_source, struct porch_pulse *pulse);
/* In the parent: whether a connection is in the socket for the porch to take. */
bool porch_is_wanted(const struct porch *porch);

/* In a worker: sends a connection to the porch; the caller keeps its own descriptor. Waits only a
 * moment for room in the socket. 0 or a negative errno. */
int porch_enter(const struct porch *porch, const struct visit *visit, int fd);
/* Receives a connection that the porch has sent back, without waiting. 0, with *fd the caller's, or
 * a negative errno: -EAGAIN when there is none. */
int porch_take(const struct porch *porch, struct visit *visit, int *fd);

#endif
