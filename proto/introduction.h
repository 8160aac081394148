/* The messages of @localfirst/relay's introductions. Each is one MessagePack map.
 *
 *      in      {type: "Join", documentIds: [...]}      adds to the peer's documents
 *              {type: "Leave", documentIds: [...]}     removes
 *              {type: "Heartbeat"}, {type: "❤️"}        nothing to do
 *      out     {type: "Introduction", peerId: ..., documentIds: [...]}
 *
 * Any valid encoding is read; keys may be in any order, and unknown keys are skipped. Nothing is
 * allocated or copied: texts point into the message. */
#ifndef RELAY_INTRODUCTION_H
#define RELAY_INTRODUCTION_H

#include "proto/text.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    INTRODUCTION_ID_MAX = 1 << 15,     /* bytes in the id of a peer or a document; at least 1 */
    INTRODUCTION_DOCUMENTS_MAX = 1024, /* in one message */
};

enum introduction_kind {
    INTRODUCTION_IGNORED, /* not MessagePack, not such a map, or of an unknown type */
    INTRODUCTION_HEARTBEAT,
    INTRODUCTION_JOIN,
    INTRODUCTION_LEAVE,
    INTRODUCTION_EXCESS, /* a Join or Leave beyond the limits above */
};

struct introduction_documents {
    const char *at, *end;
    uint32_t left;
};

/* Reads one whole message. *documents: those of a Join or Leave; else none. */
enum introduction_kind introduction_read(
    const uint8_t *bytes, size_t size, struct introduction_documents *documents);
/* Takes the next document's id. False when there is none left. */
bool introduction_next(struct introduction_documents *documents, struct text *id);

/* The most bytes that introduction_write() needs for these. */
size_t introduction_room(struct text peer, const struct text *documents, size_t count);
/* Writes an Introduction of `peer` and the documents in common. Returns its size, or 0 when it
 * takes more than `size` bytes. */
size_t introduction_write(
    uint8_t *out, size_t size, struct text peer, const struct text *documents, size_t count);

#endif
