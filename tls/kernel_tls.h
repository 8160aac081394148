/* Sockets whose TLS records the kernel seals and opens. A program reads and writes plain bytes
 * there. TLS's own messages are not part of them: a read fails with EIO when one has come, and
 * close_notify is sent by a call of its own. */
#ifndef RELAY_KERNEL_TLS_H
#define RELAY_KERNEL_TLS_H

/* Receives the record that a read failed at. 0: the client sent close_notify; 1: another warning,
 * which changes nothing; a negative errno: any other record, or none. */
int kernel_tls_take_record(int fd);

/* Sends close_notify, before shutdown(). 0 or a negative errno: -EAGAIN when the socket has no room
 * yet. */
int kernel_tls_say_end(int fd);

#endif
