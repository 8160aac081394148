/* The worker: takes one connection at a time from its first byte to the handoff to the forwarder,
 * or to its end. */
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
    struct terms terms; /* for every connection that is handed over */
    uint64_t server;    /* number of the server that this worker belongs to: handoff.h */
    int users_lock;     /* while this lock is held, no forwarder retires */
    bool (*seek)(void); /* has a forwarder started, as none answers; false: none will be */
    bool closing;       /* the server stops: clients are only told so */
    bool misunderstood; /* the forwarder cannot read our handoffs, and this was logged */
    bool kept_waiting;  /* the forwarder's socket is full: this visit does not wait for it again */

    const struct porch *porch;  /* waits for the rest of greetings; NULL: the worker waits itself */
    _Atomic int32_t *porch_pid; /* the porch's process id; 0: it is being replaced; PORCH_CLOSED */
    bool porch_used;            /* this visit was sent to the porch, or should have been */
    bool patient; /* other workers are idle: this one may wait a moment for the rest itself */
    int (*hold)(uint64_t source); /* asks whether the visit may hold this worker: struct hearing */
};

enum {
    PORCH_CLOSED = -1, /* no connection is sent there any more */
};

/* The part of opening that may need root: reads the certificate; reads the identity, if --idfile
 * names one, else makes the state directory that the identity is kept in. 0, or -1 (logged). */
int worker_prepare(struct worker *worker, const struct options *options);

/* The rest of opening: opens the table; finds or makes an identity, if --idfile names none (without
 * an identity Offset is not served, other protocols are); keeps forwarders from retiring. The
 * caller sets worker->forwarder, which is the worker's from then on. 0, or -1 (logged). */
int worker_open(
    struct worker *worker, const struct options *options, const struct runtime *runtime);
/* Does not free the identity, as the sandbox does not allow that. */
void worker_close(struct worker *worker);

/* Serves a new connection, which it owns and closes: to the handoff, the porch, or its end. */
void worker_greet(struct worker *worker, int fd);
/* The same, for a connection that comes back from the porch. */
void worker_resume(struct worker *worker, struct visit *visit, int fd);

/* `relay worker`: serves the connection on standard input, or the one that systemd passes
 * (Accept=yes). Returns the exit status. */
int worker_main(const struct options *options);

#endif
