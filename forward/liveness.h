/* Whether the client at the other side of a connection still lives. */
#ifndef RELAY_LIVENESS_H
#define RELAY_LIVENESS_H

#include <stdbool.h>
#include <stdint.h>

struct tcp_info;

enum liveness {
    LIVENESS_QUIET,   /* all bytes are acknowledged, or the connection is closed */
    LIVENESS_WAITING, /* bytes are unacknowledged, but the client may live */
    LIVENESS_DEAD,    /* the client has answered nothing for so long that it is gone */
};

/* The kernel sends no keepalive probes while data is unacknowledged, and TCP_USER_TIMEOUT would end
 * connections whose client has merely paused; so this looks at TCP_INFO. A client that has paused
 * answers every window probe, one that has vanished answers none. Sockets that are not TCP are
 * quiet. */
enum liveness liveness_check(int fd);
/* Whether the client has acknowledged bytes since the last call, and has not acknowledged all yet.
 * *acknowledged keeps the count from call to call; 0 at first. */
bool liveness_progresses(int fd, uint64_t *acknowledged);
/* What TCP_INFO says of a client. The structure is the kernel's, of linux/tcp.h. */
enum liveness liveness_judge(const struct tcp_info *info);

#endif
