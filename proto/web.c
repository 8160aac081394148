/* HTTP: the request for a WebSocket, the upgrade, and the protocol that the WebSocket is for, by
 * its path or else by its first message. Also the page for a browser, and the health check. */
#include "codec/websocket.h"
#include "proto/first_message.h"
#include "proto/greeting.h"
#include "proto/http.h"

#include <errno.h>
#include <sodium.h>

enum {
    FIRST_MESSAGE_MAX = 8192, /* bytes; p2p-copy's hello is the longest */
};

/* The protocol that claims a path, or NULL; *number: the protocol's. */
static const struct protocol *protocol_for_path(const char *path, size_t size, uint8_t *number)
{
    for (size_t i = 0; i < PROTOCOL_COUNT; i++) {
        const struct protocol *protocol = protocols[protocols_in_order[i]];
        if (protocol->claims_path != NULL && protocol->claims_path(path, size)) {
            *number = protocols_in_order[i];
            return protocol;
        }
    }
    return NULL;
}

/* The protocol that claims a first message, or NULL; *number: the protocol's. */
static const struct protocol *protocol_for_message(
    const uint8_t *message, size_t size, bool text, uint8_t *number)
{
    for (size_t i = 0; i < PROTOCOL_COUNT; i++) {
        const struct protocol *protocol = protocols[protocols_in_order[i]];
        if (protocol->claims_message != NULL && protocol->claims_message(message, size, text)) {
            *number = protocols_in_order[i];
            return protocol;
        }
    }
    return NULL;
}

/* Answers a request that is not for a WebSocket. */
static enum pair_outcome answer_request(
    struct greeting *greeting, enum http_answer answer, const struct http_request *request)
{
    if (answer == HTTP_PAGE)
        answer = http_resource(request, !greeting->full);
    if (answer == HTTP_HEALTHY && greeting->serves != NULL && !greeting->serves(greeting->context))
        answer = HTTP_UNAVAILABLE;
    http_say(greeting, answer, request);
    return answer == HTTP_PAGE || answer == HTTP_HEALTHY || answer == HTTP_UNAVAILABLE
               ? PAIR_SERVED
               : PAIR_ERRORY;
}

/* Continues after the upgrade. */
static enum pair_outcome greet_by_message(
    struct greeting *greeting, struct pair_request *request, struct handoff *handoff)
{
    uint8_t message[FIRST_MESSAGE_MAX];
    bool text;
    enum pair_outcome outcome = PAIR_EMPTY;
    ssize_t size = first_message_read(greeting, message, sizeof message, &text);
    if (size == -EPROTO || size == -EMSGSIZE)
        outcome = PAIR_ERRORY;
    const struct protocol *protocol =
        size < 0 ? NULL : protocol_for_message(message, (size_t)size, text, &greeting->protocol);
    if (protocol == NULL)
        greeting->codec = CODEC_PLAIN; /* the client has been told already */
    else
        outcome = protocol->greet_message(greeting, message, (size_t)size, request, handoff);
    sodium_memzero(message, sizeof message); /* also of a message that broke off */
    return outcome;
}

static enum pair_outcome web_resume(
    struct greeting *greeting, struct pair_request *request, struct handoff *handoff)
{
    greeting->codec = CODEC_WEBSOCKET;
    handoff->codec = CODEC_WEBSOCKET;
    return greet_by_message(greeting, request, handoff);
}

static enum pair_outcome web_greet(
    struct greeting *greeting, struct pair_request *request, struct handoff *handoff)
{
    char head[HTTP_HEAD_MAX];
    struct http_request http;
    enum http_answer answer;
    if (http_read(greeting, head, &http, &answer) != 0)
        return PAIR_EMPTY;
    if (answer == HTTP_SWITCH && greeting->full) {
        http_say(greeting, HTTP_UNAVAILABLE, &http);
        return PAIR_FULL;
    }
    if (answer != HTTP_SWITCH)
        return answer_request(greeting, answer, &http);
    const struct protocol *protocol =
        protocol_for_path(http.path, http.path_size, &greeting->protocol);
    if (protocol != NULL &&
        !protocol->greet_path(greeting, http.path, http.path_size, request, handoff))
        return answer_request(greeting, HTTP_NOT_FOUND, &http);
    if (protocol == NULL || !protocol->takes_subprotocol)
        http.subprotocol_size = 0;
    http_say(greeting, HTTP_SWITCH, &http);
    if (protocol == NULL) {
        greeting_settle(greeting);
        return web_resume(greeting, request, handoff);
    }
    greeting->codec = CODEC_WEBSOCKET;
    handoff->codec = CODEC_WEBSOCKET;
    return PAIR_HAPPY;
}

static void web_farewell(enum pair_outcome outcome, enum pair_reason reason, struct words *words)
{
    (void)outcome;
    (void)reason;
    (void)words; /* the HTTP answer has said it */
}

/* Claims bad requests, too: they are answered in HTTP. */
static enum beginning web_begins(const uint8_t *head, size_t size)
{
    return http_begins((const char *)head, size);
}

const struct protocol web_protocol = {
    .name = "http",
    .begins = web_begins,
    .greet = web_greet,
    .resume = web_resume,
    .farewell = web_farewell,
};
