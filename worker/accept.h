/* A worker of the pool: takes connections from the server's sockets, one at a time. */
#ifndef RELAY_ACCEPT_H
#define RELAY_ACCEPT_H

#include "worker/server.h"

/* In a child of the parent: serves connections until it is told to stop, has served --max-use of
 * them, or cannot go on. */
_Noreturn void accept_run(struct server *server, struct board_entry *entry);

#endif
