/* The budget: how much memory the forwarder uses for bytes of clients that cannot be written or
 * used yet. Each client has an account, and each account belongs to one share of the budget. What
 * the accounts of one share hold takes nothing from the other shares. Each account is guaranteed
 * the memory that its protocol needs to go on; the caller says how much that is.
 *
 * Above its guarantee, an account may hold a part of what is left of its share, so that the
 * allowance falls as the share fills. Frames cannot do with less than their size: when their share
 * is used up, the client whose account has held the most for the longest has to go. */
#ifndef RELAY_BUDGET_H
#define RELAY_BUDGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum budget_share {
    BUDGET_WAITING,   /* clients without a peer */
    BUDGET_DOCUMENTS, /* what waiting clients have joined: documents.h */
    BUDGET_STREAMS,   /* pairs whose bytes are passed on as they come */
    BUDGET_FRAMES,    /* pairs whose messages are passed on only whole */
    BUDGET_SHARES,
};

enum {
    BUDGET_WAITING_SIZE = 64 << 20, /* bytes */
    BUDGET_DOCUMENTS_SIZE = 64 << 20,
    BUDGET_STREAMS_SIZE = 128 << 20,
    BUDGET_FRAMES_SIZE = 256 << 20,
    BUDGET_FRAMES_OWN = 256 << 10, /* guaranteed to each account of BUDGET_FRAMES */
};

/* All zeros: the account of a waiting client, which holds nothing. An account that holds something
 * must not be moved in memory. */
struct budget_account {
    enum budget_share share;
    size_t held;
    int64_t since; /* of a debtor: since when. Milliseconds, CLOCK_MONOTONIC */
    bool is_debtor;
    struct budget_account *next, *prev; /* among the debtors */
};

/* Called with each allocation that is counted, and when it is freed. */
void budget_take(struct budget_account *account, size_t size);
void budget_give(struct budget_account *account, size_t size);
/* Moves the account, and what it holds, to another share. */
void budget_move(struct budget_account *account, enum budget_share share);

size_t budget_used(enum budget_share share);

/* How many bytes of one kind an account of this share may hold: `most` while there is plenty, and
 * never less than `least`, which is guaranteed. */
size_t budget_allowance(enum budget_share share, size_t least, size_t most);

/* The account whose client has to go when the accounts of BUDGET_FRAMES together hold too much: of
 * those that hold more than their guarantee, the one with the largest product of bytes above it and
 * time, up to `now`. NULL: no client has to go. */
struct budget_account *budget_debtor(int64_t now);

#endif
