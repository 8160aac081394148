/* How `relay serve` comes to its end. */
#ifndef RELAY_STOP_H
#define RELAY_STOP_H

#include "worker/server.h"

/* Ends every process of the server, so that clients lose as little as possible. */
void stop_server(struct server *server);

#endif
