/* Documents and their holders: three hash tables (uthash), of peers and of documents by their ids,
 * and of holdings by peer and document, under a secret hash, so that nobody can choose ids that
 * collide. */
#include "documents.h"

#include "../budget.h"

#include <errno.h>
#include <sodium.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static unsigned int secret_hash(const void *key, size_t size);

#define HASH_NONFATAL_OOM 1
#define HASH_FUNCTION(key, size, hash) ((hash) = secret_hash((key), (size)))
#include <uthash.h>

struct document {
    UT_hash_handle hh;
    struct holding *holders; /* the latest first */
    size_t size;
    char id[];
};

struct holding_key {
    struct documents_peer *peer;
    struct document *document;
};

struct holding {
    UT_hash_handle hh;
    struct holding_key key;
    struct holding *next_holder, *prev_holder; /* of the document */
    struct holding *next, *prev;               /* of the peer */
    struct holding *next_common;               /* while peers are matched */
};

struct documents_peer {
    UT_hash_handle hh;
    void *context;
    struct holding *first, *last;
    size_t count;
    bool joined; /* something, since it was last matched */
    /* While peers are matched: the next one, and what it has in common. */
    struct documents_peer *next;
    struct holding *first_common, *last_common;
    size_t common;
    char id[];
};

static struct documents_peer *peers;
static struct document *documents;
static struct holding *holdings;

static unsigned int secret_hash(const void *key, size_t size)
{
    static uint8_t secret[crypto_shorthash_KEYBYTES];
    static bool drawn;
    unsigned int hash;
    uint8_t digest[crypto_shorthash_BYTES];
    if (!drawn)
        randombytes_buf(secret, sizeof secret);
    drawn = true;
    crypto_shorthash(digest, key, size, secret);
    memcpy(&hash, digest, sizeof hash);
    return hash;
}

/* ---- documents ------------------------------------------------------------------- */

static struct document *find_document(struct documents_id id)
{
    struct document *document;
    HASH_FIND(hh, documents, id.bytes, id.size, document);
    return document;
}

static struct document *find_or_make_document(struct documents_id id)
{
    struct document *document = find_document(id);
    if (document != NULL)
        return document;
    document = calloc(1, sizeof *document + id.size);
    if (document == NULL)
        return NULL;
    document->size = id.size;
    memcpy(document->id, id.bytes, id.size);
    HASH_ADD_KEYPTR(hh, documents, document->id, document->size, document);
    if (document->hh.tbl == NULL) {
        free(document);
        return NULL;
    }
    budget_take(sizeof *document + document->size);
    return document;
}

static void drop_if_unheld(struct document *document)
{
    if (document->holders != NULL)
        return;
    HASH_DELETE(hh, documents, document);
    budget_give(sizeof *document + document->size);
    free(document);
}

/* ---- holdings -------------------------------------------------------------------- */

static struct holding *find_holding(struct documents_peer *peer, struct document *document)
{
    struct holding_key key = {peer, document};
    struct holding *holding;
    HASH_FIND(hh, holdings, &key, sizeof key, holding);
    return holding;
}

static void link_holding(struct holding *holding)
{
    struct documents_peer *peer = holding->key.peer;
    struct document *document = holding->key.document;
    holding->next_holder = document->holders;
    if (document->holders != NULL)
        document->holders->prev_holder = holding;
    document->holders = holding;
    holding->prev = peer->last;
    if (peer->last != NULL)
        peer->last->next = holding;
    else
        peer->first = holding;
    peer->last = holding;
    peer->count++;
    budget_take(sizeof *holding);
}

static void unlink_holding(struct holding *holding)
{
    struct documents_peer *peer = holding->key.peer;
    if (holding->next_holder != NULL)
        holding->next_holder->prev_holder = holding->prev_holder;
    if (holding->prev_holder != NULL)
        holding->prev_holder->next_holder = holding->next_holder;
    else
        holding->key.document->holders = holding->next_holder;
    if (holding->next != NULL)
        holding->next->prev = holding->prev;
    else
        peer->last = holding->prev;
    if (holding->prev != NULL)
        holding->prev->next = holding->next;
    else
        peer->first = holding->next;
    peer->count--;
    budget_give(sizeof *holding);
}

static void drop_holding(struct holding *holding)
{
    struct document *document = holding->key.document;
    unlink_holding(holding);
    /* What is held is in the table, so that is not empty. */
    HASH_DELETE(hh, holdings, holding); /* NOLINT(clang-analyzer-core.NullDereference) */
    free(holding);
    drop_if_unheld(document);
}

int documents_add(struct documents_peer *peer, struct documents_id id)
{
    struct document *document = find_or_make_document(id);
    if (document == NULL)
        return -ENOMEM;
    peer->joined = true;
    if (find_holding(peer, document) != NULL)
        return 0;
    struct holding *holding = NULL;
    int error = peer->count == DOCUMENTS_PER_PEER ? -ENOSPC : budget_share(0, 1) == 0 ? -ENOMEM : 0;
    if (error == 0 && (holding = calloc(1, sizeof *holding)) != NULL) {
        holding->key = (struct holding_key){peer, document};
        HASH_ADD(hh, holdings, key, sizeof holding->key, holding);
        if (holding->hh.tbl != NULL) {
            link_holding(holding);
            return 0;
        }
        free(holding);
    }
    drop_if_unheld(document);
    return error != 0 ? error : -ENOMEM;
}

void documents_remove(struct documents_peer *peer, struct documents_id id)
{
    struct document *document = find_document(id);
    struct holding *holding = document == NULL ? NULL : find_holding(peer, document);
    if (holding != NULL)
        drop_holding(holding);
}

/* ---- peers ----------------------------------------------------------------------- */

struct documents_peer *documents_find(struct documents_id id)
{
    struct documents_peer *peer;
    HASH_FIND(hh, peers, id.bytes, id.size, peer);
    return peer;
}

struct documents_peer *documents_enter(struct documents_id id, void *context)
{
    struct documents_peer *peer = calloc(1, sizeof *peer + id.size);
    if (peer == NULL)
        return NULL;
    peer->context = context;
    memcpy(peer->id, id.bytes, id.size);
    HASH_ADD_KEYPTR(hh, peers, peer->id, id.size, peer);
    if (peer->hh.tbl != NULL)
        return peer;
    free(peer);
    return NULL;
}

void documents_leave(struct documents_peer *peer)
{
    if (peer == NULL)
        return;
    for (struct holding *holding = peer->first, *next; holding != NULL; holding = next) {
        next = holding->next;
        drop_holding(holding);
    }
    HASH_DELETE(hh, peers, peer);
    free(peer);
}

void *documents_context(const struct documents_peer *peer)
{
    return peer->context;
}

bool documents_joined(const struct documents_peer *peer)
{
    return peer->joined;
}

/* ---- matching -------------------------------------------------------------------- */

struct match {
    struct documents_peer *first, *last; /* those who have something in common with the peer */
    size_t count, weighed;
};

/* Notes that somebody else holds a document of the peer's. */
static void weigh(struct match *match, struct holding *holding)
{
    struct documents_peer *other = holding->key.peer;
    if (other->common == 0) {
        if (match->count == DOCUMENTS_INTRODUCED)
            return;
        match->count++;
        other->next = NULL;
        other->first_common = other->last_common = NULL;
        if (match->last != NULL)
            match->last->next = other;
        else
            match->first = other;
        match->last = other;
    }
    holding->next_common = NULL;
    if (other->last_common != NULL)
        other->last_common->next_common = holding;
    else
        other->first_common = holding;
    other->last_common = holding;
    other->common++;
    match->weighed++;
}

static void find_matches(struct documents_peer *peer, struct match *match)
{
    for (struct holding *own = peer->first; own != NULL; own = own->next) {
        size_t steps = 0;
        for (struct holding *holding = own->key.document->holders;
             holding != NULL && match->weighed < DOCUMENTS_WEIGHED && steps <= DOCUMENTS_INTRODUCED;
             holding = holding->next_holder, steps++)
            if (holding != own)
                weigh(match, holding);
    }
}

void documents_match(struct documents_peer *peer,
    void (*introduce)(void *context, struct documents_peer *peer, struct documents_peer *other,
        const struct documents_id *ids, size_t count),
    void *context)
{
    struct documents_id ids[DOCUMENTS_PER_PEER];
    struct match match = {.first = NULL};
    peer->joined = false;
    find_matches(peer, &match);
    for (struct documents_peer *other = match.first; other != NULL; other = other->next) {
        size_t count = 0;
        for (struct holding *holding = other->first_common; holding != NULL;
             holding = holding->next_common)
            ids[count++] =
                (struct documents_id){holding->key.document->id, holding->key.document->size};
        other->common = 0;
        introduce(context, peer, other, ids, count);
    }
}
