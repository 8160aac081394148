/* RFC 6455, the server's side, as a relay needs it: frames in and out of the forwarder by
 * websocket_codec.
 *
 * Messages are passed on in pieces as they arrive, whatever their size and however they are
 * cut; only a frame's head and a control frame's payload (at most 125 bytes) are ever kept. Text is
 * checked as it passes, as an endpoint must (section 8.1): what is not UTF-8 ends the connection,
 * and is not passed on. There are no extensions. */
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
    WEBSOCKET_UNEXPECTED = 1011, /* something kept this end from going on */
    WEBSOCKET_TRY_LATER = 1013,
};

enum {
    WEBSOCKET_REASON_MAX = 123, /* bytes of a close frame's reason; more are cut off */
};

enum {
    WEBSOCKET_MASK_SIZE = 4,
    WEBSOCKET_HEAD_MAX = 2 + 8 + WEBSOCKET_MASK_SIZE, /* of a frame that a client sends */
    WEBSOCKET_CONTROL_MAX = 2 + 125, /* a control frame that is sent, whole (5.5) */
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
    uint16_t code; /* WEBSOCKET_ENDED: what to close with; 0: without one */
    uint8_t phase;
    uint8_t pings; /* that nothing has answered */
    bool failed;   /* WEBSOCKET_ENDED: else it was closed */
    bool close_sent;
    bool in_message; /* its last frame has not begun */
    bool text;       /* of this message */
    uint8_t utf8;    /* how far this text is well-formed */
    bool unspoken;   /* nothing of it was passed on yet */
    uint8_t head_size;
    uint8_t control_size;
    uint8_t head[WEBSOCKET_HEAD_MAX];
    uint8_t
        mask[WEBSOCKET_MASK_SIZE]; /* turned so that its first byte is for the next one to come */
    uint8_t control[WEBSOCKET_CONTROL_MAX]; /* room in front for the head of a pong */
};

/* A session of websocket_codec is empty: a greeting ends between two messages. */

/* Whether the next byte begins a frame, and that a message. */
bool websocket_is_between(const struct websocket *websocket);
/* How long the frame is whose first bytes are at `head`: 0: more of them are needed; -EPROTO: it is
 * refused, or has others behind it in its message; -EMSGSIZE: its payload is more than `max`. */
ssize_t websocket_measure(
    const struct websocket *websocket, uint8_t *head, size_t size, size_t max);

#endif
