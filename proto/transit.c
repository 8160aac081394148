/* magic-wormhole's transit relay: one line, `please relay TOKEN [for side SIDE]`, then `ok` at the
 * match, and bytes. Over WebSocket the line is the first message, which is binary. See docs of
 * magic-wormhole, "transit". */
#include "codec/websocket.h"
#include "proto/greeting.h"

#include <ctype.h>
#include <errno.h>
#include <sodium.h>
#include <string.h>

enum {
    LINE_MAX_SIZE = 1024,
    TOKEN_SIZE = 64,
    SIDE_SIZE = 16,
};

struct line {
    char bytes[LINE_MAX_SIZE];
    size_t size; /* with its line feed, once that has come */
    bool early;  /* something was behind it already */
};

/* Python's \w over bytes, which is what the clients' own relay accepts. */
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

/* Takes `expected` off the front of what is left. */
static bool take_text(const char **at, const char *end, const char *expected)
{
    size_t size = strlen(expected);
    if ((size_t)(end - *at) < size || memcmp(*at, expected, size) != 0)
        return false;
    *at += size;
    return true;
}

static bool take_word(const char **at, const char *end, size_t size, const char **word)
{
    if ((size_t)(end - *at) < size || !is_word(*at, size))
        return false;
    *word = *at;
    *at += size;
    return true;
}

static bool parse_line(const struct line *line, const char **token, const char **side)
{
    const char *at = line->bytes, *end = line->bytes + line->size;
    *side = NULL;
    if (!take_text(&at, end, "please relay ") || !take_word(&at, end, TOKEN_SIZE, token))
        return false;
    if (take_text(&at, end, " for side ") && !take_word(&at, end, SIDE_SIZE, side))
        return false;
    return take_text(&at, end, "\n") && at == end;
}

static size_t find_feed(const char *bytes, size_t from, size_t size)
{
    const char *feed = memchr(bytes + from, '\n', size - from);
    return feed == NULL ? 0 : (size_t)(feed - bytes) + 1;
}

/* Reads up to the first line feed and not beyond. What comes too early but later than this look
 * is the forwarder's to judge. */
static enum pair_outcome read_line(const struct greeting *greeting, struct line *line)
{
    ssize_t size =
        greeting_read_text(greeting, line->bytes, sizeof line->bytes, find_feed, &line->early);
    if (size < 0)
        return size == -EMSGSIZE ? PAIR_ERRORY : PAIR_EMPTY;
    line->size = (size_t)size;
    return PAIR_HAPPY;
}

static void make_request(const struct greeting *greeting, const char *token, const char *side,
    struct pair_request *request)
{
    struct iovec part = {(void *)(uintptr_t)token, TOKEN_SIZE};
    request->rule = PAIR_SIDES;
    request->protocol = greeting->protocol;
    request->key = pair_key(greeting->table, greeting->protocol, &part, 1);
    request->side = side == NULL ? 0 : pair_side(greeting->table, side, SIDE_SIZE);
}

static void say(struct words *words, const char *text)
{
    words->size = strlen(text);
    memcpy(words->message, text, words->size);
}

static void transit_welcome(const uint8_t *name, size_t name_size, struct words *words)
{
    (void)name;
    (void)name_size;
    say(words, "ok\n");
}

static void transit_farewell(
    enum pair_outcome outcome, enum pair_reason reason, struct words *words)
{
    (void)reason;
    words->code = outcome == PAIR_HAPPY ? WEBSOCKET_NORMAL : WEBSOCKET_POLICY;
    if (outcome == PAIR_ERRORY)
        say(words, "bad handshake\n");
    else if (outcome == PAIR_IMPATIENT)
        say(words, "impatient\n");
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
    struct line line = {.size = 0};
    const char *token, *side;
    enum pair_outcome outcome = read_line(greeting, &line);
    (void)handoff; /* bytes are bytes */
    if (outcome == PAIR_HAPPY && !parse_line(&line, &token, &side))
        outcome = PAIR_ERRORY;
    else if (outcome == PAIR_HAPPY && line.early)
        outcome = PAIR_IMPATIENT;
    else if (outcome == PAIR_HAPPY)
        make_request(greeting, token, side, request);
    sodium_memzero(&line, sizeof line);
    return outcome;
}

/* A binary message that is no line: a client of p2p-copy's would be told that it is no text. */
static void refuse_message(struct words *words)
{
    say(words, "bad handshake\n");
    words->code = WEBSOCKET_PROTOCOL_ERROR;
    words->reason = "First frame must be hello text";
}

/* The line feed may be there, and need not. */
static enum pair_outcome transit_greet_message(struct greeting *greeting, const uint8_t *message,
    size_t size, struct pair_request *request, struct handoff *handoff)
{
    struct line line = {.size = size};
    const char *token, *side;
    enum pair_outcome outcome = PAIR_ERRORY;
    (void)handoff;
    if (size >= sizeof line.bytes) {
        refuse_message(&greeting->refusal);
        return PAIR_ERRORY;
    }
    memcpy(line.bytes, message, size);
    if (size == 0 || line.bytes[size - 1] != '\n')
        line.bytes[line.size++] = '\n';
    if (parse_line(&line, &token, &side)) {
        make_request(greeting, token, side, request);
        outcome = PAIR_HAPPY;
    } else {
        refuse_message(&greeting->refusal);
    }
    sodium_memzero(&line, sizeof line);
    return outcome;
}

const struct protocol transit_protocol = {
    .name = "transit",
    .greet = transit_greet,
    .greet_message = transit_greet_message,
    .binary_only = true,
    .welcome = transit_welcome,
    .farewell = transit_farewell,
};
