/* Parting from a client that was told why it is refused, so that it reads that: a close while
 * something is unread would be a reset, which may overtake what was said. */
#ifndef RELAY_PARTING_H
#define RELAY_PARTING_H

#include <stdbool.h>
#include <stdint.h>

enum {
    PARTING_TIME = 1000, /* milliseconds for the client to read it, and to close */
};

/* Drops what has come from the client, without waiting; *dropped counts the bytes. False: it may be
 * closed, as the client has gone, or goes on sending as if nothing had been said. */
bool parting_drop(int fd, uint32_t *dropped);

#endif
