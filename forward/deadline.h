/* All deadlines of one kind have the same length, so they expire in the order in which they were
 * set. A kind is a list: setting and clearing cost O(1), and the first of a list expires next. */
#ifndef RELAY_DEADLINE_H
#define RELAY_DEADLINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct deadline {
    struct deadline *next, *prev;
    struct deadline_list *list; /* NULL: not set */
    int64_t at;                 /* milliseconds, CLOCK_MONOTONIC */
};

struct deadline_list {
    struct deadline *first, *last;
    int64_t length; /* milliseconds */
};

/* Sets a deadline on this list, `list->length` from now; it is cleared before if it was set. */
void deadline_set(struct deadline *deadline, struct deadline_list *list, int64_t now);
void deadline_clear(struct deadline *deadline);
/* Changes the length of a list, also for the deadlines that are set: O(n). */
void deadline_set_length(struct deadline_list *list, int64_t length);
static inline bool deadline_is_set(const struct deadline *deadline)
{
    return deadline->list != NULL;
}
/* Whether the first deadline of a list has expired. */
static inline bool deadline_is_due(const struct deadline_list *list, int64_t now)
{
    return list->first != NULL && list->first->at <= now;
}
/* Clears and returns the first deadline of a list if it has expired; NULL: it has not. */
struct deadline *deadline_expired(struct deadline_list *list, int64_t now);
/* The earlier of `next` (-1: never) and the first deadline of a list. */
int64_t deadline_next(const struct deadline_list *list, int64_t next);

#endif
