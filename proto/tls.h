/* TLS: found by its first bytes, taken off before any protocol is looked for. No greeting, and
 * nothing in the forwarder, knows whether a connection came in TLS. */
#ifndef RELAY_TLS_H
#define RELAY_TLS_H

#include "../options.h"
#include "proto.h"

#include <sys/types.h>

struct tls;

/* Reads the certificate; *ret is NULL when none is configured. Logs, returns -1 on failure. */
int tls_load(const struct options *options, struct tls **ret);
void tls_close(struct tls *tls);

/* Starts the process that notices a renewed certificate (keeper.h), for processes forked from
 * this one. Returns its process id; logs, returns -1 on failure. */
pid_t tls_keep(struct tls *tls);

/* This process was started for one connection, and whoever started it takes its end for that of
 * the connection: it is this process that stays as the pump, and a child that goes on. */
void tls_stay(struct tls *tls);

/* Whether the connection begins like TLS: its first byte is no other protocol's. */
bool tls_begins(const struct greeting *greeting);

/* Says, as TLS does, that there is none here. */
void tls_refuse(const struct greeting *greeting);

/* The handshake, against the deadline. Then greeting->fd is the descriptor that carries the plain
 * bytes, and the one before it is closed or a pump's. Returns 0, -EPROTO for a bad handshake,
 * -ECONNRESET or -ETIMEDOUT for none, another negative errno for want of something. */
int tls_open(struct tls *tls, struct greeting *greeting);

#endif
