/* The attendants: processes beside the workers. The porch, the keeper of the certificate, the
 * keeper of the recorder, and the forwarder, if this server has one of its own. Each is a child of
 * the parent; one that ends is started again. */
#ifndef RELAY_ATTENDANTS_H
#define RELAY_ATTENDANTS_H

#include "worker/server.h"

/* The certificate's keeper, while this process may still read the key. A later one, which replaces
 * it, may be unable to: then what was read before stays in use. 0, or -1 (logged). */
int attendants_start_certificate_keeper(struct server *server);

/* Starts the attendants that do not run. 0, or -1 (logged) on failure. */
int attendants_keep(struct server *server);
/* Looks after the porch while connections stand there. Returns when to look next: milliseconds, -1:
 * when a worker nudges. */
int attendants_watch_porch(struct server *server);
/* Frees the slots of connections that stood on a porch that is gone: they are closed. */
void attendants_forsake_porch(struct server *server, pid_t porch);
/* Ends our own forwarder; kills it if it does not end in time. */
void attendants_end_forwarder(struct server *server);

/* A child has ended. Returns whether it was an attendant. */
bool attendants_note_end(struct server *server, pid_t pid, int status);

#endif
