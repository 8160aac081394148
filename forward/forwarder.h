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
    FORWARDER_JITTERS = 4, /* lengths of silence, so that connections do not all ping at once */
    FORWARDER_LEAVE_TIME = 5000, /* milliseconds for a client to read its farewell */
};

struct lobby;

struct forwarder {
    struct pair_table *table;
    struct pair_table *first_table; /* the caller's, which is not closed here */
    struct lobby *lobby;
    struct transfer transfer;
    struct connection **slots; /* by slot; NULL: none is held */
    struct connection *work;   /* connections that have more to do right now */
    struct connection *dead;   /* closed, but this round's events may point to them */
    size_t held;               /* connections, with those that are leaving */
    size_t descriptors_max;
    struct deadline_list waiting[PAIR_PROTOCOLS_MAX];
    struct deadline_list arriving, lingering, leaving, watching, resting, delivering;
    struct deadline_list departing; /* of servers: depart.c */
    struct deadline_list deaf;
    struct deadline_list quiet[CODEC_KINDS], silent[CODEC_KINDS][FORWARDER_JITTERS];
    int epoll;
    int socket;              /* of handoffs */
    int renewed;             /* the socket that has its name now; -1: it still has it */
    int recorder;            /* usage_send(); -1: none */
    bool listening;          /* epoll reports handoffs: not while there is no room */
    int64_t short_until;     /* a connection was not taken for lack of room; 0: none was */
    bool stopping;           /* all connections are being ended */
    bool forsaken;           /* the last server that uses this forwarder is gone */
    int64_t behind_until;    /* this process stood still, and old events may wait; 0: none do */
    int64_t attentive_since; /* from then on, handoffs were taken as they came */
    int64_t last_wait;       /* nanoseconds that the last wait for events took */
    uint64_t moved_before;   /* transfer.moved when this round began */
    unsigned int rounds;     /* that began with events */
    struct terms terms;      /* the options that are followed now */
    int64_t next_terms;      /* when they may change again */
    uint64_t own_records; /* terms.records of the recorder that this forwarder was started with */
    bool recorder_lost;   /* the recorder was killed */
    bool outdated;        /* another forwarder is to take over, as this one cannot record */
    int64_t next_tick;
    int64_t next_look;  /* at the socket's name */
    int64_t next_log;   /* when to log what was summed up */
    int64_t idle_since; /* -1: there is work */
    int table_fault;    /* pair_check() of the table, as it was logged last */
    unsigned int sweeps;
    const struct forward_setup *setup;
};

/* Makes a forwarder. 0 or a negative errno: forwarder_close() is to be called in any case. */
int forwarder_open(struct forwarder *forwarder, const struct forward_setup *setup);
/* Waits for events, `timeout` milliseconds at most (-1: for ever) with these signals blocked, and
 * does what there is to do then. */
void forwarder_round(struct forwarder *forwarder, const sigset_t *while_waiting, int timeout);
/* Follows the options of the process that was started last, which come with its handoffs. */
void forwarder_heed_terms(struct forwarder *forwarder, const struct terms *terms);
/* Closes the connections that are leaving, and frees the forwarder: all others have been dismissed
 * before. */
void forwarder_close(struct forwarder *forwarder);

#endif
