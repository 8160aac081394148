/* Descriptors that travel beside a packet, over a Unix socket whose packets have bounds (unix(7),
 * SCM_RIGHTS). */
#ifndef RELAY_PASS_DESCRIPTOR_H
#define RELAY_PASS_DESCRIPTOR_H

#include <stddef.h>
#include <sys/types.h>

/* Sends one packet with flags as send(2) takes them, and a copy of the descriptor; -1: without. 0
 * or a negative errno. */
int pass_descriptor_send(int socket, const void *bytes, size_t size, int descriptor, int flags);

/* Receives one packet of at most `size` bytes, with flags as recv(2) takes them, and *descriptor:
 * the caller's, close-on-exec; -1: none came. Returns its size; -EBADMSG for a packet that is
 * longer or brings more than one descriptor, all of which are closed; -EMFILE when the kernel has
 * dropped the descriptor as this process is short of them; after both, *dropped is how many bytes
 * of the packet were received; or another negative errno. */
ssize_t pass_descriptor_receive(
    int socket, void *bytes, size_t size, int flags, int *descriptor, size_t *dropped);

#endif
