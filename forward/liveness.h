/* Whether the other side of a connection still lives. */
#ifndef RELAY_LIVENESS_H
#define RELAY_LIVENESS_H

#include <stdbool.h>
#include <stdint.h>

struct tcp_info;

enum vital {
    LIVENESS_QUIET,   /* all that was written has been acknowledged, or the connection is no more */
    LIVENESS_WAITING, /* something has not, but nothing says that the other side is dead */
    LIVENESS_DEAD,    /* it has answered nothing for so long that it is gone */
};

/* Keepalive probes are not sent while data is unacknowledged, and TCP_USER_TIMEOUT ends
 * connections whose reader has merely paused; so this looks at what TCP knows. A reader that
 * paused answers every window probe, one that vanished answers none. Sockets that are not TCP
 * are quiet. */
enum vital liveness_check(int fd);
/* Whether the other side has acknowledged something since *acknowledged was last set by this, and
 * has not yet acknowledged all. */
bool liveness_progresses(int fd, uint64_t *acknowledged);
/* What TCP_INFO says of that: the kernel's structure, of linux/tcp.h. */
enum vital liveness_judge(const struct tcp_info *info);

#endif
