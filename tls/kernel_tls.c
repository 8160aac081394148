/* TLS's own messages, as control messages of Linux (its documentation: networking/tls.rst). Only
 * TLS 1.2 is left to the kernel, so they are alerts only. */
#include "tls/kernel_tls.h"

#include <errno.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

enum {
    RECORD_ALERT = 21,
    ALERT_WARNING = 1,
    ALERT_CLOSE_NOTIFY = 0,
};

union control {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(uint8_t))];
};

int kernel_tls_take_record(int fd)
{
    union control control;
    uint8_t alert[2];
    struct iovec part = {alert, sizeof alert};
    struct msghdr message = {.msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof control.bytes};
    ssize_t count = recvmsg(fd, &message, MSG_DONTWAIT);
    const struct cmsghdr *header = count < 0 ? NULL : CMSG_FIRSTHDR(&message);
    if (header == NULL || header->cmsg_level != SOL_TLS ||
        header->cmsg_type != TLS_GET_RECORD_TYPE || *CMSG_DATA(header) != RECORD_ALERT ||
        count != (ssize_t)sizeof alert)
        return count < 0 ? -errno : -EPROTO;
    if (alert[1] == ALERT_CLOSE_NOTIFY)
        return 0;
    return alert[0] == ALERT_WARNING ? 1 : -EPROTO;
}

int kernel_tls_say_end(int fd)
{
    union control control;
    uint8_t alert[2] = {ALERT_WARNING, ALERT_CLOSE_NOTIFY};
    struct iovec part = {alert, sizeof alert};
    struct msghdr message = {.msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof control.bytes};
    memset(&control, 0, sizeof control);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_TLS;
    header->cmsg_type = TLS_SET_RECORD_TYPE;
    header->cmsg_len = CMSG_LEN(sizeof(uint8_t));
    *CMSG_DATA(header) = RECORD_ALERT;
    return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}
