/* The transit line, in segments: the first byte says where the input is cut in two (0: nowhere).
 * It ends in a request or a refusal, and never reads past its line feed. */
#include "base/clock.h"
#include "proto/greeting.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    CAPACITY = 16,
    TIME = 1000 /* milliseconds; the end of the input comes first */
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct pair_table *table;

static void open_table(void)
{
    char directory[] = "/tmp/fuzz-transit-XXXXXX", path[64];
    if (mkdtemp(directory) == NULL)
        abort();
    (void)snprintf(path, sizeof path, "%s/table", directory);
    if (pair_open(path, CAPACITY, &table) != 0 || unlink(path) != 0 || rmdir(directory) != 0)
        abort();
}

static void send_all(int fd, const uint8_t *bytes, size_t size)
{
    if (size > 0 && send(fd, bytes, size, MSG_NOSIGNAL) != (ssize_t)size)
        abort();
}

/* How many bytes of the input are consumed: up to the line feed, or 1024 without one; none if the
 * input ends before either. */
static size_t line_size(const uint8_t *bytes, size_t size)
{
    const uint8_t *feed = memchr(bytes, '\n', size < 1024 ? size : 1024);
    return feed != NULL ? (size_t)(feed - bytes) + 1 : size < 1024 ? 0 : 1024;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int ends[2], left;
    struct pair_request request = {.rule = PAIR_SIDES};
    struct handoff handoff = {.session_size = 0};
    if (size < 1 || size > 4096)
        return 0;
    if (table == NULL)
        open_table();
    size_t cut = data[0] < size ? data[0] : size - 1;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0)
        abort();
    struct greeting greeting = {.fd = ends[1], .deadline = clock_now() + TIME, .table = table};
    data++, size--;
    send_all(ends[0], data, cut);
    send_all(ends[0], data + cut, size - cut);
    (void)shutdown(ends[0], SHUT_WR);
    enum pair_outcome outcome = protocols[PROTOCOL_TRANSIT]->greet(&greeting, &request, &handoff);
    if (ioctl(ends[1], FIONREAD, &left) != 0)
        abort();
    if (outcome != PAIR_HAPPY && outcome != PAIR_ERRORY && outcome != PAIR_IMPATIENT &&
        outcome != PAIR_EMPTY)
        abort();
    if ((size_t)left != size - line_size(data, size))
        abort();
    close(ends[0]);
    close(ends[1]);
    return 0;
}
