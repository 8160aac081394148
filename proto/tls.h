/* TLS: a protocol whose greeting shakes hands, and then greets whatever is inside. What is read and
 * said there goes through records (greeting.c); no other greeting knows of it. */
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

#endif
