/* The descriptors of a process: how many it may have, and what becomes of inherited ones. */
#ifndef RELAY_DESCRIPTORS_H
#define RELAY_DESCRIPTORS_H

#include <stdint.h>

/* Raises the soft limit on descriptors to the hard limit, and returns it. Logs, returns 0 if the
 * limit is too small to serve any client. */
uint64_t descriptors_raise(void);

/* Opens /dev/null in the place of each standard stream that is closed, so that no other file, such
 * as a client's connection, gets its number and is written to. Returns 0 or a negative errno. */
int descriptors_open_streams(void);

/* Closes the inherited descriptors that are not meant for this process: all but the standard
 * streams, the sockets that systemd passes, a and b. a and b may be -1. */
void descriptors_close_inherited(int a, int b);

/* Closes all descriptors but the standard streams, a and b. */
void descriptors_close_others(int a, int b);

#endif
