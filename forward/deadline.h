/* Deadlines of one kind have one length, so those of a kind expire in the order in which they
 * were set: a kind is a list, setting and clearing cost O(1), and only its first can be next. */
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

/* Sets it anew, on this list, `list->length` from now. */
void deadline_set(struct deadline *deadline, struct deadline_list *list, int64_t now);
void deadline_clear(struct deadline *deadline);
/* Changes the length of a list, for those that are set, too: O(n). */
void deadline_set_length(struct deadline_list *list, int64_t length);
static inline bool deadline_is_set(const struct deadline *deadline)
{
    return deadline->list != NULL;
}
/* Whether the list's first has expired. */
static inline bool deadline_is_due(const struct deadline_list *list, int64_t now)
{
    return list->first != NULL && list->first->at <= now;
}
/* The first that has expired, cleared; NULL: none. */
struct deadline *deadline_expired(struct deadline_list *list, int64_t now);
/* The earlier of `next` (-1: never) and the list's first. */
int64_t deadline_next(const struct deadline_list *list, int64_t next);

#endif
