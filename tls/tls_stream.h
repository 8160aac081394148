/* A TLS connection in the forwarder: reads records from its socket and opens them, and seals
 * records to be sent (records.h). While it is idle, it takes no more memory than its keys. */
#ifndef RELAY_TLS_STREAM_H
#define RELAY_TLS_STREAM_H

#include "base/budget.h"
#include "tls/records.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    TLS_STREAM_CHUNK = 1 << 18, /* bytes read at once: they fit into the processor's cache */
};

struct tls_stream {
    struct records records;
    struct budget_account *account; /* `kept` is counted there */
    uint8_t *kept; /* bytes that were read and not opened: a part of a record, or of a later turn */
    size_t kept_size;
    int64_t forgiven; /* when a KeyUpdate was last forgiven: milliseconds, CLOCK_MONOTONIC */
    bool drained;     /* the last read left no whole record, here or in the socket */
    bool closed;      /* the client sent close_notify */
    bool ended;       /* an alert was sealed to end our direction */
    bool failed;      /* input broke TLS, and no more of it can be opened */
};

/* Takes over the session of a handoff; its memory is counted to `account`. NULL without memory. */
struct tls_stream *tls_stream_open(const struct records *session, struct budget_account *account);
/* Wipes and frees it; NULL does nothing. */
void tls_stream_close(struct tls_stream *tls);

/* Reads plain bytes as recv() does: at most `size`, or RECORDS_RECORD_MAX if that is more, for
 * which the buffer has room. Errors are in errno: EAGAIN; EINTR: call it again, as records came
 * without data; EPROTO: the client broke TLS, or sent an alert that says so of us. After EPROTO all
 * input is dropped, and the return value is the number of bytes dropped. */
ssize_t tls_stream_read(struct tls_stream *tls, int fd, uint8_t *buffer, size_t size);

/* Seals the source, or as much of it as is written at once. *out is valid until the next call of
 * any of these functions. Returns its size, 0 if there is nothing to seal, or a negative errno. */
ssize_t tls_stream_seal(struct tls_stream *tls, struct records_source *source, uint8_t **out);
/* The same for the last record, an alert: close_notify, or after EPROTO the reason. */
ssize_t tls_stream_seal_end(struct tls_stream *tls, enum records_alert alert, uint8_t **out);

#endif
