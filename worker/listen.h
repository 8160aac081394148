/* Listening sockets: their addresses, their options, and the peers of their connections. */
#ifndef RELAY_LISTEN_H
#define RELAY_LISTEN_H

#include "pair.h"
#include "setup/options.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* Opens the listening sockets of one address: HOST:PORT, [V6]:PORT, :PORT (both families) or
 * unix:PATH. They wake a worker once a client has sent something, or after a second. Fills
 * `sockets` (at most `size`) and returns how many; -1 (logged) on failure. */
int listen_open(const char *address, const struct options *options, int *sockets, size_t size);

/* Checks the form of the addresses of --listen. 0, or -1 (logged). */
int listen_understand(const struct options *options);
/* Checks that the host of an address is known, too. 0, or -1 (logged). */
int listen_check(const char *address);

/* For a process that systemd or inetd passes its sockets: 0, or -1 (logged) if the options name an
 * address, or another directory than systemd's, which would have no effect. */
int listen_refuse(const struct options *options);

/* Removes the Unix sockets that listen_open() made, as far as this process may. */
void listen_remove(const struct options *options);

/* Sets the options that every TCP connection needs: no delay, --session-rate, and keepalive probes,
 * which end a connection two minutes after its peer vanished. Connections inherit them from a
 * listening socket. Does nothing to other sockets. */
void listen_tune(int fd, const struct options *options);

/* Whether a descriptor is a socket that listens. */
bool listen_is_listening(int fd);

/* Whether a descriptor is the connection of a client of the network. */
bool listen_is_client(int fd);

/* Has a listening socket report a client once it has sent something, or after a second. */
void listen_defer(int fd);

/* The address of the peer. 0, or a negative errno: -ENOTCONN: the peer has closed. */
int listen_peer(int fd, struct sockaddr_storage *ret);

/* The source that a peer's connections count for: its IPv4 address, or the /64 of its IPv6 address,
 * by pair_source(); 0 for other addresses. */
uint64_t listen_source(const struct sockaddr_storage *peer, const struct pair_table *table);

#endif
