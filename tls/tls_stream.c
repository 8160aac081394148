/* Reading and writing records. What is read and cannot be opened yet is kept here, and not left in
 * the kernel: a socket that is short of room might never get the rest of a record. */
#include "tls/tls_stream.h"

#include "base/clock.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    RECORDS_AT_ONCE = 1 << 9, /* before others have their turn */
    UPDATE_TIME = 10 * 1000,  /* milliseconds, after which a KeyUpdate is forgiven */
};

/* Everything sealed passes through here, on its way in or out. */
static uint8_t sealed[TLS_STREAM_CHUNK + RECORDS_RECORD_MAX];

struct tls_stream *tls_stream_open(const struct records *session, struct budget_account *account)
{
    struct tls_stream *secure = calloc(1, sizeof *secure);
    if (secure == NULL)
        return NULL;
    secure->records = *session;
    secure->account = account;
    return secure;
}

static void drop_kept(struct tls_stream *secure)
{
    free(secure->kept);
    budget_give(secure->account, secure->kept_size);
    secure->kept = NULL;
    secure->kept_size = 0;
}

void tls_stream_close(struct tls_stream *secure)
{
    if (secure == NULL)
        return;
    drop_kept(secure);
    records_wipe(&secure->records);
    free(secure);
}

/* ---- reading --------------------------------------------------------------------- */

static bool keep(struct tls_stream *secure, const uint8_t *bytes, size_t size)
{
    drop_kept(secure);
    if (size == 0)
        return true;
    secure->kept = malloc(size);
    if (secure->kept == NULL)
        return false;
    budget_take(secure->account, size);
    memcpy(secure->kept, bytes, size);
    secure->kept_size = size;
    return true;
}

/* Fills `sealed` with what was kept, and unless that is a whole record with what the socket has.
 * Returns how many bytes that is; as recv() does if there is nothing new. */
static ssize_t fill(struct tls_stream *secure, int fd, size_t size)
{
    size_t have = secure->kept_size;
    if (have > 0)
        memcpy(sealed, secure->kept, have);
    secure->drained = false;
    if (records_measure(sealed, have) > 0)
        return (ssize_t)have;
    ssize_t count = recv(fd, sealed + have, size - have, MSG_DONTWAIT);
    if (count <= 0)
        return count;
    secure->drained = (size_t)count < size - have;
    return (ssize_t)have + count;
}

/* Time forgives KeyUpdates, so that who is idle may go on to change its key. */
static void forgive(struct tls_stream *secure)
{
    if (secure->records.updates == 0)
        return;
    int64_t now = clock_now(), count = (now - secure->forgiven) / UPDATE_TIME;
    if (count <= 0)
        return;
    records_forgive(&secure->records, (uint64_t)count);
    secure->forgiven = now;
}

/* Opens records until there is no whole one, no room, or enough for one turn. Returns how many
 * bytes of `sealed` that took; -EPROTO. */
static ssize_t open_records(
    struct tls_stream *secure, size_t size, uint8_t *out, size_t room, size_t *opened)
{
    struct records *records = &secure->records;
    size_t at = 0;
    *opened = 0;
    for (int i = 0; i < RECORDS_AT_ONCE && !secure->closed; i++) {
        size_t count, length = records_measure(sealed + at, size - at);
        if (length == 0 || length > room - *opened)
            break;
        enum records_event event =
            records_open(records, sealed + at, length, out + *opened, &count);
        at += length;
        secure->closed = event == RECORDS_CLOSED;
        if (event == RECORDS_FAILED)
            return -EPROTO;
        size_t skip = records->skip < count ? records->skip : count;
        if (skip > 0)
            memmove(out + *opened, out + *opened + skip, count - skip);
        records->skip = (uint16_t)(records->skip - skip);
        *opened += count - skip;
        if (event != RECORDS_NEW_KEY)
            continue;
        if (records->updates == 1)
            secure->forgiven = clock_now();
        break;
    }
    return (ssize_t)at;
}

static ssize_t drop(struct tls_stream *secure, int fd)
{
    ssize_t count = recv(fd, sealed, sizeof sealed, MSG_DONTWAIT);
    secure->drained = count > 0 && (size_t)count < sizeof sealed;
    return count;
}

ssize_t tls_stream_read(struct tls_stream *secure, int fd, uint8_t *buffer, size_t size)
{
    size_t opened;
    if (secure->failed)
        return drop(secure, fd);
    if (secure->closed)
        return 0;
    forgive(secure);
    size = size < RECORDS_RECORD_MAX ? RECORDS_RECORD_MAX : size;
    size = size < TLS_STREAM_CHUNK ? size : TLS_STREAM_CHUNK;
    ssize_t count = fill(secure, fd, size);
    if (count <= 0)
        return count;
    ssize_t taken = open_records(secure, (size_t)count, buffer, size, &opened);
    if (taken < 0) {
        drop_kept(secure);
        secure->failed = true;
        errno = EPROTO;
        return -1;
    }
    size_t left = (size_t)(count - taken);
    if (!keep(secure, sealed + taken, left)) {
        errno = ENOMEM;
        return -1;
    }
    secure->drained =
        secure->drained && !secure->closed && records_measure(sealed + taken, left) == 0;
    if (opened > 0 || secure->closed)
        return (ssize_t)opened;
    errno = EINTR;
    return -1;
}

/* ---- writing --------------------------------------------------------------------- */

ssize_t tls_stream_seal(struct tls_stream *secure, struct records_source *source, uint8_t **out)
{
    *out = sealed;
    return records_seal(&secure->records, source, sealed, sizeof sealed);
}

ssize_t tls_stream_seal_end(struct tls_stream *secure, enum records_alert alert, uint8_t **out)
{
    *out = sealed;
    if (secure->ended || alert == RECORDS_NOTHING_TO_SAY)
        return 0;
    secure->ended = true;
    return records_seal_alert(&secure->records, alert, sealed);
}
