/* When a server stops: the connections that it accepted end, as all do when the forwarder stops,
 * and those of other servers go on. The server waits for that at a socket; the forwarder closes the
 * other side of it. */
#include "forward/depart.h"

#include "base/log.h"
#include "forward/connections.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* A server that has been told to stop. */
struct departure {
    struct deadline bound;
    size_t references; /* its connections, and one more until it may be released */
    int server;        /* the socket at which it waits; closed when no reference is left */
};

static struct departure *departure_of(struct deadline *bound)
{
    return (struct departure *)((char *)bound - offsetof(struct departure, bound));
}

static void release_departure(struct departure *departure)
{
    if (--departure->references > 0)
        return;
    deadline_clear(&departure->bound);
    close(departure->server);
    free(departure);
}

static void add_connection(struct departure *departure, struct connection *connection)
{
    if (connection->departure != NULL)
        return;
    connection->departure = departure;
    departure->references++;
}

void depart_lose(struct connection *connection)
{
    if (connection->departure != NULL)
        release_departure(connection->departure);
    connection->departure = NULL;
}

/* Adds the server's connections, and their peers. */
static void add_connections(
    struct forwarder *forwarder, struct departure *departure, uint64_t server)
{
    for (uint32_t i = 0; i < pair_capacity(forwarder->table); i++) {
        struct connection *connection = forwarder->slots[i];
        if (connection == NULL || connection->server != server)
            continue;
        add_connection(departure, connection);
        if (connection->state == CONNECTION_JOINED)
            add_connection(departure, connection->peer);
    }
    for (struct deadline *each = forwarder->leaving.first; each != NULL; each = each->next) {
        struct connection *connection = connection_of_phase(each);
        if (connection->server == server)
            add_connection(departure, connection);
    }
}

static void dismiss_all(struct forwarder *forwarder, const struct departure *departure)
{
    for (struct deadline *each = forwarder->leaving.first; each != NULL; each = each->next)
        if (connection_of_phase(each)->departure == departure)
            connections_queue(forwarder, connection_of_phase(each));
    for (uint32_t i = 0; i < pair_capacity(forwarder->table); i++) {
        struct connection *connection = forwarder->slots[i];
        if (connection != NULL && connection->departure == departure)
            connections_stop(forwarder, connection);
    }
}

void depart(struct forwarder *forwarder, uint64_t server, int fd, bool others)
{
    struct departure *departure = calloc(1, sizeof *departure);
    if (departure == NULL) {
        log_error("cannot end the connections of a server that stops: no memory");
        close(fd);
        return;
    }
    *departure = (struct departure){.references = 1, .server = fd};
    deadline_set(&departure->bound, &forwarder->departing, forwarder->transfer.now);
    add_connections(forwarder, departure, server);
    dismiss_all(forwarder, departure);
    if (!others)
        return; /* the server waits until the forwarder has ended, too */
    (void)send(fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL); /* a server that died needs no answer */
    release_departure(departure);
}

/* All connections of the server that are left are leaving by now. */
void depart_expire(struct forwarder *forwarder, int64_t now)
{
    struct deadline *due;
    while ((due = deadline_expired(&forwarder->departing, now)) != NULL) {
        struct departure *departure = departure_of(due);
        struct deadline *next;
        departure->references++; /* so that it is not freed meanwhile */
        for (struct deadline *each = forwarder->leaving.first; each != NULL; each = next) {
            next = each->next;
            if (connection_of_phase(each)->departure == departure)
                connections_close(forwarder, connection_of_phase(each));
        }
        departure->references = 1;
        release_departure(departure);
    }
}
