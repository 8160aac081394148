/* Sockets whose TLS the kernel carries. What is read and written there is plain bytes, but what TLS
 * itself says does not pass as bytes: a read then fails with EIO, and an end has to be said. */
#ifndef RELAY_KERNEL_TLS_H
#define RELAY_KERNEL_TLS_H

/* Takes the record that a read has failed at. 0: the other side has ended its direction; 1: it
 * said something that changes nothing; negative: it said something else, or nothing. */
int kernel_tls_take_record(int fd);

/* Says that nothing more will be written: before shutdown(). 0 or a negative errno: -EAGAIN when
 * it does not fit yet. */
int kernel_tls_say_end(int fd);

#endif
