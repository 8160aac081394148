/* Wiping: see wipe.h. */
#include "base/wipe.h"

#include <jansson.h>
#include <malloc.h>
#include <sodium.h>
#include <stdlib.h>

void wipe_and_free(void *memory)
{
    if (memory != NULL)
        sodium_memzero(memory, malloc_usable_size(memory));
    free(memory);
}

void wipe_behind_jansson(void)
{
    json_set_alloc_funcs(malloc, wipe_and_free);
}
