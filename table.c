/* The table's slots and lists, and how lists are made again from the slots: see table.h for what is
 * in the table and which lock guards what. */
#include "table.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

enum {
    RESERVED_AHEAD = 1024, /* slots */
};

/* ---- slots and references -------------------------------------------------------- */

struct slot *table_slot(const struct pair_table *table, uint32_t index)
{
    return index < table->capacity ? &table->slots[index] : NULL;
}

struct slot *table_follow(const struct pair_table *table, slot_link link)
{
    return link == 0 ? NULL : table_slot(table, link - 1);
}

slot_link table_link(const struct pair_table *table, const struct slot *slot)
{
    return slot == NULL ? 0 : (slot_link)(slot - table->slots) + 1;
}

uint32_t table_end(const struct pair_table *table)
{
    uint32_t fresh = atomic_load_explicit(&table->header->fresh, memory_order_acquire);
    return fresh < table->capacity ? fresh : table->capacity;
}

struct pair_ref table_ref(const struct pair_table *table, const struct slot *slot)
{
    return (struct pair_ref){(uint32_t)(slot - table->slots), slot->generation};
}

struct slot *table_find(const struct pair_table *table, struct pair_ref ref)
{
    struct slot *slot = table_slot(table, ref.slot);
    if (slot == NULL || slot->generation != ref.generation || slot->state == PAIR_FREE)
        return NULL;
    return slot;
}

/* ---- the keys' buckets ----------------------------------------------------------- */

static uint64_t key_hash(const struct pair_key *key)
{
    uint64_t hash;
    memcpy(&hash, key->bytes, sizeof hash); /* the key is a keyed hash itself */
    return hash;
}

struct stripe *table_key_stripe(const struct pair_table *table, const struct pair_key *key)
{
    return &table->header->stripes[key_hash(key) % TABLE_STRIPES];
}

/* Buckets and stripes are both chosen by the low bits, so all keys of a bucket have one stripe. */
static slot_link *key_bucket(const struct pair_table *table, const struct pair_key *key)
{
    return &table->key_buckets[key_hash(key) & table->bucket_mask];
}

static bool same_key(const struct pair_key *a, const struct pair_key *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

struct slot *table_waiting(struct pair_table *table, const struct pair_key *key)
{
    struct slot *slot = table_follow(table, *key_bucket(table, key));
    for (uint32_t steps = 0; slot != NULL && steps < table->capacity; steps++) {
        if (same_key(&slot->key, key))
            return slot;
        slot = table_follow(table, slot->chain);
    }
    return NULL;
}

void table_add_waiting(struct pair_table *table, struct slot *slot)
{
    struct slot *first = table_waiting(table, &slot->key);
    slot->chain = 0;
    if (first == NULL) {
        slot_link *bucket = key_bucket(table, &slot->key);
        slot->next_waiting = slot->prev_waiting = 0;
        slot->chain = *bucket;
        *bucket = table_link(table, slot);
        table_key_stripe(table, &slot->key)->tokens++;
        return;
    }
    struct slot *second = table_follow(table, first->next_waiting);
    slot->prev_waiting = table_link(table, first);
    slot->next_waiting = first->next_waiting;
    first->next_waiting = table_link(table, slot);
    if (second != NULL)
        second->prev_waiting = table_link(table, slot);
}

/* Removes the first slot under its key: `heir`, the second one, takes its place in the bucket's
 * chain. NULL: the key leaves the chain. */
static void replace_first(struct pair_table *table, struct slot *slot, struct slot *heir)
{
    slot_link *link = key_bucket(table, &slot->key);
    for (uint32_t steps = 0; steps < table->capacity; steps++) {
        struct slot *at = table_follow(table, *link);
        if (at == NULL)
            return;
        if (at == slot)
            break;
        link = &at->chain;
    }
    if (heir == NULL) {
        *link = slot->chain;
        table_key_stripe(table, &slot->key)->tokens--;
        return;
    }
    heir->chain = slot->chain;
    heir->prev_waiting = 0;
    *link = table_link(table, heir);
}

void table_remove_waiting(struct pair_table *table, struct slot *slot)
{
    struct slot *next = table_follow(table, slot->next_waiting);
    struct slot *prev = table_follow(table, slot->prev_waiting);
    if (prev == NULL) {
        replace_first(table, slot, next);
    } else {
        prev->next_waiting = slot->next_waiting;
        if (next != NULL)
            next->prev_waiting = slot->prev_waiting;
    }
    slot->chain = slot->next_waiting = slot->prev_waiting = 0;
}

/* ---- free, unclaimed and per source ---------------------------------------------- */

static slot_link *source_bucket(const struct pair_table *table, uint64_t source)
{
    return &table->source_buckets[source & table->bucket_mask];
}

static void add_source(struct pair_table *table, struct slot *slot)
{
    slot_link *bucket = source_bucket(table, slot->source);
    struct slot *first = table_follow(table, *bucket);
    slot->prev_source = 0;
    slot->next_source = *bucket;
    if (first != NULL)
        first->prev_source = table_link(table, slot);
    *bucket = table_link(table, slot);
}

static void remove_source(struct pair_table *table, struct slot *slot)
{
    struct slot *next = table_follow(table, slot->next_source);
    struct slot *prev = table_follow(table, slot->prev_source);
    if (next != NULL)
        next->prev_source = slot->prev_source;
    if (prev != NULL)
        prev->next_source = slot->next_source;
    else
        *source_bucket(table, slot->source) = slot->next_source;
    slot->next_source = slot->prev_source = 0;
}

bool table_source_reached(struct pair_table *table, uint64_t source, uint32_t limit)
{
    uint32_t count = 0;
    struct slot *slot = table_follow(table, *source_bucket(table, source));
    for (uint32_t steps = 0; slot != NULL && steps < table->capacity; steps++) {
        if (slot->source == source && ++count >= limit)
            return true;
        slot = table_follow(table, slot->next_source);
    }
    return false;
}

static void add_unclaimed(struct pair_table *table, struct slot *slot)
{
    struct table_header *header = table->header;
    struct slot *last = table_follow(table, header->last_unclaimed);
    slot->next_entry = 0;
    slot->prev_entry = header->last_unclaimed;
    if (last != NULL)
        last->next_entry = table_link(table, slot);
    else
        header->first_unclaimed = table_link(table, slot);
    header->last_unclaimed = table_link(table, slot);
    header->unclaimed++;
}

static void remove_unclaimed(struct pair_table *table, struct slot *slot)
{
    struct table_header *header = table->header;
    struct slot *next = table_follow(table, slot->next_entry);
    struct slot *prev = table_follow(table, slot->prev_entry);
    if (next != NULL)
        next->prev_entry = slot->prev_entry;
    else
        header->last_unclaimed = slot->prev_entry;
    if (prev != NULL)
        prev->next_entry = slot->next_entry;
    else
        header->first_unclaimed = slot->next_entry;
    slot->next_entry = slot->prev_entry = 0;
    header->unclaimed--;
}

static void add_free(struct pair_table *table, struct slot *slot)
{
    slot->next_entry = table->header->free;
    slot->prev_entry = 0;
    table->header->free = table_link(table, slot);
}

void table_repair_entry(struct pair_table *table)
{
    struct table_header *header = table->header;
    uint32_t end = table_end(table);
    header->fresh = end;
    header->free = header->first_unclaimed = header->last_unclaimed = 0;
    header->used = header->unclaimed = 0;
    if (header->reserved > table->capacity)
        header->reserved = table->capacity;
    memset(table->source_buckets, 0, sizeof(slot_link) * ((size_t)table->bucket_mask + 1));
    for (uint32_t index = 0; index < end; index++) {
        struct slot *slot = &table->slots[index];
        if (slot->state == PAIR_FREE) {
            add_free(table, slot);
            continue;
        }
        header->used++;
        add_source(table, slot);
        if (slot->place != PAIR_WITH_FORWARDER)
            add_unclaimed(table, slot);
    }
}

/* Reserves file space for slot `fresh`, and for some slots ahead if there is space. */
static int reserve_slots(struct pair_table *table, uint32_t fresh)
{
    struct table_header *header = table->header;
    uint32_t reserved = header->reserved, end = table->capacity;
    if (reserved >= end || (reserved > fresh && reserved - fresh >= RESERVED_AHEAD / 2))
        return 0;
    if (end - reserved > RESERVED_AHEAD)
        end = reserved + RESERVED_AHEAD;
    size_t start = (size_t)((char *)&table->slots[reserved] - (char *)header);
    int error = table_reserve(table->fd, start, (end - reserved) * sizeof(struct slot));
    if (error == 0)
        header->reserved = end;
    return reserved > fresh ? 0 : error;
}

static int take_fresh(struct pair_table *table, struct slot **ret)
{
    uint32_t fresh = table->header->fresh;
    *ret = table_slot(table, fresh);
    if (*ret == NULL)
        return -ENOSPC;
    int error = reserve_slots(table, fresh);
    if (error == 0)
        table->header->fresh = fresh + 1;
    return error;
}

/* A slot that was used before, else a fresh one. If the first of the free list is not free, the
 * list is damaged and made again. */
static int take_free(struct pair_table *table, struct slot **ret)
{
    *ret = table_follow(table, table->header->free);
    if (*ret == NULL)
        return take_fresh(table, ret);
    if ((*ret)->state != PAIR_FREE) {
        table_repair_entry(table);
        *ret = table_follow(table, table->header->free);
        if (*ret == NULL)
            return take_fresh(table, ret);
    }
    table->header->free = (*ret)->next_entry;
    return 0;
}

/* Keeps the generation and the state: they are read without a lock, and the next reference has to
 * differ from all before. */
static void clear_slot(struct slot *slot)
{
    size_t start = offsetof(struct slot, place);
    memset((char *)slot + start, 0, sizeof *slot - start);
}

int table_take_slot(struct pair_table *table, uint64_t source, struct slot **ret)
{
    int error = take_free(table, ret);
    if (error != 0)
        return error;
    struct slot *slot = *ret;
    clear_slot(slot);
    slot->source = source;
    slot->peer = PAIR_NONE;
    slot->owner = table_own_process();
    slot->place = PAIR_WITH_WORKER;
    table_set_state(slot, PAIR_GREETING);
    add_unclaimed(table, slot);
    add_source(table, slot);
    table->header->used++;
    return 0;
}

void table_free_slot(struct pair_table *table, struct slot *slot)
{
    bool unclaimed = slot->place != PAIR_WITH_FORWARDER;
    slot->generation++;
    table_set_state(slot, PAIR_FREE);
    if (unclaimed)
        remove_unclaimed(table, slot);
    remove_source(table, slot);
    add_free(table, slot);
    table->header->used--;
}

void table_claim_slot(struct pair_table *table, struct slot *slot)
{
    slot->place = PAIR_WITH_FORWARDER;
    remove_unclaimed(table, slot);
}

/* ---- repair ---------------------------------------------------------------------- */

/* A match is complete if both slots name each other. */
static bool match_is_complete(const struct pair_table *table, const struct slot *slot)
{
    const struct slot *peer = table_find(table, slot->peer);
    return peer != NULL && pair_same(peer->peer, table_ref(table, slot)) &&
           (peer->state == PAIR_MATCHED || peer->state == PAIR_JOINED);
}

/* A slot of a match that is not complete waits again. */
void table_repair_stripe(struct pair_table *table, struct stripe *stripe)
{
    size_t number = (size_t)(stripe - table->header->stripes);
    for (size_t bucket = number; bucket <= table->bucket_mask; bucket += TABLE_STRIPES)
        table->key_buckets[bucket] = 0;
    stripe->tokens = 0;
    uint32_t end = table_end(table);
    for (uint32_t index = 0; index < end; index++) {
        struct slot *slot = &table->slots[index];
        if (slot->state < PAIR_WAITING || table_key_stripe(table, &slot->key) != stripe)
            continue;
        if (slot->state == PAIR_MATCHED && !match_is_complete(table, slot)) {
            slot->peer = PAIR_NONE;
            table_set_state(slot, PAIR_WAITING);
        }
        if (slot->state == PAIR_WAITING)
            table_add_waiting(table, slot);
    }
}
