/* TLS connections: see tls_stream.h. Bytes that were read and cannot be opened yet are kept here,
 * and not left in the socket: its buffer might be too small for a whole record. */
#include "tls/tls_stream.h"

#include "base/clock.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    RECORDS_AT_ONCE = 1 << 9, /* records opened before other connections have their turn */
    UPDATE_TIME = 10 * 1000,  /* milliseconds after which one KeyUpdate is forgiven */
};

/* Sealed bytes of all connections, on their way in or out. */
static uint8_t sealed[TLS_STREAM_CHUNK + RECORDS_RECORD_MAX];

struct tls_stream *tls_stream_open(const struct records *session, struct budget_account *account)
{
    struct tls_stream *tls = calloc(1, sizeof *tls);
    if (tls == NULL)
        return NULL;
    tls->records = *session;
    tls->account = account;
    return tls;
}

static void drop_kept(struct tls_stream *tls)
{
    free(tls->kept);
    budget_give(tls->account, tls->kept_size);
    tls->kept = NULL;
    tls->kept_size = 0;
}

void tls_stream_close(struct tls_stream *tls)
{
    if (tls == NULL)
        return;
    drop_kept(tls);
    records_wipe(&tls->records);
    free(tls);
}

/* ---- reading --------------------------------------------------------------------- */

static bool keep_rest(struct tls_stream *tls, const uint8_t *bytes, size_t size)
{
    drop_kept(tls);
    if (size == 0)
        return true;
    tls->kept = malloc(size);
    if (tls->kept == NULL)
        return false;
    budget_take(tls->account, size);
    memcpy(tls->kept, bytes, size);
    tls->kept_size = size;
    return true;
}

/* Puts the kept bytes into `sealed`, and unless they hold a whole record, bytes of the socket
 * behind them. Returns how many bytes there are, or what recv() returned if it read nothing. */
static ssize_t fill_sealed(struct tls_stream *tls, int fd, size_t size)
{
    size_t have = tls->kept_size;
    if (have > 0)
        memcpy(sealed, tls->kept, have);
    tls->drained = false;
    if (records_measure(sealed, have) > 0)
        return (ssize_t)have;
    ssize_t count = recv(fd, sealed + have, size - have, MSG_DONTWAIT);
    if (count <= 0)
        return count;
    tls->drained = (size_t)count < size - have;
    return (ssize_t)have + count;
}

/* Forgives KeyUpdates as time passes, so that an idle client may go on to change its key. */
static void forgive_by_time(struct tls_stream *tls)
{
    if (tls->records.updates == 0)
        return;
    int64_t now = clock_now(), count = (now - tls->forgiven) / UPDATE_TIME;
    if (count <= 0)
        return;
    records_forgive(&tls->records, (uint64_t)count);
    tls->forgiven = now;
}

/* Opens records until there is no whole one left, no room, or enough for one turn. Returns how many
 * bytes of `sealed` they took, or -EPROTO. */
static ssize_t open_records(
    struct tls_stream *tls, size_t size, uint8_t *out, size_t room, size_t *opened)
{
    struct records *records = &tls->records;
    size_t at = 0;
    *opened = 0;
    for (int i = 0; i < RECORDS_AT_ONCE && !tls->closed; i++) {
        size_t count, length = records_measure(sealed + at, size - at);
        if (length == 0 || length > room - *opened)
            break;
        enum records_event event =
            records_open(records, sealed + at, length, out + *opened, &count);
        at += length;
        tls->closed = event == RECORDS_CLOSED;
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
            tls->forgiven = clock_now();
        break;
    }
    return (ssize_t)at;
}

/* Reads and drops input. */
static ssize_t drop_input(struct tls_stream *tls, int fd)
{
    ssize_t count = recv(fd, sealed, sizeof sealed, MSG_DONTWAIT);
    tls->drained = count > 0 && (size_t)count < sizeof sealed;
    return count;
}

ssize_t tls_stream_read(struct tls_stream *tls, int fd, uint8_t *buffer, size_t size)
{
    size_t opened;
    if (tls->failed)
        return drop_input(tls, fd);
    if (tls->closed)
        return 0;
    forgive_by_time(tls);
    size = size < RECORDS_RECORD_MAX ? RECORDS_RECORD_MAX : size;
    size = size < TLS_STREAM_CHUNK ? size : TLS_STREAM_CHUNK;
    ssize_t count = fill_sealed(tls, fd, size);
    if (count <= 0)
        return count;
    ssize_t taken = open_records(tls, (size_t)count, buffer, size, &opened);
    if (taken < 0) {
        drop_kept(tls);
        tls->failed = true;
        errno = EPROTO;
        return -1;
    }
    size_t left = (size_t)(count - taken);
    if (!keep_rest(tls, sealed + taken, left)) {
        errno = ENOMEM;
        return -1;
    }
    tls->drained = tls->drained && !tls->closed && records_measure(sealed + taken, left) == 0;
    if (opened > 0 || tls->closed)
        return (ssize_t)opened;
    errno = EINTR;
    return -1;
}

/* ---- writing --------------------------------------------------------------------- */

ssize_t tls_stream_seal(struct tls_stream *tls, struct records_source *source, uint8_t **out)
{
    *out = sealed;
    return records_seal(&tls->records, source, sealed, sizeof sealed);
}

ssize_t tls_stream_seal_end(struct tls_stream *tls, enum records_alert alert, uint8_t **out)
{
    *out = sealed;
    if (tls->ended || alert == RECORDS_NO_ALERT)
        return 0;
    tls->ended = true;
    return records_seal_alert(&tls->records, alert, sealed);
}
