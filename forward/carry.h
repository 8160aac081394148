/* A table that was lost, and the one that takes its place. */
#ifndef RELAY_CARRY_H
#define RELAY_CARRY_H

struct forwarder;

/* Looks whether the table is still at its path, and says so when it is not. */
void carry_check(struct forwarder *forwarder);
/* The descriptor is of the new table: all connections that are held go on in that. */
void carry_over(struct forwarder *forwarder, int fd);

#endif
