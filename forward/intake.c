/* Handoffs from workers and servers, which are taken while there is room for more connections. */
#include "forward/intake.h"

#include "base/log.h"
#include "forward/carry.h"
#include "forward/connections.h"
#include "forward/depart.h"
#include "forward/forward.h"
#include "handoff.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    HANDOFFS_AT_ONCE = 64,
    DESCRIPTORS_KEPT = 32,   /* for everything that is not a connection */
    NAME_LOOK = 2000,        /* milliseconds between two looks at whether the socket has its name */
    NEWCOMER_SIZE = 1 << 16, /* bytes: more than one more connection takes */
};

/* ---- room ------------------------------------------------------------------------ */

/* The limit may be changed while this process runs. */
static void look_at_limit(struct forwarder *forwarder)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        log_repeated_errno(LOG_ERR, "cannot learn the limit on descriptors");
    else
        forwarder->descriptors_max = (size_t)limit.rlim_cur;
}

static bool short_of_descriptors(const struct forwarder *forwarder)
{
    size_t used = forwarder->held + 2 * forwarder->transfer.pipes + DESCRIPTORS_KEPT;
    return used >= forwarder->descriptors_max;
}

static bool has_memory(void)
{
    void *volatile memory = malloc(NEWCOMER_SIZE); /* else a compiler would leave the call out */
    bool has = memory != NULL;
    free(memory);
    return has;
}

void intake_fall_short(struct forwarder *forwarder)
{
    forwarder->short_until = forwarder->transfer.now + INTAKE_SHORTAGE;
}

void intake_look_at_shortage(struct forwarder *forwarder)
{
    if (!forwarder->listening)
        look_at_limit(forwarder);
    if (forwarder->short_until == 0 || forwarder->transfer.now < forwarder->short_until)
        return;
    if (has_memory())
        forwarder->short_until = 0;
    else
        intake_fall_short(forwarder);
}

bool intake_is_short(const struct forwarder *forwarder)
{
    return forwarder->short_until != 0 || short_of_descriptors(forwarder);
}

static void log_shortage(const struct forwarder *forwarder)
{
    if (short_of_descriptors(forwarder))
        log_repeated(LOG_WARNING, "no more connections are taken: %zu descriptors are in use",
            forwarder->descriptors_max);
    else
        log_repeated(LOG_WARNING,
            "no more connections are taken: the last one found no memory, or no descriptor");
}

/* While no connection can be taken, handoffs wait in the socket. */
void intake_listen(struct forwarder *forwarder, bool wanted)
{
    struct epoll_event event = {.events = wanted ? EPOLLIN : 0, .data.ptr = NULL};
    if (forwarder->listening == wanted)
        return;
    if (epoll_ctl(forwarder->epoll, EPOLL_CTL_MOD, forwarder->socket, &event) < 0 ||
        (forwarder->renewed >= 0 &&
            epoll_ctl(forwarder->epoll, EPOLL_CTL_MOD, forwarder->renewed, &event) < 0))
        log_repeated_errno(LOG_ERR, "cannot wait for handoffs");
    else
        forwarder->listening = wanted;
    pair_set_forwarder_full(forwarder->table, !wanted && !forwarder->stopping);
    if (!wanted && !forwarder->stopping)
        log_shortage(forwarder);
}

/* ---- handoffs -------------------------------------------------------------------- */

/* The slot of a handoff is in another table than this forwarder's. */
static void refuse_foreign(struct forwarder *forwarder, int fd)
{
    if (fd >= 0) {
        log_repeated(LOG_WARNING, "closed a connection: its worker has another table");
        close(fd);
    }
    carry_check(forwarder);
}

static void take_connection(struct forwarder *forwarder, const struct handoff *handoff, int fd)
{
    forwarder_heed_terms(forwarder, &handoff->terms);
    connections_take(forwarder, handoff, fd);
}

/* Whether the slots that a handoff names are in this forwarder's table. */
static bool is_ours(const struct forwarder *forwarder, const struct handoff *handoff)
{
    return handoff->table == 0 || handoff->table == pair_id(forwarder->table);
}

static void forget_secrets(struct handoff *handoff)
{
    sodium_memzero(handoff->session, sizeof handoff->session);
    sodium_memzero(&handoff->records, sizeof handoff->records);
}

/* A handoff that cannot be taken: its slot is freed. */
static void refuse_handoff(struct forwarder *forwarder, struct handoff *handoff, int error)
{
    if (error == -EMFILE) {
        log_repeated(LOG_ERR, "cannot take a connection: this process is short of descriptors");
        intake_fall_short(forwarder);
    } else if (error == -EPROTO) {
        log_repeated(LOG_ERR,
            "cannot take a connection: its worker is of a newer version; restart the forwarder");
    } else {
        errno = -error;
        log_repeated_errno(LOG_WARNING, "cannot use a handoff");
    }
    if (!pair_is_none(handoff->ref) && is_ours(forwarder, handoff))
        connections_take(forwarder, handoff, -1);
    forget_secrets(handoff);
}

/* A server stops: its connections end with it, unless the forwarder is to outlive servers. */
static void see_off(struct forwarder *forwarder, uint64_t server, int fd)
{
    const struct forward_setup *setup = forwarder->setup;
    if (setup->forsaken == NULL) {
        close(fd);
        return;
    }
    forwarder->forsaken = setup->forsaken(setup->context);
    depart(forwarder, server, fd, !forwarder->forsaken);
}

static void take_handoff(struct forwarder *forwarder, struct handoff *handoff, int fd)
{
    bool ours = is_ours(forwarder, handoff);
    if (handoff->kind == HANDOFF_TABLE)
        carry_over(forwarder, fd);
    else if (handoff->kind == HANDOFF_LEAVE)
        see_off(forwarder, handoff->server, fd);
    else if (handoff->kind == HANDOFF_RECORD)
        connections_record(forwarder, &handoff->record);
    else if (handoff->kind == HANDOFF_ASK)
        close(fd);
    else if (!ours)
        refuse_foreign(forwarder, fd);
    else if (handoff->kind == HANDOFF_CONNECTION)
        take_connection(forwarder, handoff, fd);
    else
        connections_look(forwarder, handoff->ref);
    if (ours && !pair_is_none(handoff->dismissed))
        connections_look(forwarder, handoff->dismissed);
    forget_secrets(handoff);
}

/* Returns whether the socket is empty. */
static bool take_handoffs_from(struct forwarder *forwarder, int socket)
{
    struct handoff handoff;
    int fd;
    look_at_limit(forwarder);
    for (int i = 0; i < HANDOFFS_AT_ONCE && !intake_is_short(forwarder); i++) {
        int error = handoff_receive(socket, &handoff, &fd);
        if (error == -EAGAIN || error == -EINTR)
            return error == -EAGAIN;
        if (error == 0)
            take_handoff(forwarder, &handoff, fd);
        else
            refuse_handoff(forwarder, &handoff, error);
    }
    return false;
}

bool intake_take(struct forwarder *forwarder)
{
    bool empty = take_handoffs_from(forwarder, forwarder->socket);
    if (forwarder->renewed >= 0)
        empty = take_handoffs_from(forwarder, forwarder->renewed) && empty;
    return empty;
}

bool intake_is_over(struct forwarder *forwarder)
{
    return forwarder->transfer.now - forwarder->attentive_since > PAIR_ARRIVAL_TIME &&
           intake_take(forwarder);
}

/* ---- the socket's name ----------------------------------------------------------- */

/* Whoever still sends to the socket gets an error; all that was sent before is taken here. */
void intake_close_renewed(struct forwarder *forwarder)
{
    if (forwarder->renewed < 0)
        return;
    (void)shutdown(forwarder->renewed, SHUT_RD); /* does not fail for a bound socket */
    while (!take_handoffs_from(forwarder, forwarder->renewed) && !intake_is_short(forwarder))
        continue;
    close(forwarder->renewed);
    forwarder->renewed = -1;
}

/* Workers find the socket by its name. */
void intake_look_at_name(struct forwarder *forwarder)
{
    const struct forward_setup *setup = forwarder->setup;
    struct epoll_event event = {.events = forwarder->listening ? EPOLLIN : 0, .data.ptr = NULL};
    if (setup->renew == NULL || forwarder->transfer.now < forwarder->next_look)
        return;
    forwarder->next_look = forwarder->transfer.now + NAME_LOOK;
    int socket = setup->renew(setup->context);
    if (socket < 0)
        return;
    intake_close_renewed(forwarder);
    forwarder->renewed = socket;
    if (epoll_ctl(forwarder->epoll, EPOLL_CTL_ADD, socket, &event) < 0)
        log_repeated_errno(LOG_ERR, "cannot wait for handoffs");
}
