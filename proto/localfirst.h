/* @localfirst/relay: what the paths of its two endpoints say.
 *
 *      /introduction/:localPeerId                              wait for news of others
 *      /connection/:localPeerId/:remotePeerId/:documentId      be paired
 *
 * Segments are percent-decoded; a decoded id has 1 to INTRODUCTION_ID_MAX bytes of UTF-8. */
#ifndef RELAY_LOCALFIRST_H
#define RELAY_LOCALFIRST_H

#include "introduction.h"

#include <stddef.h>

enum localfirst_endpoint {
    LOCALFIRST_NONE,  /* another path: another protocol's */
    LOCALFIRST_WRONG, /* one of the two prefixes, but not of its form: 404 */
    LOCALFIRST_INTRODUCTION,
    LOCALFIRST_CONNECTION,
};

struct localfirst_id {
    size_t size;
    char bytes[INTRODUCTION_ID_MAX];
};

struct localfirst_path {
    struct localfirst_id local;
    struct localfirst_id remote, document; /* LOCALFIRST_CONNECTION */
};

/* Reads the path of a request, without its query. */
enum localfirst_endpoint localfirst_parse(
    const char *path, size_t size, struct localfirst_path *ret);

#endif
