/* What strangers make the forwarder hold for them: what cannot be written or used yet. Each
 * connection is bounded by itself, but all of them together would be too much; so what one may
 * hold is a share of what is left, and falls as that falls, long before nothing is left for the
 * others. One budget for the process. */
#ifndef RELAY_BUDGET_H
#define RELAY_BUDGET_H

#include <stddef.h>

enum {
    BUDGET = 256 << 20, /* bytes */
};

/* To be called with every allocation that is counted, and when it is freed. */
void budget_take(size_t size);
void budget_give(size_t size);
size_t budget_used(void);
size_t budget_left(void);

/* How much one connection may hold of a kind: `most` while there is plenty, and never less than
 * `least`. */
size_t budget_share(size_t least, size_t most);

#endif
