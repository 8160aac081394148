/* Request heads: any bytes are answered, the answer fits, and ids are within their limits. */
#include "proto/http.h"
#include "proto/localfirst.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *head = (const char *)data;
    struct http_request request;
    struct localfirst_path path;
    char out[HTTP_ANSWER_MAX];
    enum http_answer answer = http_parse(head, size, &request);
    size_t written = http_write(answer, &request, out);
    if (written == 0 || written >= sizeof out)
        abort();
    if (answer != HTTP_SWITCH && answer != HTTP_PAGE)
        return 0;
    if (request.path_size == 0 || request.path_size > size || request.path[0] != '/')
        abort();
    if (answer == HTTP_SWITCH && strlen(request.accept) != HTTP_ACCEPT_SIZE)
        abort();
    (void)http_resource(&request, true);
    switch (localfirst_parse(request.path, request.path_size, &path)) {
    case LOCALFIRST_CONNECTION:
        if (path.remote.size == 0 || path.document.size == 0)
            abort();
        __attribute__((fallthrough));
    case LOCALFIRST_INTRODUCTION:
        if (path.local.size == 0 || path.local.size > request.path_size)
            abort();
        break;
    default:
        break;
    }
    return 0;
}
