/* The budget: see budget.h. */
#include "budget.h"

enum {
    SHARES = 64, /* one may take such a part of what is left */
};

static size_t used;

void budget_take(size_t size)
{
    used += size;
}

void budget_give(size_t size)
{
    used -= size;
}

size_t budget_used(void)
{
    return used;
}

size_t budget_left(void)
{
    return used < BUDGET ? BUDGET - used : 0;
}

size_t budget_share(size_t least, size_t most)
{
    size_t share = budget_left() / SHARES;
    return share < least ? least : share < most ? share : most;
}
