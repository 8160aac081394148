/* Sending and receiving a descriptor with a packet, over a Unix socket that keeps the bounds of
 * packets (unix(7), SCM_RIGHTS). */
#ifndef RELAY_PASS_DESCRIPTOR_H
#define RELAY_PASS_DESCRIPTOR_H

#include <stddef.h>
#include <sys/types.h>

/* Sends one packet, with flags of send(2), and a copy of the descriptor; -1: no descriptor. 0 or a
 * negative errno. */
int pass_descriptor_send(int socket, const void *bytes, size_t size, int descriptor, int flags);

/* Receives one packet of at most `size` bytes, with flags of recv(2), and *descriptor,
 * close-on-exec and owned by the caller; -1: none came. Returns the packet's size; -EBADMSG for a
 * packet that is longer or carries more than one descriptor, all of which are closed; -EMFILE when
 * the kernel dropped the descriptor because this process may have no more; or another negative
 * errno. After -EBADMSG and -EMFILE, *dropped is how many bytes of the packet were received. */
ssize_t pass_descriptor_receive(
    int socket, void *bytes, size_t size, int flags, int *descriptor, size_t *dropped);

#endif
