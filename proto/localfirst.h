/* @localfirst/relay: the paths of its two endpoints.
 *
 *      /introduction/:localPeerId                              wait for introductions
 *      /connection/:localPeerId/:remotePeerId/:documentId      be joined to the remote peer
 *
 * Other segments may stand before them, where the relay is behind another site: the endpoint's name
 * is the first segment that makes a good path together with what follows it. Segments are
 * percent-decoded; an id is UTF-8, has at least 1 byte, and is bounded by the size of a request's
 * head. */
#ifndef RELAY_LOCALFIRST_H
#define RELAY_LOCALFIRST_H

#include "proto/http.h"
#include "proto/text.h"

#include <stddef.h>

enum localfirst_endpoint {
    LOCALFIRST_NONE,  /* a path of another protocol */
    LOCALFIRST_WRONG, /* an endpoint, but not its form: 404 */
    LOCALFIRST_INTRODUCTION,
    LOCALFIRST_CONNECTION,
};

struct localfirst_path {
    struct text local;            /* ids lie in `room` */
    struct text remote, document; /* LOCALFIRST_CONNECTION */
    char room[HTTP_HEAD_MAX];
};

/* Reads the path of a request, without its query. */
enum localfirst_endpoint localfirst_parse(
    const char *path, size_t size, struct localfirst_path *ret);

#endif
