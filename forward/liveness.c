/* Whether the client at the other side of a connection still lives, by TCP_INFO. */
#include "forward/liveness.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

enum {
    SILENCE = 100000, /* milliseconds without any acknowledgement */
    PROBES = 2,       /* unanswered: the answer to one may be on its way */
    RETRANSMISSIONS = 3,
    CLOSED = 7, /* TCP_CLOSE of netinet/tcp.h, which cannot be included beside linux/tcp.h */
};

enum liveness liveness_judge(const struct tcp_info *info)
{
    if (info->tcpi_state == CLOSED)
        return LIVENESS_QUIET; /* it was reset, though unsent bytes are still counted */
    if (info->tcpi_unacked == 0 && info->tcpi_notsent_bytes == 0)
        return LIVENESS_QUIET;
    if (info->tcpi_last_ack_recv > SILENCE &&
        (info->tcpi_probes >= PROBES || info->tcpi_retransmits >= RETRANSMISSIONS))
        return LIVENESS_DEAD;
    return LIVENESS_WAITING;
}

/* Zeros if the socket is not TCP. */
static struct tcp_info read_tcp_info(int fd)
{
    struct tcp_info info;
    socklen_t size = sizeof info;
    memset(&info, 0, sizeof info);
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
        memset(&info, 0, sizeof info);
    return info;
}

enum liveness liveness_check(int fd)
{
    struct tcp_info info = read_tcp_info(fd);
    return liveness_judge(&info);
}

bool liveness_progresses(int fd, uint64_t *acknowledged)
{
    struct tcp_info info = read_tcp_info(fd);
    uint64_t before = *acknowledged;
    *acknowledged = info.tcpi_bytes_acked;
    return liveness_judge(&info) == LIVENESS_WAITING && info.tcpi_bytes_acked != before;
}
