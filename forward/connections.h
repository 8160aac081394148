/* The connections that the forwarder holds, and what becomes of them. Each has a state, and a file
 * for what is done in it: arriving.c takes connections and lets them wait, joined.c has pairs,
 * leaving.c ends connections; lobby.c is the lobby's, and expiry.c has their deadlines.
 * connections.c is what all of these share. */
#ifndef RELAY_CONNECTIONS_H
#define RELAY_CONNECTIONS_H

#include "forward/connection.h"
#include "forward/forwarder.h"
#include "handoff.h"
#include "pair.h"
#include "usage/usage.h"

#include <stdbool.h>

/* ---- connections.c --------------------------------------------------------------- */

/* The connection that is held under a reference; NULL: none. */
struct connection *connections_held(const struct forwarder *forwarder, struct pair_ref ref);
/* Does what there is to do for a connection: its state says what. */
void connections_run(struct forwarder *forwarder, struct connection *connection);
/* Has connections_run() called again once the others have had their turn. */
void connections_queue(struct forwarder *forwarder, struct connection *connection);
/* To be called when messages have been read from a connection or written to it: sets the deadlines
 * of its codec. */
void connections_touch(struct forwarder *forwarder, struct connection *connection);
/* Sets the deadline by which a connection that was written to is to acknowledge that. Returns
 * whether it was written to since the last call. */
bool connections_watch(struct forwarder *forwarder, struct connection *connection);
void connections_clear_deadlines(struct connection *connection);
/* Closes a connection now. It is freed by connections_bury(). */
void connections_close(struct forwarder *forwarder, struct connection *connection);
/* Frees the connections that were closed: no event of this round names them any more. */
void connections_bury(struct forwarder *forwarder);
/* Sends a usage record to the recorder, if there is one. */
void connections_record(struct forwarder *forwarder, const struct usage_record *entry);

/* ---- arriving.c ------------------------------------------------------------------ */

/* Takes a connection that was handed over, and parks it, joins it to its peer, lets it into the
 * lobby, or dismisses it, as the table says. fd: -1 if it was lost on its way. */
void connections_take(struct forwarder *forwarder, const struct handoff *handoff, int fd);
/* Does what the table says of a connection without a peer, if one is held under the reference. */
void connections_look(struct forwarder *forwarder, struct pair_ref ref);
/* connections_run() for a parked connection. */
void connections_run_parked(struct forwarder *forwarder, struct connection *connection);

/* ---- joined.c -------------------------------------------------------------------- */

/* Joins two connections that have met, unless the table has undone that meanwhile. */
void connections_join(
    struct forwarder *forwarder, struct connection *connection, struct connection *peer);
/* connections_run() for a pair. */
void connections_run_pair(struct forwarder *forwarder, struct connection *connection);
/* Dismisses the clients of the same side that waited beside this one. */
void connections_dismiss_spares(struct forwarder *forwarder, struct connection *connection);

/* ---- leaving.c ------------------------------------------------------------------- */

/* Ends a connection that has no peer, and tells it why as its protocol does. */
void connections_dismiss(struct forwarder *forwarder, struct connection *connection,
    enum pair_outcome outcome, enum pair_reason reason);
/* Ends a pair. */
void connections_part(struct forwarder *forwarder, struct connection *connection);
/* Ends a connection, and its peer's, because the relay stops, or the server that accepted it. A
 * connection that is leaving already goes on leaving. */
void connections_stop(struct forwarder *forwarder, struct connection *connection);
/* Whether everything that came from this side of a pair is delivered, and no more will come. */
bool connections_is_delivered(const struct connection *connection);
/* connections_run() for a connection that is leaving. */
void connections_go_on_leaving(struct forwarder *forwarder, struct connection *connection);
/* Closes a connection that is cut once it has acknowledged all, or looks again later. */
void connections_check_delivery(struct forwarder *forwarder, struct connection *connection);

#endif
