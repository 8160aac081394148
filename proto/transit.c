/* magic-wormhole's transit relay. A client sends one line, `please relay TOKEN [for side SIDE]`,
 * reads `ok` when its peer is there, and then exchanges bytes. Over WebSocket the line is the first
 * message, which is binary. See "transit" in the documentation of magic-wormhole. */
#include "codec/websocket.h"
#include "proto/greeting.h"
#include "proto/text.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

enum {
    LINE_MAX_SIZE = 1024,
    TOKEN_SIZE = 64,
    SIDE_SIZE = 16,
};

/* The characters that the original relay accepts: Python's \w over bytes. */
static bool is_word(const char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        char c = bytes[i];
        bool word =
            (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
        if (!word)
            return false;
    }
    return true;
}

static bool take_word(struct text *rest, size_t size, const char **word)
{
    if (rest->size < size || !is_word(rest->bytes, size))
        return false;
    *word = rest->bytes;
    rest->bytes += size;
    rest->size -= size;
    return true;
}

/* *side: NULL when the line names none. */
static bool parse_line(struct text line, const char **token, const char **side)
{
    *side = NULL;
    if (!text_take(&line, "please relay ") || !take_word(&line, TOKEN_SIZE, token))
        return false;
    if (text_take(&line, " for side ") && !take_word(&line, SIDE_SIZE, side))
        return false;
    return text_is(line, "\n");
}

static void request_by_token(const struct greeting *greeting, const char *token, const char *side,
    struct pair_request *request)
{
    struct iovec part = {(void *)(uintptr_t)token, TOKEN_SIZE};
    request->rule = PAIR_SIDES;
    request->protocol = greeting->protocol;
    request->key = pair_key(greeting->table, greeting->protocol, &part, 1);
    request->side = side == NULL ? 0 : pair_side(greeting->table, side, SIDE_SIZE);
}

static void transit_welcome(const uint8_t *name, size_t name_size, struct words *words)
{
    (void)name;
    (void)name_size;
    words_set(words, "ok\n");
}

static void transit_farewell(
    enum pair_outcome outcome, enum pair_reason reason, struct words *words)
{
    (void)reason;
    words->code = outcome == PAIR_HAPPY ? WEBSOCKET_NORMAL : WEBSOCKET_POLICY;
    if (outcome == PAIR_ERRORY)
        words_set(words, "bad handshake\n");
    else if (outcome == PAIR_IMPATIENT)
        words_set(words, "impatient\n");
    else if (outcome == PAIR_LONELY)
        words->reason = "nobody came";
    else if (outcome == PAIR_REDUNDANT)
        words->reason = "another connection of this side was taken";
    else if (outcome == PAIR_FULL || outcome == PAIR_SOURCE)
        words->code = WEBSOCKET_TRY_LATER;
}

static enum pair_outcome transit_greet(
    struct greeting *greeting, struct pair_request *request, struct handoff *handoff)
{
    char line[LINE_MAX_SIZE];
    const char *token, *side;
    bool early;
    enum pair_outcome outcome = PAIR_HAPPY;
    ssize_t size = text_read_line(greeting, line, sizeof line, &early);
    (void)handoff; /* plain bytes need no codec */
    if (size < 0)
        outcome = size == -EMSGSIZE ? PAIR_ERRORY : PAIR_EMPTY;
    else if (!parse_line((struct text){line, (size_t)size}, &token, &side))
        outcome = PAIR_ERRORY;
    else if (early)
        outcome = PAIR_IMPATIENT; /* the forwarder notices bytes that come later */
    else
        request_by_token(greeting, token, side, request);
    sodium_memzero(line, sizeof line);
    return outcome;
}

/* Every message that no other protocol claims; p2p-copy claims all text. */
static bool transit_claims_message(const uint8_t *message, size_t size, bool text)
{
    (void)message;
    (void)size;
    return !text;
}

/* The client may be one of p2p-copy that sent its hello as a binary message: p2p-copy's own relay
 * refuses that in these words. */
static void refuse_message(struct words *words)
{
    words_set(words, "bad handshake\n");
    words->code = WEBSOCKET_PROTOCOL_ERROR;
    words->reason = "First frame must be hello text";
}

/* The message may have a line feed at its end. */
static enum pair_outcome transit_greet_message(struct greeting *greeting, const uint8_t *message,
    size_t size, struct pair_request *request, struct handoff *handoff)
{
    char line[LINE_MAX_SIZE];
    const char *token, *side;
    enum pair_outcome outcome = PAIR_ERRORY;
    (void)handoff;
    if (size >= sizeof line) {
        refuse_message(&greeting->refusal);
        return PAIR_ERRORY;
    }
    memcpy(line, message, size);
    if (size == 0 || line[size - 1] != '\n')
        line[size++] = '\n';
    if (parse_line((struct text){line, size}, &token, &side)) {
        request_by_token(greeting, token, side, request);
        outcome = PAIR_HAPPY;
    } else {
        refuse_message(&greeting->refusal);
    }
    sodium_memzero(line, sizeof line);
    return outcome;
}

const struct protocol transit_protocol = {
    .name = "transit",
    .greet = transit_greet,
    .claims_message = transit_claims_message,
    .greet_message = transit_greet_message,
    .binary_only = true,
    .welcome = transit_welcome,
    .farewell = transit_farewell,
};
