/* WebSocket (RFC 6455), the server's side, as a codec.
 *
 * Messages are passed on in pieces as they arrive, in frames of any size. Only the head of a frame
 * and the payload of a control frame (at most 125 bytes) are kept. Text is checked on its way, as
 * RFC 6455 demands (section 8.1): text that is not UTF-8 is not passed on, and ends the connection.
 * Extensions are not supported. */
#ifndef RELAY_WEBSOCKET_H
#define RELAY_WEBSOCKET_H

#include "codec/codec.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Why a connection is closed (section 7.4.1, and IANA's registry of close codes). */
enum websocket_code {
    WEBSOCKET_NORMAL = 1000,
    WEBSOCKET_GOING_AWAY = 1001,
    WEBSOCKET_PROTOCOL_ERROR = 1002,
    WEBSOCKET_UNSUPPORTED = 1003, /* text where there may be binary only, or the other way round */
    WEBSOCKET_INVALID_DATA = 1007,
    WEBSOCKET_POLICY = 1008,
    WEBSOCKET_TOO_BIG = 1009,
    WEBSOCKET_UNEXPECTED = 1011, /* the relay cannot go on */
    WEBSOCKET_TRY_LATER = 1013,
};

enum {
    WEBSOCKET_REASON_MAX = 123, /* bytes of a close frame's reason; more are cut off */
};

enum {
    WEBSOCKET_MASK_SIZE = 4,
    WEBSOCKET_HEAD_MAX = 2 + 8 + WEBSOCKET_MASK_SIZE, /* bytes; of a frame from a client */
    WEBSOCKET_CONTROL_MAX = 2 + 125, /* bytes of a whole control frame to a client (5.5) */
};

/* What comes next on the wire. */
enum websocket_phase {
    WEBSOCKET_IN_HEAD,
    WEBSOCKET_IN_DATA,
    WEBSOCKET_IN_CONTROL,
    WEBSOCKET_ENDED, /* the connection has ended or failed */
};

struct websocket {
    uint64_t left; /* bytes of this frame's payload that are yet to come */
    uint16_t code; /* WEBSOCKET_ENDED: the code to close with; 0: none */
    uint8_t phase;
    uint8_t pings; /* sent since the last input */
    bool failed;   /* WEBSOCKET_ENDED: the client broke the protocol; else it closed */
    bool close_sent;
    bool in_message; /* the last frame of a message has not begun */
    bool text;       /* this message is text */
    uint8_t utf8;    /* the state of the check of this text */
    bool unspoken;   /* nothing of this message was passed on yet */
    uint8_t head_size;
    uint8_t control_size;
    uint8_t head[WEBSOCKET_HEAD_MAX];
    uint8_t mask[WEBSOCKET_MASK_SIZE]; /* rotated: its first byte is for the next byte of payload */
    uint8_t control[WEBSOCKET_CONTROL_MAX]; /* payload, behind room for the head of a pong */
};

/* A handoff's session is empty: a greeting ends between two messages. */

/* Whether the next byte is the first of a message. */
bool websocket_is_between(const struct websocket *websocket);
/* The size of the frame whose first bytes are at `head`. 0: more bytes are needed; -EPROTO: the
 * frame is refused, or is not the last of its message; -EMSGSIZE: its payload is larger than `max`.
 */
ssize_t websocket_measure(
    const struct websocket *websocket, uint8_t *head, size_t size, size_t max);

#endif
