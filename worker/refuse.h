/* Refusing a client: what it is told. */
#ifndef RELAY_REFUSE_H
#define RELAY_REFUSE_H

#include "pair.h"
#include "proto/greeting.h"

/* Tells a client why the forwarder does not get its connection: in the words of its protocol, if
 * that is `known`. */
void refuse_client(
    struct greeting *greeting, enum pair_outcome outcome, enum pair_reason reason, bool known);

/* There is no room for a connection (PAIR_FULL, PAIR_SOURCE; closing: the server stops). Reads its
 * greeting all the same where the protocol can tell the client so, or where the client only asks
 * whether there is room. Returns what became of it. */
enum pair_outcome refuse_newcomer(
    struct greeting *greeting, enum pair_outcome outcome, bool closing);

/* Whether the client was told by a TLS alert, so that what it sends is not read any more. */
bool refuse_in_tls(const struct greeting *greeting);

#endif
