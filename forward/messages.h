/* Moving messages between two connections of which at least one has a codec: what is read is
 * decoded, and encoded for the peer piece by piece as it arrives. A pair holds a bounded number of
 * bytes, whatever the size of a message.
 *
 * A connection without a peer is read, too: its client may ping or close. If its protocol is
 * patient, messages that come before the peer are held until the peer has come. */
#ifndef RELAY_MESSAGES_H
#define RELAY_MESSAGES_H

#include "codec/codec.h"
#include "forward/connection.h"
#include "forward/deadline.h"
#include "forward/transfer.h"
#include "handoff.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct words;

/* What a connection with a codec has besides struct connection. */
struct coded {
    const struct codec *codec;
    struct connection *connection;
    enum codec_event verdict; /* CODEC_MORE; or CODEC_CLOSED, _FAILED, _STARVED: it ended so */
    bool sent;                /* a message was written since this was last cleared */
    bool heard;               /* a sign of life was read */
    bool parted;              /* its farewell was written */
    bool speaking;            /* a message to it has begun, and has not ended yet */
    bool deaf;                /* it must not be sent anything yet: protocol.h, deaf_at_first */
    bool asked;               /* while deaf, it was sent a ping */
    bool unwelcome;           /* it sent a message too early, or one that its protocol forbids */
    uint16_t close_code;      /* of the farewell; 0: as its protocol says */
    const char *close_reason; /* beside that; NULL: none */
    uint8_t *held;            /* messages for the peer to come, or part of one for the lobby */
    size_t held_size, held_room;
    size_t released;        /* bytes of `held` that were passed on to the peer */
    size_t replies;         /* bytes of its outlet that answer its own messages */
    struct deadline quiet;  /* when something has to be sent to it */
    struct deadline silent; /* when it has to have sent something */
    struct deadline deaf_until;
    /* In the lobby: the callers of a listener; of a caller, its place among them. */
    struct connection *callers, *next_caller, *prev_caller;
    struct connection **calls;                /* the list of callers that it is in; NULL: none */
    struct pair_ref called;                   /* the slot of the listener that it calls */
    void *member;                             /* lobby_member() */
    struct connection *next_turn, *prev_turn; /* in the lobby's queue */
    bool in_turn;                             /* it is in that queue */
    int64_t paid; /* when it will have paid for its work: microseconds, CLOCK_MONOTONIC */
    size_t name_size;
    uint8_t *name;       /* the handoff's: behind the state */
    max_align_t state[]; /* of the codec */
};

/* Makes connection->coded for the codec of a handoff. 0 or a negative errno. */
int messages_open(struct connection *connection, const struct handoff *handoff, int64_t now);
/* Wipes and frees connection->coded, if there is one. */
void messages_close(struct connection *connection);
/* Whether there is memory for its name while it waits: long names are kept while there is plenty.
 */
bool messages_have_room_for_name(const struct connection *connection);

/* Whether messages, not bytes, are moved between this connection and its peer. */
static inline bool messages_between(const struct connection *connection)
{
    return connection->coded != NULL || connection->peer->coded != NULL;
}

/* Reads once from a connection, and passes the messages on to its peer; returns whether there is
 * more to do right now. Sets ended and finished as they come true. */
bool messages_move(struct transfer *transfer, struct connection *from);
/* A connection has got a peer: the budget counts its memory as a pair's. */
void messages_settle(struct connection *connection);
/* Whether a connection has a peer, and messages that are held for it. */
bool messages_are_held(const struct connection *connection);
/* Passes the held messages of `from` on to its peer, as far as the peer takes them now. Until all
 * are passed on, nothing more is read. */
void messages_release(struct transfer *transfer, struct connection *from);

/* Takes a piece that was read from a connection without a peer. False: no more is to be read. */
typedef bool messages_taker(void *context, struct connection *from, struct piece *piece);
/* Reads once from a connection that has a codec and no peer, and gives each piece to take().
 * Returns whether there is more to read now. */
bool messages_read(
    struct transfer *transfer, struct connection *from, messages_taker *take, void *context);
/* Whether a connection may be read: not while its replies wait, or as many messages are held for
 * its peer as may be, or held ones are being passed on. */
bool messages_may_read(const struct connection *connection);
/* Whether a connection may be sent messages: not while it is deaf. Its peer's are held meanwhile.
 */
bool messages_may_write(const struct connection *connection);
/* Whether as much is held for the peer to come as may be. */
bool messages_are_full(const struct connection *connection);

/* Appends a piece to the held messages. False: there is no memory for it. */
bool messages_hold(struct connection *from, const struct piece *piece);
/* Appends the bytes of a piece to a held message of at most `limit` bytes. False: there is no
 * memory, or the message is longer. */
bool messages_assemble(struct connection *from, const struct piece *piece, size_t limit);
void messages_drop_held(struct connection *connection);
/* Drops the held messages, and what the codec has of an incomplete message: nothing more is passed
 * on. */
void messages_forget(struct connection *connection);

/* Writes a whole message to a connection. False: there is no memory for it. */
bool messages_say(
    struct transfer *transfer, struct connection *connection, const uint8_t *message, size_t size);
/* Writes the words of a protocol, and if `closing` the codec's farewell, once. A connection without
 * a codec is sent the message alone. Returns whether anything was written. */
bool messages_speak(struct transfer *transfer, struct connection *connection,
    const struct words *words, bool closing);

#endif
