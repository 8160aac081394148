/* When the table was lost while the forwarder holds connections: pairs go on, and waiting
 * connections are carried into the new table, so that clients which come later meet them there. The
 * next worker makes the new table and sends its descriptor: the forwarder's sandbox lets it open no
 * file. */
#include "forward/carry.h"

#include "base/log.h"
#include "forward/connections.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

/* The count of bytes of connections that have no slot any more. */
static _Atomic uint64_t uncounted;

static const char *what_happened(int fault)
{
    switch (fault) {
    case -ENOENT:
        return "was removed";
    case -ESTALE:
        return "was replaced";
    default:
        return "was cut or written over";
    }
}

void carry_check(struct forwarder *forwarder)
{
    int fault = pair_check(forwarder->table);
    if (fault == forwarder->table_fault)
        return;
    forwarder->table_fault = fault;
    if (fault != 0)
        log_error("the table %s %s: pairs go on, and the next connection has it made anew",
            pair_path(forwarder->table), what_happened(fault));
}

static void move_to_slot(
    struct forwarder *forwarder, struct connection *connection, struct pair_ref ref)
{
    connection->ref = ref;
    connection->bytes =
        connection->state == CONNECTION_JOINED ? pair_bytes(forwarder->table, ref) : NULL;
    forwarder->slots[ref.slot] = connection;
}

/* A connection has no slot any more: no client can meet it. */
static void lose_slot(struct connection *connection)
{
    connection->ref = PAIR_NONE;
    connection->bytes = &uncounted;
}

static void carry_pair(
    struct forwarder *forwarder, struct pair_table *last, struct connection *connection)
{
    struct connection *sides[2] = {connection, connection->peer};
    struct pair_view views[2];
    struct pair_ref refs[2];
    for (size_t i = 0; i < 2; i++)
        views[i] = (struct pair_view){.ref = sides[i]->ref,
            .protocol = sides[i]->protocol,
            .opened = sides[i]->start.opened,
            .bytes = atomic_load_explicit(sides[i]->bytes, memory_order_relaxed)};
    int error = pair_carry_joined(forwarder->table, last, views, refs);
    for (size_t i = 0; i < 2; i++) {
        if (error == 0)
            move_to_slot(forwarder, sides[i], refs[i]);
        else
            lose_slot(sides[i]);
    }
    if (error != 0)
        connections_part(forwarder, connection);
}

/* Returns whether a client can still meet the connection. */
static bool carry_waiting(
    struct forwarder *forwarder, struct pair_table *last, struct connection *connection)
{
    struct pair_ref ref;
    if (pair_carry(forwarder->table, last, connection->ref, &ref) != 0) {
        lose_slot(connection);
        return false;
    }
    move_to_slot(forwarder, connection, ref);
    return true;
}

/* Carries all connections of the last table into the new one. Waiting ones are looked at once all
 * are there, as two of them may have met. */
static void carry_all(
    struct forwarder *forwarder, struct pair_table *last, struct connection **held, uint32_t count)
{
    size_t pairs = 0, waiting = 0, lost = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct connection *connection = held[i];
        if (connection == NULL || connection->fd < 0)
            continue;
        if (connection->state == CONNECTION_LEAVING) {
            lose_slot(connection);
        } else if (connection->state == CONNECTION_JOINED) {
            held[connection->peer->ref.slot] = NULL;
            held[i] = NULL;
            carry_pair(forwarder, last, connection);
            pairs++;
        } else if (carry_waiting(forwarder, last, connection)) {
            waiting++;
        } else {
            lost++;
        }
    }
    log_warning("the table %s was made anew: %zu pairs and %zu waiting connections go on in it, "
                "%zu are closed",
        pair_path(forwarder->table), pairs, waiting, lost);
    pair_set_forwarder(forwarder->table, HANDOFF_VERSION);
    for (uint32_t i = 0; i < count; i++) {
        struct connection *connection = held[i];
        if (connection == NULL || connection->fd < 0 || connection->state == CONNECTION_LEAVING)
            continue;
        if (pair_is_none(connection->ref))
            connections_dismiss(forwarder, connection, PAIR_LONELY, PAIR_NO_REASON);
        else
            connections_look(forwarder, connection->ref);
    }
}

void carry_over(struct forwarder *forwarder, int fd)
{
    struct pair_table *table, *last = forwarder->table;
    int error = pair_map(fd, pair_path(last), &table);
    if (error != 0) {
        errno = -error;
        log_warning_errno("cannot use the table that was handed over");
        return;
    }
    struct connection **held = forwarder->slots;
    struct connection **slots = NULL;
    if (pair_id(table) == pair_id(last) || pair_check(table) != 0 ||
        (slots = calloc(pair_capacity(table), sizeof(struct connection *))) == NULL) {
        pair_close(table);
        return;
    }
    pair_replace_lost(table, last);
    forwarder->table = table;
    forwarder->slots = slots;
    forwarder->table_fault = 0;
    carry_all(forwarder, last, held, pair_capacity(last));
    pair_retire(last);
    free(held);
    if (last != forwarder->first_table)
        pair_close(last);
}
