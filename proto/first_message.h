/* The first message of a WebSocket, read in a greeting: what a client says of itself. */
#ifndef RELAY_FIRST_MESSAGE_H
#define RELAY_FIRST_MESSAGE_H

#include "proto/greeting.h"

/* Reads exactly one message of at most `size` bytes, consuming nothing behind its last frame, and
 * answers pings on the way. Returns its size, or a negative errno: -ECONNRESET the client closed,
 * -EPROTO it broke the protocol, -EMSGSIZE the message is larger (in these three cases it was
 * told, if the protocol has a word for it); -ETIMEDOUT. */
ssize_t first_message_read(
    const struct greeting *greeting, uint8_t *buffer, size_t size, bool *text);

#endif
