/* The forwarder's state, which the files of this folder share and no other sees, and its loop
 * (forward.c). */
#ifndef RELAY_FORWARDER_H
#define RELAY_FORWARDER_H

#include "codec/codec.h"
#include "forward/connection.h"
#include "forward/deadline.h"
#include "forward/forward.h"
#include "forward/transfer.h"
#include "handoff.h"
#include "pair.h"
#include "setup/options.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FORWARDER_JITTERS = 4, /* lengths of silence, for connections that would ask all at once */
    FORWARDER_LEAVE_TIME = 5000, /* milliseconds for a client to read why it is closed */
};

struct lobby;

struct forwarder {
    struct pair_table *table;
    struct pair_table *first_table; /* which is not closed here */
    struct lobby *lobby;
    struct transfer transfer;
    struct connection **slots; /* by slot: who is held */
    struct connection *work;   /* ends that have more to do right now */
    struct connection *dead;   /* closed, but this round's events may name them */
    size_t ends;
    size_t descriptors_max;
    struct deadline_list waiting[PAIR_PROTOCOLS_MAX];
    struct deadline_list arriving, lingering, leaving, watching, resting, delivering;
    struct deadline_list departing; /* servers */
    struct deadline_list deaf;
    struct deadline_list quiet[CODEC_KINDS], silent[CODEC_KINDS][FORWARDER_JITTERS];
    int epoll;
    int socket;  /* handoffs come from here, */
    int renewed; /* and from the one that has its name now; -1: itself */
    int recorder;
    bool listening;          /* to the socket: not while newcomers cannot be taken, */
    int64_t short_until;     /* as one was not, at least until then; 0: there is no such one */
    bool stopping;           /* who is connected is told so */
    bool forsaken;           /* the last server that uses it is gone */
    bool behind;             /* this process stood still, and has not yet seen all that has come */
    int64_t attentive_since; /* since when it has been taking handoffs as they came */
    int64_t last_wait;       /* for events: nanoseconds */
    uint64_t moved_before;   /* this round: bytes */
    unsigned int rounds;     /* that began with events */
    struct terms terms;      /* that hold, */
    int64_t next_terms;      /* when others may take their place, */
    uint64_t own_records;    /* and where the recorder was started to write */
    bool recorder_lost;      /* it was killed with who keeps it */
    bool outdated; /* another forwarder would record otherwise, and takes over once it can */
    int64_t next_tick;
    int64_t next_look;  /* at its name */
    int64_t next_log;   /* when to say what the log has summed up */
    int64_t idle_since; /* -1: there is work */
    int table_fault;    /* pair_check() of the table, as it was said last */
    unsigned int sweeps;
    const struct forward_setup *setup;
};

/* Makes a forwarder. 0 or a negative errno: forwarder_close() is to be called in any case. */
int forwarder_open(struct forwarder *forwarder, const struct forward_setup *setup);
/* Waits for events, `timeout` milliseconds at most (-1: for ever) with these signals blocked, and
 * does what there is to do then. */
void forwarder_round(struct forwarder *forwarder, const sigset_t *while_waiting, int timeout);
/* Follows the options of whoever was started last, as its handoffs give them. */
void forwarder_heed_terms(struct forwarder *forwarder, const struct terms *terms);
/* Closes the connections that are leaving, and frees the forwarder: all others have been dismissed
 * before. */
void forwarder_close(struct forwarder *forwarder);

#endif
