/* The certificate keeper: the only process that reads the certificate while `relay serve` runs.
 *
 * A worker has no privileges and may not open files. Yet a renewed certificate is used from the
 * next connection on, and its key may be readable by root only. So the server starts the keeper
 * before it drops root. The keeper keeps its privileges and does one thing: when a worker with a
 * TLS connection asks, it checks whether the files changed, and if so sends their contents. A
 * worker holds the key in any case; it gets nothing else from the keeper.
 *
 * A certificate that cannot be used is logged once, and the one before it stays in use, if there is
 * one. The keeper ends with the last process that could ask it. */
#ifndef RELAY_CERTIFICATE_KEEPER_H
#define RELAY_CERTIFICATE_KEEPER_H

#include "tls/certificate.h"

#include <sys/types.h>

/* Whether a certificate can be used. Logs if it cannot. */
typedef bool certificate_keeper_judge(
    const struct options *options, const struct certificate *certificate);

/* Starts the keeper. version: of the certificate in use, all zeros: none; stamp: of the files when
 * that certificate was read. Returns the keeper's process id, and in *socket the socket for
 * certificate_keeper_ask(); or a negative errno. */
pid_t certificate_keeper_start(const struct options *options,
    const uint8_t version[static CERTIFICATE_VERSION_SIZE], const struct certificate_stamp *stamp,
    certificate_keeper_judge *judge, int *socket);

/* Asks for the certificate if it is not of this version. 1: *ret is the new certificate; 0: there
 * is no other, or the keeper did not answer in time. */
int certificate_keeper_ask(
    int socket, const uint8_t version[static CERTIFICATE_VERSION_SIZE], struct certificate *ret);

#endif
