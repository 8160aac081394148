/* The keeper: the one process that reads the certificate while `relay serve` runs.
 *
 * Workers are without privileges, and may not open files; but a renewed certificate is to serve
 * the next connection, and its key may be readable by root only. So before the server drops root
 * it starts the keeper, which keeps its privileges and does one thing: when a worker with a TLS
 * connection asks, it looks whether the files changed, and hands out what is in them. A worker
 * holds the key in any case; it gets nothing else from the keeper.
 *
 * A certificate that cannot be used is logged once, and the one before it stays, if there is one.
 * The keeper ends with the last process that could ask it. */
#ifndef RELAY_CERTIFICATE_KEEPER_H
#define RELAY_CERTIFICATE_KEEPER_H

#include "tls/certificate.h"

#include <sys/types.h>

/* Says (and logs, if not) whether a certificate can be used. */
typedef bool certificate_keeper_judge(
    const struct options *options, const struct certificate *certificate);

/* Starts the keeper; version: of the certificate that is in use, all zeros: none can be; stamp: of
 * the files as they were when that was found. Returns its process id and in *socket where to ask
 * it, or a negative errno. */
pid_t certificate_keeper_start(const struct options *options,
    const uint8_t version[static CERTIFICATE_VERSION_SIZE], const struct certificate_stamp *stamp,
    certificate_keeper_judge *judge, int *socket);

/* Asks for the certificate, if it is another than this version. 1: *ret is; 0: it is not, or the
 * keeper did not answer in time. */
int certificate_keeper_ask(
    int socket, const uint8_t version[static CERTIFICATE_VERSION_SIZE], struct certificate *ret);

#endif
