/* Recognises the protocol of a connection by its first bytes. */
#include "proto/greeting.h"

#include <errno.h>
#include <string.h>

/* Compares the first bytes with the prefixes of a protocol. */
static enum beginning compare_prefixes(
    const struct protocol *protocol, const uint8_t *head, size_t size)
{
    for (size_t i = 0; i < protocol->prefix_count; i++) {
        const struct prefix *prefix = &protocol->prefixes[i];
        size_t common = size < prefix->size ? size : prefix->size;
        if (memcmp(head, prefix->bytes, common) == 0)
            return common < prefix->size ? BEGINNING_UNDECIDED : BEGINNING_OURS;
    }
    return BEGINNING_OTHER;
}

static enum beginning begins_as(const struct protocol *protocol, const uint8_t *head, size_t size)
{
    if (protocol->greet == NULL)
        return BEGINNING_OTHER;
    if (protocol->begins != NULL)
        return protocol->begins(head, size);
    return protocol->prefix_count == 0 ? BEGINNING_OURS : compare_prefixes(protocol, head, size);
}

/* The first protocol in the list whose connections may begin like this. *undecided: more bytes are
 * needed to be sure. */
static const struct protocol *find_protocol(
    const uint8_t *head, size_t size, uint8_t *number, bool *undecided)
{
    for (size_t i = 0; i < PROTOCOL_COUNT; i++) {
        const struct protocol *protocol = protocols[protocols_in_order[i]];
        enum beginning beginning = begins_as(protocol, head, size);
        if (beginning == BEGINNING_OTHER)
            continue;
        *number = protocols_in_order[i];
        *undecided = beginning == BEGINNING_UNDECIDED;
        return protocol;
    }
    return NULL;
}

const struct protocol *protocol_sniff(struct greeting *greeting)
{
    uint8_t head[PROTOCOL_BEGINNING_MAX];
    size_t known = 0;
    for (;;) {
        bool undecided = false;
        ssize_t count = greeting_peek(greeting, head, sizeof head, known);
        if ((count == -ECONNRESET || count == -ETIMEDOUT) && known > 0) {
            greeting->protocol = PROTOCOL_UNKNOWN;
            return protocols[greeting->protocol]; /* which refuses half a beginning */
        }
        if (count <= 0)
            return NULL;
        known = (size_t)count;
        const struct protocol *protocol =
            find_protocol(head, known, &greeting->protocol, &undecided);
        if (!undecided)
            return protocol;
    }
}
