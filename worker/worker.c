/* The worker: sniffs, greets, meets and hands off one connection, against one deadline. It is
 * the only kind of process that reads what strangers say before they are paired, so it is
 * short-lived, sandboxed, and holds nothing but its connection. */
#include "worker/worker.h"

#include "base/clock.h"
#include "base/descriptors.h"
#include "base/log.h"
#include "base/process.h"
#include "base/sandbox.h"
#include "forward/launch.h"
#include "handoff.h"
#include "proto/greeting.h"
#include "proto/proxy.h"
#include "setup/user.h"
#include "worker/listen.h"
#include "worker/parting.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <poll.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

enum {
    ADOPTION_TIME = 1000, /* for a forwarder to take a table for its own: milliseconds */
    ADOPTION_PAUSE = 1,
    SEEK_TIME = 1000, /* for a forwarder to take a question: milliseconds */
    SEEK_PAUSE = 5,
    PATIENCE = 30, /* milliseconds for the rest of a greeting, before the porch waits for it */
};

/* ---- refusing -------------------------------------------------------------------- */

/* Tells a client why it is refused, in the protocol's words. */
static void say_farewell(
    const struct greeting *greeting, enum pair_outcome outcome, enum pair_reason reason)
{
    uint8_t speech[PROTOCOL_SPEECH_MAX];
    const struct codec *codec = codecs[greeting->codec];
    struct words words = greeting->refusal;
    struct budget_account account = {.held = 0};
    void *state = NULL;
    if (words.code == 0)
        protocols[greeting->protocol]->farewell(outcome, reason, &words);
    if (codec != NULL && (state = calloc(1, codec->state_size)) == NULL)
        return;
    if (codec == NULL || codec->open(state, NULL, 0, clock_now(), &account) == 0) {
        size_t size = protocol_speech(codec, state, &words, true, clock_now(), speech);
        greeting_say(greeting, speech, size);
    }
    if (codec != NULL)
        codec->close(state);
    free(state);
}

/* Has the forwarder look at a slot that this worker changed; should the message be lost, its
 * sweep finds the slot a little later. */
static void send_look(struct worker *worker, struct pair_ref ref)
{
    struct handoff handoff = {
        .kind = HANDOFF_LOOK, .ref = ref, .dismissed = PAIR_NONE, .table = pair_id(worker->table)};
    if (!pair_is_none(ref) && !worker->kept_waiting)
        worker->kept_waiting = handoff_send(worker->forwarder, &handoff, -1) == -ETIMEDOUT;
}

/* Sends one handoff. A forwarder that was replaced has a new socket under the same name. If there
 * is none, one is sought until `until` (milliseconds, CLOCK_MONOTONIC); 0: for no time. */
static int send_handoff(
    const struct worker *worker, const struct handoff *handoff, int fd, int64_t until)
{
    struct timespec pause = {0, SEEK_PAUSE * 1000000L};
    for (;;) {
        int error = handoff_send(worker->forwarder, handoff, fd);
        if (!handoff_is_lost(error))
            return error;
        error = handoff_reconnect(worker->forwarder, worker->runtime->socket);
        if (error == 0)
            error = handoff_send(worker->forwarder, handoff, fd);
        if (error == 0 || clock_now() >= until || (worker->seek != NULL && !worker->seek()))
            return error;
        nanosleep(&pause, NULL);
    }
}

/* Whether the forwarder, or one that is made at once, takes what is sent to it. */
static bool forwarder_answers(const struct worker *worker)
{
    struct handoff question = {.kind = HANDOFF_ASK, .ref = PAIR_NONE, .dismissed = PAIR_NONE};
    int64_t until = clock_now() + SEEK_TIME;
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return false;
    int error = send_handoff(worker, &question, ends[1], until);
    close(ends[1]);
    struct pollfd answer = {.fd = ends[0], .events = POLLRDHUP};
    int64_t left = until - clock_now();
    bool answers = error == 0 && poll(&answer, 1, left > 0 ? (int)left : 0) > 0;
    close(ends[0]);
    return answers;
}

void worker_log_silence(const struct worker *worker)
{
    log_repeated(LOG_WARNING,
        "the forwarder, process %d, does not answer: nobody meets until it goes on, or is killed "
        "and another takes its place",
        (int)pair_forwarder(worker->table));
}

/* A forwarder that stands still takes connections for as long as its socket has room, so it is
 * asked whether it does. One that is short of memory or descriptors has said so itself. */
static void notice_silence(const struct worker *worker)
{
    if (!pair_is_crammed(worker->table) && pair_is_adopted(worker->table) &&
        !forwarder_answers(worker))
        worker_log_silence(worker);
}

/* Whether newcomers are served: there is room for them, and a forwarder. */
static bool serves(const void *context)
{
    const struct worker *worker = context;
    return !pair_is_crammed(worker->table) && forwarder_answers(worker) &&
           pair_is_adopted(worker->table) && !pair_is_crammed(worker->table) &&
           pair_check(worker->table) == 0;
}

static void record_end(struct worker *worker, struct usage_start start, enum pair_outcome outcome)
{
    struct handoff handoff = {.kind = HANDOFF_RECORD, .ref = PAIR_NONE, .dismissed = PAIR_NONE};
    if (!usage_wanted(&worker->options->usage) || outcome == PAIR_SERVED)
        return;
    handoff.record = usage_single(start, outcome);
    int error = worker->kept_waiting ? -ETIMEDOUT : send_handoff(worker, &handoff, -1, 0);
    worker->kept_waiting = error == -ETIMEDOUT;
    if (error != 0) {
        errno = -error;
        log_repeated_errno(LOG_WARNING, "cannot record a connection");
    }
}

/* ---- one connection -------------------------------------------------------------- */

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
        log_repeated(LOG_ERR, "cannot hand a connection to the forwarder: as many are on their way "
                              "as a process of this user may have descriptors");
    else
        log_repeated_errno(LOG_ERR, "cannot hand a connection to the forwarder");
}

static enum pair_outcome refusal(enum pair_reason reason)
{
    return reason == PAIR_DUPLICATE ? PAIR_ERRORY : PAIR_LONELY;
}

/* Whether the forwarder is of this version or a later one. */
static bool reads(const struct worker *worker, uint16_t version)
{
    uint32_t known = pair_reads(worker->table);
    return known == 0 || known >= version;
}

/* Meets and hands off. PAIR_HAPPY: the connection is the forwarder's. */
static enum pair_outcome meet(struct worker *worker, const struct visit *visit,
    const struct pair_request *request, struct handoff *handoff, const struct greeting *greeting,
    enum pair_reason *reason)
{
    struct pair_ref ref = visit->ref;
    struct pair_meeting meeting;
    if (!reads(worker, handoff_needs(handoff))) {
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
        send_look(worker, meeting.dismissed);
        *reason = meeting.reason;
        return refusal(meeting.reason);
    }
    handoff->kind = HANDOFF_CONNECTION;
    handoff->table = pair_id(worker->table);
    handoff->terms = worker->terms;
    handoff->server = worker->server;
    handoff->since = visit->start.since;
    handoff->ref = ref;
    handoff->dismissed = meeting.dismissed;
    error = send_handoff(worker, handoff, greeting->fd, greeting->deadline);
    worker->kept_waiting = error == -ETIMEDOUT;
    if (error != 0) {
        send_look(worker, meeting.dismissed);
        log_no_handoff(error);
        return PAIR_FULL;
    }
    (void)pair_sent(worker->table, ref); /* stale: the forwarder is done with it already */
    return PAIR_HAPPY;
}

/* From the first byte to the handoff, or to what became of the connection instead: *known says
 * whether its protocol was recognised. */
static enum pair_outcome greet(struct worker *worker, struct greeting *greeting,
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
        outcome = meet(worker, visit, &request, &handoff, greeting, reason);
    sodium_memzero(&handoff, sizeof handoff);
    return outcome;
}

/* Reads what a trusted proxy says of a connection. */
static enum pair_outcome ask_proxy(const struct greeting *greeting, struct visit *visit)
{
    uint64_t proxy = listen_source(&visit->address, greeting->table);
    int error = proxy_read(greeting, &visit->address, &visit->is_proxy);
    if (error == -EPROTO)
        log_repeated(LOG_WARNING,
            "refused a connection from a trusted proxy: it does not begin with "
            "a good PROXY header");
    /* It named nobody, or itself. */
    if (error != 0 || listen_source(&visit->address, greeting->table) == proxy)
        visit->is_proxy = true;
    if (error == 0)
        return PAIR_HAPPY;
    return error == -EPROTO ? PAIR_ERRORY : PAIR_EMPTY;
}

/* Whose connection it is: the peer's, or who a trusted proxy says. */
static enum pair_outcome find_source(
    const struct worker *worker, const struct greeting *greeting, struct visit *visit)
{
    const struct options *options = worker->options;
    enum pair_outcome outcome = PAIR_HAPPY;
    if (options->proxies.count == 0 && options->limits.per_source == 0 && !log_debugging())
        return PAIR_HAPPY; /* nobody asks */
    if (listen_peer(greeting->fd, &visit->address) != 0) {
        visit->is_proxy = options->proxies.count > 0; /* a health check is reset so soon */
        return PAIR_EMPTY;
    }
    if (networks_have(&options->proxies, &visit->address))
        outcome = ask_proxy(greeting, visit);
    if (options->limits.per_source > 0)
        visit->source = listen_source(&visit->address, worker->table);
    return outcome;
}

/* Whether the forwarder reads what this worker writes; that it does not is said once. */
static bool is_understood(struct worker *worker)
{
    if (reads(worker, HANDOFF_NEEDS))
        return true;
    if (!worker->misunderstood)
        log_error("connections are refused: the forwarder that runs is of a version that cannot "
                  "take them over; restart it");
    worker->misunderstood = true;
    return false;
}

/* Makes room for a connection in the table, or says why there is none. */
static enum pair_outcome enter(struct worker *worker, struct visit *visit)
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

/* There is no room for a connection. Only a WebSocket's client can be told so; and who asks whether
 * there is room gets an answer. One of too many is heard as far as it has spoken already. */
static enum pair_outcome turn_away(
    struct greeting *greeting, enum pair_outcome outcome, bool closing)
{
    struct pair_request request = {.rule = PAIR_SIDES};
    struct handoff handoff = {.session_size = 0};
    greeting->full = true;
    greeting->deadline = clock_now() + (outcome == PAIR_SOURCE ? 0 : PARTING_TIME);
    const struct protocol *protocol = protocol_sniff(greeting);
    if ((protocol == protocols[PROTOCOL_WEB] || protocol == protocols[PROTOCOL_TLS]) &&
        protocol->greet(greeting, &request, &handoff) == PAIR_SERVED)
        return PAIR_SERVED;
    if (!closing)
        log_repeated(LOG_INFO, "refused a connection: %s",
            outcome == PAIR_SOURCE ? "its source has as many as one may have"
                                   : "there is no room for more");
    return outcome;
}

/* The one place where an address is logged. */
static void log_caller(
    const struct visit *visit, const struct greeting *greeting, enum pair_outcome outcome)
{
    const struct sockaddr_storage *address = &visit->address;
    char host[NI_MAXHOST] = "no address", port[NI_MAXSERV] = "0";
    if (!log_debugging())
        return;
    if (address->ss_family == AF_INET || address->ss_family == AF_INET6)
        (void)getnameinfo((const struct sockaddr *)address, sizeof *address, host, sizeof host,
            port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV); /* or they stay as they are */
    /* Not every proxy says the port. */
    bool has_port = strcmp(port, "0") != 0;
    log_debug("a connection from %s%s%s (%s): %s", host, has_port ? " port " : "",
        has_port ? port : "", protocols[greeting->protocol]->name,
        outcome == PAIR_HAPPY ? "handed over" : pair_outcome_name(outcome));
}

/* Whether the client was told in TLS what it broke: what it sent is unread then. */
static bool has_alerted(const struct greeting *greeting)
{
    return greeting->records != NULL && greeting->records->alert != 0 &&
           greeting->records->alert != RECORDS_NO_ALERT;
}

/* Tells a client that the forwarder has not got its connection, in the protocol's words if it is
 * `known`. */
static void say_refusal(
    struct greeting *greeting, enum pair_outcome outcome, enum pair_reason reason, bool known)
{
    if (outcome == PAIR_ERRORY && known)
        log_repeated(LOG_INFO, "refused a connection (%s): %s", protocols[greeting->protocol]->name,
            reason == PAIR_DUPLICATE ? "its like is here already" : "a bad handshake");
    if (known)
        say_farewell(greeting, outcome, reason);
    greeting_say_end(greeting);
}

/* ---- until more has come --------------------------------------------------------- */

/* Whose connection it is, for a share of the places or of the workers. */
static uint64_t crowd_of(const struct worker *worker, struct visit *visit, int fd)
{
    if (visit->crowd == 0 && visit->address.ss_family == AF_UNSPEC)
        (void)listen_peer(fd, &visit->address); /* the client is gone: its address is nobody's */
    if (visit->crowd == 0)
        visit->crowd = listen_source(&visit->address, worker->table);
    return visit->crowd;
}

static bool has_porch(const struct worker *worker)
{
    return worker->porch != NULL && !worker->closing &&
           atomic_load(worker->porch_pid) != PORCH_CLOSED;
}

/* Closes a connection so that the client reads what it was told. Most clients go at once; for
 * others the porch waits, if there is one. If it has no room they may miss it. */
static void part(struct worker *worker, struct visit *visit, int fd)
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

/* The greeting in progress, as it asks for a share of the workers. */
struct holder {
    const struct worker *worker;
    struct visit *visit;
    int fd;
};

static int hold(void *context)
{
    struct holder *holder = context;
    return holder->worker->hold(crowd_of(holder->worker, holder->visit, holder->fd));
}

/* The slot is another process's, or gone with the one that it was. */
static void pass_slot(
    const struct worker *worker, struct visit *visit, enum pair_place place, int32_t owner)
{
    if (!pair_is_none(visit->ref) &&
        pair_pass(worker->table, visit->ref, visit->start.opened, place, owner) != 0)
        visit->ref = PAIR_NONE;
}

/* Sends a connection to the porch, with its slot. While there is no porch, the server answers for
 * it, until the next porch is gone. */
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

/* What becomes of a connection that the forwarder has not got. */
static void end_visit(struct worker *worker, struct visit *visit, struct greeting *greeting,
    enum pair_outcome outcome, enum pair_reason reason, bool known)
{
    struct pair_ref stranded;
    if (!pair_is_none(visit->ref) && pair_leave(worker->table, visit->ref, &stranded) == 0)
        send_look(worker, stranded);
    /* A proxy that only asks whether somebody is there is no client. */
    if (!visit->is_proxy || outcome != PAIR_EMPTY) {
        pair_count(worker->table, greeting->protocol, outcome);
        record_end(worker, visit->start, outcome);
    }
    say_refusal(greeting, outcome, reason, known);
    if ((outcome == PAIR_EMPTY || outcome == PAIR_SOURCE) && !has_alerted(greeting))
        close(greeting->fd);
    else
        part(worker, visit, greeting->fd);
}

/* As far as it goes before more of the greeting has to come. */
static enum pair_outcome go_on(struct worker *worker, struct visit *visit,
    struct greeting *greeting, bool *known, enum pair_reason *reason)
{
    enum pair_outcome outcome = PAIR_HAPPY;
    if (!visit->known)
        outcome = find_source(worker, greeting, visit);
    if (outcome != PAIR_HAPPY)
        return outcome;
    if (!visit->known)
        visit->crowd = 0; /* it is whose the header said */
    visit->known = true;
    if (greeting->hearing != NULL)
        greeting->hearing->taken = false; /* a PROXY header is not needed again */
    if (pair_is_none(visit->ref))
        outcome = enter(worker, visit);
    return outcome == PAIR_HAPPY ? greet(worker, greeting, visit, known, reason)
                                 : turn_away(greeting, outcome, worker->closing);
}

static void proceed(struct worker *worker, struct visit *visit, int fd, int64_t patience)
{
    struct holder holder = {worker, visit, fd};
    struct hearing hearing = {.until = patience,
        .hold = hold,
        .context = &holder,
        .returned = visit->returns > 0,
        .resumes = visit->resumed};
    struct greeting greeting = {
        .fd = fd,
        .hearing = has_porch(worker) ? &hearing : NULL,
        .deadline = visit->deadline,
        .table = worker->table,
        .identity = worker->identity,
        .tls = worker->tls,
        .serves = serves,
        .context = worker,
        .protocol = visit->protocol,
    };
    enum pair_reason reason = PAIR_NO_REASON;
    bool known = false;
    worker->kept_waiting = false;
    enum pair_outcome outcome = go_on(worker, visit, &greeting, &known, &reason);
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
    proceed(worker, &visit, fd, now + (worker->patient ? PATIENCE : 0));
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
    proceed(worker, visit, fd, 0);
}

/* ---- opening and starting -------------------------------------------------------- */

/* A bad certificate takes nothing away from those who come without TLS. */
static int need_certificate(const struct worker *worker)
{
    int64_t until;
    if (worker->tls == NULL || tls_is_usable(worker->tls, &until))
        return 0;
    if (worker->options->certificate_needed)
        return -1;
    log_warning("TLS is not served until the certificate can be used; all without it are");
    return 0;
}

static void miss_identity(void)
{
    log_warning("Offset is not served without its identity; all others are");
}

/* Nor does a bad identity, from those who are not Offset's; but no other one takes its place. */
static int find_named_identity(struct worker *worker)
{
    if (ident_read(worker->options->idfile, &worker->identity) == 0)
        return 0;
    if (worker->options->identity_needed)
        return -1;
    miss_identity();
    return 0;
}

int worker_prepare(struct worker *worker, const struct options *options)
{
    *worker = (struct worker){.options = options, .forwarder = -1, .users_lock = -1};
    if (tls_load(options, &worker->tls) < 0 || need_certificate(worker) < 0)
        return -1;
    if (options->idfile != NULL)
        return find_named_identity(worker);
    worker->state_error = runtime_prepare_state(options);
    return 0;
}

static void find_identity(struct worker *worker)
{
    char path[PATH_MAX];
    const char *directory = worker->options->state_directory;
    if (worker->options->idfile != NULL || ident_default_path(directory, path, sizeof path) < 0)
        return;
    if (worker->state_error == 0) {
        if (ident_find_or_make(path, &worker->identity) < 0)
            miss_identity();
        return;
    }
    errno = -worker->state_error;
    log_error_errno("Offset is not served: cannot make the state directory %s", directory);
}

int worker_open(struct worker *worker, const struct options *options, const struct runtime *runtime)
{
    worker->options = options;
    worker->runtime = runtime;
    worker->terms = terms_of(options);
    find_identity(worker);
    if (runtime_open_table(options, runtime, false, &worker->table) < 0)
        return -1;
    worker->users_lock = runtime_lock(runtime->users_lock, true, true);
    if (worker->users_lock >= 0)
        return 0;
    errno = -worker->users_lock;
    log_error_errno("cannot lock %s", runtime->users_lock);
    worker_close(worker);
    return -1;
}

/* The forwarder has nothing of what this worker has read. */
static void be_forwarder(void *context)
{
    struct worker *worker = context;
    const struct options *options = worker->options;
    ident_free(worker->identity);
    worker_close(worker);
    log_sum_all(false);
    _exit(launch_detached(options));
}

/* Finds the forwarder, or starts one. */
static int connect_forwarder(struct worker *worker)
{
    int timeout = worker->options->handshake_timeout * 1000;
    worker->forwarder = handoff_connect(worker->runtime->socket, timeout);
    if (worker->forwarder < 0 && sandbox_check() < 0)
        return -1;
    if (worker->forwarder < 0)
        worker->forwarder = launch_on_demand(worker->runtime, be_forwarder, worker, timeout);
    if (worker->forwarder >= 0)
        return 0;
    errno = -worker->forwarder;
    log_error_errno("cannot reach a forwarder at %s", worker->runtime->socket);
    return -1;
}

void worker_offer_table(const struct worker *worker)
{
    struct handoff handoff = {.kind = HANDOFF_TABLE,
        .ref = PAIR_NONE,
        .dismissed = PAIR_NONE,
        .table = pair_id(worker->table)};
    struct timespec pause = {0, ADOPTION_PAUSE * 1000000L};
    if (pair_is_adopted(worker->table))
        return;
    int error = handoff_send(worker->forwarder, &handoff, pair_descriptor(worker->table));
    if (error != 0) {
        errno = -error;
        log_warning_errno("cannot give the table to the forwarder");
        return;
    }
    int64_t until = clock_now() + ADOPTION_TIME;
    while (!pair_is_adopted(worker->table) && clock_now() < until)
        nanosleep(&pause, NULL);
}

void worker_close(struct worker *worker)
{
    if (worker->forwarder >= 0)
        close(worker->forwarder);
    if (worker->users_lock >= 0)
        close(worker->users_lock);
    pair_close(worker->table);
    tls_close(worker->tls);
    *worker = (struct worker){.forwarder = -1, .users_lock = -1};
}

/* The one connection that this process was started for. */
static int find_connection(void)
{
    int count = sd_listen_fds(1);
    int fd = count > 0 ? SD_LISTEN_FDS_START : STDIN_FILENO;
    if (count > 1) {
        log_error("cannot serve %d sockets as one worker: use Accept=yes, or relay serve", count);
        return -1;
    }
    if (sd_is_socket(fd, AF_UNSPEC, SOCK_STREAM, 0) > 0)
        return fd;
    if (listen_is_listening(fd)) {
        log_error("cannot serve: %s is a socket that listens, and no connection; inetd is to say "
                  "nowait for relay worker, xinetd wait = no, and systemd Accept=yes; relay serve "
                  "takes such a socket",
            count > 0 ? "the socket passed" : "standard input");
        return -1;
    }
    log_error("cannot serve: %s is no connection; relay worker is started by systemd "
              "(Accept=yes), inetd or xinetd",
        count > 0 ? "the socket passed" : "standard input");
    return -1;
}

int worker_main(const struct options *options)
{
    struct runtime runtime;
    struct worker worker;
    log_sum_all(true);
    if (sd_listen_fds(0) > 0 && listen_refuse(options) < 0)
        return EXIT_USAGE;
    int fd = find_connection();
    if (fd < 0 || descriptors_raise() == 0)
        return EXIT_RUN_TIME;
    process_name("relay-worker", "worker", options->runtime_directory);
    if (runtime_prepare(options, &runtime) < 0)
        return EXIT_RUN_TIME;
    runtime_share_log(options); /* what is wrong with a file is said before root is given up */
    if (worker_prepare(&worker, options) < 0 || user_drop_root(options) < 0 ||
        worker_open(&worker, options, &runtime) < 0)
        return EXIT_RUN_TIME;
    int status = EXIT_RUN_TIME;
    listen_tune(fd, options);
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        log_error_errno("cannot serve a connection");
    else {
        /* Without a forwarder the client is told at least that it is not served. */
        worker.closing = connect_forwarder(&worker) < 0;
        if (!worker.closing)
            worker_offer_table(&worker);
        if (sandbox_enter(SANDBOX_WORKER, worker.forwarder) == 0) {
            worker_greet(&worker, fd);
            if (!worker.closing)
                notice_silence(&worker);
            status = worker.closing ? EXIT_RUN_TIME : 0;
        }
    }
    worker_close(&worker);
    return status;
}
