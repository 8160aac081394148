/* Parting from a client that was told why it is refused. Closing a TCP socket with unread input
 * resets the connection, and the reset may reach the client before it has read why. So the input is
 * read and dropped first. */
#ifndef RELAY_PARTING_H
#define RELAY_PARTING_H

#include <stdbool.h>
#include <stdint.h>

enum {
    PARTING_TIME = 1000, /* milliseconds for the client to read why, and to close */
};

/* Drops the input that has come from the client, without waiting; *dropped counts its bytes. False:
 * the connection is to be closed, as the client has closed, or sends on regardless. */
bool parting_drop(int fd, uint32_t *dropped);

#endif
