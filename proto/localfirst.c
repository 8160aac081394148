/* @localfirst/relay: peers that hold the same documents are introduced to each other, and then meet
 * in one connection for each document. introduction.c reads and writes the messages, documents.c
 * keeps who holds which document. */
#include "proto/localfirst.h"

#include "codec/websocket.h"
#include "forward/documents.h"
#include "forward/lobby.h"
#include "proto/greeting.h"
#include "proto/http.h"
#include "proto/introduction.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    SIDE_PEER = 1, /* of all clients that wait for introductions, so that none of them are joined */
    COST_DOCUMENT = 50,   /* of joining or leaving one document: microseconds */
    COST_REPEATED = 6000, /* of an introduction that was made before, in addition */
};

/* Takes this segment off the front of the path. */
static bool take_name(struct text *path, const char *segment)
{
    struct text rest = *path;
    if (!text_take(&rest, segment) || (rest.size > 0 && rest.bytes[0] != '/'))
        return false;
    *path = rest;
    return true;
}

/* Takes the next segment off the front of the path, and decodes it to where `used` bytes of the
 * room are taken. */
static bool take_id(
    struct text *path, struct localfirst_path *parsed, size_t *used, struct text *id)
{
    char *room = parsed->room + *used;
    *id = (struct text){room, http_segment(path, room, sizeof parsed->room - *used)};
    *used += id->size;
    return id->size > 0;
}

/* Reads a path whose first segment is the name of an endpoint. */
static enum localfirst_endpoint parse_endpoint(struct text path, struct localfirst_path *parsed)
{
    enum localfirst_endpoint endpoint = LOCALFIRST_NONE;
    size_t used = 0;
    if (take_name(&path, "/introduction"))
        endpoint = LOCALFIRST_INTRODUCTION;
    else if (take_name(&path, "/connection"))
        endpoint = LOCALFIRST_CONNECTION;
    else
        return LOCALFIRST_NONE;
    bool good = take_id(&path, parsed, &used, &parsed->local);
    if (endpoint == LOCALFIRST_CONNECTION)
        good = good && take_id(&path, parsed, &used, &parsed->remote) &&
               take_id(&path, parsed, &used, &parsed->document);
    return good && path.size == 0 ? endpoint : LOCALFIRST_WRONG;
}

enum localfirst_endpoint localfirst_parse(
    const char *path, size_t size, struct localfirst_path *ret)
{
    enum localfirst_endpoint found = LOCALFIRST_NONE;
    for (size_t at = 0; at < size; at++) {
        enum localfirst_endpoint here =
            path[at] == '/' ? parse_endpoint((struct text){path + at, size - at}, ret)
                            : LOCALFIRST_NONE;
        if (here == LOCALFIRST_INTRODUCTION || here == LOCALFIRST_CONNECTION)
            return here;
        if (here == LOCALFIRST_WRONG)
            found = LOCALFIRST_WRONG;
    }
    return found;
}

/* ---- the greeting ---------------------------------------------------------------- */

static bool localfirst_claims_path(const char *path, size_t size)
{
    struct localfirst_path parsed;
    return localfirst_parse(path, size, &parsed) != LOCALFIRST_NONE;
}

static struct iovec key_part(const struct text *id)
{
    return (struct iovec){(void *)(uintptr_t)id->bytes, id->size};
}

static int compare_ids(const struct text *a, const struct text *b)
{
    size_t common = a->size < b->size ? a->size : b->size;
    int order = memcmp(a->bytes, b->bytes, common);
    return order != 0 ? order : (a->size > b->size) - (a->size < b->size);
}

/* Both peers of a connection ask for the same key, each as one of its two sides. */
static void request_connection(const struct greeting *greeting, const struct localfirst_path *path,
    struct pair_request *request)
{
    bool swapped = compare_ids(&path->local, &path->remote) > 0;
    const struct text *first = swapped ? &path->remote : &path->local;
    const struct text *second = swapped ? &path->local : &path->remote;
    struct iovec parts[] = {key_part(first), key_part(second), key_part(&path->document)};
    request->rule = PAIR_NEWEST;
    request->key = pair_key(greeting->table, greeting->protocol, parts, 3);
    request->side = pair_side(greeting->table, path->local.bytes, path->local.size);
}

static bool request_introductions(const struct greeting *greeting,
    const struct localfirst_path *path, struct pair_request *request, struct handoff *handoff)
{
    struct iovec parts[] = {key_part(&path->local)};
    request->rule = PAIR_SIDES; /* all are of one side, so no two are joined */
    request->key = pair_key(greeting->table, greeting->protocol, parts, 1);
    request->side = SIDE_PEER;
    handoff->lobby = true;
    return handoff_set_name(handoff, path->local.bytes, path->local.size) == 0;
}

static bool localfirst_greet_path(struct greeting *greeting, const char *path, size_t size,
    struct pair_request *request, struct handoff *handoff)
{
    struct localfirst_path parsed;
    request->protocol = greeting->protocol;
    switch (localfirst_parse(path, size, &parsed)) {
    case LOCALFIRST_CONNECTION:
        request_connection(greeting, &parsed, request);
        return true;
    case LOCALFIRST_INTRODUCTION:
        return request_introductions(greeting, &parsed, request, handoff);
    case LOCALFIRST_NONE:
    case LOCALFIRST_WRONG:
        break;
    }
    return false;
}

/* ---- in the lobby ---------------------------------------------------------------- */

/* The newest connection of a peer takes the place of an older one. The older connection is not
 * closed: its client, which may be another window of the same browser, would reconnect at once. */
static bool localfirst_enter(struct lobby *lobby, struct connection *connection)
{
    (void)lobby;
    struct documents_id id;
    id.bytes = (const char *)lobby_name(connection, &id.size);
    struct documents_peer *before = documents_find(id);
    if (before != NULL) {
        lobby_set_member(documents_context(before), NULL);
        documents_leave(before);
    }
    struct documents_peer *peer = documents_enter(id, connection);
    lobby_set_member(connection, peer);
    return peer != NULL;
}

static void localfirst_leave(struct lobby *lobby, struct connection *connection)
{
    (void)lobby;
    documents_leave(lobby_member(connection));
    lobby_set_member(connection, NULL);
}

/* A client that does not read its introductions misses some, as if it were not connected. */
static void tell_of(struct lobby *lobby, struct connection *connection, const struct connection *of,
    const struct text *documents, size_t count)
{
    struct text peer;
    peer.bytes = (const char *)lobby_name(of, &peer.size);
    size_t room = introduction_room(peer, documents, count);
    uint8_t *message = malloc(room);
    size_t size = message == NULL ? 0 : introduction_write(message, room, peer, documents, count);
    if (size > 0)
        (void)lobby_tell(lobby, connection, message, size);
    free(message);
}

static void introduce_pair(void *context, struct documents_peer *peer, struct documents_peer *other,
    const struct documents_id *ids, size_t count, bool again)
{
    struct lobby *lobby = context;
    struct text documents[DOCUMENTS_PER_PEER];
    struct connection *connection = documents_context(peer),
                      *other_connection = documents_context(other);
    for (size_t i = 0; i < count; i++)
        documents[i] = (struct text){ids[i].bytes, ids[i].size};
    tell_of(lobby, connection, other_connection, documents, count);
    tell_of(lobby, other_connection, connection, documents, count);
    if (again)
        lobby_charge(lobby, COST_REPEATED);
}

static bool join_documents(
    struct lobby *lobby, struct connection *connection, struct introduction_documents *documents)
{
    struct text id;
    while (introduction_next(documents, &id)) {
        lobby_charge(lobby, COST_DOCUMENT);
        int error =
            documents_add(lobby_member(connection), (struct documents_id){id.bytes, id.size});
        if (error == -ENOMEM)
            lobby_starve(connection);
        if (error != 0)
            return false;
    }
    return true;
}

static void leave_documents(
    struct lobby *lobby, struct connection *connection, struct introduction_documents *documents)
{
    struct text id;
    while (introduction_next(documents, &id)) {
        lobby_charge(lobby, COST_DOCUMENT);
        documents_remove(lobby_member(connection), (struct documents_id){id.bytes, id.size});
    }
}

/* Clients of version 3 speak JSON, in text messages. */
static bool is_of_another_version(const uint8_t *message, size_t size, bool text)
{
    return text && size > 0 && message[0] == '{';
}

static bool localfirst_hear(struct lobby *lobby, struct connection *connection,
    const uint8_t *message, size_t size, bool text)
{
    struct introduction_documents documents;
    if (is_of_another_version(message, size, text)) {
        lobby_say_why(connection, WEBSOCKET_UNSUPPORTED,
            "this is JSON, of clients of version 3; this relay is for clients of version 4");
        return false;
    }
    if (lobby_member(connection) == NULL)
        return true; /* a newer connection has taken its place */
    switch (introduction_read(message, size, &documents)) {
    case INTRODUCTION_JOIN:
        return join_documents(lobby, connection, &documents);
    case INTRODUCTION_LEAVE:
        leave_documents(lobby, connection, &documents);
        return true;
    case INTRODUCTION_IGNORED:
    case INTRODUCTION_HEARTBEAT:
        return true;
    case INTRODUCTION_EXCESS:
        break;
    }
    return false;
}

/* Any number of Joins that came together are matched once. */
static bool localfirst_work(struct lobby *lobby, struct connection *connection)
{
    struct documents_peer *peer = lobby_member(connection);
    return peer != NULL && documents_is_to_be_matched(peer) &&
           documents_match(peer, introduce_pair, lobby);
}

static const struct lobby_rules rules = {
    .enter = localfirst_enter,
    .leave = localfirst_leave,
    .hear = localfirst_hear,
    .work = localfirst_work,
    .tidy = documents_tidy,
};

/* ---- words ----------------------------------------------------------------------- */

static void localfirst_welcome(const uint8_t *name, size_t name_size, struct words *words)
{
    (void)name;
    (void)name_size;
    (void)words;
}

static void localfirst_farewell(
    enum pair_outcome outcome, enum pair_reason reason, struct words *words)
{
    words->code = WEBSOCKET_NORMAL;
    if (reason == PAIR_REPLACED) {
        words->reason = "a newer connection took this one's place";
    } else if (outcome == PAIR_ERRORY) {
        words->code = WEBSOCKET_POLICY;
        words->reason = "too many documents, or ids that are too long";
    } else if (outcome == PAIR_FULL || outcome == PAIR_SOURCE) {
        words->code = WEBSOCKET_TRY_LATER;
        words->reason = "the relay is full";
    } else if (outcome == PAIR_LONELY) {
        words->code = WEBSOCKET_GOING_AWAY;
        words->reason = "nobody came";
    }
}

const struct protocol localfirst_protocol = {
    .name = "localfirst",
    .claims_path = localfirst_claims_path,
    .greet_path = localfirst_greet_path,
    .takes_subprotocol = true, /* as the original server does */
    .patient = true,
    .deaf_at_first = true,
    .welcome = localfirst_welcome,
    .farewell = localfirst_farewell,
    .lobby = &rules,
};
