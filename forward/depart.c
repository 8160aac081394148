/* When a server stops: the connections that came by it end as all do when the forwarder stops, and
 * those of other servers go on. The server waits for that on a socket, of which the forwarder has
 * the other side. */
#include "forward/depart.h"

#include "base/log.h"
#include "forward/connections.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* A server that has been told to stop. */
struct departure {
    struct deadline bound;
    size_t ends; /* that are still here; and one, until it need not be waited for */
    int server;  /* closed when all have gone */
};

static struct departure *departure_of(struct deadline *bound)
{
    return (struct departure *)((char *)bound - offsetof(struct departure, bound));
}

static void release(struct departure *departure)
{
    if (--departure->ends > 0)
        return;
    deadline_clear(&departure->bound);
    close(departure->server);
    free(departure);
}

static void add(struct departure *departure, struct connection *connection)
{
    if (connection->departure != NULL)
        return;
    connection->departure = departure;
    departure->ends++;
}

void depart_lose(struct connection *connection)
{
    if (connection->departure != NULL)
        release(connection->departure);
    connection->departure = NULL;
}

/* Both ends of a pair of which one came by that server. */
static void add_all(struct forwarder *forwarder, struct departure *departure, uint64_t server)
{
    for (uint32_t i = 0; i < pair_capacity(forwarder->table); i++) {
        struct connection *connection = forwarder->slots[i];
        if (connection == NULL || connection->server != server)
            continue;
        add(departure, connection);
        if (connection->state == CONNECTION_JOINED)
            add(departure, connection->peer);
    }
    for (struct deadline *each = forwarder->leaving.first; each != NULL; each = each->next) {
        struct connection *connection = connection_of_phase(each);
        if (connection->server == server)
            add(departure, connection);
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
    *departure = (struct departure){.ends = 1, .server = fd};
    deadline_set(&departure->bound, &forwarder->departing, forwarder->transfer.now);
    add_all(forwarder, departure, server);
    dismiss_all(forwarder, departure);
    if (!others)
        return; /* it waits until the forwarder has ended, too */
    (void)send(fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL); /* one that has died needs no answer */
    release(departure);
}

/* By now all that are still here are leaving. */
void depart_expire(struct forwarder *forwarder, int64_t now)
{
    struct deadline *due;
    while ((due = deadline_expired(&forwarder->departing, now)) != NULL) {
        struct departure *departure = departure_of(due);
        struct deadline *next;
        departure->ends++; /* so that it is not freed meanwhile */
        for (struct deadline *each = forwarder->leaving.first; each != NULL; each = next) {
            next = each->next;
            if (connection_of_phase(each)->departure == departure)
                connections_close(forwarder, connection_of_phase(each));
        }
        departure->ends = 1;
        release(departure);
    }
}
