/* The descriptors of a process: how many there may be, and what becomes of those that it inherited.
 */
#ifndef RELAY_DESCRIPTORS_H
#define RELAY_DESCRIPTORS_H

#include <stdint.h>

/* Raises the soft limit on descriptors to the hard one, and returns it. Logs, returns 0 if that is
 * too small for any process to serve somebody. */
uint64_t descriptors_raise(void);

/* Opens something that leads nowhere in the place of each standard stream that is closed, so that
 * nothing else, a client's connection say, gets its number and is written to. Returns 0 or a
 * negative errno. */
int descriptors_open_streams(void);

/* Closes what this process inherited and is not meant for it: all but the standard streams, the
 * sockets that systemd passes, a and b; these may be -1. */
void descriptors_close_inherited(int a, int b);

/* Closes all descriptors but the standard streams, a and b. */
void descriptors_close_others(int a, int b);

#endif
