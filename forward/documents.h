/* Which peers of localfirst hold which documents, and which peers are to be introduced to each
 * other. What a peer may hold is bounded, and no function takes long: matching and forgetting are
 * done in steps. */
#ifndef RELAY_DOCUMENTS_H
#define RELAY_DOCUMENTS_H

#include <stdbool.h>
#include <stddef.h>

enum {
    DOCUMENTS_PER_PEER = 1024,
    DOCUMENTS_BYTES = 1 << 18,  /* of the ids of all documents of a peer */
    DOCUMENTS_INTRODUCED = 256, /* peers in one match; those that joined last come first */
    DOCUMENTS_NAMED = 16384,    /* documents that all introductions of a match name together; */
    DOCUMENTS_NAMED_BYTES = 1 << 20, /* bytes of their ids; but each names at least one document */
};

struct documents_peer;

struct documents_id {
    const char *bytes;
    size_t size;
};

/* Makes a peer that holds no documents. `context` is the caller's. There must be no peer with this
 * id. NULL: no memory. */
struct documents_peer *documents_enter(struct documents_id id, void *context);
/* Finds a peer by its id. NULL: there is none. */
struct documents_peer *documents_find(struct documents_id id);
/* Forgets a peer; its documents are forgotten by documents_tidy(). NULL: does nothing. */
void documents_leave(struct documents_peer *peer);
/* Forgets some documents of peers that have left. Returns whether there are more. */
bool documents_tidy(void);
/* The context that the peer was made with. */
void *documents_context(const struct documents_peer *peer);

/* Adds a document to a peer, if the peer does not hold it yet, and notes that the peer is to be
 * matched for it. 0, -ENOMEM, or -ENOSPC: the peer holds DOCUMENTS_PER_PEER or DOCUMENTS_BYTES
 * already. */
int documents_add(struct documents_peer *peer, struct documents_id id);
void documents_remove(struct documents_peer *peer, struct documents_id id);

/* Whether a peer has joined documents, for the first time or again, for which it was not completely
 * matched yet. */
bool documents_is_to_be_matched(const struct documents_peer *peer);

/* Introduces `peer` to `other`; the documents are held by both. If the peer has joined one of them
 * for the first time, they are all that both hold, new ones first; `again`: the peer held all of
 * them before, and has joined them again. Must not call functions of this module that change
 * something. */
typedef void documents_introducer(void *context, struct documents_peer *peer,
    struct documents_peer *other, const struct documents_id *ids, size_t count, bool again);

/* Takes one step of the match of a peer that has joined documents: finds the peers that hold one of
 * them, or introduces one peer that was found. Returns whether there are more steps. One peer is
 * matched at a time: a step for another peer ends the match before. */
bool documents_match(struct documents_peer *peer, documents_introducer *introduce, void *context);

#endif
