/* Moving messages, between ends of which at least one has a codec: what is read is decoded, and
 * encoded for the peer piece by piece as it arrives. A pair holds a bounded amount, whatever the
 * size of a message.
 *
 * An end without a peer is read, too: it may ping, or close, and where its protocol is patient what
 * it says is held for the peer to come. */
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

/* What an end with a codec has beside. */
struct coded {
    const struct codec *codec;
    struct connection *connection;
    enum codec_event verdict; /* CODEC_MORE while it is well; CODEC_CLOSED, _FAILED, _STARVED */
    bool sent;                /* a message was written since this was last cleared */
    bool heard;               /* a sign of life was read */
    bool parted;              /* its farewell was said */
    bool speaking;            /* a message to it has begun, and is not whole yet */
    bool deaf;                /* its protocol is so at first, and it was not heard yet */
    bool asked;               /* to let itself be heard */
    bool unwelcome;           /* it spoke before its time, or what its protocol does not allow */
    uint16_t close_code;      /* what it is then told; 0: what its protocol says */
    const char *close_reason; /* beside; NULL: none */
    uint8_t *held;            /* messages for a peer to come, or one not whole yet for the lobby */
    size_t held_size, held_room;
    size_t released;       /* bytes of it that the peer was told */
    size_t replies;        /* bytes of its outlet that answer what it sent */
    struct deadline quiet; /* until something has to be sent */
    struct deadline silent;
    struct deadline deaf_until;
    /* In the lobby: who calls it; or whom it calls, and its place among those who do. */
    struct connection *callers, *next_caller, *prev_caller;
    struct connection **calls;                /* the list that it is in; NULL: none */
    struct pair_ref called;                   /* the listener's slot */
    void *member;                             /* the protocol's own */
    struct connection *next_turn, *prev_turn; /* in the lobby's queue */
    bool in_turn;                             /* it is in it */
    int64_t paid; /* when it will have paid for the work that it made: microseconds */
    size_t name_size;
    uint8_t *name;       /* whom its protocol knows it as: behind the state */
    max_align_t state[]; /* the codec's */
};

/* Makes what an end needs for the codec of a handoff. 0, or a negative errno. */
int messages_open(struct connection *connection, const struct handoff *handoff, int64_t now);
/* Wipes and frees it. */
void messages_close(struct connection *connection);
/* Whether its name is not too long to wait with: long ones are kept while there is plenty of room.
 */
bool messages_have_room_for_name(const struct connection *connection);

/* Whether what flows between this end and its peer is messages. */
static inline bool messages_between(const struct connection *connection)
{
    return connection->coded != NULL || connection->peer->coded != NULL;
}

/* Reads once from an end, and passes on what that was to its peer, up to a fair share; returns
 * whether there is more to do right now. Sets ended and finished as they come true. */
bool messages_move(struct transfer *transfer, struct connection *from);
/* It has a peer: what is held for it counts as what pairs hold. */
void messages_settle(struct connection *connection);
/* Whether something is held for the peer of an end that has one. */
bool messages_are_held(const struct connection *connection);
/* Passes on what is held for the peer of `from`, as far as that takes it now. Until all of it is,
 * nothing more is read. */
void messages_release(struct transfer *transfer, struct connection *from);

/* What a piece read from an end without a peer is: true to go on reading. */
typedef bool messages_taker(void *context, struct connection *from, struct piece *piece);
/* Reads once from such an end, which has a codec. Returns whether there is more to read now. */
bool messages_read(
    struct transfer *transfer, struct connection *from, messages_taker *take, void *context);
/* Whether an end without a peer may be read: not while it is held up by what it said. */
bool messages_may_read(const struct connection *connection);
/* Whether an end may be sent messages: not while it is deaf; what its peer says is held then. */
bool messages_may_write(const struct connection *connection);
/* Whether all is held for its peer to come that may be. */
bool messages_are_full(const struct connection *connection);

/* Appends a piece to what is held. False: there is no memory for it. */
bool messages_hold(struct connection *from, const struct piece *piece);
/* Appends its bytes alone, to a message of at most `limit` bytes. */
bool messages_assemble(struct connection *from, const struct piece *piece, size_t limit);
void messages_drop_held(struct connection *connection);
/* Drops that, and what its codec has of a message that is not whole: nothing more is passed on. */
void messages_forget(struct connection *connection);

/* Writes a whole message to an end. False: there is no memory for it. */
bool messages_say(
    struct transfer *transfer, struct connection *connection, const uint8_t *message, size_t size);
/* Writes the words of a protocol; `closing`: and what ends the connection, once. Ends without a
 * codec are told the message alone. Returns whether anything was written. */
bool messages_speak(struct transfer *transfer, struct connection *connection,
    const struct words *words, bool closing);

#endif
