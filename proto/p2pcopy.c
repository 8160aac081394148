/* p2p-copy: one sender and one receiver meet by a code. The first message of each is a hello, a
 * JSON object: {"type":"hello","code_hash_hex":"...","role":"sender"}. When both are there, the
 * sender, and only the sender, is told {"type":"ready"}; then messages go both ways. */
#include "proto/p2pcopy.h"

#include "codec/websocket.h"
#include "proto/greeting.h"

#include "base/wipe.h"

#include <jansson.h>
#include <sodium.h>
#include <string.h>

static bool is_string(const json_t *value, const char *expected)
{
    return json_is_string(value) && json_string_length(value) == strlen(expected) &&
           memcmp(json_string_value(value), expected, strlen(expected)) == 0;
}

static const char *take_hello(const json_t *object, struct p2pcopy_hello *hello)
{
    const json_t *code = json_object_get(object, "code_hash_hex");
    const json_t *role = json_object_get(object, "role");
    if (!is_string(json_object_get(object, "type"), "hello"))
        return "First frame must be hello";
    hello->sender = is_string(role, "sender");
    hello->code_size = json_string_length(code);
    if ((!hello->sender && !is_string(role, "receiver")) || hello->code_size == 0 ||
        hello->code_size > sizeof hello->code)
        return "Bad hello";
    memcpy(hello->code, json_string_value(code), hello->code_size);
    return NULL;
}

const char *p2pcopy_read_hello(
    const uint8_t *bytes, size_t size, bool text, struct p2pcopy_hello *hello)
{
    if (!text)
        return "First frame must be hello text";
    wipe_behind_jansson(); /* the code is a secret */
    json_t *value = json_loadb((const char *)bytes, size, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    if (value == NULL)
        return "Bad hello json";
    const char *refusal = take_hello(value, hello);
    json_decref(value);
    return refusal;
}

/* ---- the protocol ---------------------------------------------------------------- */

enum role {
    ROLE_SENDER = 1,
    ROLE_RECEIVER,
};

/* Text that is no hello is refused in p2p-copy's words. */
static bool p2pcopy_claims_message(const uint8_t *message, size_t size, bool text)
{
    (void)message;
    (void)size;
    return text;
}

static enum pair_outcome p2pcopy_greet_message(struct greeting *greeting, const uint8_t *message,
    size_t size, struct pair_request *request, struct handoff *handoff)
{
    struct p2pcopy_hello hello;
    const char *refusal =
        size > P2PCOPY_HELLO_MAX ? "Bad hello" : p2pcopy_read_hello(message, size, true, &hello);
    if (refusal != NULL) {
        greeting->refusal.code = WEBSOCKET_PROTOCOL_ERROR;
        greeting->refusal.reason = refusal;
        return PAIR_ERRORY;
    }
    struct iovec part = {hello.code, hello.code_size};
    request->rule = PAIR_ROLES;
    request->protocol = greeting->protocol;
    request->key = pair_key(greeting->table, greeting->protocol, &part, 1);
    request->side = hello.sender ? ROLE_SENDER : ROLE_RECEIVER;
    handoff->name[0] = (uint8_t)request->side;
    handoff->name_size = 1;
    sodium_memzero(&hello, sizeof hello);
    return PAIR_HAPPY;
}

static void p2pcopy_welcome(const uint8_t *name, size_t name_size, struct words *words)
{
    if (name_size == 0 || name[0] != ROLE_SENDER)
        return;
    words->text = true;
    words_set(words, "{\"type\":\"ready\"}");
}

static void p2pcopy_farewell(
    enum pair_outcome outcome, enum pair_reason reason, struct words *words)
{
    words->code = WEBSOCKET_NORMAL;
    if (reason == PAIR_DUPLICATE) {
        words->code = WEBSOCKET_TRY_LATER;
        words->reason = "Duplicate role for code";
    } else if (outcome == PAIR_FULL || outcome == PAIR_SOURCE) {
        words->code = WEBSOCKET_TRY_LATER;
        words->reason = "The relay is full";
    } else if (outcome == PAIR_LONELY) {
        words->code = WEBSOCKET_GOING_AWAY;
        words->reason = "Nobody came";
    }
}

const struct protocol p2pcopy_protocol = {
    .name = "p2p-copy",
    .claims_message = p2pcopy_claims_message,
    .greet_message = p2pcopy_greet_message,
    .patient = true,
    .welcome = p2pcopy_welcome,
    .farewell = p2pcopy_farewell,
};
