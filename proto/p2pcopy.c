/* p2p-copy's hello, a JSON object: {"type":"hello","code_hash_hex":"...","role":"sender"} */
#include "p2pcopy.h"

#include <jansson.h>
#include <malloc.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

/* The code is in what jansson frees, in several copies. */
static void wipe_and_free(void *memory)
{
    if (memory != NULL)
        sodium_memzero(memory, malloc_usable_size(memory));
    free(memory);
}

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
    json_set_alloc_funcs(malloc, wipe_and_free);
    json_t *value = json_loadb((const char *)bytes, size, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    if (value == NULL)
        return "Bad hello json";
    const char *refusal = take_hello(value, hello);
    json_decref(value);
    return refusal;
}
