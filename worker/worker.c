/* The worker: sniffs, greets, meets and hands over one connection, with one deadline for all of it.
 * No other process reads what strangers say before they are paired. So a worker is short-lived and
 * sandboxed, and holds nothing but its connection. */
#include "worker/worker.h"

#include "base/clock.h"
#include "base/log.h"
#include "proto/greeting.h"
#include "proto/proxy.h"
#include "worker/link.h"
#include "worker/listen.h"
#include "worker/parting.h"
#include "worker/refuse.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <sodium.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    PATIENCE = 30, /* milliseconds for the rest of a greeting, before the porch waits for it */
};

/* ---- whose connection it is ------------------------------------------------------ */

static enum pair_outcome read_proxy_header(const struct greeting *greeting, struct visit *visit)
{
    uint64_t proxy = listen_source(&visit->address, greeting->table);
    int error = proxy_read(greeting, &visit->address, &visit->is_proxy);
    if (error == -EPROTO)
        log_repeated(LOG_WARNING,
            "refused a connection from a trusted proxy: it does not begin with "
            "a good PROXY header");
    /* The header names no client, or the proxy itself. */
    if (error != 0 || listen_source(&visit->address, greeting->table) == proxy)
        visit->is_proxy = true;
    if (error == 0)
        return PAIR_HAPPY;
    return error == -EPROTO ? PAIR_ERRORY : PAIR_EMPTY;
}

/* Finds the client's address: the peer's, or the address in a trusted proxy's header. */
static enum pair_outcome find_source(
    const struct worker *worker, const struct greeting *greeting, struct visit *visit)
{
    const struct options *options = worker->options;
    enum pair_outcome outcome = PAIR_HAPPY;
    if (options->proxies.count == 0 && options->limits.per_source == 0 && !log_debugging())
        return PAIR_HAPPY; /* no option needs the address */
    if (listen_peer(greeting->fd, &visit->address) != 0) {
        visit->is_proxy = options->proxies.count > 0; /* a proxy's health check resets so soon */
        return PAIR_EMPTY;
    }
    if (networks_contain(&options->proxies, &visit->address))
        outcome = read_proxy_header(greeting, visit);
    if (options->limits.per_source > 0)
        visit->source = listen_source(&visit->address, worker->table);
    return outcome;
}

/* The only function that logs an address. */
static void log_caller(
    const struct visit *visit, const struct greeting *greeting, enum pair_outcome outcome)
{
    const struct sockaddr_storage *address = &visit->address;
    char host[NI_MAXHOST] = "no address", port[NI_MAXSERV] = "0";
    if (!log_debugging())
        return;
    if (address->ss_family == AF_INET || address->ss_family == AF_INET6)
        (void)getnameinfo((const struct sockaddr *)address, sizeof *address, host, sizeof host,
            port, sizeof port,
            NI_NUMERICHOST | NI_NUMERICSERV); /* on failure they stay as they are */
    bool has_port = strcmp(port, "0") != 0;   /* some proxies do not say the port */
    log_debug("a connection from %s%s%s (%s): %s", host, has_port ? " port " : "",
        has_port ? port : "", protocols[greeting->protocol]->name,
        outcome == PAIR_HAPPY ? "handed over" : pair_outcome_name(outcome));
}

/* ---- its slot, its partner, the forwarder ---------------------------------------- */

static void log_no_entry(int error)
{
    if (error == -ENOMEM)
        log_repeated(LOG_ERR, "refused a connection: the table's file system has no space left");
    else if (error == -EIDRM)
        log_repeated(LOG_ERR, "refused a connection: the table was removed, replaced or damaged");
    else
        log_repeated(LOG_ERR, "refused a connection: cannot use the table: %s", strerror(-error));
}

static void log_no_handoff(int error)
{
    errno = -error;
    if (error == -ETOOMANYREFS)
        log_repeated(LOG_ERR, "cannot hand a connection to the forwarder: more connections are "
                              "on their way than a process of this user may have descriptors");
    else
        log_repeated_errno(LOG_ERR, "cannot hand a connection to the forwarder");
}

/* Whether the forwarder understands this worker's handoffs. If not, logs it once. */
static bool is_understood(struct worker *worker)
{
    if (link_reads(worker, HANDOFF_NEEDS))
        return true;
    if (!worker->misunderstood)
        log_error("connections are refused: the forwarder that runs is of a version that cannot "
                  "take them over; restart it");
    worker->misunderstood = true;
    return false;
}

/* Takes a slot in the table. PAIR_HAPPY, or why there is none. */
static enum pair_outcome enter_table(struct worker *worker, struct visit *visit)
{
    if (worker->closing || !is_understood(worker))
        return PAIR_FULL;
    int error = pair_enter(worker->table, &worker->options->limits, visit->source,
        visit->start.opened, visit->deadline, &visit->ref);
    if (error == 0)
        return PAIR_HAPPY;
    visit->ref = PAIR_NONE;
    if (error == -EUSERS)
        return PAIR_SOURCE;
    if (error != -ENOSPC)
        log_no_entry(error);
    return PAIR_FULL;
}

static enum pair_outcome outcome_of_refusal(enum pair_reason reason)
{
    return reason == PAIR_DUPLICATE ? PAIR_ERRORY : PAIR_LONELY;
}

/* Meets the partner, or waits for it; the forwarder gets the connection in either case, if the
 * result is PAIR_HAPPY. */
static enum pair_outcome meet_and_hand_over(struct worker *worker, const struct visit *visit,
    const struct pair_request *request, struct handoff *handoff, const struct greeting *greeting,
    enum pair_reason *reason)
{
    struct pair_ref ref = visit->ref;
    struct pair_meeting meeting;
    if (!link_reads(worker, handoff_needs(handoff))) {
        log_repeated(LOG_ERR, "refused a connection: the forwarder that runs is of a version that "
                              "cannot take it over; restart it");
        return PAIR_FULL;
    }
    int error = pair_meet(worker->table, ref, request, &meeting);
    if (error != 0) {
        log_no_entry(error);
        return PAIR_FULL;
    }
    if (meeting.result == PAIR_REFUSED) {
        link_send_look(worker, meeting.dismissed);
        *reason = meeting.reason;
        return outcome_of_refusal(meeting.reason);
    }
    handoff->kind = HANDOFF_CONNECTION;
    handoff->table = pair_id(worker->table);
    handoff->terms = worker->terms;
    handoff->server = worker->server;
    handoff->since = visit->start.since;
    handoff->ref = ref;
    handoff->dismissed = meeting.dismissed;
    error = link_send(worker, handoff, greeting->fd, greeting->deadline);
    worker->kept_waiting = error == -ETIMEDOUT;
    if (error != 0) {
        link_send_look(worker, meeting.dismissed);
        log_no_handoff(error);
        return PAIR_FULL;
    }
    (void)pair_sent(worker->table, ref); /* fails if the forwarder has freed the slot by now */
    return PAIR_HAPPY;
}

/* From the first byte to the handoff. Returns what became of the connection; *known: whether its
 * protocol was recognised. */
static enum pair_outcome greet_client(struct worker *worker, struct greeting *greeting,
    const struct visit *visit, bool *known, enum pair_reason *reason)
{
    struct pair_request request = {.rule = PAIR_SIDES};
    struct handoff handoff = {.session_size = 0};
    const struct protocol *protocol =
        visit->resumed ? protocols[greeting->protocol] : protocol_sniff(greeting);
    *known = protocol != NULL;
    if (!*known)
        return PAIR_EMPTY;
    enum pair_outcome outcome = visit->resumed ? protocol->resume(greeting, &request, &handoff)
                                               : protocol->greet(greeting, &request, &handoff);
    if (outcome == PAIR_HAPPY)
        outcome = meet_and_hand_over(worker, visit, &request, &handoff, greeting, reason);
    sodium_memzero(&handoff, sizeof handoff);
    return outcome;
}

/* ---- the porch ------------------------------------------------------------------- */

/* The source whose share of the porch and of the workers the connection takes from. */
static uint64_t crowd_of(const struct worker *worker, struct visit *visit, int fd)
{
    if (visit->crowd == 0 && visit->address.ss_family == AF_UNSPEC)
        (void)listen_peer(
            fd, &visit->address); /* fails if the client has gone; then the source is 0 */
    if (visit->crowd == 0)
        visit->crowd = listen_source(&visit->address, worker->table);
    return visit->crowd;
}

static bool has_porch(const struct worker *worker)
{
    return worker->porch != NULL && !worker->closing &&
           atomic_load(worker->porch_pid) != PORCH_CLOSED;
}

/* Closes a connection so that the client reads why it was refused: parting.h. Most clients close at
 * once; the porch, if there is one, waits for the others. If the porch has no room, the client may
 * not get to read it. */
static void close_gently(struct worker *worker, struct visit *visit, int fd)
{
    struct pollfd entry = {.fd = fd, .events = POLLIN};
    bool porch = has_porch(worker);
    int64_t left = !porch ? PARTING_TIME : worker->patient ? PATIENCE : 0;
    int64_t until = clock_now() + left;
    bool there = shutdown(fd, SHUT_WR) == 0 && parting_drop(fd, &visit->dropped);
    for (; there && left > 0; left = until - clock_now()) {
        if (poll(&entry, 1, (int)left) > 0)
            there = parting_drop(fd, &visit->dropped);
    }
    if (there && porch) {
        visit->crowd = crowd_of(worker, visit, fd);
        visit->parting = true;
        worker->porch_used = true;
        (void)porch_enter(worker->porch, visit, fd);
    }
    close(fd);
}

/* A greeting in progress: the context of its hearing. */
struct held_greeting {
    const struct worker *worker;
    struct visit *visit;
    int fd;
};

static int hold_worker(void *context)
{
    struct held_greeting *held = context;
    return held->worker->hold(crowd_of(held->worker, held->visit, held->fd));
}

/* Makes a process the owner of the visit's slot. If the last owner has died, the slot may have gone
 * with it. */
static void pass_slot(
    const struct worker *worker, struct visit *visit, enum pair_place place, int32_t owner)
{
    if (!pair_is_none(visit->ref) &&
        pair_set_owner(worker->table, visit->ref, visit->start.opened, place, owner) != 0)
        visit->ref = PAIR_NONE;
}

/* Sends a connection to the porch, with its slot. While the porch is being replaced, the parent
 * owns the slot; it is freed with those of the next porch, when that ends. */
static bool send_to_porch(
    struct worker *worker, struct visit *visit, const struct greeting *greeting)
{
    const struct hearing *hearing = greeting->hearing;
    int32_t porch = atomic_load(worker->porch_pid);
    visit->crowd = crowd_of(worker, visit, greeting->fd);
    visit->protocol = greeting->protocol;
    visit->resumed = hearing->resumes;
    visit->enough = hearing->enough;
    visit->crowded = hearing->crowded;
    pass_slot(worker, visit, PAIR_ON_PORCH, porch > 0 ? porch : getppid());
    int error = porch_enter(worker->porch, visit, greeting->fd);
    worker->porch_used = true;
    if (error == 0)
        return true;
    pass_slot(worker, visit, PAIR_WITH_WORKER, getpid());
    log_repeated(
        LOG_WARNING, "closed a connection: the porch does not take it: %s", strerror(-error));
    return false;
}

/* ---- one connection, new or from the porch --------------------------------------- */

/* Whether a new client would be served: there is room, and a forwarder. */
static bool has_room(const void *context)
{
    const struct worker *worker = context;
    return !pair_forwarder_is_full(worker->table) && link_answers(worker) &&
           pair_is_adopted(worker->table) && !pair_forwarder_is_full(worker->table) &&
           pair_check(worker->table) == 0;
}

/* Ends a connection that was not handed over: frees its slot, counts it, tells the client. */
static void end_visit(struct worker *worker, struct visit *visit, struct greeting *greeting,
    enum pair_outcome outcome, enum pair_reason reason, bool known)
{
    struct pair_ref stranded;
    if (!pair_is_none(visit->ref) && pair_leave(worker->table, visit->ref, &stranded) == 0)
        link_send_look(worker, stranded);
    /* A proxy's health check is no client. */
    if (!visit->is_proxy || outcome != PAIR_EMPTY) {
        pair_count(worker->table, greeting->protocol, outcome);
        link_record(worker, visit->start, outcome);
    }
    refuse_client(greeting, outcome, reason, known);
    if ((outcome == PAIR_EMPTY || outcome == PAIR_SOURCE) && !refuse_in_tls(greeting))
        close(greeting->fd);
    else
        close_gently(worker, visit, greeting->fd);
}

/* Does as much as can be done with what has come of the greeting. */
static enum pair_outcome advance(struct worker *worker, struct visit *visit,
    struct greeting *greeting, bool *known, enum pair_reason *reason)
{
    enum pair_outcome outcome = PAIR_HAPPY;
    if (!visit->known)
        outcome = find_source(worker, greeting, visit);
    if (outcome != PAIR_HAPPY)
        return outcome;
    if (!visit->known)
        visit->crowd = 0; /* from now on the source that the header names */
    visit->known = true;
    if (greeting->hearing != NULL)
        greeting->hearing->taken = false; /* the PROXY header is not read again */
    if (pair_is_none(visit->ref))
        outcome = enter_table(worker, visit);
    return outcome == PAIR_HAPPY ? greet_client(worker, greeting, visit, known, reason)
                                 : refuse_newcomer(greeting, outcome, worker->closing);
}

static void serve_visit(struct worker *worker, struct visit *visit, int fd, int64_t patience)
{
    struct held_greeting held = {worker, visit, fd};
    struct hearing hearing = {.until = patience,
        .hold = hold_worker,
        .context = &held,
        .returned = visit->returns > 0,
        .resumes = visit->resumed};
    struct greeting greeting = {
        .fd = fd,
        .hearing = has_porch(worker) ? &hearing : NULL,
        .deadline = visit->deadline,
        .table = worker->table,
        .identity = worker->identity,
        .tls = worker->tls,
        .serves = has_room,
        .context = worker,
        .protocol = visit->protocol,
    };
    enum pair_reason reason = PAIR_NO_REASON;
    bool known = false;
    worker->kept_waiting = false;
    enum pair_outcome outcome = advance(worker, visit, &greeting, &known, &reason);
    bool waits =
        outcome == PAIR_EMPTY && hearing.given_up && send_to_porch(worker, visit, &greeting);
    if (!waits)
        log_caller(visit, &greeting, outcome);
    if (waits || outcome == PAIR_HAPPY)
        close(fd);
    else
        end_visit(worker, visit, &greeting, outcome, reason, known);
    if (greeting.records != NULL)
        records_wipe(greeting.records);
}

void worker_greet(struct worker *worker, int fd)
{
    int64_t now = clock_now();
    struct visit visit = {
        .ref = PAIR_NONE,
        .start = usage_start_now(),
        .deadline = now + (int64_t)worker->options->handshake_timeout * 1000,
        .protocol = PROTOCOL_UNKNOWN, /* until it is recognised */
    };
    serve_visit(worker, &visit, fd, now + (worker->patient ? PATIENCE : 0));
}

void worker_resume(struct worker *worker, struct visit *visit, int fd)
{
    if (visit->protocol >= PROTOCOL_COUNT)
        visit->protocol = PROTOCOL_UNKNOWN;
    if (protocols[visit->protocol]->resume == NULL)
        visit->resumed = false;
    if (worker->closing)
        visit->deadline = 0;
    pass_slot(worker, visit, PAIR_WITH_WORKER, getpid());
    serve_visit(worker, visit, fd, 0);
}
