/* The porch: where connections wait whose greeting is not whole, so that none of them keeps a
 * worker.
 *
 * It is one small process beside the workers of `relay serve`. A worker sends it a connection of
 * whose greeting nothing is consumed; the porch waits until there is more to read than the worker
 * has seen, reads nothing itself, and sends the connection back, to whichever worker is idle. One
 * that drips is sent back ever more seldom. At its deadline a connection is sent back for its end,
 * as all words to clients, and all counts, are the workers'; and so is, when there is no room, the
 * one that has stood longest from the source that has the most.
 *
 * A client that was refused waits here, too, until it has read why; from here it goes nowhere.
 *
 * The two sockets belong to the parent, so what is in them outlives the porch: the next one, or a
 * worker, takes it. What stood on the porch is lost with it, as a worker's connection is lost with
 * the worker. */
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

    struct sockaddr_storage address; /* who is at the other end; of no family: nobody asked */
    uint64_t source;                 /* for --per-source: pair_source(); 0: not counted */
    bool is_proxy;                   /* a trusted proxy, for itself */
    bool known; /* all of these three are settled, and a PROXY header is read */

    uint8_t protocol; /* as it was recognised last */
    bool resumed;     /* its protocol's resume() goes on, else its greeting begins */

    uint64_t crowd;   /* from whom it takes a place on the porch */
    uint64_t enough;  /* bytes that are to be there before another look is worth while */
    uint32_t returns; /* how often it was sent back */
    bool crowded;     /* it waits for its turn, not for the client */

    bool parting;     /* it was refused, and only waits until the client has read that: parting.h */
    uint32_t dropped; /* bytes that have come since */
};

struct porch {
    int enter[2]; /* where workers send to, [1], and the porch receives, [0] */
    int leave[2]; /* where workers receive, [1], what the porch sends back, [0] */
};

/* What the porch tells the parent, in memory that both share. */
struct porch_pulse {
    _Atomic uint32_t turns; /* counted as long as it moves */
    _Atomic int64_t due;    /* when it moves next, whatever comes: milliseconds, CLOCK_MONOTONIC;
                               INT64_MAX: nobody stands there */
};

/* Makes the sockets. 0 or a negative errno. */
int porch_open(struct porch *porch);
void porch_close(struct porch *porch);

/* In a process of its own: keeps the porch, where so many may stand, and so many from one source,
 * or as many as its limit on descriptors allows. Keeps *pulse true. Closes all other descriptors.
 * Returns the exit status, when nobody can send to it any more; or after SIGTERM, once everybody
 * was sent back for their end. */
int porch_run(
    const struct porch *porch, size_t standing, size_t per_source, struct porch_pulse *pulse);
/* In the parent: whether a connection waits for the porch to take it. */
bool porch_is_wanted(const struct porch *porch);

/* In a worker: sends a connection to the porch; the caller keeps its own descriptor. Waits a moment
 * for room, and no longer. 0 or a negative errno. */
int porch_enter(const struct porch *porch, const struct visit *visit, int fd);
/* Receives one that the porch has sent back, without waiting. 0, with *fd the caller's, or a
 * negative errno: -EAGAIN when there is none. */
int porch_take(const struct porch *porch, struct visit *visit, int *fd);

#endif
