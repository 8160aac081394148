/* What the forwarder's parts share: forward.c (the loop), connections.c (what becomes of each end)
 * and lobby.c (those who wait for news). Private to them. */
#ifndef RELAY_FORWARDER_H
#define RELAY_FORWARDER_H

#include "codec/codec.h"
#include "forward/deadline.h"
#include "forward/forward.h"
#include "forward/messages.h"
#include "forward/transfer.h"
#include "handoff.h"
#include "pair.h"
#include "setup/options.h"
#include "usage/usage.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FORWARDER_JITTERS = 4, /* lengths of silence, for connections that would ask all at once */
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

static inline struct connection *connection_of_phase(struct deadline *deadline)
{
    return (struct connection *)((char *)deadline - offsetof(struct connection, phase));
}

/* ---- forward.c ------------------------------------------------------------------- */

/* Makes a forwarder. 0 or a negative errno: forwarder_close() is to be called in any case. */
int forwarder_open(struct forwarder *forwarder, const struct forward_setup *setup);
/* Waits for events, `timeout` milliseconds at most (-1: for ever) with these signals blocked, and
 * does what there is to do then. */
void forwarder_round(struct forwarder *forwarder, const sigset_t *while_waiting, int timeout);
/* A newcomer could not be taken for lack of memory, or the like: those who come wait for a while.
 */
void forwarder_fall_short(struct forwarder *forwarder);
/* Closes those who are leaving, and frees it: all others have been dismissed before. */
void forwarder_close(struct forwarder *forwarder);

/* ---- connections.c ---------------------------------------------------------------------- */

/* An end that was handed over, or one that has changed: parks it, joins it to its peer, lets it
 * into the lobby, or dismisses it, as the table says. */
void connections_take(struct forwarder *forwarder, const struct handoff *handoff, int fd);
void connections_look(struct forwarder *forwarder, struct pair_ref ref);
/* Who is held under a reference; NULL: nobody. */
struct connection *connections_held(const struct forwarder *forwarder, struct pair_ref ref);

/* Does what there is to do for an end: its state says what. */
void connections_run(struct forwarder *forwarder, struct connection *connection);
/* Has ends_run() called again once the others have had their turn. */
void connections_queue(struct forwarder *forwarder, struct connection *connection);
/* To be called when messages have been read from it or written to it. */
void connections_touch(struct forwarder *forwarder, struct connection *connection);
/* Ends a connection that has no peer, and tells it why as its protocol does. */
void connections_dismiss(struct forwarder *forwarder, struct connection *connection,
    enum pair_outcome outcome, enum pair_reason reason);
/* Ends a pair. */
void connections_part(struct forwarder *forwarder, struct connection *connection);
/* Ends a connection, and its peer's, because relay stops, or the server that they came by; one that
 * leaves already goes on with that. */
void connections_stop(struct forwarder *forwarder, struct connection *connection);
/* The other side is gone, and nobody can be told. */
void connections_lose(struct forwarder *forwarder, struct connection *connection);

/* The end of a deadline. */
void connections_missed_arrival(struct forwarder *forwarder, struct connection *connection);
void connections_lingered(struct forwarder *forwarder, struct connection *connection);
void connections_check_life(struct forwarder *forwarder, struct connection *connection);
void connections_check_delivery(struct forwarder *forwarder, struct connection *connection);
void connections_were_deaf(struct forwarder *forwarder, struct connection *connection);
void connections_were_quiet(struct forwarder *forwarder, struct connection *connection);
void connections_were_silent(struct forwarder *forwarder, struct connection *connection);
void connections_close(struct forwarder *forwarder, struct connection *connection);

/* Ends those of whom the budget says that they hold too much. */
void connections_collect(struct forwarder *forwarder);

void connections_record(struct forwarder *forwarder, const struct usage_record *entry);
/* Frees those who were closed: no event of this round names them any more. */
void connections_bury(struct forwarder *forwarder);

/* ---- depart.c -------------------------------------------------------------------- */

/* A server stops: all who came by it, and their peers, are ended. Its descriptor is closed when
 * they have gone, or it is time (LEAVE); if there are no `others`, when the forwarder has ended,
 * too. If there are, a byte is sent to it first. */
void depart(struct forwarder *forwarder, uint64_t server, int fd, bool others);
/* Closes those who have not left until `now`. */
void depart_expire(struct forwarder *forwarder, int64_t now);
/* One that is closed is waited for no longer. */
void depart_lose(struct connection *connection);

/* ---- carry.c --------------------------------------------------------------------- */

/* Looks whether the table is still at its path, and says so when it is not. */
void carry_check(struct forwarder *forwarder);
/* The descriptor is of the table that has taken its place: all who are held go on in that one. */
void carry_over(struct forwarder *forwarder, int fd);

/* ---- lobby.c --------------------------------------------------------------------- */

/* 0 or -ENOMEM. */
int lobby_open(struct forwarder *forwarder);
void lobby_close(struct forwarder *forwarder);
/* One came who waits for news. False: there is no memory for it. */
bool lobby_enter(struct forwarder *forwarder, struct connection *connection);
/* One came, and waits to be accepted by who listens in the slot `listener`. False: nobody does
 * any more. */
bool lobby_call(struct forwarder *forwarder, struct connection *caller, struct pair_ref listener);
/* One of either kind goes, or was accepted. */
void lobby_leave(struct forwarder *forwarder, struct connection *connection);
/* One in the lobby has something to say, or is to be looked at: in one of the next turns. */
void lobby_wake(struct forwarder *forwarder, struct connection *connection);
/* Does what there is to do in the lobby, for half a millisecond at most. */
void lobby_turn(struct forwarder *forwarder);
/* Whether there is something to do. */
bool lobby_is_busy(const struct forwarder *forwarder);

#endif
