/* What pair.c shares with pair_carry.c: what happens to a slot under its lock. Private to both. */
#ifndef RELAY_PAIR_SLOTS_H
#define RELAY_PAIR_SLOTS_H

#include "pair.h"
#include "table.h"

/* Copies what callers may see of a slot. */
void pair_view_slot(const struct pair_table *table, const struct slot *slot, struct pair_view *ret);

/* Under the key's lock, for a slot whose match failed, or that comes from another table: it waits,
 * matches or is dismissed. A slot that waits under its key now is newer, so where only one may
 * wait, this one is dismissed. */
void pair_meet_again(struct pair_table *table, struct slot *slot);

/* Frees all slots whose descriptor is with the forwarder. */
void pair_release_held(struct pair_table *table);

#endif
