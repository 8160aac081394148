/* TLS: a protocol whose greeting takes it off, and then greets whatever is inside. No other
 * greeting, and nothing in the forwarder, knows whether a connection came in TLS. */
#ifndef RELAY_TLS_H
#define RELAY_TLS_H

#include "../options.h"

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

#endif
