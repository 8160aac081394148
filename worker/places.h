/* Places on the porch: who stands there, from which source and since when, who is the next to be
 * looked at, and who goes first when there is no room.
 *
 * All of it costs O(1), and O(log n) where times are put in order, whatever a stranger does. Memory
 * is taken once; what is never used costs none. */
#ifndef RELAY_PLACES_H
#define RELAY_PLACES_H

#include <stddef.h>
#include <stdint.h>

struct places;

struct place {
    struct crowd *crowd;       /* all that stand here from the same source; NULL: stands no more */
    struct place *next, *prev; /* in its crowd, the one that came first in front; or for the user */
    size_t alarm;              /* where it is among the times, plus one; 0: at no time */
    int64_t wake_at;           /* milliseconds, CLOCK_MONOTONIC */
};

/* Room for `capacity` places of `size` bytes, which begin with a struct place; at most `standing`
 * of them stand, and `per_source` from one source. NULL: there is no memory. */
struct places *places_make(size_t capacity, size_t size, size_t standing, size_t per_source);
void places_free(struct places *places);

/* Takes a place, with everything behind its struct place as it was left. It stands, for a source (a
 * hash that no stranger can choose) and until it wakes. NULL: all are taken. */
struct place *places_take(struct places *places, uint64_t source, int64_t wake_at);
/* Who has to go before another one of this source may stand here: the one that came first from that
 * source if it has its share, or else from the source that has the most, if all have theirs. NULL:
 * nobody. */
struct place *places_surplus(const struct places *places, uint64_t source);
/* Who came first of all sources that have the most; NULL: nobody stands. */
struct place *places_first(const struct places *places);

void places_wake_at(struct places *places, struct place *place, int64_t at);
/* The one that wakes next; NULL: nobody stands. */
struct place *places_next(const struct places *places);

/* It stands no more, and does not count for its source; it stays the caller's. */
void places_dismiss(struct places *places, struct place *place);
/* Gives it back, standing or not. */
void places_leave(struct places *places, struct place *place);

size_t places_standing(const struct places *places);
size_t places_used(const struct places *places); /* standing or not */

#endif
