/* Who holds which documents: the forwarder's memory of localfirst's introductions, and who is to
 * be introduced to whom. Every peer's and every document's share of it is bounded, and nothing here
 * takes long: what is much work is done in steps. */
#ifndef RELAY_DOCUMENTS_H
#define RELAY_DOCUMENTS_H

#include <stdbool.h>
#include <stddef.h>

enum {
    DOCUMENTS_PER_PEER = 1024,
    DOCUMENTS_BYTES = 1 << 18,  /* of the ids of all documents of a peer */
    DOCUMENTS_INTRODUCED = 256, /* peers that one match introduces, those who joined last first */
    DOCUMENTS_NAMED = 16384,    /* documents in common that it names, of all these together, */
    DOCUMENTS_NAMED_BYTES = 1 << 20, /* and bytes of their ids; but one of each peer */
};

struct documents_peer;

struct documents_id {
    const char *bytes;
    size_t size;
};

/* Makes a peer without documents, for somebody known to the caller by `context`. There must be
 * none with this id. NULL: no memory. */
struct documents_peer *documents_enter(struct documents_id id, void *context);
/* NULL: there is none. */
struct documents_peer *documents_find(struct documents_id id);
/* Forgets the peer; what it holds is forgotten by documents_tidy(). NULL: nothing. */
void documents_leave(struct documents_peer *peer);
/* Forgets a little of what those held who have left. Returns whether there is more of it. */
bool documents_tidy(void);
void *documents_context(const struct documents_peer *peer);

/* Adds a document, if the peer does not hold it yet, and notes that the peer is to be matched for
 * it. -ENOSPC: it holds DOCUMENTS_PER_PEER, or DOCUMENTS_BYTES; -ENOMEM. */
int documents_add(struct documents_peer *peer, struct documents_id id);
void documents_remove(struct documents_peer *peer, struct documents_id id);

/* Whether it has joined a document, for the first time or again, and was not matched for that to
 * the end. */
bool documents_is_to_be_matched(const struct documents_peer *peer);

/* `other` holds some of what the peer has joined. Of what is new to the peer, it is told all that
 * they have in common, what is new first; `again`: of what it held before, that alone. May change
 * nothing here. */
typedef void documents_introducer(void *context, struct documents_peer *peer,
    struct documents_peer *other, const struct documents_id *ids, size_t count, bool again);

/* Takes one step of the match of a peer that has joined something: finds those who hold one of the
 * documents, or introduces one of those found. Returns whether there are more steps to take. One
 * peer is matched at a time: a step of another peer ends the match before. */
bool documents_match(struct documents_peer *peer, documents_introducer *introduce, void *context);

#endif
