/* Which forwarder this server uses: the one that answers in the runtime directory, or one of its
 * own, whose process is an attendant; and whether it answers. */
#ifndef RELAY_FORWARDING_H
#define RELAY_FORWARDING_H

#include "worker/server.h"

/* Connects to the forwarder that runs, or makes the socket of our own. 0, or -1 (logged). */
int forwarding_find(struct server *server);
/* The forwarder in the runtime directory is gone: finds the next one, or makes the socket of our
 * own. 0, or -1: it has to be tried again in a moment. */
int forwarding_replace(struct server *server);
/* Gives up the socket and the lock of our own forwarder. */
void forwarding_drop(struct server *server);

/* Asks the forwarder from time to time, while connections come, whether it takes what it is sent.
 * Returns when to look next: milliseconds, -1: when another connection has come. */
int forwarding_watch(struct server *server);
void forwarding_close_answer(struct server *server);

/* Has the connections that came by this server end; and our own forwarder, unless other servers use
 * it. */
void forwarding_stop(struct server *server);

#endif
