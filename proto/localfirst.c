/* @localfirst/relay: its paths. Its messages are introduction.c's. */
#include "localfirst.h"

#include "http.h"

#include <stdbool.h>
#include <string.h>

/* Takes the prefix off the front, if it is one of whole segments. */
static bool take_prefix(const char **at, const char *end, const char *prefix)
{
    size_t size = strlen(prefix);
    if ((size_t)(end - *at) < size || memcmp(*at, prefix, size) != 0)
        return false;
    if (*at + size < end && (*at)[size] != '/')
        return false;
    *at += size;
    return true;
}

static bool take_id(const char **at, const char *end, struct localfirst_id *id)
{
    id->size = http_segment(at, end, id->bytes, sizeof id->bytes);
    return id->size > 0;
}

enum localfirst_endpoint localfirst_parse(
    const char *path, size_t size, struct localfirst_path *ret)
{
    const char *at = path, *end = path + size;
    enum localfirst_endpoint endpoint;
    bool good;
    ret->remote.size = ret->document.size = 0;
    if (take_prefix(&at, end, "/introduction")) {
        endpoint = LOCALFIRST_INTRODUCTION;
        good = take_id(&at, end, &ret->local);
    } else if (take_prefix(&at, end, "/connection")) {
        endpoint = LOCALFIRST_CONNECTION;
        good = take_id(&at, end, &ret->local) && take_id(&at, end, &ret->remote) &&
               take_id(&at, end, &ret->document);
    } else {
        return LOCALFIRST_NONE;
    }
    return good && at == end ? endpoint : LOCALFIRST_WRONG;
}
