/* Unix sockets by their paths (unix(7)). */
#ifndef RELAY_UNIX_SOCKET_H
#define RELAY_UNIX_SOCKET_H

#include <sys/un.h>

/* 0, or -ENAMETOOLONG. */
int unix_socket_address(const char *path, struct sockaddr_un *ret);

/* Connects a socket of this type (SOCK_STREAM or SOCK_DGRAM, and its flags): -ECONNREFUSED or
 * -ENOENT when nobody answers. The descriptor, or a negative errno. */
int unix_socket_connect(const char *path, int type);

#endif
