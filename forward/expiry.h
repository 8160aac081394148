/* The deadlines of all connections: how long they are, and what is done when one has passed. */
#ifndef RELAY_EXPIRY_H
#define RELAY_EXPIRY_H

#include <stdint.h>

struct forwarder;

/* Sets the lengths of all deadlines that do not follow options. */
void expiry_prepare(struct forwarder *forwarder);
/* Does what there is to do for deadlines that have passed. */
void expiry_run(struct forwarder *forwarder);
/* The earliest of all deadlines, and `next` (-1: never). */
int64_t expiry_next(const struct forwarder *forwarder, int64_t next);
/* Ends the connections that have held too much memory for too long, as the budget says. */
void expiry_collect(struct forwarder *forwarder);

#endif
