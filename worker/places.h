/* The places on the porch: which clients wait there, from which source and since when; which
 * client's time comes next; and which client has to go when there is no room.
 *
 * Each operation takes O(1), or O(log n) where times are sorted, whatever strangers do. Address
 * space is reserved once; places that are never used take no memory. */
#ifndef RELAY_PLACES_H
#define RELAY_PLACES_H

#include <stddef.h>
#include <stdint.h>

struct places;

struct place {
    struct crowd *crowd;       /* all places of the same source; NULL: it does not stand any more */
    struct place *next, *prev; /* in its crowd, the oldest in front; afterwards the caller's */
    size_t alarm;              /* its position in the heap of times, plus one; 0: none */
    int64_t wake_at;           /* milliseconds, CLOCK_MONOTONIC */
};

/* Makes `capacity` places of `size` bytes, each of which begins with a struct place. At most
 * `standing` of them stand at once, and `per_source` of one source. NULL: there is no memory. */
struct places *places_make(size_t capacity, size_t size, size_t standing, size_t per_source);
void places_free(struct places *places);

/* Takes a place, which stands from now on. source: a hash that strangers cannot choose. What is
 * behind the struct place is as its last user left it. NULL: all places are taken. */
struct place *places_take(struct places *places, uint64_t source, int64_t wake_at);
/* The place that has to go before another place of this source may stand: the oldest of that
 * source, if the source has its share; else, if all places stand, the oldest of the largest source.
 * NULL: none has to go. */
struct place *places_surplus(const struct places *places, uint64_t source);
/* The oldest place of the source with the most places; NULL: none stands. */
struct place *places_first(const struct places *places);

void places_wake_at(struct places *places, struct place *place, int64_t at);
/* The place that wakes next; NULL: none stands. */
struct place *places_next(const struct places *places);

/* The place stands no more and does not count for its source, but stays the caller's. */
void places_dismiss(struct places *places, struct place *place);
/* Gives a place back, whether it stands or not. */
void places_leave(struct places *places, struct place *place);

size_t places_standing(const struct places *places);
size_t places_used(const struct places *places); /* standing or not */

#endif
