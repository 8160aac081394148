/* A connection that the forwarder holds: its descriptor, its state, what waits to be written to it,
 * and its deadlines. Everything in this folder that handles connections shares this structure. */
#ifndef RELAY_CONNECTION_H
#define RELAY_CONNECTION_H

#include "base/budget.h"
#include "forward/deadline.h"
#include "pair.h"
#include "usage/usage.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct coded;
struct departure;
struct tls_stream;

enum connection_state {
    CONNECTION_PARKED,  /* waits for a peer */
    CONNECTION_LOBBY,   /* waits for news, not for a peer: lobby.h */
    CONNECTION_JOINED,  /* has a peer */
    CONNECTION_LEAVING, /* was told why it ends; its input is discarded until it closes */
};

/* Bytes that were read from the peer, or made by the relay, and could not be written yet. */
struct outlet {
    uint8_t *buffer;    /* NULL: empty */
    size_t start, size; /* the waiting bytes lie between the two */
    size_t room;        /* allocated bytes */
    int pipe[2];        /* for splicing; -1: none */
    size_t piped;       /* bytes in the pipe */
};

struct connection {
    int fd;    /* -1: closed */
    int epoll; /* the epoll descriptor that reports its events */
    uint8_t protocol;
    uint8_t state;   /* enum connection_state */
    bool readable;   /* until a read says EAGAIN */
    bool writable;   /* until a write says EAGAIN */
    bool awaited;    /* EPOLLOUT was asked for */
    bool hung_up;    /* epoll has reported its end of file, which may not have been read yet */
    bool ended;      /* nothing more will be read from it for its peer */
    bool gone;       /* nothing more will be read from it at all: it was closed or reset */
    bool finished;   /* nothing more will be written to it */
    bool lost;       /* finished because a write to it has failed */
    bool broken;     /* what it sent is not complete: it was reset, cut off, or has vanished */
    bool cut;        /* what it was sent is not complete: it is reset once it has received that */
    bool starved;    /* it ends because there is no memory for its bytes or its peer's */
    bool splicing;   /* its bytes are spliced to its peer, not copied */
    bool queued;     /* in the forwarder's list of connections with work left */
    bool moved;      /* something was written to it since connections_watch() has looked last */
    bool crowded;    /* clients of its side may still wait for the peer that it has: PAIR_SPARE */
    bool kernel_tls; /* the kernel encrypts and decrypts: kernel_tls.h */
    uint32_t chunk;  /* bytes to read at once when reading messages: messages.c adapts it */
    struct pair_ref ref;
    struct connection *peer;
    struct connection *next;       /* in the list of connections with work left, or of the dead */
    struct budget_account account; /* of all memory that is held for it */
    struct outlet outlet;
    struct coded *coded;     /* its codec's state: messages.h; NULL: it carries plain bytes */
    struct tls_stream *tls;  /* NULL: no TLS, or the kernel's */
    _Atomic uint64_t *bytes; /* its slot's count of the bytes that it has sent */
    struct usage_start start;
    uint32_t discarded;          /* bytes that were read since it is leaving */
    uint64_t server;             /* the server that accepted it: handoff.h */
    struct departure *departure; /* the end of that server: depart.c; NULL: it goes on */
    uint64_t acknowledged;       /* bytes, when liveness_progresses() has looked last */
    struct deadline phase;       /* of its state: waiting, arriving, resting, lingering, leaving */
    struct deadline watch;       /* set from a write until all is acknowledged */
};

static inline struct connection *connection_of_phase(struct deadline *deadline)
{
    return (struct connection *)((char *)deadline - offsetof(struct connection, phase));
}

static inline struct connection *connection_of_watch(struct deadline *deadline)
{
    return (struct connection *)((char *)deadline - offsetof(struct connection, watch));
}

#endif
