/* A codec stands between a connection's bytes and the messages in them, in the forwarder. It is
 * state and functions only: it reads no descriptor, asks no clock, keeps no list. A connection
 * without one carries plain bytes.
 *
 * Codecs stream: a message is passed on piece by piece as it arrives, in the buffer that it
 * arrived in, so memory does not grow with its size. One whose messages can only be read whole
 * (channel.c) keeps what it has of one, and bounds that itself.
 *
 * All times are milliseconds, CLOCK_MONOTONIC. */
#ifndef RELAY_CODEC_H
#define RELAY_CODEC_H

#include "base/budget.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum {
    CODEC_HEAD = 16,          /* bytes in front of every input and piece that may be overwritten */
    CODEC_FAREWELL_MAX = 160, /* bytes that a farewell takes at most */
};

/* Part of a message. Its bytes may be changed in place by whoever gets it. */
struct piece {
    uint8_t *bytes;
    size_t size;
    bool text;  /* else binary */
    bool first; /* the message begins here */
    bool last;  /* and ends here */
};

enum codec_event {
    CODEC_MORE,    /* the input is used up */
    CODEC_PIECE,   /* *piece is part of a message */
    CODEC_REPLY,   /* piece->bytes are to be written to this same connection as they are, before
                    * anything that is encoded later; a sign of life where `replies_live` */
    CODEC_LIFE,    /* a sign of life, and nothing to pass on */
    CODEC_CLOSED,  /* the other side has ended the connection in the protocol's own way */
    CODEC_FAILED,  /* what came breaks the protocol; farewell() knows how */
    CODEC_STARVED, /* there is no memory for what came */
};

struct codec {
    const char *name;
    size_t state_size;
    /* Makes a state (zeroed before) of a handoff's session, at `now`. What it allocates counts
     * as the account's. 0 or a negative errno; close() is called in any case, wipes what is secret
     * and frees what it allocated. */
    int (*open)(void *state, const uint8_t *session, size_t size, int64_t now,
        struct budget_account *account);
    void (*close)(void *state);
    /* Drops what it has of a message that is not whole. Nothing is decoded after that. NULL: it
     * never has any. */
    void (*forget)(void *state);

    /* Decodes *size bytes at *input, and moves both on past what it used up. Called until it
     * says CODEC_MORE, CODEC_CLOSED, CODEC_FAILED or CODEC_STARVED. A piece, or a reply, is valid
     * until the next call; CODEC_HEAD bytes in front of *input may be written to. */
    enum codec_event (*decode)(
        void *state, uint8_t **input, size_t *size, int64_t now, struct piece *piece);

    /* Encodes a piece for this connection: *out is what to write. It is the piece itself with a
     * head in front (in_place), or a buffer of the codec's that is valid until any codec of this
     * kind is called again. 0 or a negative errno. */
    int (*encode)(void *state, const struct piece *piece, int64_t now, struct iovec *out);
    bool in_place;

    /* What is written last: to end the connection with this code and reason (NULL: none) where
     * the protocol has such a thing; code 0: as befits what decode() has said. At most
     * CODEC_FAREWELL_MAX bytes. Returns how many: 0 for a plain close. */
    size_t (*farewell)(void *state, uint16_t code, const char *reason, uint8_t *out);
    bool mutual_close; /* the other side answers a farewell with its own, before the close */

    /* When nothing has been sent for `quiet_time` (0: never mind), quiet() makes what is then
     * sent. When nothing has been received for `silent_time`, silent() makes what asks for a sign
     * of life (or nothing), and returns 0, or -ETIMEDOUT: the other side counts as gone, unless it
     * was not read. The same rules for *out as in encode(). silent_jitter: its time is that much
     * shorter or longer, from one connection to another. */
    int (*quiet)(void *state, int64_t now, struct iovec *out);
    int (*silent)(void *state, int64_t now, struct iovec *out);
    int64_t quiet_time, silent_time, silent_jitter;
    bool replies_live; /* what is replied to is a sign of life */
};

/* By which a handoff names them, between versions, too: a number keeps its meaning for ever, and
 * one whose session changes gets another. */
enum codec_kind {
    CODEC_PLAIN = 0, /* none: bytes are bytes */
    CODEC_WEBSOCKET = 1,
    CODEC_CHANNEL = 2,
    CODEC_KINDS,
};

extern const struct codec websocket_codec; /* websocket.c: RFC 6455 */
extern const struct codec channel_codec;   /* channel.c: Offset's frames */

/* By kind; NULL: plain bytes. */
extern const struct codec *const codecs[CODEC_KINDS];

#endif
