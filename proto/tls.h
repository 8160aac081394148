/* TLS, as a protocol: its greeting does the handshake, and then calls the greeting of the protocol
 * inside. greeting.c reads and sends through TLS records; the other greetings do not notice. */
#ifndef RELAY_TLS_H
#define RELAY_TLS_H

#include "setup/options.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct tls;

/* Reads the certificate; *ret is NULL when none is configured. A certificate that cannot be used is
 * logged, and TLS is refused until a good one comes (tls_keep()). Logs and returns -1 when there is
 * no memory, or OpenSSL lacks a cipher. */
int tls_load(const struct options *options, struct tls **ret);
/* Whether there is a usable certificate. *until: when it expires, in seconds since the epoch. */
bool tls_is_usable(const struct tls *tls, int64_t *until);
/* Whether the certificate, if there is one, is valid now. Logs if it is not. */
bool tls_is_current(const struct tls *tls);
void tls_close(struct tls *tls);

/* Starts the certificate keeper (certificate_keeper.h), a process that notices a renewed
 * certificate for all processes that are forked from this one later. Returns its process id, or -1
 * after it has logged why not. */
pid_t tls_keep(struct tls *tls);

#endif
