/* Listening sockets, and what is to be known of the sockets that come from them. */
#ifndef RELAY_LISTEN_H
#define RELAY_LISTEN_H

#include "pair.h"
#include "setup/options.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* Opens the listening sockets of one address: HOST:PORT, [V6]:PORT, :PORT (both families) or
 * unix:PATH. A client wakes them once it has spoken, or after a second without that. Fills
 * `sockets` (at most `size`) and returns how many; logs, returns -1 on failure. */
int listen_open(const char *address, const struct options *options, int *sockets, size_t size);

/* Whether the addresses of --listen can be understood. Logs, returns -1 if not. */
int listen_understand(const struct options *options);
/* Whether the host of an address is known, too. */
int listen_check(const char *address);

/* For a process whose sockets come from systemd: logs and returns -1 if an address or a directory
 * was given, which would not hold. */
int listen_refuse(const struct options *options);

/* Removes the Unix sockets that listen_open() has made, as far as this process may. */
void listen_remove(const struct options *options);

/* Sets what every connection needs: no delay, the session's rate, and keepalive probes by which
 * a silently vanished peer is gone after two minutes. On a listening socket it holds for all
 * that come from it. Sockets that are not TCP have none of this. */
void listen_tune(int fd, const struct options *options);

/* Whether a descriptor is a socket that listens. */
bool listen_is_listening(int fd);

/* Whether a descriptor is the connection of a client of the network. */
bool listen_is_client(int fd);

/* Has a listening socket be woken for a client once that has spoken, or after a second. */
void listen_defer(int fd);

/* Who is at the other end. -ENOTCONN: nobody any more. */
int listen_peer(int fd, struct sockaddr_storage *ret);

/* Whose connection this is, for counting: an IPv4 address, or the /64 of an IPv6 one, as
 * pair_source(); 0 for what is neither. */
uint64_t listen_source(const struct sockaddr_storage *peer, const struct pair_table *table);

#endif
