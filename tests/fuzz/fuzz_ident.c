/* Identity files: any bytes are refused with a reason, or are an identity that can be written and
 * read again. */
#include "ident.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct identity *identity, *again;
    if (ident_parse((const char *)data, size, &identity) != NULL)
        return 0;
    char *text = ident_format(identity);
    if (text == NULL || ident_parse(text, strlen(text), &again) != NULL ||
        memcmp(identity, again, sizeof *identity) != 0)
        abort();
    ident_free_text(text);
    ident_free(identity);
    ident_free(again);
    return 0;
}
