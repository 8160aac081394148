/* p2p-copy's hello: any bytes are refused with a reason, or have a code. */
#include "proto/p2pcopy.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct p2pcopy_hello hello;
    if (size > P2PCOPY_HELLO_MAX)
        return 0;
    if (p2pcopy_read_hello(data, size, true, &hello) == NULL &&
        (hello.code_size == 0 || hello.code_size > size))
        abort();
    if (p2pcopy_read_hello(data, size, false, &hello) == NULL)
        abort();
    return 0;
}
