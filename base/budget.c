/* The budget: see budget.h. */
#include "base/budget.h"

#include "base/clock.h"

enum {
    PARTS = 64, /* an account may hold 1/PARTS of what is left of its share */
};

static const size_t sizes[BUDGET_SHARES] = {
    [BUDGET_WAITING] = BUDGET_WAITING_SIZE,
    [BUDGET_DOCUMENTS] = BUDGET_DOCUMENTS_SIZE,
    [BUDGET_STREAMS] = BUDGET_STREAMS_SIZE,
    [BUDGET_FRAMES] = BUDGET_FRAMES_SIZE,
};

static size_t used[BUDGET_SHARES];
static struct budget_account *debtors;

static void add_debtor(struct budget_account *account)
{
    account->is_debtor = true;
    account->since = clock_now();
    account->prev = NULL;
    account->next = debtors;
    if (debtors != NULL)
        debtors->prev = account;
    debtors = account;
}

static void remove_debtor(struct budget_account *account)
{
    account->is_debtor = false;
    if (account->next != NULL)
        account->next->prev = account->prev;
    if (account->prev != NULL)
        account->prev->next = account->next;
    else
        debtors = account->next;
}

static void update_debt(struct budget_account *account)
{
    bool in_debt = account->share == BUDGET_FRAMES && account->held > BUDGET_FRAMES_OWN;
    if (in_debt && !account->is_debtor)
        add_debtor(account);
    else if (!in_debt && account->is_debtor)
        remove_debtor(account);
}

void budget_take(struct budget_account *account, size_t size)
{
    account->held += size;
    used[account->share] += size;
    update_debt(account);
}

void budget_give(struct budget_account *account, size_t size)
{
    account->held -= size;
    used[account->share] -= size;
    update_debt(account);
}

void budget_move(struct budget_account *account, enum budget_share share)
{
    used[account->share] -= account->held;
    used[share] += account->held;
    account->share = share;
    update_debt(account);
}

size_t budget_used(enum budget_share share)
{
    return used[share];
}

size_t budget_allowance(enum budget_share share, size_t least, size_t most)
{
    size_t part = used[share] < sizes[share] ? (sizes[share] - used[share]) / PARTS : 0;
    part = part < least ? least : part;
    return part < most ? part : most;
}

/* `now` is when the event loop woke up; the debt may have begun after that. */
static uint64_t debt_of(const struct budget_account *account, int64_t now)
{
    uint64_t age = now > account->since ? (uint64_t)(now - account->since) : 0;
    return (uint64_t)(account->held - BUDGET_FRAMES_OWN) * (age + 1);
}

struct budget_account *budget_debtor(int64_t now)
{
    struct budget_account *worst = debtors;
    if (used[BUDGET_FRAMES] <= BUDGET_FRAMES_SIZE)
        return NULL;
    for (struct budget_account *account = debtors; account != NULL; account = account->next)
        if (debt_of(account, now) > debt_of(worst, now))
            worst = account;
    return worst;
}
