/* The worker: one connection from its first byte to its rendezvous key, and no further. */
#ifndef RELAY_WORKER_H
#define RELAY_WORKER_H

#include "ident.h"
#include "pair.h"
#include "proto/tls.h"
#include "setup/options.h"
#include "setup/runtime.h"
#include "setup/terms.h"
#include "worker/porch.h"

struct worker {
    const struct options *options;
    const struct runtime *runtime;
    struct pair_table *table;
    struct identity *identity; /* this relay's; NULL: it has none */
    struct tls *tls;           /* NULL: none */
    int state_error;    /* why the state directory could not be made: a negative errno, or 0 */
    int forwarder;      /* connected handoff socket */
    struct terms terms; /* on which connections are handed over */
    uint64_t server;    /* of which this is a worker: handoff.h */
    int users_lock;     /* while it is held, no forwarder retires */
    bool (*seek)(void); /* has a forwarder made, as none answers; false: none will be */
    bool closing;       /* takes no more connections: only says so */
    bool misunderstood; /* the forwarder cannot read our handoffs, and this was said */
    bool kept_waiting;  /* by the forwarder's socket, in vain: this visit does not wait again */

    const struct porch *porch;  /* where the rest of greetings is waited for; NULL: in the worker */
    _Atomic int32_t *porch_pid; /* who answers for those who stand there; PORCH_CLOSED */
    bool porch_used;            /* a connection was sent there, or was to be */
    bool patient;               /* others are idle: it may wait a moment for the rest itself */
    int (*hold)(uint64_t source); /* asks for a share of the workers, as in struct hearing */
};

enum {
    PORCH_CLOSED = -1, /* nobody is to be sent there any more */
};

/* What may take root: reads the certificate, and the identity if a file of it is named, or makes
 * the state directory that one is kept in. Logs, returns -1 on failure. */
int worker_prepare(struct worker *worker, const struct options *options);

/* After that: opens the table, finds or makes an identity if none was named (without one, only
 * Offset is not served), and keeps forwarders from retiring; which forwarder to use (the handoff
 * socket, owned by the worker from then on) is the caller's to set. Logs, returns -1 on
 * failure. */
int worker_open(
    struct worker *worker, const struct options *options, const struct runtime *runtime);
/* Once it has a forwarder: gives it the table, if it has not taken that for its own yet. The one
 * that it had before was lost. */
void worker_offer_table(const struct worker *worker);
/* Leaves the identity alone: a sandbox does not let it be freed. */
void worker_close(struct worker *worker);
/* Says that the forwarder does not take what is sent to it. */
void worker_log_silence(const struct worker *worker);

/* Takes one connection, which it owns and closes, as far as a worker does: to the forwarder,
 * or to its end. */
void worker_greet(struct worker *worker, int fd);
/* The same, for one that comes back from the porch. */
void worker_resume(struct worker *worker, struct visit *visit, int fd);

/* `relay worker`: the connection on standard input, or passed by systemd (Accept=yes). Returns
 * the exit status. */
int worker_main(const struct options *options);

#endif
