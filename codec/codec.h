/* A codec turns the bytes of a connection into messages and back, in the forwarder. It has only a
 * state and functions: it reads no descriptor and no clock. A connection without a codec carries
 * plain bytes.
 *
 * A codec passes a message on piece by piece as it arrives, in the buffer in which it arrived, so
 * memory does not grow with the message. A codec that can only read whole messages (channel.c)
 * keeps the part that has come, and bounds it.
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
    CODEC_HEAD = 16, /* bytes in front of every input and every piece, which may be overwritten */
    CODEC_FAREWELL_MAX = 160, /* bytes in a farewell */
};

/* Part of a message. A function that is given a piece may change its bytes. */
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
    CODEC_REPLY,   /* piece->bytes are to be written to this connection as they are, before
                    * anything that is encoded later; a sign of life where `replies_live` */
    CODEC_LIFE,    /* a sign of life; there is nothing to pass on */
    CODEC_CLOSED,  /* the client has closed in the way of its protocol */
    CODEC_FAILED,  /* the client broke the protocol; farewell() says how */
    CODEC_STARVED, /* there is no memory for the input */
};

struct codec {
    const char *name;
    size_t state_size;
    /* Makes a state, which is zeroed before, from a handoff's session. Memory that it allocates is
     * counted in `account`. 0 or a negative errno. close() wipes and frees, and is called in either
     * case. */
    int (*open)(void *state, const uint8_t *session, size_t size, int64_t now,
        struct budget_account *account);
    void (*close)(void *state);
    /* Drops the part of a message that it keeps. Nothing is decoded after that. NULL: it keeps
     * none. */
    void (*forget)(void *state);

    /* Decodes *size bytes at *input, and moves both past the bytes that it used. It is called until
     * it returns CODEC_MORE, CODEC_CLOSED, CODEC_FAILED or CODEC_STARVED. A piece or a reply is
     * valid until the next call. It may overwrite CODEC_HEAD bytes in front of *input. */
    enum codec_event (*decode)(
        void *state, uint8_t **input, size_t *size, int64_t now, struct piece *piece);

    /* Encodes a piece for this connection; *out is to be written. It is the piece with a head in
     * front (in_place), or a buffer of the codec, valid until a codec of this kind is called again.
     * 0 or a negative errno. */
    int (*encode)(void *state, const struct piece *piece, int64_t now, struct iovec *out);
    bool in_place;

    /* Writes the bytes that end the connection, with a code and a reason (NULL: none) where the
     * protocol has them; code 0: the code that fits the last event of decode(). Returns how many
     * bytes, at most CODEC_FAREWELL_MAX; 0: the connection is only closed. */
    size_t (*farewell)(void *state, uint16_t code, const char *reason, uint8_t *out);
    bool mutual_close; /* the client answers a farewell with its own, and then the relay closes */

    /* When nothing was sent for `quiet_time` (0: never), quiet() makes a message to send. When
     * nothing was received for `silent_time`, silent() makes a message that asks for a sign of life
     * (or none) and returns 0; or it returns -ETIMEDOUT: the client counts as gone, unless its
     * input was not read. *out is as in encode(). silent_jitter: by how much silent_time differs
     * from connection to connection, to both sides. */
    int (*quiet)(void *state, int64_t now, struct iovec *out);
    int (*silent)(void *state, int64_t now, struct iovec *out);
    int64_t quiet_time, silent_time, silent_jitter;
    bool replies_live; /* input that gets a reply is a sign of life */
};

/* The number of a codec in a handoff. Old and new versions of relay use it between them, so it
 * never changes; a codec whose session changes gets another number. */
enum codec_kind {
    CODEC_PLAIN = 0, /* no codec */
    CODEC_WEBSOCKET = 1,
    CODEC_CHANNEL = 2,
    CODEC_KINDS,
};

extern const struct codec websocket_codec; /* websocket.c: RFC 6455 */
extern const struct codec channel_codec;   /* channel.c: Offset's frames */

/* By kind; NULL: plain bytes. */
extern const struct codec *const codecs[CODEC_KINDS];

#endif
