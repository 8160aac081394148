/* The first message of a WebSocket, in a greeting. */
#ifndef RELAY_FIRST_MESSAGE_H
#define RELAY_FIRST_MESSAGE_H

#include "proto/greeting.h"

/* Reads one message of at most `size` bytes, and nothing behind its last frame; pings before it are
 * answered. Returns its size, or a negative errno: -ECONNRESET the client closed, -EPROTO it broke
 * the protocol, -EMSGSIZE the message is larger, -ETIMEDOUT. In the first three cases a close frame
 * has been sent, where RFC 6455 has one. */
ssize_t first_message_read(
    const struct greeting *greeting, uint8_t *buffer, size_t size, bool *text);

#endif
