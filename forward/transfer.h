/* Moving bytes between the two ends of a pair. Both ends are alike, and every function works
 * in either direction.
 *
 * What was read from one end and could not be written to the other yet waits in the other's
 * *outlet*: a buffer, or a pipe when bytes are spliced and never enter this process. Nothing
 * more is read until the outlet is empty, so a pair holds a bounded amount, and a slow reader
 * slows its sender down. */
#ifndef RELAY_TRANSFER_H
#define RELAY_TRANSFER_H

#include "base/budget.h"
#include "forward/deadline.h"
#include "pair.h"
#include "tls/tls_stream.h"
#include "usage/usage.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum {
    TRANSFER_CHUNK = 65536,            /* read at once when copying bytes */
    TRANSFER_CHUNK_MIN = 16384,        /* the least, when there is too much that others hold */
    TRANSFER_MESSAGES_CHUNK = 1 << 20, /* at most when reading messages, while they go on at once */
    TRANSFER_PARTS = 64,               /* written at once */
};

enum connection_state {
    CONNECTION_PARKED,  /* waits for a peer */
    CONNECTION_LOBBY,   /* waits for news, and never for a peer */
    CONNECTION_JOINED,  /* has a peer */
    CONNECTION_LEAVING, /* was told why; its input is discarded until it closes */
};

struct coded;
struct departure;

struct outlet {
    uint8_t *buffer;    /* NULL: empty */
    size_t start, size; /* what waits lies between */
    size_t room;        /* that is allocated */
    int pipe[2];        /* -1: none */
    size_t piped;       /* bytes in the pipe */
};

/* What is wanted to be known of a connection; EPOLLOUT beside, once it had to be waited for. */
#define TRANSFER_EVENTS (EPOLLIN | EPOLLRDHUP | EPOLLET)

/* A connection that the forwarder holds. */
struct connection {
    int fd;
    int epoll; /* tells of its events */
    uint8_t protocol;
    uint8_t state; /* enum end_state */
    bool readable; /* as far as is known: until a read has said otherwise */
    bool writable;
    bool awaited;    /* EPOLLOUT was asked for */
    bool hung_up;    /* its end of file is on the way: read until it is reached */
    bool ended;      /* nothing more will be read from it for its peer */
    bool gone;       /* nothing more will be read from it at all: it closed, or was reset */
    bool finished;   /* nothing more will be written to it */
    bool lost;       /* because nothing more can be: a write to it has failed */
    bool broken;     /* what it sent did not come to its own end: reset, cut off, or vanished */
    bool cut;        /* what it was sent is not all: it is reset once it has got that */
    bool starved;    /* it ends as there is no memory for what it sent, or was to be sent */
    bool splicing;   /* from this end to its peer */
    bool queued;     /* in the forwarder's list of ends with work left */
    bool moved;      /* something was written to it since connections.c has looked last */
    bool crowded;    /* spares of its side may be waiting yet */
    bool kernel_tls; /* kernel_tls.h */
    uint32_t chunk;  /* read at once when reading messages: see messages.c */
    struct pair_ref ref;
    struct connection *peer;
    struct connection *next;       /* in that list, or in the list of the dead */
    struct budget_account account; /* of all that is held for it */
    struct outlet outlet;
    struct coded *coded;     /* messages.h; NULL: it carries bytes */
    struct tls_stream *tls;  /* NULL: there is no TLS, or the kernel's */
    _Atomic uint64_t *bytes; /* from this end: its slot's count */
    struct usage_start start;
    uint32_t discarded;          /* bytes that were read since it is leaving */
    uint64_t server;             /* which it came by: handoff.h */
    struct departure *departure; /* of that server, with which it ends: depart.c; NULL: none */
    uint64_t acknowledged;       /* bytes, when this was last looked at: connections.c */
    struct deadline phase;       /* of what it is doing: waiting, arriving, lingering, leaving */
    struct deadline watch;       /* set when something was written, until it is acknowledged */
};

/* What the flows of a process share. */
struct transfer {
    uint8_t *scratch;                   /* FLOW_MESSAGES_CHUNK bytes, and CODEC_HEAD in front */
    struct iovec parts[TRANSFER_PARTS]; /* of messages, on their way to one end */
    size_t part_count;
    int64_t now;       /* milliseconds, CLOCK_MONOTONIC: when this round began */
    uint64_t pair_max; /* bytes that a pair may move, both ways; 0: as many as it likes */
    int (*pool)[2];    /* empty pipes */
    size_t pooled;
    size_t pipes; /* in all */
    size_t pipes_max;
    uint64_t moved; /* bytes in all */
};

int transfer_open(struct transfer *transfer, size_t pipes_max);
void transfer_close(struct transfer *transfer);

/* Moves what can be moved from `from` to its peer, up to a fair share; returns whether there
 * is more to do right now. Sets ended and finished as they come true. */
bool transfer_move(struct transfer *transfer, struct connection *from);
/* Passes on the end of bytes once everything before it has been delivered: the peer is shut down
 * for writing. Messages end with their pair. */
void transfer_finish(struct connection *from);

/* Writes to an end what relay itself has to say; what does not fit waits in the outlet. */
void transfer_say(struct connection *connection, const uint8_t *words, size_t size);
/* The same, with the next flow_flush(). */
void transfer_gather(struct connection *connection, const uint8_t *words, size_t size);
/* The same for up to FLOW_PARTS parts. */
void transfer_write(struct connection *connection, const struct iovec *parts, size_t count);
/* Writes what waits in the outlet, as far as it goes. */
void transfer_flush(struct connection *connection);

/* Tells an end, to which nothing is pending, that nothing more will be written, and sets finished;
 * unless even that does not fit now: then it is to be called again once the end is writable. */
void transfer_shut(struct connection *connection);
/* Whether closing an end says as much as telling it before: it has closed, too, and says nothing in
 * TLS. */
bool transfer_closes_plainly(const struct connection *connection);
/* The last chance for that, before its descriptor is closed: TLS would take silence for an attack,
 * and is to, where the end is cut. */
void transfer_part(struct connection *connection);

/* Reads up to `size` bytes into the scratch buffer; in TLS, at least a record. Returns how many; 0:
 * there are none now, or it has ended. */
size_t transfer_read(struct transfer *transfer, struct connection *from, size_t size);
/* Whether what it sent has broken TLS: it was told so, or is to be with what waits, and is told
 * nothing more; what it sends is read to be discarded. */
bool transfer_broke_tls(const struct connection *connection);
/* Counts bytes on their way from this end to its peer. */
void transfer_count(struct transfer *transfer, struct connection *from, size_t count);

/* Bytes that its pair has moved, both ways, and whether it may move no more. */
uint64_t transfer_total(const struct connection *connection);
bool transfer_is_used_up(const struct transfer *transfer, const struct connection *connection);

/* Whether something waits to be written to it. */
bool transfer_pending(const struct connection *connection);

/* Nothing more can be written to it, and what waits to be is dropped: what its other side sent
 * before it went is still to be read, and no more. */
void transfer_lose(struct connection *connection);

/* Nothing more goes in or out; what waits for it is dropped. */
void transfer_break(struct transfer *transfer, struct connection *connection);

#endif
