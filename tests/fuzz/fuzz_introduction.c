/* Introductions: any bytes are ignored, or have documents within the limits, and those can be
 * written. */
#include "proto/introduction.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct text ids[INTRODUCTION_DOCUMENTS_MAX];
    static const struct text peer = {"peer", 4};
    struct introduction_documents documents;
    size_t count = 0, room = size > 0 ? data[0] : 0;
    enum introduction_kind kind = introduction_read(data, size, &documents);
    while (count < INTRODUCTION_DOCUMENTS_MAX && introduction_next(&documents, &ids[count])) {
        if (ids[count].size == 0 || ids[count].size > INTRODUCTION_ID_MAX)
            abort();
        count++;
    }
    if (documents.left > 0 ||
        (kind != INTRODUCTION_JOIN && kind != INTRODUCTION_LEAVE && count > 0))
        abort();
    size_t enough = introduction_room(peer, ids, count);
    uint8_t *out = malloc(enough);
    if (introduction_write(out, enough, peer, ids, count) == 0)
        abort();
    free(out);
    uint8_t *small = malloc(room + 1);
    (void)introduction_write(small, room, peer, ids, count);
    free(small);
    return 0;
}
