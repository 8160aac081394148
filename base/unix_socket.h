/* Unix sockets by their paths (unix(7)). */
#ifndef RELAY_UNIX_SOCKET_H
#define RELAY_UNIX_SOCKET_H

#include <sys/un.h>

/* Makes the address of a path. 0 or -ENAMETOOLONG. */
int unix_socket_address(const char *path, struct sockaddr_un *ret);

/* Makes a socket of this type (SOCK_STREAM or SOCK_DGRAM, and flags of socket(2)) and connects it.
 * Returns the descriptor, or a negative errno: -ECONNREFUSED or -ENOENT when no process listens. */
int unix_socket_connect(const char *path, int type);

#endif
