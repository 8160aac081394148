/* Carrying connections over from a table that was lost to the table in its place: see
 * pair_replace_lost() in pair.h. */
#include "pair_slots.h"

#include <errno.h>
#include <string.h>

void pair_replace_lost(struct pair_table *table, struct pair_table *last)
{
    pair_release_held(table);
    if (!table_is_intact(last) || table_lock_entry(table) != 0)
        return;
    if (table->header->fresh == 0)
        memcpy(table->header->secret, last->header->secret, TABLE_SECRET_SIZE);
    table_unlock_entry(table);
}

/* The slot in the last table; NULL if it cannot be used here. */
static const struct slot *find_last(
    const struct pair_table *table, const struct pair_table *last, struct pair_ref ref)
{
    bool alike = table_is_intact(last) &&
                 memcmp(table->header->secret, last->header->secret, TABLE_SECRET_SIZE) == 0;
    return alike ? table_find(last, ref) : NULL;
}

/* Takes a slot whose descriptor is with the forwarder. */
static int take_held(struct pair_table *table, const struct slot *last,
    const struct pair_view *view, struct pair_ref *ret)
{
    struct slot *slot;
    int error = table_lock_entry(table);
    if (error != 0)
        return error;
    error = table_take_slot(table, last == NULL ? 0 : last->source, &slot);
    if (error == 0) {
        table_claim_slot(table, slot);
        slot->protocol = view->protocol;
        slot->rule = (uint8_t)view->rule;
        slot->opened = view->opened;
        atomic_store(&slot->bytes, view->bytes);
        if (last != NULL) {
            slot->key = last->key;
            slot->side = last->side;
        }
        *ret = table_ref(table, slot);
    }
    table_unlock_entry(table);
    return error;
}

int pair_carry(
    struct pair_table *table, struct pair_table *last, struct pair_ref ref, struct pair_ref *ret)
{
    struct pair_ref stranded;
    const struct slot *old = find_last(table, last, ref);
    if (old == NULL || old->state < PAIR_WAITING || old->state == PAIR_LEAVING)
        return -ESTALE;
    struct pair_view view;
    pair_view_slot(last, old, &view);
    struct pair_key key = old->key;
    int error = take_held(table, old, &view, ret);
    if (error != 0)
        return error;
    error = table_lock_key(table, &key);
    if (error != 0) {
        (void)pair_leave(table, *ret, &stranded); /* stale: there is nothing to free */
        return error;
    }
    struct slot *slot = table_find(table, *ret);
    if (slot != NULL && view.state == PAIR_DISMISSED) {
        slot->reason = (uint8_t)view.reason;
        table_set_state(slot, PAIR_DISMISSED);
    } else if (slot != NULL) {
        pair_meet_again(table, slot);
    }
    table_unlock_key(table, &key);
    return slot == NULL ? -ESTALE : 0;
}

/* Both slots have the same key, or none. */
static int join_carried(struct pair_table *table, const struct pair_ref refs[static 2])
{
    struct slot *slots[2] = {table_find(table, refs[0]), table_find(table, refs[1])};
    if (slots[0] == NULL || slots[1] == NULL)
        return -ESTALE;
    struct pair_key key = slots[0]->key;
    int error = table_lock_key(table, &key);
    if (error != 0)
        return error;
    for (size_t i = 0; i < 2; i++) {
        slots[i]->peer = refs[1 - i];
        table_set_state(slots[i], PAIR_JOINED);
    }
    table_unlock_key(table, &key);
    return 0;
}

int pair_carry_joined(struct pair_table *table, struct pair_table *last,
    const struct pair_view ends[static 2], struct pair_ref ret[static 2])
{
    struct pair_ref stranded;
    size_t taken = 0;
    int error = 0;
    for (; error == 0 && taken < 2; taken += error == 0)
        error =
            take_held(table, find_last(table, last, ends[taken].ref), &ends[taken], &ret[taken]);
    if (error == 0)
        error = join_carried(table, ret);
    for (size_t i = 0; error != 0 && i < taken; i++)
        (void)pair_leave(table, ret[i], &stranded); /* stale: there is nothing to free */
    return error;
}
