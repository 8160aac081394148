/* The rendezvous table: who waits, who met whom. It is one file in the runtime
 * directory, mapped shared by every process; any of them may die at any instruction, and
 * the next one that takes the dead one's lock repairs what it left.
 *
 * A slot stands for one connection from its accept to its close:
 *
 *      FREE -> GREETING -> WAITING -> MATCHED -> JOINED -> LEAVING -> FREE
 *                     \________________^
 *
 * From any state it may go on to LEAVING, as long as its descriptor is open, and to FREE. The
 * descriptor is in one of four places: with its worker, on the porch, in flight, or held
 * by the forwarder. The table holds no name, address, code or token: keys, sides and sources
 * are keyed hashes under a secret drawn when the table is made.
 *
 * Functions return 0 (or what they say) or a negative errno, and never log. */
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
    PAIR_ARRIVAL_TIME = 2000, /* milliseconds that a match waits for a descriptor */
};

/* A slot as it was at some time: a reference with an old generation is stale, and every
 * function refuses it with -ESTALE. */
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
    PAIR_GREETING,  /* its worker is in the handshake */
    PAIR_WAITING,   /* found under its key */
    PAIR_MATCHED,   /* has a peer; transient: until both descriptors are with the forwarder */
    PAIR_JOINED,    /* bytes flow */
    PAIR_DISMISSED, /* waited, and lost its place; transient: until the forwarder sees to it */
    PAIR_LEAVING,   /* has no part in anything any more: until its descriptor is closed */
};

enum pair_place {
    PAIR_WITH_WORKER,
    PAIR_IN_FLIGHT,
    PAIR_WITH_FORWARDER,
    PAIR_ON_PORCH, /* until more of its greeting has come */
};

/* How connections under one key meet. A protocol names its rule, and no more. */
enum pair_rule {
    /* Another side, or none, matches; the same side waits beside it, and is a spare when
     * the other side comes (transit). */
    PAIR_SIDES,
    /* The other role matches; the same role twice refuses both (p2p-copy). */
    PAIR_ROLES,
    /* The other side matches; the same side takes the place of the older one
     * (localfirst: the two ends of a connection). */
    PAIR_NEWEST,
    /* One listener per key, a second one is refused; nothing matches it, others are
     * addressed to it (Offset listen). */
    PAIR_LISTEN,
    /* Waits under its key if there is a listener under request.listener; the same side
     * twice refuses the newcomer (Offset connect). */
    PAIR_CONNECT,
    /* Takes the one who waits under the key, never waits itself; request.listener must be
     * listening (Offset accept). */
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
    PAIR_SPARE,       /* its side was served by another connection */
    PAIR_DUPLICATE,   /* the same role, connector or listener is there already */
    PAIR_REPLACED,    /* a newer one took its place */
    PAIR_NO_LISTENER, /* nobody listens, or nobody waits to be accepted */
};

struct pair_meeting {
    enum pair_result result;
    enum pair_reason reason;   /* PAIR_REFUSED */
    struct pair_ref peer;      /* PAIR_MATCHES: the other end; PAIR_CONNECT: its listener */
    struct pair_ref dismissed; /* who lost its place to the newcomer, or PAIR_NONE */
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
    uint64_t bytes; /* forwarded from this end */
};

struct pair_limits {
    uint32_t connections; /* in all; 0: as many as there are slots */
    uint32_t per_source;  /* 0: unlimited */
};

/* What became of a connection; the first six are the transit relay's moods. */
enum pair_outcome {
    PAIR_HAPPY,     /* met its peer (counted once per pair) */
    PAIR_LONELY,    /* nobody came */
    PAIR_ERRORY,    /* bad handshake */
    PAIR_IMPATIENT, /* spoke before its time */
    PAIR_REDUNDANT, /* a spare */
    PAIR_EMPTY,     /* closed before it had sent a whole handshake */
    PAIR_FULL,      /* refused: no slot, descriptor or memory */
    PAIR_SOURCE,    /* refused: too many from its source */
    PAIR_SERVED,    /* got what it came for, and never was to meet anybody */
    PAIR_OUTCOMES,
};

struct pair_stats {
    uint32_t capacity;
    uint32_t used; /* slots that are not free */
    uint32_t states[PAIR_LEAVING + 1];
    uint32_t tokens;           /* keys under which somebody waits */
    uint32_t unclaimed;        /* slots whose descriptor is not with the forwarder */
    uint32_t on_porch;         /* of those that are greeting */
    uint64_t incomplete_bytes; /* forwarded by pairs that still go on */
    uint64_t total_bytes;      /* by those that ended */
    uint64_t outcomes[PAIR_PROTOCOLS_MAX][PAIR_OUTCOMES];
    int64_t created;   /* microseconds since the epoch */
    uint64_t repairs;  /* locks taken over from a dead process */
    int32_t forwarder; /* process id, 0: none */
};

/* Maps the table at path, made with `capacity` slots if there is none: -ENOMEM if its file system
 * has no space for it. A file that is no table of this layout is refused: -EPROTO (another
 * version), -EBADMSG (corrupt), -ESTALE (of another boot, so that its times and process ids mean
 * nothing; or retired). */
int pair_open(const char *path, uint32_t capacity, struct pair_table **ret);
/* Maps it for reading counts only, and never makes one: -ENOENT. */
int pair_open_existing(const char *path, struct pair_table **ret);
/* Maps the table at path of which one has the descriptor, which is the table's from then on, or
 * closed. */
int pair_map(int fd, const char *path, struct pair_table **ret);
/* Removes the file at path if it is one that pair_open() refuses. */
int pair_discard(const char *path);
void pair_close(struct pair_table *table);
uint32_t pair_capacity(const struct pair_table *table);
const char *pair_path(const struct pair_table *table);
/* Tells this table from all others. */
uint64_t pair_id(const struct pair_table *table);
/* The file's; it stays the table's. */
int pair_descriptor(const struct pair_table *table);

/* Whether the file at its path is this table, and whole: 0; -ENOENT, it was removed; -ESTALE,
 * another is there; -EBADMSG, it was cut, written over or retired. All functions that change a
 * table that is not whole return -EIDRM and leave it alone. */
int pair_check(const struct pair_table *table);
/* Has all who have it mapped find that it is not used any more. */
void pair_retire(struct pair_table *table);

/* Keyed hashes. A key is made of its protocol and all parts, told apart by their lengths. */
struct pair_key pair_key(
    const struct pair_table *table, uint8_t protocol, const struct iovec *parts, size_t count);
/* Never 0. */
uint64_t pair_side(const struct pair_table *table, const void *name, size_t size);
uint64_t pair_source(const struct pair_table *table, const void *address, size_t size);

/* -- for workers ------------------------------------------------------------------- */

/* Takes a slot for a connection that was accepted at `opened` (microseconds since the
 * epoch), and whose handshake ends by `deadline` (milliseconds, CLOCK_MONOTONIC), dead or
 * alive. source: pair_source(), 0: not counted. -ENOSPC: full; -EUSERS: too many from
 * this source; -ENOMEM: the table's file system has no space for more. */
int pair_enter(struct pair_table *table, const struct pair_limits *limits, uint64_t source,
    int64_t opened, int64_t deadline, struct pair_ref *ret);
/* Another process answers for a slot that is greeting, of a connection `opened` then: its `owner`,
 * a process id, which has its descriptor at `place`, PAIR_WITH_WORKER or PAIR_ON_PORCH. When that
 * dies, the slot is free. */
int pair_pass(struct pair_table *table, struct pair_ref ref, int64_t opened, enum pair_place place,
    int32_t owner);
/* Frees all slots that are greeting and that `owner` answers for, as it does not any more. */
void pair_forsake(struct pair_table *table, int32_t owner);
/* Waits, matches, or is refused, in one step. After PAIR_REFUSED the slot is still the
 * caller's, to leave with pair_leave(). */
int pair_meet(struct pair_table *table, struct pair_ref ref, const struct pair_request *request,
    struct pair_meeting *ret);
/* The descriptor is on its way to the forwarder. */
int pair_sent(struct pair_table *table, struct pair_ref ref);
/* It has met, and leaves: nobody finds it any more, but it counts until pair_leave(). If it was
 * matched, its peer is stranded, as there. */
int pair_part(struct pair_table *table, struct pair_ref ref, struct pair_ref *stranded);
/* Frees the slot, whatever its state. If it was matched, its peer goes back to waiting and
 * is returned in *stranded (else PAIR_NONE): the forwarder is to look at it. */
int pair_leave(struct pair_table *table, struct pair_ref ref, struct pair_ref *stranded);

/* -- for the forwarder ------------------------------------------------------------- */

/* This process is the forwarder now: what the last one held is freed with it. */
void pair_adopt(struct pair_table *table);
/* The same, and frees nothing; `reads`: the version of handoffs that it reads. */
void pair_set_forwarder(struct pair_table *table, uint32_t reads);
/* 0: nobody has said so. */
uint32_t pair_reads(const struct pair_table *table);
/* Whether the forwarder leaves newcomers in its socket, as it has no descriptor or no memory for
 * them. */
void pair_set_crammed(struct pair_table *table, bool crammed);
bool pair_is_crammed(const struct pair_table *table);
/* The process id of who adopted it last; 0: nobody has. */
int32_t pair_forwarder(const struct pair_table *table);
/* Whether a process that lives has adopted it. */
bool pair_is_adopted(const struct pair_table *table);

/* A table that was lost, and the one in its place. pair_succeed() is called first and
 * pair_set_forwarder() last; between them those whom the forwarder holds are carried from the one
 * to the other. Keys in a table that nobody has used yet become those of the last one, so that who
 * waits under one is still found. */
void pair_succeed(struct pair_table *table, struct pair_table *last);
/* One that waits, as far as the last table tells: -ESTALE if it does not tell; -ENOSPC or -ENOMEM
 * as in pair_enter(). Look at it afterwards: it may have met somebody. */
int pair_carry(
    struct pair_table *table, struct pair_table *last, struct pair_ref ref, struct pair_ref *ret);
/* Both ends of a pair, which is joined from the start: of each what the forwarder knows of it. */
int pair_carry_joined(struct pair_table *table, struct pair_table *last,
    const struct pair_view ends[static 2], struct pair_ref ret[static 2]);
/* The descriptor has come. */
int pair_claim(struct pair_table *table, struct pair_ref ref, struct pair_view *ret);
int pair_look(struct pair_table *table, struct pair_ref ref, struct pair_view *ret);
/* Who waits first under a key: -ENOENT if nobody does. */
int pair_find(struct pair_table *table, const struct pair_key *key, struct pair_ref *ret);
/* Both ends are held, and become JOINED. */
int pair_join(struct pair_table *table, struct pair_ref ref, struct pair_ref peer);
/* The peer's descriptor did not come in time: its slot is freed, and ref meets anew; look at
 * it to see what came of that. -EALREADY: the peer has come after all. */
int pair_undo(struct pair_table *table, struct pair_ref ref);
/* Dismisses up to `size` of those who wait under the key of `ref` (PAIR_SIDES: spares of a
 * side that was served), and returns how many. */
size_t pair_spares(
    struct pair_table *table, struct pair_ref ref, struct pair_ref *spares, size_t size);
/* Where to add the bytes forwarded from this end: NULL if stale. Valid until pair_leave(). */
_Atomic uint64_t *pair_bytes(struct pair_table *table, struct pair_ref ref);
/* Frees slots whose worker died, or is over its time, before the descriptor arrived; one that
 * was matched or is in flight only PAIR_ARRIVAL_TIME later: the caller has emptied its socket.
 * Peers that this strands are returned, at most `size` of them, for the caller to look at. */
size_t pair_sweep(struct pair_table *table, int64_t now, struct pair_ref *stranded, size_t size);

/* Those among the slots held by the forwarder that were dismissed: at most `size`. A worker
 * tells of each, unless it dies first. */
size_t pair_dismissed(struct pair_table *table, struct pair_ref *refs, size_t size);

/* -- for everyone ------------------------------------------------------------------ */

/* One word, as operators read it. */
const char *pair_outcome_name(enum pair_outcome outcome);
void pair_count(struct pair_table *table, uint8_t protocol, enum pair_outcome outcome);
void pair_count_bytes(struct pair_table *table, uint64_t bytes);
/* How many slots are not free. */
uint32_t pair_used(const struct pair_table *table);
void pair_stats(struct pair_table *table, struct pair_stats *ret);

#endif
