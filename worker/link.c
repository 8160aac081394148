/* A worker's messages to the forwarder: see link.h. */
#include "worker/link.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    ADOPTION_TIME = 1000, /* milliseconds for the forwarder to use a table that it was given */
    ADOPTION_PAUSE = 1,   /* milliseconds between two looks whether it does */
    ANSWER_TIME = 1000,   /* milliseconds for the forwarder to answer a question */
    SEEK_PAUSE = 5,       /* milliseconds between two attempts to reach a forwarder */
};

int link_send(const struct worker *worker, const struct handoff *handoff, int fd, int64_t until)
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

void link_send_look(struct worker *worker, struct pair_ref ref)
{
    struct handoff handoff = {
        .kind = HANDOFF_LOOK, .ref = ref, .dismissed = PAIR_NONE, .table = pair_id(worker->table)};
    if (!pair_is_none(ref) && !worker->kept_waiting)
        worker->kept_waiting = handoff_send(worker->forwarder, &handoff, -1) == -ETIMEDOUT;
}

void link_record(struct worker *worker, struct usage_start start, enum pair_outcome outcome)
{
    struct handoff handoff = {.kind = HANDOFF_RECORD, .ref = PAIR_NONE, .dismissed = PAIR_NONE};
    if (!usage_wanted(&worker->options->usage) || outcome == PAIR_SERVED)
        return;
    handoff.record = usage_single(start, outcome);
    int error = worker->kept_waiting ? -ETIMEDOUT : link_send(worker, &handoff, -1, 0);
    worker->kept_waiting = error == -ETIMEDOUT;
    if (error != 0) {
        errno = -error;
        log_repeated_errno(LOG_WARNING, "cannot record a connection");
    }
}

void link_offer_table(const struct worker *worker)
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

bool link_reads(const struct worker *worker, uint16_t version)
{
    uint32_t known = pair_reads(worker->table);
    return known == 0 || known >= version;
}

bool link_answers(const struct worker *worker)
{
    struct handoff question = {.kind = HANDOFF_ASK, .ref = PAIR_NONE, .dismissed = PAIR_NONE};
    int64_t until = clock_now() + ANSWER_TIME;
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return false;
    int error = link_send(worker, &question, ends[1], until);
    close(ends[1]);
    struct pollfd answer = {.fd = ends[0], .events = POLLRDHUP};
    int64_t left = until - clock_now();
    bool answers = error == 0 && poll(&answer, 1, left > 0 ? (int)left : 0) > 0;
    close(ends[0]);
    return answers;
}

void link_log_silence(const struct worker *worker)
{
    log_repeated(LOG_WARNING,
        "the forwarder, process %d, does not answer: nobody meets until it goes on, or is killed "
        "and another takes its place",
        (int)pair_forwarder(worker->table));
}
