/* Moving bytes between the two connections of a pair. Both sides are alike, and every function
 * works in either direction.
 *
 * Bytes that were read from one connection and cannot be written to its peer yet wait in the peer's
 * *outlet*: a buffer, or a pipe when bytes are spliced and never enter this process. Nothing more
 * is read until the outlet is empty, so a pair holds a bounded number of bytes, and a slow reader
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

/* The events that are asked for at first. EPOLLOUT is added once a write had to wait. */
#define TRANSFER_EVENTS (EPOLLIN | EPOLLRDHUP | EPOLLET)

/* What all transfers of a forwarder share. */
struct transfer {
    uint8_t *scratch;                   /* TRANSFER_SCRATCH bytes, and TRANSFER_HEADROOM in front */
    struct iovec parts[TRANSFER_PARTS]; /* messages.c: gathered for one connection */
    size_t part_count;
    int64_t now;       /* milliseconds, CLOCK_MONOTONIC: when this round began */
    uint64_t pair_max; /* bytes that a pair may move, both ways; 0: no limit */
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

/* Writes the relay's own bytes to a connection; what does not fit waits in the outlet. */
void transfer_say(struct connection *connection, const uint8_t *words, size_t size);
/* The same, but puts them into the outlet: the next transfer_flush() writes them. */
void transfer_gather(struct connection *connection, const uint8_t *words, size_t size);
/* Writes up to TRANSFER_PARTS parts; what does not fit waits in the outlet. */
void transfer_write(struct connection *connection, const struct iovec *parts, size_t count);
/* Writes what waits in the outlet, as far as the socket takes it. */
void transfer_flush(struct connection *connection);

/* Shuts a connection, whose outlet is empty, down for writing, and sets finished. In TLS the alert
 * that says so may not fit now: then `finished` stays false, and this is to be called again once
 * the connection is writable. */
void transfer_shut(struct connection *connection);
/* Whether a connection can be closed without a shutdown before: its client has closed, too, and
 * there is no TLS. */
bool transfer_closes_plainly(const struct connection *connection);
/* Before its descriptor is closed: sends the alert that ends TLS, if it was not sent yet and
 * everything is written. Without the alert the client takes the end for an attack, as it should
 * when the connection is cut. */
void transfer_part(struct connection *connection);

/* Reads up to `size` bytes into the scratch buffer, in TLS at least a record. Returns how many
 * bytes there are; 0: none now, or the connection has ended. */
size_t transfer_read(struct transfer *transfer, struct connection *from, size_t size);
/* Whether the client has broken TLS. It is sent an alert and nothing more, and its input is
 * discarded. */
bool transfer_broke_tls(const struct connection *connection);
/* Counts bytes on their way from this connection to its peer. */
void transfer_count(struct transfer *transfer, struct connection *from, size_t count);

/* The bytes that a pair has moved, both ways, and whether it may move no more. */
uint64_t transfer_total(const struct connection *connection);
bool transfer_is_used_up(const struct transfer *transfer, const struct connection *connection);

/* Whether something waits to be written to a connection. */
bool transfer_pending(const struct connection *connection);

/* A write has failed: nothing more is written, and the outlet is dropped. What the client sent
 * before is still read. */
void transfer_lose(struct connection *connection);

/* Nothing more is read or written, and the outlet is dropped. */
void transfer_break(struct transfer *transfer, struct connection *connection);

#endif
