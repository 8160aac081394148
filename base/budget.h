/* What strangers make the forwarder hold for them: what cannot be written or used yet. Everyone
 * has an account, and each account is of one share. What those of one share hold takes nothing from
 * those of another, and what an account is guaranteed nobody takes: it is told by whoever holds,
 * as it is what its protocol needs to go on.
 *
 * Above that, one may hold a part of what is left of its share, which falls as that falls. Only
 * frames cannot do with less: of those whose share is used up, the one that has held the most for
 * the longest has to go. */
#ifndef RELAY_BUDGET_H
#define RELAY_BUDGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum budget_share {
    BUDGET_WAITING,   /* those who have no peer */
    BUDGET_DOCUMENTS, /* what they have joined: documents.h */
    BUDGET_STREAMS,   /* pairs of which all is passed on as it comes */
    BUDGET_FRAMES,    /* pairs whose messages are only passed on whole */
    BUDGET_SHARES,
};

enum {
    BUDGET_WAITING_SIZE = 64 << 20, /* bytes */
    BUDGET_DOCUMENTS_SIZE = 64 << 20,
    BUDGET_STREAMS_SIZE = 128 << 20,
    BUDGET_FRAMES_SIZE = 256 << 20,
    BUDGET_FRAMES_OWN = 256 << 10, /* of one with frames, which is guaranteed */
};

/* Zeros: one who waits, and holds nothing. One that holds something stays where it is. */
struct budget_account {
    enum budget_share share;
    size_t held;
    int64_t since; /* debtors: milliseconds, CLOCK_MONOTONIC */
    bool is_debtor;
    struct budget_account *next, *prev; /* among the debtors */
};

/* To be called with every allocation that is counted, and when it is freed. */
void budget_take(struct budget_account *account, size_t size);
void budget_give(struct budget_account *account, size_t size);
/* Takes what it holds along. */
void budget_move(struct budget_account *account, enum budget_share share);

size_t budget_used(enum budget_share share);

/* How much one of this share may hold of a kind: `most` while there is plenty, and never less than
 * `least`, which is guaranteed. */
size_t budget_allowance(enum budget_share share, size_t least, size_t most);

/* Who has to go, as all with frames hold too much together: of those who hold more than they are
 * guaranteed, the one that took the most of it, in bytes and time, up to `now`. NULL: nobody. */
struct budget_account *budget_debtor(int64_t now);

#endif
