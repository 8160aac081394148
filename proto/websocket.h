/* RFC 6455, the server's side, as a relay needs it: frames in and out of the forwarder by
 * websocket_codec, and single messages in a greeting.
 *
 * Messages are passed on in pieces as they arrive, whatever their size and however they are
 * cut; only a frame's head and a control frame's payload (at most 125 bytes) are ever kept. Text is
 * checked as it passes, as an endpoint must (section 8.1): what is not UTF-8 ends the connection,
 * and is not passed on. There are no extensions. */
#ifndef RELAY_WEBSOCKET_H
#define RELAY_WEBSOCKET_H

#include "codec.h"
#include "proto.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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

/* A session of websocket_codec is empty: a greeting ends between two messages. */

/* Reads exactly one message of at most `size` bytes, consuming nothing behind its last frame, and
 * answers pings on the way. Returns its size, or a negative errno: -ECONNRESET the client closed,
 * -EPROTO it broke the protocol, -EMSGSIZE the message is larger (in these three cases it was
 * told, if the protocol has a word for it); -ETIMEDOUT. */
ssize_t websocket_read(const struct greeting *greeting, uint8_t *buffer, size_t size, bool *text);

#endif
