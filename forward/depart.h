/* A server that stops, and the connections that it accepted. */
#ifndef RELAY_DEPART_H
#define RELAY_DEPART_H

#include <stdbool.h>
#include <stdint.h>

struct connection;
struct forwarder;

/* Ends all connections that a server accepted, and their peers. The server's descriptor is closed
 * when they are gone, or their time (FORWARDER_LEAVE_TIME) has passed; without `others`, the
 * servers that go on, when the forwarder has ended, too. With others, a byte is sent to it first.
 */
void depart(struct forwarder *forwarder, uint64_t server, int fd, bool others);
/* Closes the connections that should have left by `now`. */
void depart_expire(struct forwarder *forwarder, int64_t now);
/* A connection is closed: it is not waited for any longer. */
void depart_lose(struct connection *connection);

#endif
