/* Takes handoffs from the forwarder's sockets while it has room for more connections. */
#ifndef RELAY_INTAKE_H
#define RELAY_INTAKE_H

#include <stdbool.h>

struct forwarder;

enum {
    INTAKE_SHORTAGE = 500, /* milliseconds between two looks at whether there is room again */
};

/* Takes some of the handoffs that have come. Returns whether none is left in any socket. */
bool intake_take(struct forwarder *forwarder);
/* Whether a descriptor that was to be here PAIR_ARRIVAL_TIME ago cannot come any more: this process
 * has been waiting for it all that time, and it is not in a socket. Takes handoffs to find out. */
bool intake_is_over(struct forwarder *forwarder);
/* A connection could not be taken for lack of memory, or the like: those that come wait a while. */
void intake_fall_short(struct forwarder *forwarder);
/* Whether no connection can be taken now. */
bool intake_is_short(const struct forwarder *forwarder);
/* Looks, from time to time, whether connections can be taken again. */
void intake_look_at_shortage(struct forwarder *forwarder);
/* Waits for handoffs, or leaves them in the sockets. */
void intake_listen(struct forwarder *forwarder, bool wanted);
/* Looks, from time to time, whether the socket still has its name, and if not uses the one that was
 * made in its place, too. */
void intake_look_at_name(struct forwarder *forwarder);
/* Takes what is left in that other socket, and closes it. */
void intake_close_renewed(struct forwarder *forwarder);

#endif
