/* The pump: a process that carries the bytes of one TLS connection to a plain socket and back,
 * where the kernel cannot. It has its two descriptors and nothing else, and outlives the worker
 * that made it. */
#ifndef RELAY_PUMP_H
#define RELAY_PUMP_H

#include <openssl/ssl.h>
#include <stdbool.h>

/* Starts one for a connection whose handshake is done, and returns the plain end; tcp is the
 * pump's from then on. stay: this process becomes the pump, and the call returns in a child. In the
 * pump, close_rest() gives up what the worker has. A negative errno on failure. */
int pump_start(SSL *ssl, int tcp, bool stay, void (*close_rest)(void *context), void *context);

#endif
