/* A connection in TLS, as the forwarder holds it: what it has beside while it is idle is its keys.
 * records.h seals and opens; here records meet the socket. */
#ifndef RELAY_TLS_STREAM_H
#define RELAY_TLS_STREAM_H

#include "base/budget.h"
#include "tls/records.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    TLS_STREAM_CHUNK = 1 << 18, /* read at once: what the processor's cache holds */
};

struct tls_stream {
    struct records records;
    struct budget_account *account; /* whose what it keeps is */
    uint8_t *kept; /* what has come of a record that is not whole, or whose turn it was not */
    size_t kept_size;
    int64_t forgiven; /* when a KeyUpdate was forgiven last: milliseconds, CLOCK_MONOTONIC */
    bool drained;     /* the last read has left nothing behind, here or in the socket */
    bool closed;      /* the other side has said that it will say nothing more */
    bool ended;       /* so have we */
    bool failed;      /* nothing that comes can be opened any more */
};

/* Takes a handoff's session, for whoever has this account. NULL: there is no memory for it. */
struct tls_stream *tls_stream_open(const struct records *session, struct budget_account *account);
/* Wipes and frees it; NULL: nothing to do. */
void tls_stream_close(struct tls_stream *secure);

/* As recv() would read what is inside, `size` bytes at most, but of at least one record. Errors are
 * left in errno: EAGAIN; EINTR when it is to be called again, as nothing was for others; EPROTO
 * when what came breaks TLS, or the other side has said that something of ours did; from then on
 * what comes is dropped, and counted as it was read. */
ssize_t tls_stream_read(struct tls_stream *secure, int fd, uint8_t *buffer, size_t size);

/* Seals what there is, or as much as is written at once: *out is valid until the next call of any
 * of these functions. 0, a size, or a negative errno. */
ssize_t tls_stream_seal(struct tls_stream *secure, struct records_source *source, uint8_t **out);
/* The same for what is said last: that nothing more comes, or after EPROTO why. */
ssize_t tls_stream_seal_end(struct tls_stream *secure, enum records_alert alert, uint8_t **out);

#endif
