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

size_t budget_share(size_t least, size_t most)
{
    size_t share = used < BUDGET ? (BUDGET - used) / SHARES : 0;
    return share < least ? least : share < most ? share : most;
}
