/* Any bytes as a PROXY header: it is read to its end and no further, or refused. */
#include "base/clock.h"
#include "proto/greeting.h"
#include "proto/proxy.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sockaddr_storage source = {.ss_family = AF_UNSPEC};
    int ends[2], before, after;
    bool own;
    if (size > 4096 || socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0)
        return 0;
    if (send(ends[0], data, size, MSG_NOSIGNAL) != (ssize_t)size ||
        shutdown(ends[0], SHUT_WR) < 0 || ioctl(ends[1], FIONREAD, &before) < 0)
        abort();
    struct greeting greeting = {.fd = ends[1], .deadline = clock_now() + 10000};
    int error = proxy_read(&greeting, &source, &own);
    if (ioctl(ends[1], FIONREAD, &after) < 0 || after > before ||
        before - after > 16 + PROXY_REST_MAX)
        abort();
    if (error == 0 && source.ss_family != AF_UNSPEC && source.ss_family != AF_INET &&
        source.ss_family != AF_INET6)
        abort();
    close(ends[0]);
    close(ends[1]);
    return 0;
}
