/* Documents and the peers that hold them. Peers and documents are found by their ids in an index;
 * the *holding* of a peer, which says that it holds a document, in a table that the peer has. */
#include "forward/documents.h"

#include "forward/index.h"

#include "base/budget.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    TABLE_MIN = 8,
    DROPPED_AT_ONCE = 16, /* holdings of a peer that has left */
    MEMORY_MIN = 1 << 14, /* bytes of a peer's documents, when connections hold too much memory */
};

struct document {
    struct index_entry entry;
    struct holding *holders; /* the latest first */
    char id[];
};

/* Whether a peer is still to be matched for a document that it holds. */
enum fresh {
    FRESH_NOT,
    FRESH_NEW,
    FRESH_AGAIN, /* the peer held the document already when it joined it */
};

struct holding {
    struct documents_peer *peer;
    struct document *document;
    struct holding *next_holder, *prev_holder; /* of the document */
    struct holding *next, *prev;               /* of the peer, in the order of their numbers */
    struct holding *next_fresh, *prev_fresh;   /* of the peer */
    uint64_t number;                           /* of all holdings that were ever made */
    uint64_t match;                            /* the last that looked for its document's holders */
    enum fresh fresh;
};

struct documents_peer {
    struct index_entry entry;
    void *context;
    struct holding *first, *last;
    struct holding *first_fresh, *last_fresh;
    struct holding **table; /* hashed by document: open addressing, at most half full */
    size_t room;            /* a power of two, or 0 */
    size_t count;
    size_t bytes; /* of the ids of its documents */
    bool gone;    /* it has left */
    /* In the list of peers that a match has found, and is to introduce. */
    struct documents_peer *next, *prev;
    uint64_t match; /* the number of the last match that found it */
    bool listed;
    bool again; /* found only by documents that the matched peer had held before */
    char id[];
};

static struct budget_account account = {.share = BUDGET_DOCUMENTS};
static struct index peers, documents;
static struct documents_peer *gone; /* peers that have left, by their `next` */

/* The match in progress. */
static struct {
    struct documents_peer *peer;         /* NULL: there is none */
    struct documents_peer *first, *last; /* found, and not introduced yet */
    uint64_t number;
    uint64_t since; /* the peer's holdings from this number on are new */
    size_t found;
} match;

/* ---- documents ------------------------------------------------------------------- */

static struct document *find_document(struct documents_id id)
{
    return (struct document *)index_find(&documents, id.bytes, id.size);
}

static struct document *find_or_make_document(struct documents_id id)
{
    struct document *document = find_document(id);
    if (document != NULL)
        return document;
    document = calloc(1, sizeof *document + id.size);
    if (document == NULL)
        return NULL;
    memcpy(document->id, id.bytes, id.size);
    document->entry.id = document->id;
    document->entry.size = id.size;
    if (index_add(&documents, &document->entry) != 0) {
        free(document);
        return NULL;
    }
    budget_take(&account, sizeof *document + id.size);
    return document;
}

static void drop_if_unheld(struct document *document)
{
    if (document->holders != NULL)
        return;
    index_remove(&documents, &document->entry);
    budget_give(&account, sizeof *document + document->entry.size);
    free(document);
}

/* ---- the table of a peer --------------------------------------------------------- */

static size_t place_of(const struct documents_peer *peer, const struct document *document)
{
    uint64_t address = (uint64_t)(uintptr_t)document;
    return (size_t)((address >> 4) * 0x9e3779b97f4a7c15u >> 32) & (peer->room - 1);
}

/* The place of a document's holding in the table, or the free place for it. The table must have
 * room.
 */
static size_t find_table_place(const struct documents_peer *peer, const struct document *document)
{
    size_t place = place_of(peer, document);
    while (peer->table[place] != NULL && peer->table[place]->document != document)
        place = (place + 1) & (peer->room - 1);
    return place;
}

static struct holding *find_holding(
    const struct documents_peer *peer, const struct document *document)
{
    return peer->room == 0 ? NULL : peer->table[find_table_place(peer, document)];
}

static bool make_table_room(struct documents_peer *peer)
{
    if (2 * (peer->count + 1) <= peer->room)
        return true;
    size_t room = peer->room == 0 ? TABLE_MIN : 2 * peer->room;
    struct holding **table = calloc(room, sizeof(struct holding *));
    if (table == NULL)
        return false;
    budget_take(&account, (room - peer->room) * sizeof(struct holding *));
    free(peer->table);
    peer->table = table;
    peer->room = room;
    for (struct holding *holding = peer->first; holding != NULL; holding = holding->next)
        table[find_table_place(peer, holding->document)] = holding;
    return true;
}

/* Frees a place in the table, and moves up the holdings behind it that would have been put there.
 */
static void clear_place(struct documents_peer *peer, size_t place)
{
    size_t mask = peer->room - 1;
    for (size_t at = (place + 1) & mask; peer->table[at] != NULL; at = (at + 1) & mask) {
        size_t wanted = place_of(peer, peer->table[at]->document);
        if (((at - wanted) & mask) < ((at - place) & mask))
            continue;
        peer->table[place] = peer->table[at];
        place = at;
    }
    peer->table[place] = NULL;
}

/* ---- holdings -------------------------------------------------------------------- */

static void freshen(struct holding *holding, enum fresh fresh)
{
    struct documents_peer *peer = holding->peer;
    if (holding->fresh != FRESH_NOT)
        return;
    holding->fresh = fresh;
    holding->next_fresh = NULL;
    holding->prev_fresh = peer->last_fresh;
    if (peer->last_fresh != NULL)
        peer->last_fresh->next_fresh = holding;
    else
        peer->first_fresh = holding;
    peer->last_fresh = holding;
}

static void unfreshen(struct holding *holding)
{
    struct documents_peer *peer = holding->peer;
    if (holding->fresh == FRESH_NOT)
        return;
    holding->fresh = FRESH_NOT;
    if (holding->next_fresh != NULL)
        holding->next_fresh->prev_fresh = holding->prev_fresh;
    else
        peer->last_fresh = holding->prev_fresh;
    if (holding->prev_fresh != NULL)
        holding->prev_fresh->next_fresh = holding->next_fresh;
    else
        peer->first_fresh = holding->next_fresh;
}

static void link_holding(struct holding *holding)
{
    static uint64_t count;
    struct documents_peer *peer = holding->peer;
    struct document *document = holding->document;
    holding->number = ++count;
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
    peer->table[find_table_place(peer, document)] = holding;
    peer->count++;
    peer->bytes += document->entry.size;
    budget_take(&account, sizeof *holding);
}

static void unlink_holding(struct holding *holding)
{
    struct documents_peer *peer = holding->peer;
    unfreshen(holding);
    clear_place(peer, find_table_place(peer, holding->document));
    if (holding->next_holder != NULL)
        holding->next_holder->prev_holder = holding->prev_holder;
    if (holding->prev_holder != NULL)
        holding->prev_holder->next_holder = holding->next_holder;
    else
        holding->document->holders = holding->next_holder;
    if (holding->next != NULL)
        holding->next->prev = holding->prev;
    else
        peer->last = holding->prev;
    if (holding->prev != NULL)
        holding->prev->next = holding->next;
    else
        peer->first = holding->next;
    peer->count--;
    peer->bytes -= holding->document->entry.size;
    budget_give(&account, sizeof *holding);
}

static void drop_holding(struct holding *holding)
{
    struct document *document = holding->document;
    unlink_holding(holding);
    free(holding);
    drop_if_unheld(document);
}

/* The memory that a peer's documents take, as if no other peer held them. */
static size_t memory_of(const struct documents_peer *peer)
{
    return peer->bytes + peer->count * (sizeof(struct holding) + sizeof(struct document));
}

static int add_holding(struct documents_peer *peer, struct documents_id id)
{
    if (peer->count == DOCUMENTS_PER_PEER || id.size > DOCUMENTS_BYTES - peer->bytes)
        return -ENOSPC;
    if (memory_of(peer) > budget_allowance(BUDGET_DOCUMENTS, MEMORY_MIN, SIZE_MAX) ||
        !make_table_room(peer))
        return -ENOMEM;
    struct document *document = find_or_make_document(id);
    if (document == NULL)
        return -ENOMEM;
    struct holding *holding = calloc(1, sizeof *holding);
    if (holding == NULL) {
        drop_if_unheld(document);
        return -ENOMEM;
    }
    holding->peer = peer;
    holding->document = document;
    link_holding(holding);
    freshen(holding, FRESH_NEW);
    return 0;
}

int documents_add(struct documents_peer *peer, struct documents_id id)
{
    const struct document *document = find_document(id);
    struct holding *holding = document == NULL ? NULL : find_holding(peer, document);
    if (holding == NULL)
        return add_holding(peer, id);
    freshen(holding, FRESH_AGAIN);
    return 0;
}

void documents_remove(struct documents_peer *peer, struct documents_id id)
{
    const struct document *document = find_document(id);
    struct holding *holding = document == NULL ? NULL : find_holding(peer, document);
    if (holding != NULL)
        drop_holding(holding);
}

bool documents_is_to_be_matched(const struct documents_peer *peer)
{
    return peer->first_fresh != NULL || match.peer == peer;
}

/* ---- peers that a match has found ------------------------------------------------ */

static void list_found(struct documents_peer *other)
{
    other->listed = true;
    other->next = NULL;
    other->prev = match.last;
    if (match.last != NULL)
        match.last->next = other;
    else
        match.first = other;
    match.last = other;
}

static void unlist_found(struct documents_peer *other)
{
    if (!other->listed)
        return;
    other->listed = false;
    if (other->next != NULL)
        other->next->prev = other->prev;
    else
        match.last = other->prev;
    if (other->prev != NULL)
        other->prev->next = other->next;
    else
        match.first = other->next;
}

static void end_match(void)
{
    while (match.first != NULL)
        unlist_found(match.first);
    match.peer = NULL;
}

/* ---- peers ----------------------------------------------------------------------- */

struct documents_peer *documents_find(struct documents_id id)
{
    return (struct documents_peer *)index_find(&peers, id.bytes, id.size);
}

struct documents_peer *documents_enter(struct documents_id id, void *context)
{
    struct documents_peer *peer = calloc(1, sizeof *peer + id.size);
    if (peer == NULL)
        return NULL;
    peer->context = context;
    memcpy(peer->id, id.bytes, id.size);
    peer->entry.id = peer->id;
    peer->entry.size = id.size;
    if (index_add(&peers, &peer->entry) != 0) {
        free(peer);
        return NULL;
    }
    budget_take(&account, sizeof *peer + id.size);
    return peer;
}

void documents_leave(struct documents_peer *peer)
{
    if (peer == NULL)
        return;
    if (match.peer == peer)
        end_match();
    unlist_found(peer);
    index_remove(&peers, &peer->entry);
    peer->gone = true;
    peer->next = gone;
    gone = peer;
}

bool documents_tidy(void)
{
    struct documents_peer *peer = gone;
    if (peer == NULL)
        return false;
    /* The analyzer does not know that the first holding has none before it. */
    for (int i = 0; i < DROPPED_AT_ONCE && peer->first != NULL; i++)
        drop_holding(peer->first); /* NOLINT(clang-analyzer-unix.Malloc) */
    if (peer->first == NULL) {
        gone = peer->next;
        budget_give(
            &account, sizeof *peer + peer->entry.size + peer->room * sizeof(struct holding *));
        free(peer->table);
        free(peer);
    }
    return gone != NULL;
}

void *documents_context(const struct documents_peer *peer)
{
    return peer->context;
}

/* ---- matching -------------------------------------------------------------------- */

static void find_one(struct documents_peer *other, bool again)
{
    if (other->match != match.number) {
        if (match.found == DOCUMENTS_INTRODUCED)
            return;
        match.found++;
        other->match = match.number;
        other->again = again;
        list_found(other);
    } else if (!again) {
        other->again = false;
    }
}

/* Finds the peers that hold a document which the matched peer has joined. If it has joined the
 * document for the first time, peers that joined later are left out: their own match finds this
 * peer. */
static void find_holders(struct holding *own)
{
    bool again = own->fresh == FRESH_AGAIN;
    size_t steps = 0;
    unfreshen(own);
    own->match = match.number;
    if (!again && own->number < match.since)
        match.since = own->number;
    for (struct holding *holding = again ? own->document->holders : own->next_holder;
         holding != NULL && steps <= DOCUMENTS_INTRODUCED; holding = holding->next_holder, steps++)
        if (holding != own && !holding->peer->gone)
            find_one(holding->peer, again);
}

/* The documents that an introduction names, and how many it may name. */
struct names {
    struct documents_id ids[DOCUMENTS_PER_PEER];
    size_t count, count_max;
    size_t bytes, bytes_max;
};

/* Names a document if the other peer holds it. False: no more may be named. */
static bool name_document(
    struct names *names, const struct holding *own, const struct documents_peer *other)
{
    const struct index_entry *entry = &own->document->entry;
    if (find_holding(other, own->document) == NULL)
        return true;
    if (names->count > 0 && names->bytes + entry->size > names->bytes_max)
        return false;
    names->ids[names->count++] = (struct documents_id){entry->id, entry->size};
    names->bytes += entry->size;
    return names->count < names->count_max;
}

/* Names all documents in common, beginning with the new ones. */
static void name_all(struct names *names, const struct documents_peer *other)
{
    const struct holding *start = NULL, *own;
    for (own = match.peer->last; own != NULL && own->number >= match.since; own = own->prev)
        start = own;
    for (own = start; own != NULL; own = own->next)
        if (!name_document(names, own, other))
            return;
    for (own = match.peer->first; own != start; own = own->next)
        if (!name_document(names, own, other))
            return;
}

/* Names the documents in common that were joined again. */
static void name_joined(struct names *names, const struct documents_peer *other)
{
    for (const struct holding *own = match.peer->first; own != NULL; own = own->next)
        if (own->match == match.number && !name_document(names, own, other))
            return;
}

static void introduce_first(documents_introducer *introduce, void *context)
{
    struct names names;
    struct documents_peer *other = match.first;
    unlist_found(other);
    names.count = names.bytes = 0;
    size_t found = match.found > 0 ? match.found : 1;
    names.count_max = DOCUMENTS_NAMED / found;
    names.bytes_max = DOCUMENTS_NAMED_BYTES / found;
    if (other->again)
        name_joined(&names, other);
    else
        name_all(&names, other);
    if (names.count > 0) /* the other may have removed all of them meanwhile */
        introduce(context, match.peer, other, names.ids, names.count, other->again);
}

static void begin_match(struct documents_peer *peer)
{
    end_match();
    match.peer = peer;
    match.number++;
    match.since = UINT64_MAX;
    match.found = 0;
}

bool documents_match(struct documents_peer *peer, documents_introducer *introduce, void *context)
{
    if (match.peer != peer)
        begin_match(peer);
    if (gone != NULL)
        (void)documents_tidy(); /* else find_holders() would count peers that are gone */
    else if (peer->first_fresh != NULL)
        find_holders(peer->first_fresh);
    else if (match.first != NULL)
        introduce_first(introduce, context);
    if (peer->first_fresh != NULL || match.first != NULL)
        return true;
    end_match();
    return false;
}
