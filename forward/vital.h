/* Whether the other side of a connection still lives. */
#ifndef RELAY_VITAL_H
#define RELAY_VITAL_H

#include <stdbool.h>
#include <stdint.h>

struct tcp_info;

enum vital {
    VITAL_QUIET,   /* all that was written has been acknowledged, or the connection is no more */
    VITAL_WAITING, /* something has not, but nothing says that the other side is dead */
    VITAL_DEAD,    /* it has answered nothing for so long that it is gone */
};

/* Keepalive probes are not sent while data is unacknowledged, and TCP_USER_TIMEOUT ends
 * connections whose reader has merely paused; so this looks at what TCP knows. A reader that
 * paused answers every window probe, one that vanished answers none. Sockets that are not TCP
 * are quiet. */
enum vital vital_check(int fd);
/* Whether the other side has acknowledged something since *acknowledged was last set by this, and
 * has not yet acknowledged all. */
bool vital_progresses(int fd, uint64_t *acknowledged);
/* What TCP_INFO says of that: the kernel's structure, of linux/tcp.h. */
enum vital vital_judge(const struct tcp_info *info);

#endif
