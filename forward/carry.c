/* When the table was lost while the forwarder holds connections: pairs go on, and who waits is
 * carried into the table that takes its place, so that newcomers meet there. That one is made by
 * whoever comes next, and reaches the forwarder by its descriptor: a sandbox lets it open no file.
 */
#include "base/log.h"
#include "forward/forwarder.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

/* Where bytes are counted of whom the table does not know. */
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
        log_error("the table %s %s: pairs go on, and whoever comes next has it made anew",
            pair_path(forwarder->table), what_happened(fault));
}

static void settle_in(struct forwarder *forwarder, struct end *end, struct pair_ref ref)
{
    end->ref = ref;
    end->bytes = end->state == END_JOINED ? pair_bytes(forwarder->table, ref) : NULL;
    forwarder->slots[ref.slot] = end;
}

/* Nobody finds it any more. */
static void lose(struct end *end)
{
    end->ref = PAIR_NONE;
    end->bytes = &uncounted;
}

static void carry_pair(struct forwarder *forwarder, struct pair_table *last, struct end *end)
{
    struct end *ends[2] = {end, end->peer};
    struct pair_view views[2];
    struct pair_ref refs[2];
    for (size_t i = 0; i < 2; i++)
        views[i] = (struct pair_view){.ref = ends[i]->ref,
            .protocol = ends[i]->protocol,
            .opened = ends[i]->start.opened,
            .bytes = atomic_load_explicit(ends[i]->bytes, memory_order_relaxed)};
    int error = pair_carry_joined(forwarder->table, last, views, refs);
    for (size_t i = 0; i < 2; i++) {
        if (error == 0)
            settle_in(forwarder, ends[i], refs[i]);
        else
            lose(ends[i]);
    }
    if (error != 0)
        ends_part(forwarder, end);
}

/* Returns whether it can still be found by who comes. */
static bool carry_waiting(struct forwarder *forwarder, struct pair_table *last, struct end *end)
{
    struct pair_ref ref;
    if (pair_carry(forwarder->table, last, end->ref, &ref) != 0) {
        lose(end);
        return false;
    }
    settle_in(forwarder, end, ref);
    return true;
}

/* Those who were held in the slots of the last table. Who waits is looked at once all are there: it
 * may have met another of them. */
static void carry_all(
    struct forwarder *forwarder, struct pair_table *last, struct end **held, uint32_t count)
{
    size_t pairs = 0, waiting = 0, lost = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct end *end = held[i];
        if (end == NULL || end->fd < 0)
            continue;
        if (end->state == END_LEAVING) {
            lose(end);
        } else if (end->state == END_JOINED) {
            held[end->peer->ref.slot] = NULL;
            held[i] = NULL;
            carry_pair(forwarder, last, end);
            pairs++;
        } else if (carry_waiting(forwarder, last, end)) {
            waiting++;
        } else {
            lost++;
        }
    }
    log_warning(
        "the table %s was made anew: %zu pairs and %zu who wait go on in it, %zu are closed",
        pair_path(forwarder->table), pairs, waiting, lost);
    pair_set_forwarder(forwarder->table, HANDOFF_VERSION);
    for (uint32_t i = 0; i < count; i++) {
        struct end *end = held[i];
        if (end == NULL || end->fd < 0 || end->state == END_LEAVING)
            continue;
        if (pair_is_none(end->ref))
            ends_dismiss(forwarder, end, PAIR_LONELY, PAIR_NO_REASON);
        else
            ends_look(forwarder, end->ref);
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
    struct end **held = forwarder->slots;
    struct end **slots = NULL;
    if (pair_id(table) == pair_id(last) || pair_check(table) != 0 ||
        (slots = calloc(pair_capacity(table), sizeof(struct end *))) == NULL) {
        pair_close(table);
        return;
    }
    pair_succeed(table, last);
    forwarder->table = table;
    forwarder->slots = slots;
    forwarder->table_fault = 0;
    carry_all(forwarder, last, held, pair_capacity(last));
    pair_retire(last);
    free(held);
    if (last != forwarder->first_table)
        pair_close(last);
}
