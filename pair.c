/* The rendezvous: which connections meet, decided in one step under the lock of their key. The
 * table's memory, locks and file are in table.h. */
#include "pair_slots.h"

#include "base/clock.h"

#include <errno.h>
#include <signal.h>
#include <sodium.h>
#include <string.h>
#include <unistd.h>

enum {
    WORKER_GRACE = 1000, /* milliseconds past its deadline before a worker counts as dead */
    REAPED_PER_ENTRY = 8,
    LEAVE_TRIES = 8,
    SWEPT_AT_ONCE = 64,
};

/* ---- keyed hashes ---------------------------------------------------------------- */

struct pair_key pair_key(
    const struct pair_table *table, uint8_t protocol, const struct iovec *parts, size_t count)
{
    struct pair_key key;
    crypto_generichash_state state;
    const uint8_t *secret = table->header->secret;
    crypto_generichash_init(&state, secret, TABLE_SECRET_SIZE, sizeof key.bytes);
    crypto_generichash_update(&state, &protocol, sizeof protocol);
    for (size_t i = 0; i < count; i++) {
        uint64_t size = parts[i].iov_len;
        crypto_generichash_update(&state, (const uint8_t *)&size, sizeof size);
        crypto_generichash_update(&state, parts[i].iov_base, size);
    }
    crypto_generichash_final(&state, key.bytes, sizeof key.bytes);
    sodium_memzero(&state, sizeof state);
    return key;
}

/* The kind of hash, in the place of a protocol's number, so that hashes of two kinds never agree.
 */
enum {
    HASH_SIDE = 254,
    HASH_SOURCE = 255
};

static uint64_t short_hash(
    const struct pair_table *table, uint8_t kind, const void *data, size_t size)
{
    uint64_t hash;
    struct iovec part = {(void *)(uintptr_t)data, size};
    struct pair_key key = pair_key(table, kind, &part, 1);
    memcpy(&hash, key.bytes, sizeof hash);
    return hash == 0 ? 1 : hash; /* 0 means that there is none */
}

uint64_t pair_side(const struct pair_table *table, const void *name, size_t size)
{
    return short_hash(table, HASH_SIDE, name, size);
}

uint64_t pair_source(const struct pair_table *table, const void *address, size_t size)
{
    return short_hash(table, HASH_SOURCE, address, size);
}

/* ---- meeting, under the key's lock ----------------------------------------------- */

static bool sides_match(const struct slot *newcomer, const struct slot *waiting)
{
    if (newcomer->rule != PAIR_SIDES)
        return newcomer->side != waiting->side;
    return newcomer->side == 0 || waiting->side == 0 || newcomer->side != waiting->side;
}

static void wait_for_peer(struct pair_table *table, struct slot *slot)
{
    slot->changed = clock_now();
    table_set_state(slot, PAIR_WAITING);
    table_add_waiting(table, slot);
}

/* A process may die between any two of these lines. The newcomer's state is stored last; until then
 * a repair lets the waiting slot wait again. */
static void match_slots(struct pair_table *table, struct slot *newcomer, struct slot *waiting)
{
    table_remove_waiting(table, waiting);
    newcomer->peer = table_ref(table, waiting);
    waiting->changed = newcomer->changed = clock_now();
    waiting->peer = table_ref(table, newcomer);
    table_set_state(waiting, PAIR_MATCHED);
    table_set_state(newcomer, PAIR_MATCHED);
}

static void dismiss_slot(struct pair_table *table, struct slot *slot, enum pair_reason reason)
{
    table_remove_waiting(table, slot);
    slot->reason = (uint8_t)reason;
    table_set_state(slot, PAIR_DISMISSED);
}

static void refuse_newcomer(struct pair_meeting *meeting, enum pair_reason reason)
{
    meeting->result = PAIR_REFUSED;
    meeting->reason = reason;
}

/* All slots that wait under one key are of one side, so the first is compared for all. */
static void meet_newcomer(
    struct pair_table *table, struct slot *newcomer, struct pair_meeting *meeting)
{
    struct slot *waiting = table_waiting(table, &newcomer->key);
    if (waiting != NULL && sides_match(newcomer, waiting)) {
        meeting->result = PAIR_MATCHES;
        meeting->peer = table_ref(table, waiting);
        match_slots(table, newcomer, waiting);
        return;
    }
    if (waiting == NULL && newcomer->rule == PAIR_ACCEPT) {
        refuse_newcomer(meeting, PAIR_NO_LISTENER);
        return;
    }
    if (waiting != NULL && newcomer->rule == PAIR_NEWEST) {
        meeting->dismissed = table_ref(table, waiting);
        dismiss_slot(table, waiting, PAIR_REPLACED);
    } else if (waiting != NULL && newcomer->rule == PAIR_ROLES) {
        meeting->dismissed = table_ref(table, waiting);
        dismiss_slot(table, waiting, PAIR_DUPLICATE);
        refuse_newcomer(meeting, PAIR_DUPLICATE);
        return;
    } else if (waiting != NULL && newcomer->rule != PAIR_SIDES) {
        refuse_newcomer(meeting, PAIR_DUPLICATE);
        return;
    }
    wait_for_peer(table, newcomer);
}

void pair_meet_again(struct pair_table *table, struct slot *slot)
{
    struct pair_meeting meeting = {PAIR_WAITS, PAIR_NO_REASON, PAIR_NONE, PAIR_NONE};
    struct slot *waiting = table_waiting(table, &slot->key);
    slot->peer = PAIR_NONE;
    if (waiting != NULL && !sides_match(slot, waiting) && slot->rule != PAIR_SIDES) {
        slot->reason = slot->rule == PAIR_NEWEST ? PAIR_REPLACED : PAIR_DUPLICATE;
        table_set_state(slot, PAIR_DISMISSED);
        return;
    }
    meet_newcomer(table, slot, &meeting);
    if (meeting.result == PAIR_REFUSED) {
        slot->reason = (uint8_t)meeting.reason;
        table_set_state(slot, PAIR_DISMISSED);
    }
}

int pair_find(struct pair_table *table, const struct pair_key *key, struct pair_ref *ret)
{
    int error = table_lock_key(table, key);
    if (error != 0)
        return error;
    const struct slot *slot = table_waiting(table, key);
    *ret = slot == NULL ? PAIR_NONE : table_ref(table, slot);
    table_unlock_key(table, key);
    return slot == NULL ? -ENOENT : 0;
}

/* From here on, the slot is freed only under the lock of this key. */
static int set_slot_key(struct pair_table *table, struct pair_ref ref, const struct pair_key *key)
{
    int error = table_lock_entry(table);
    if (error != 0)
        return error;
    struct slot *slot = table_find(table, ref);
    if (slot == NULL || slot->state != PAIR_GREETING)
        error = -ESTALE;
    else
        slot->key = *key;
    table_unlock_entry(table);
    return error;
}

int pair_meet(struct pair_table *table, struct pair_ref ref, const struct pair_request *request,
    struct pair_meeting *ret)
{
    struct pair_ref listener = PAIR_NONE;
    *ret = (struct pair_meeting){PAIR_WAITS, PAIR_NO_REASON, PAIR_NONE, PAIR_NONE};
    bool addressed = request->rule == PAIR_CONNECT || request->rule == PAIR_ACCEPT;
    int error = addressed ? pair_find(table, &request->listener, &listener) : 0;
    if (error == -ENOENT) {
        refuse_newcomer(ret, PAIR_NO_LISTENER);
        return 0;
    }
    if (error != 0)
        return error;
    error = set_slot_key(table, ref, &request->key);
    if (error == 0)
        error = table_lock_key(table, &request->key);
    if (error != 0)
        return error;
    struct slot *slot = table_find(table, ref);
    if (slot == NULL || slot->state != PAIR_GREETING) {
        error = -ESTALE;
        goto unlock;
    }
    slot->rule = (uint8_t)request->rule;
    slot->side = request->side;
    slot->protocol = request->protocol;
    meet_newcomer(table, slot, ret);
    if (ret->result == PAIR_WAITS && request->rule == PAIR_CONNECT)
        slot->peer = ret->peer = listener;
unlock:
    table_unlock_key(table, &request->key);
    return error;
}

/* ---- entering and leaving -------------------------------------------------------- */

/* The process that was asked for last: thousands of slots in a row may belong to one, the porch. */
struct asked {
    int32_t owner; /* 0: none yet */
    bool gone;
};

static bool owner_is_gone(const struct slot *slot, int64_t now, struct asked *asked)
{
    if (slot->place == PAIR_IN_FLIGHT)
        return false;
    if (now > slot->deadline + WORKER_GRACE)
        return true;
    if (asked->owner == 0 || asked->owner != slot->owner)
        *asked = (struct asked){slot->owner, kill(slot->owner, 0) < 0 && errno == ESRCH};
    return asked->gone;
}

/* Finds dead workers' slots among the `size` oldest that are not with the forwarder. */
static size_t find_dead(struct pair_table *table, int64_t now, struct pair_ref *dead, size_t size)
{
    size_t count = 0;
    struct asked asked = {.owner = 0};
    struct slot *slot = table_follow(table, table->header->first_unclaimed);
    for (size_t steps = 0; slot != NULL && steps < size; steps++) {
        if (slot->state != PAIR_MATCHED && owner_is_gone(slot, now, &asked))
            dead[count++] = table_ref(table, slot);
        slot = table_follow(table, slot->next_entry);
    }
    return count;
}

static int take_slot_within_limits(
    struct pair_table *table, const struct pair_limits *limits, uint64_t source, struct slot **ret)
{
    uint32_t used = table->header->used;
    *ret = NULL;
    if (limits->connections > 0 && used >= limits->connections)
        return -ENOSPC;
    if (limits->per_source > 0 && source != 0 &&
        table_source_reached(table, source, limits->per_source))
        return -EUSERS;
    return table_take_slot(table, source, ret);
}

static int try_to_enter(struct pair_table *table, const struct pair_limits *limits, uint64_t source,
    int64_t opened, int64_t deadline, struct pair_ref *ret)
{
    struct slot *slot;
    int error = table_lock_entry(table);
    if (error != 0)
        return error;
    error = take_slot_within_limits(table, limits, source, &slot);
    if (error == 0) {
        slot->opened = opened;
        slot->deadline = deadline;
        *ret = table_ref(table, slot);
    }
    table_unlock_entry(table);
    return error;
}

/* Slots of dead workers are freed here only when there is no room. The forwarder's sweep frees them
 * as well. */
int pair_enter(struct pair_table *table, const struct pair_limits *limits, uint64_t source,
    int64_t opened, int64_t deadline, struct pair_ref *ret)
{
    struct pair_ref stranded, dead[REAPED_PER_ENTRY];
    size_t count = 0;
    int error = try_to_enter(table, limits, source, opened, deadline, ret);
    if (error != -ENOSPC && error != -EUSERS && error != -ENOMEM)
        return error;
    if (table_lock_entry(table) == 0) {
        count = find_dead(table, clock_now(), dead, REAPED_PER_ENTRY);
        table_unlock_entry(table);
    }
    for (size_t i = 0; i < count; i++)
        (void)pair_leave(table, dead[i], &stranded); /* stale: another process freed it */
    return count == 0 ? error : try_to_enter(table, limits, source, opened, deadline, ret);
}

int pair_set_owner(struct pair_table *table, struct pair_ref ref, int64_t opened,
    enum pair_place place, int32_t owner)
{
    int error = table_lock_entry(table);
    if (error != 0)
        return error;
    struct slot *slot = table_find(table, ref);
    if (slot != NULL && slot->state == PAIR_GREETING && slot->opened == opened) {
        slot->owner = owner;
        slot->place = (uint8_t)place;
    } else {
        error = -ESTALE;
    }
    table_unlock_entry(table);
    return error;
}

/* Checks again under the lock, as a worker may have taken the slot back. */
static void free_if_owned(struct pair_table *table, struct slot *slot, int32_t owner)
{
    if (slot->state != PAIR_GREETING || slot->owner != owner || table_lock_entry(table) != 0)
        return;
    if (slot->state == PAIR_GREETING && slot->owner == owner)
        table_free_slot(table, slot);
    table_unlock_entry(table);
}

void pair_free_greetings(struct pair_table *table, int32_t owner)
{
    uint32_t end = table_end(table);
    for (uint32_t index = 0; index < end; index++)
        free_if_owned(table, &table->slots[index], owner);
}

int pair_sent(struct pair_table *table, struct pair_ref ref)
{
    int error = table_lock_entry(table);
    if (error != 0)
        return error;
    struct slot *slot = table_find(table, ref);
    if (slot != NULL && slot->place == PAIR_WITH_WORKER)
        slot->place = PAIR_IN_FLIGHT;
    table_unlock_entry(table);
    return slot == NULL ? -ESTALE : 0;
}

/* Ends the slot's wait, or its match: under the lock of its key. */
static void detach_slot(struct pair_table *table, struct slot *slot, struct pair_ref *stranded)
{
    struct slot *peer = table_find(table, slot->peer);
    if (slot->state == PAIR_WAITING)
        table_remove_waiting(table, slot);
    if (peer == NULL || !pair_same(peer->peer, table_ref(table, slot)))
        return;
    if (slot->state == PAIR_MATCHED && peer->state == PAIR_MATCHED) {
        *stranded = table_ref(table, peer);
        table_set_state(slot, PAIR_DISMISSED); /* a repair does not let it wait again */
        pair_meet_again(table, peer);
    } else if (slot->state == PAIR_JOINED) {
        peer->peer = PAIR_NONE;
    }
}

/* Under the lock of `key`; -EAGAIN: the slot has another key by now. */
static int free_slot_of_key(
    struct pair_table *table, struct pair_ref ref, const struct pair_key *key)
{
    int error = table_lock_entry(table);
    if (error != 0)
        return error;
    struct slot *slot = table_find(table, ref);
    if (slot == NULL)
        error = -ESTALE;
    else if (memcmp(&slot->key, key, sizeof *key) != 0)
        error = -EAGAIN;
    else
        table_free_slot(table, slot);
    table_unlock_entry(table);
    return error;
}

static int try_to_leave(struct pair_table *table, struct pair_ref ref, struct pair_ref *stranded)
{
    struct slot *slot = table_find(table, ref);
    if (slot == NULL)
        return -ESTALE;
    struct pair_key key = slot->key;
    int error = table_lock_key(table, &key);
    if (error != 0)
        return error;
    slot = table_find(table, ref);
    bool met = slot != NULL && slot->state > PAIR_GREETING;
    if (met && memcmp(&slot->key, &key, sizeof key) == 0)
        detach_slot(table, slot, stranded);
    error = slot == NULL ? -ESTALE : free_slot_of_key(table, ref, &key);
    table_unlock_key(table, &key);
    return error;
}

int pair_leave(struct pair_table *table, struct pair_ref ref, struct pair_ref *stranded)
{
    int error = -EAGAIN;
    *stranded = PAIR_NONE;
    /* A worker sets a key once: a key that goes on changing is damage. */
    for (int tries = 0; error == -EAGAIN && tries < LEAVE_TRIES; tries++)
        error = try_to_leave(table, ref, stranded);
    return error;
}

/* ---- for the forwarder ----------------------------------------------------------- */

void pair_view_slot(const struct pair_table *table, const struct slot *slot, struct pair_view *ret)
{
    *ret = (struct pair_view){
        .ref = table_ref(table, slot),
        .state = (enum pair_state)slot->state,
        .place = (enum pair_place)slot->place,
        .rule = (enum pair_rule)slot->rule,
        .reason = (enum pair_reason)slot->reason,
        .protocol = slot->protocol,
        .peer = slot->peer,
        .opened = slot->opened,
        .bytes = atomic_load_explicit(&slot->bytes, memory_order_relaxed),
    };
}

/* Locks the key of a slot that has met; NULL, unlocked, when the reference is stale. */
static struct slot *lock_slot(
    struct pair_table *table, struct pair_ref ref, struct pair_key *key, int *error)
{
    struct slot *slot = table_find(table, ref);
    *error = -ESTALE;
    if (slot == NULL || slot->state == PAIR_GREETING)
        return NULL;
    *key = slot->key;
    *error = table_lock_key(table, key);
    if (*error != 0)
        return NULL;
    slot = table_find(table, ref);
    if (slot == NULL || slot->state == PAIR_GREETING || memcmp(&slot->key, key, sizeof *key) != 0) {
        table_unlock_key(table, key);
        *error = -ESTALE;
        return NULL;
    }
    return slot;
}

int pair_start_leaving(struct pair_table *table, struct pair_ref ref, struct pair_ref *stranded)
{
    struct pair_key key;
    int error;
    *stranded = PAIR_NONE;
    struct slot *slot = lock_slot(table, ref, &key, &error);
    if (slot == NULL)
        return error;
    detach_slot(table, slot, stranded);
    slot->peer = PAIR_NONE;
    table_set_state(slot, PAIR_LEAVING);
    table_unlock_key(table, &key);
    return 0;
}

void pair_release_held(struct pair_table *table)
{
    struct pair_ref stranded;
    uint32_t end = table_end(table);
    for (uint32_t index = 0; index < end; index++) {
        struct slot *slot = &table->slots[index];
        if (slot->state != PAIR_FREE && slot->place == PAIR_WITH_FORWARDER)
            (void)pair_leave(table, table_ref(table, slot), &stranded);
    }
}

void pair_adopt(struct pair_table *table)
{
    pair_release_held(table);
    atomic_store(&table->header->forwarder, (int32_t)getpid());
}

void pair_set_forwarder(struct pair_table *table, uint32_t reads)
{
    atomic_store(&table->header->reads, reads);
    atomic_store(&table->header->forwarder_full, 0);
    atomic_store(&table->header->forwarder, (int32_t)getpid());
}

void pair_set_forwarder_full(struct pair_table *table, bool full)
{
    atomic_store(&table->header->forwarder_full, full);
}

bool pair_forwarder_is_full(const struct pair_table *table)
{
    return atomic_load(&table->header->forwarder_full) != 0;
}

uint32_t pair_reads(const struct pair_table *table)
{
    return atomic_load(&table->header->reads);
}

int32_t pair_forwarder(const struct pair_table *table)
{
    return atomic_load(&table->header->forwarder);
}

bool pair_is_adopted(const struct pair_table *table)
{
    int32_t forwarder = pair_forwarder(table);
    return forwarder > 0 && (kill(forwarder, 0) == 0 || errno != ESRCH);
}

int pair_claim(struct pair_table *table, struct pair_ref ref, struct pair_view *ret)
{
    struct pair_key key;
    int error;
    struct slot *slot = lock_slot(table, ref, &key, &error);
    if (slot == NULL)
        return error;
    error = table_lock_entry(table);
    if (error == 0) {
        if (slot->place != PAIR_WITH_FORWARDER && slot->state != PAIR_LEAVING)
            table_claim_slot(table, slot);
        else
            error = -ESTALE; /* claimed before, or leaving: it has no descriptor to come */
        table_unlock_entry(table);
    }
    pair_view_slot(table, slot, ret);
    table_unlock_key(table, &key);
    return error;
}

int pair_look(struct pair_table *table, struct pair_ref ref, struct pair_view *ret)
{
    struct pair_key key;
    int error;
    struct slot *slot = lock_slot(table, ref, &key, &error);
    if (slot == NULL)
        return error;
    pair_view_slot(table, slot, ret);
    table_unlock_key(table, &key);
    return 0;
}

int pair_join(struct pair_table *table, struct pair_ref ref, struct pair_ref peer_ref)
{
    struct pair_key key;
    int error;
    struct slot *slot = lock_slot(table, ref, &key, &error);
    if (slot == NULL)
        return error;
    struct slot *peer = table_find(table, peer_ref);
    if (peer != NULL && slot->state == PAIR_MATCHED && peer->state == PAIR_MATCHED &&
        pair_same(slot->peer, peer_ref) && pair_same(peer->peer, ref)) {
        table_set_state(slot, PAIR_JOINED);
        table_set_state(peer, PAIR_JOINED);
    } else {
        error = -ESTALE;
    }
    table_unlock_key(table, &key);
    return error;
}

int pair_undo(struct pair_table *table, struct pair_ref ref)
{
    struct pair_key key;
    int error;
    struct slot *slot = lock_slot(table, ref, &key, &error);
    if (slot == NULL)
        return error;
    struct slot *peer = table_find(table, slot->peer);
    if (slot->state != PAIR_MATCHED) {
        error = -ESTALE;
    } else if (peer != NULL && peer->place == PAIR_WITH_FORWARDER) {
        error = -EALREADY;
    } else {
        pair_meet_again(table, slot);
        if (peer != NULL && pair_same(peer->peer, ref)) {
            table_set_state(peer, PAIR_DISMISSED);
            error = free_slot_of_key(table, table_ref(table, peer), &key);
        }
    }
    table_unlock_key(table, &key);
    return error;
}

size_t pair_spares(
    struct pair_table *table, struct pair_ref ref, struct pair_ref *spares, size_t size)
{
    struct pair_key key;
    int error;
    size_t count = 0;
    struct slot *slot = lock_slot(table, ref, &key, &error);
    if (slot == NULL)
        return 0;
    while (slot->rule == PAIR_SIDES && count < size) {
        struct slot *spare = table_waiting(table, &key);
        if (spare == NULL)
            break;
        spares[count++] = table_ref(table, spare);
        dismiss_slot(table, spare, PAIR_SPARE);
    }
    table_unlock_key(table, &key);
    return count;
}

_Atomic uint64_t *pair_bytes(struct pair_table *table, struct pair_ref ref)
{
    struct slot *slot = table_find(table, ref);
    return slot == NULL ? NULL : &slot->bytes;
}

static bool is_overdue(const struct slot *slot, int64_t now, struct asked *asked)
{
    bool matched = slot->state == PAIR_MATCHED; /* read before `changed` */
    if (matched || slot->place == PAIR_IN_FLIGHT)
        return now - slot->changed > PAIR_ARRIVAL_TIME;
    return owner_is_gone(slot, now, asked);
}

size_t pair_sweep(struct pair_table *table, int64_t now, struct pair_ref *stranded, size_t size)
{
    struct pair_ref overdue[SWEPT_AT_ONCE], peer;
    size_t overdue_count = 0, count = 0;
    struct asked asked = {.owner = 0};
    if (size > SWEPT_AT_ONCE)
        size = SWEPT_AT_ONCE;
    if (table_lock_entry(table) != 0)
        return 0;
    struct slot *slot = table_follow(table, table->header->first_unclaimed);
    for (uint32_t steps = 0; slot != NULL && overdue_count < size; steps++) {
        if (steps >= table->capacity)
            break;
        if (is_overdue(slot, now, &asked))
            overdue[overdue_count++] = table_ref(table, slot);
        slot = table_follow(table, slot->next_entry);
    }
    table_unlock_entry(table);
    for (size_t i = 0; i < overdue_count; i++) {
        if (pair_leave(table, overdue[i], &peer) == 0 && !pair_is_none(peer))
            stranded[count++] = peer;
    }
    return count;
}

size_t pair_dismissed(struct pair_table *table, struct pair_ref *refs, size_t size)
{
    size_t count = 0;
    uint32_t end = table_end(table);
    for (uint32_t index = 0; index < end && count < size; index++) {
        const struct slot *slot = &table->slots[index];
        if (slot->state == PAIR_DISMISSED && slot->place == PAIR_WITH_FORWARDER)
            refs[count++] = table_ref(table, slot);
    }
    return count;
}
