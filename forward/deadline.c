/* Deadlines: lists in order of expiry. */
#include "forward/deadline.h"

#include <stddef.h>

void deadline_set(struct deadline *deadline, struct deadline_list *list, int64_t now)
{
    deadline_clear(deadline);
    deadline->at = now + list->length;
    deadline->list = list;
    deadline->next = NULL;
    deadline->prev = list->last;
    if (list->last != NULL)
        list->last->next = deadline;
    else
        list->first = deadline;
    list->last = deadline;
}

void deadline_clear(struct deadline *deadline)
{
    struct deadline_list *list = deadline->list;
    if (list == NULL)
        return;
    if (deadline->next != NULL)
        deadline->next->prev = deadline->prev;
    else
        list->last = deadline->prev;
    if (deadline->prev != NULL)
        deadline->prev->next = deadline->next;
    else
        list->first = deadline->next;
    deadline->list = NULL;
}

void deadline_set_length(struct deadline_list *list, int64_t length)
{
    int64_t change = length - list->length;
    for (struct deadline *each = change == 0 ? NULL : list->first; each != NULL; each = each->next)
        each->at += change;
    list->length = length;
}

struct deadline *deadline_expired(struct deadline_list *list, int64_t now)
{
    struct deadline *first = list->first;
    if (!deadline_is_due(list, now))
        return NULL;
    deadline_clear(first);
    return first;
}

int64_t deadline_next(const struct deadline_list *list, int64_t next)
{
    if (list->first == NULL || (next >= 0 && next <= list->first->at))
        return next;
    return list->first->at;
}
