/* The rendezvous table: which connections wait, and which have met. It is a file in the runtime
 * directory that all processes map shared. Any process may die at any instruction; the next process
 * that takes a lock of the dead one repairs the table.
 *
 * A slot stands for one connection from its accept to its close:
 *
 *      FREE -> GREETING -> WAITING -> MATCHED -> JOINED -> LEAVING -> FREE
 *                     \________________^
 *
 * From any state it may go to LEAVING, as long as its descriptor is open, and to FREE. The
 * descriptor is in one of four places: with a worker, on the porch, in flight, or with the
 * forwarder. The table holds no name, address, code or token: keys, sides and sources are hashes,
 * keyed with a random secret of this table.
 *
 * Functions return 0, or what their comment says, or a negative errno, and never log. */
#ifndef RELAY_PAIR_H
#define RELAY_PAIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct pair_table;

enum {
    PAIR_KEY_SIZE = 16,
    PAIR_PROTOCOLS_MAX = 8,
    PAIR_ARRIVAL_TIME = 2000, /* milliseconds that a match waits for its descriptors */
};

/* A slot while it stands for one connection. Freeing the slot changes its generation; the reference
 * is then stale, and every function refuses it with -ESTALE. */
struct pair_ref {
    uint32_t slot;
    uint32_t generation;
};

#define PAIR_NONE ((struct pair_ref){UINT32_MAX, 0})

static inline bool pair_is_none(struct pair_ref ref)
{
    return ref.slot == UINT32_MAX;
}

static inline bool pair_same(struct pair_ref a, struct pair_ref b)
{
    return a.slot == b.slot && a.generation == b.generation;
}

/* In the order of a connection's life. */
enum pair_state {
    PAIR_FREE,
    PAIR_GREETING,  /* its worker reads the greeting */
    PAIR_WAITING,   /* is found under its key */
    PAIR_MATCHED,   /* has a peer; transient: until both descriptors are with the forwarder */
    PAIR_JOINED,    /* bytes flow */
    PAIR_DISMISSED, /* waited, and lost its place; transient: until the forwarder closes it */
    PAIR_LEAVING,   /* is not found any more, and counts until its descriptor is closed */
};

enum pair_place {
    PAIR_WITH_WORKER,
    PAIR_IN_FLIGHT,
    PAIR_WITH_FORWARDER,
    PAIR_ON_PORCH, /* until more of its greeting arrives */
};

/* How connections under one key meet. A protocol only names its rule. */
enum pair_rule {
    /* Connections of different sides match, and one without a side matches any. Several of the same
     * side wait together; when the other side comes, it meets one of them, and the rest are spares
     * (transit). */
    PAIR_SIDES,
    /* Different roles match; if a second connection of the same role comes, both are refused
     * (p2p-copy). */
    PAIR_ROLES,
    /* Different sides match; a newer connection of the same side replaces the older one
     * (localfirst). */
    PAIR_NEWEST,
    /* One listener per key; a second one is refused. It never matches; PAIR_CONNECT and PAIR_ACCEPT
     * refer to it (Offset listen). */
    PAIR_LISTEN,
    /* Waits under its key if there is a listener under request.listener; a second connection of the
     * same side is refused (Offset connect). */
    PAIR_CONNECT,
    /* Matches the connection that waits under the key, and never waits itself; there must be a
     * listener under request.listener (Offset accept). */
    PAIR_ACCEPT,
};

struct pair_key {
    uint8_t bytes[PAIR_KEY_SIZE];
};

struct pair_request {
    enum pair_rule rule;
    struct pair_key key;
    struct pair_key listener; /* PAIR_CONNECT, PAIR_ACCEPT */
    uint64_t side;            /* pair_side(), or 0: no side */
    uint8_t protocol;         /* index into protocols[] */
};

enum pair_result {
    PAIR_WAITS,
    PAIR_MATCHES,
    PAIR_REFUSED,
};

/* Why a slot was dismissed, or a newcomer refused. */
enum pair_reason {
    PAIR_NO_REASON,
    PAIR_SPARE,       /* another connection of its side has met the peer */
    PAIR_DUPLICATE,   /* its role, connector or listener is there already */
    PAIR_REPLACED,    /* a newer connection took its place */
    PAIR_NO_LISTENER, /* there is no listener, or no connection to accept */
};

struct pair_meeting {
    enum pair_result result;
    enum pair_reason reason; /* PAIR_REFUSED */
    struct pair_ref peer; /* PAIR_MATCHES: the peer; PAIR_WAITS with PAIR_CONNECT: its listener */
    struct pair_ref dismissed; /* the connection that lost its place to this one, or PAIR_NONE */
};

/* One slot, as read under its lock. */
struct pair_view {
    struct pair_ref ref;
    enum pair_state state;
    enum pair_place place;
    enum pair_rule rule;
    enum pair_reason reason;
    uint8_t protocol;
    struct pair_ref peer;
    int64_t opened; /* microseconds since the epoch */
    uint64_t bytes; /* forwarded from this connection */
};

struct pair_limits {
    uint32_t connections; /* in all; 0: as many as the table has slots */
    uint32_t per_source;  /* 0: unlimited */
};

/* What became of a connection; the first six are the transit relay's moods. */
enum pair_outcome {
    PAIR_HAPPY,     /* met its peer; counted once per pair */
    PAIR_LONELY,    /* no peer came */
    PAIR_ERRORY,    /* bad greeting */
    PAIR_IMPATIENT, /* sent data before it had a peer */
    PAIR_REDUNDANT, /* a spare */
    PAIR_EMPTY,     /* closed before its greeting was whole */
    PAIR_FULL,      /* refused: no free slot, descriptor or memory */
    PAIR_SOURCE,    /* refused: too many connections of its source */
    PAIR_SERVED,    /* was answered, and needed no peer */
    PAIR_OUTCOMES,
};

struct pair_stats {
    uint32_t capacity;
    uint32_t used; /* slots that are not free */
    uint32_t states[PAIR_LEAVING + 1];
    uint32_t tokens;           /* keys under which a connection waits */
    uint32_t unclaimed;        /* slots whose descriptor is not with the forwarder */
    uint32_t on_porch;         /* of PAIR_GREETING */
    uint64_t incomplete_bytes; /* forwarded by pairs that are joined now */
    uint64_t total_bytes;      /* by pairs that ended */
    uint64_t outcomes[PAIR_PROTOCOLS_MAX][PAIR_OUTCOMES];
    int64_t created;   /* microseconds since the epoch */
    uint64_t repairs;  /* locks taken over from dead processes */
    int32_t forwarder; /* process id, 0: none */
};

/* Maps the table at path; makes it with `capacity` slots if there is none, -ENOMEM if its file
 * system has no space. A file that cannot be used is refused: -EPROTO (another version), -EBADMSG
 * (corrupt), -ESTALE (of another boot, so that its times and process ids mean nothing; or retired).
 */
int pair_open(const char *path, uint32_t capacity, struct pair_table **ret);
/* The same to read counts; does not make a table: -ENOENT. */
int pair_open_existing(const char *path, struct pair_table **ret);
/* Maps the table whose file is open as `fd`, and whose path is this. The descriptor belongs to the
 * table afterwards; on failure it is closed. */
int pair_map(int fd, const char *path, struct pair_table **ret);
/* Removes the file at path if pair_open() refuses it. */
int pair_discard(const char *path);
void pair_close(struct pair_table *table);
uint32_t pair_capacity(const struct pair_table *table);
const char *pair_path(const struct pair_table *table);
/* A random number that tells this table from all others. */
uint64_t pair_id(const struct pair_table *table);
/* The descriptor of the file. The table keeps it. */
int pair_descriptor(const struct pair_table *table);

/* Whether the file at the table's path is this table, and whole: 0; -ENOENT: it was removed;
 * -ESTALE: another file is there; -EBADMSG: it was truncated, overwritten or retired. Functions
 * that change a table return -EIDRM when it is not whole, and do not change it. */
int pair_check(const struct pair_table *table);
/* Marks the table as not used any more, for all processes that have it mapped. */
void pair_retire(struct pair_table *table);

/* Keyed hashes. A key is made of its protocol and its parts; parts of other lengths make another
 * key. */
struct pair_key pair_key(
    const struct pair_table *table, uint8_t protocol, const struct iovec *parts, size_t count);
/* Never 0. */
uint64_t pair_side(const struct pair_table *table, const void *name, size_t size);
uint64_t pair_source(const struct pair_table *table, const void *address, size_t size);

/* -- for workers ------------------------------------------------------------------- */

/* Takes a slot for a connection that was accepted at `opened` (microseconds since the epoch), and
 * whose greeting has to end by `deadline` (milliseconds, CLOCK_MONOTONIC). source: pair_source(),
 * 0: not counted. -ENOSPC: full; -EUSERS: too many of this source; -ENOMEM: the table's file system
 * has no space for more slots. */
int pair_enter(struct pair_table *table, const struct pair_limits *limits, uint64_t source,
    int64_t opened, int64_t deadline, struct pair_ref *ret);
/* Makes another process responsible for a slot in PAIR_GREETING whose connection was accepted at
 * `opened`. owner: its process id; place: where it holds the descriptor, PAIR_WITH_WORKER or
 * PAIR_ON_PORCH. When the owner dies, the slot is freed. */
int pair_set_owner(struct pair_table *table, struct pair_ref ref, int64_t opened,
    enum pair_place place, int32_t owner);
/* Frees all slots in PAIR_GREETING that `owner` is responsible for. */
void pair_free_greetings(struct pair_table *table, int32_t owner);
/* In one step, the connection waits, matches, or is refused. After PAIR_REFUSED the caller frees
 * the slot with pair_leave(). */
int pair_meet(struct pair_table *table, struct pair_ref ref, const struct pair_request *request,
    struct pair_meeting *ret);
/* The descriptor was sent to the forwarder. */
int pair_sent(struct pair_table *table, struct pair_ref ref);
/* A connection that has waited or met becomes PAIR_LEAVING: it is not found any more, but counts
 * until pair_leave(). If it was matched, its peer is stranded, see pair_leave(). */
int pair_start_leaving(struct pair_table *table, struct pair_ref ref, struct pair_ref *stranded);
/* Frees the slot, whatever its state. If it was matched, its peer waits again and is returned in
 * *stranded (else PAIR_NONE), for the forwarder to look at. */
int pair_leave(struct pair_table *table, struct pair_ref ref, struct pair_ref *stranded);

/* -- for the forwarder ------------------------------------------------------------- */

/* This process is the forwarder now. Frees the slots that the last forwarder held. */
void pair_adopt(struct pair_table *table);
/* The same, but frees nothing. reads: the version of handoffs that this forwarder reads. */
void pair_set_forwarder(struct pair_table *table, uint32_t reads);
/* The version of handoffs that the forwarder reads, 0: not known. */
uint32_t pair_reads(const struct pair_table *table);
/* Whether the forwarder leaves new connections in its socket, because it has no descriptor or no
 * memory for them. */
void pair_set_forwarder_full(struct pair_table *table, bool full);
bool pair_forwarder_is_full(const struct pair_table *table);
/* The process id of the last forwarder; 0: there was none. */
int32_t pair_forwarder(const struct pair_table *table);
/* Whether that process lives. */
bool pair_is_adopted(const struct pair_table *table);

/* When the table was lost and another takes its place, the forwarder calls pair_replace_lost()
 * first, then carries the connections that it holds from the last table to the new one, and calls
 * pair_set_forwarder() last. If the new table was not used yet, it gets the last table's secret, so
 * that the same codes have the same keys. */
void pair_replace_lost(struct pair_table *table, struct pair_table *last);
/* Carries a waiting connection. -ESTALE if the last table does not show it; -ENOSPC or -ENOMEM as
 * in pair_enter(). Afterwards the caller looks at it: it may have a match. */
int pair_carry(
    struct pair_table *table, struct pair_table *last, struct pair_ref ref, struct pair_ref *ret);
/* Carries both connections of a pair, which is joined at once. ends: what the forwarder knows of
 * them. */
int pair_carry_joined(struct pair_table *table, struct pair_table *last,
    const struct pair_view ends[static 2], struct pair_ref ret[static 2]);
/* The descriptor has arrived. */
int pair_claim(struct pair_table *table, struct pair_ref ref, struct pair_view *ret);
int pair_look(struct pair_table *table, struct pair_ref ref, struct pair_view *ret);
/* The first connection that waits under a key: -ENOENT if there is none. */
int pair_find(struct pair_table *table, const struct pair_key *key, struct pair_ref *ret);
/* The forwarder has both descriptors: both slots become PAIR_JOINED. */
int pair_join(struct pair_table *table, struct pair_ref ref, struct pair_ref peer);
/* The peer's descriptor did not arrive in time: its slot is freed, and `ref` waits or meets again;
 * the caller looks at it afterwards. -EALREADY: the peer's descriptor has arrived meanwhile. */
int pair_undo(struct pair_table *table, struct pair_ref ref);
/* PAIR_SIDES: dismisses up to `size` of the connections that wait under the key of `ref`, which are
 * spares now, and returns how many. */
size_t pair_spares(
    struct pair_table *table, struct pair_ref ref, struct pair_ref *spares, size_t size);
/* The counter of bytes forwarded from this connection: NULL if stale. Valid until pair_leave(). */
_Atomic uint64_t *pair_bytes(struct pair_table *table, struct pair_ref ref);
/* Frees slots whose worker died, or is over its deadline, before the descriptor arrived. A slot
 * that is matched or in flight is freed after PAIR_ARRIVAL_TIME, as the caller has read all that
 * was in its socket. Returns the number of stranded peers, at most `size`, for the caller to look
 * at. */
size_t pair_sweep(struct pair_table *table, int64_t now, struct pair_ref *stranded, size_t size);

/* The dismissed slots among those that the forwarder holds, at most `size`. A worker tells the
 * forwarder of each that it dismisses, unless it dies before that. */
size_t pair_dismissed(struct pair_table *table, struct pair_ref *refs, size_t size);

/* -- counts ------------------------------------------------------------------------ */

/* The outcome in one word, as operators see it. */
const char *pair_outcome_name(enum pair_outcome outcome);
void pair_count(struct pair_table *table, uint8_t protocol, enum pair_outcome outcome);
void pair_count_bytes(struct pair_table *table, uint64_t bytes);
/* How many slots are not free. */
uint32_t pair_used(const struct pair_table *table);
void pair_stats(struct pair_table *table, struct pair_stats *ret);

#endif
