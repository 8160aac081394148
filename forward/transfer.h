/* Moving bytes between the two ends of a pair. Both ends are alike, and every function works
 * in either direction.
 *
 * What was read from one end and could not be written to the other yet waits in the other's
 * *outlet*: a buffer, or a pipe when bytes are spliced and never enter this process. Nothing
 * more is read until the outlet is empty, so a pair holds a bounded amount, and a slow reader
 * slows its sender down. */
#ifndef RELAY_TRANSFER_H
#define RELAY_TRANSFER_H

#include "forward/connection.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum {
    TRANSFER_CHUNK = 65536,     /* bytes to read at once when copying */
    TRANSFER_CHUNK_MIN = 16384, /* the same, when connections hold too much memory */
    TRANSFER_SCRATCH = 1 << 20, /* bytes that can be read at once */
    TRANSFER_HEADROOM = 16,     /* bytes in front of them that may be overwritten */
    TRANSFER_PARTS = 64,        /* that are written at once */
};

/* The events that are wanted of a connection; EPOLLOUT beside, once it had to be waited for. */
#define TRANSFER_EVENTS (EPOLLIN | EPOLLRDHUP | EPOLLET)

/* What all transfers of a forwarder share. */
struct transfer {
    uint8_t *scratch;                   /* TRANSFER_SCRATCH bytes, and TRANSFER_HEADROOM in front */
    struct iovec parts[TRANSFER_PARTS]; /* messages.c: gathered for one connection */
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

/* Moves bytes from `from` to its peer, by copying or splicing, up to a fair share; returns whether
 * there is more to do right now. Sets ended and finished as they come true. Messages are moved by
 * messages_move(). */
bool transfer_move(struct transfer *transfer, struct connection *from);
/* Whether something can be moved right now: it may be read, and nothing waits for its peer. */
bool transfer_can_move(const struct transfer *transfer, const struct connection *from);
/* After a move: drops what can no longer be written to either side, and frees an empty pipe. */
void transfer_tidy(struct transfer *transfer, struct connection *from);
/* Passes on the end of bytes once everything before it has been delivered: the peer is shut down
 * for writing. */
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
