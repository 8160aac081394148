/* Who holds which documents: the forwarder's memory of localfirst's introductions, and who is to
 * be introduced to whom. Every peer's and every document's share of it is bounded. */
#ifndef RELAY_DOCUMENTS_H
#define RELAY_DOCUMENTS_H

#include <stdbool.h>
#include <stddef.h>

enum {
    DOCUMENTS_PER_PEER = 1024,
    DOCUMENTS_INTRODUCED = 256, /* peers that one Join introduces, those who joined last first */
    DOCUMENTS_WEIGHED = 16384,  /* documents in common, of all peers together, in one Join */
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
/* Forgets the peer and all that it holds. NULL: nothing. */
void documents_leave(struct documents_peer *peer);
void *documents_context(const struct documents_peer *peer);

/* Adds a document, if the peer does not hold it yet. -ENOSPC: it holds DOCUMENTS_PER_PEER;
 * -ENOMEM. */
int documents_add(struct documents_peer *peer, struct documents_id id);
void documents_remove(struct documents_peer *peer, struct documents_id id);

/* Whether it has joined a document, for the first time or again, since it was last matched. */
bool documents_joined(const struct documents_peer *peer);

/* Calls introduce() for other peers who have documents in common with this one, and these
 * documents, in the order in which this one joined them. It may change nothing here. */
void documents_match(struct documents_peer *peer,
    void (*introduce)(void *context, struct documents_peer *peer, struct documents_peer *other,
        const struct documents_id *ids, size_t count),
    void *context);

#endif
