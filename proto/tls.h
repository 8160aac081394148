/* TLS: a protocol whose greeting shakes hands, and then greets whatever is inside. What is read and
 * said there goes through records (greeting.c); no other greeting knows of it. */
#ifndef RELAY_TLS_H
#define RELAY_TLS_H

#include "setup/options.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct tls;

/* Reads the certificate; *ret is NULL when none is configured. One that cannot be used is logged;
 * then TLS is refused until one comes that can (tls_keep()). Logs, returns -1 for want of memory
 * or of what OpenSSL is to have. */
int tls_load(const struct options *options, struct tls **ret);
/* Whether it has a certificate that can be used, and until when that is valid: seconds since the
 * epoch. */
bool tls_is_usable(const struct tls *tls, int64_t *until);
/* Whether that certificate, if there is one, is valid at this time. Logs if it is not. */
bool tls_is_current(const struct tls *tls);
void tls_close(struct tls *tls);

/* Starts the process that notices a renewed certificate (certificate_keeper.h), for processes
 * forked from this one. Returns its process id; logs, returns -1 on failure. */
pid_t tls_keep(struct tls *tls);

#endif
