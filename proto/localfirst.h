/* @localfirst/relay: what the paths of its two endpoints say.
 *
 *      /introduction/:localPeerId                              wait for news of others
 *      /connection/:localPeerId/:remotePeerId/:documentId      be paired
 *
 * Both may be under a prefix, as where a relay is behind another site; the first of the segments
 * that makes a good path of the rest is the endpoint's name. Segments are percent-decoded; an id
 * has at least 1 byte of UTF-8, and as many as the request's head has room for. */
#ifndef RELAY_LOCALFIRST_H
#define RELAY_LOCALFIRST_H

#include "proto/http.h"

#include <stddef.h>

enum localfirst_endpoint {
    LOCALFIRST_NONE,  /* another path: another protocol's */
    LOCALFIRST_WRONG, /* it has one of the two names, but not its form: 404 */
    LOCALFIRST_INTRODUCTION,
    LOCALFIRST_CONNECTION,
};

struct localfirst_id {
    const char *bytes; /* in the path's room */
    size_t size;
};

struct localfirst_path {
    struct localfirst_id local;
    struct localfirst_id remote, document; /* LOCALFIRST_CONNECTION */
    char room[HTTP_HEAD_MAX];
};

/* Reads the path of a request, without its query. */
enum localfirst_endpoint localfirst_parse(
    const char *path, size_t size, struct localfirst_path *ret);

#endif
