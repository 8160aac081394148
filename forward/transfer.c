/* Moving bytes: by copying while there are few, by splicing through a pipe while there are many.
 * Events are edge-triggered, so `readable` and `writable` stay true until a call has failed with
 * EAGAIN, and every call before that moves bytes. */
#include "forward/transfer.h"

#include "tls/kernel_tls.h"
#include "tls/tls_stream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    PIPE_SIZE = 1 << 20, /* the most that the kernel grants a user; larger moves are cheaper */
    POOL_MAX = 64,
    SPLICE_MIN = 16384, /* for fewer bytes at once, copying is cheaper */
    TURNS = 4,          /* reads, before another pair has its turn */
};

/* ---- pipes ----------------------------------------------------------------------- */

int transfer_open(struct transfer *transfer, size_t pipes_max)
{
    uint8_t *memory = malloc(TRANSFER_HEADROOM + TRANSFER_SCRATCH);
    int(*pool)[2] = calloc(POOL_MAX, sizeof *pool);
    *transfer = (struct transfer){.pipes_max = pipes_max};
    if (memory == NULL || pool == NULL) {
        free(memory);
        free(pool);
        return -ENOMEM;
    }
    transfer->scratch = memory + TRANSFER_HEADROOM;
    transfer->pool = pool;
    /* `memory` is kept by a pointer into it. */
    /* cppcheck-suppress memleak */
    return 0;
}

static void close_pipe(struct transfer *transfer, int *pipe)
{
    close(pipe[0]);
    close(pipe[1]);
    transfer->pipes--;
}

void transfer_close(struct transfer *transfer)
{
    while (transfer->pooled > 0)
        close_pipe(transfer, transfer->pool[--transfer->pooled]);
    free(transfer->pool);
    if (transfer->scratch != NULL)
        free(transfer->scratch - TRANSFER_HEADROOM);
    *transfer = (struct transfer){.scratch = NULL};
}

/* Makes a pipe. False: there is none, or only a small one, as a user gets whose share of pipe
 * memory is used up; copying is faster than that. */
static bool make_pipe(struct transfer *transfer, int *pipe)
{
    if (transfer->pipes >= transfer->pipes_max || pipe2(pipe, O_CLOEXEC | O_NONBLOCK) < 0) {
        pipe[0] = pipe[1] = -1;
        return false;
    }
    transfer->pipes++;
    if (fcntl(pipe[1], F_SETPIPE_SZ, PIPE_SIZE) >= PIPE_SIZE)
        return true;
    if (fcntl(pipe[1], F_GETPIPE_SZ) >= TRANSFER_CHUNK)
        return true;
    close_pipe(transfer, pipe);
    pipe[0] = pipe[1] = -1;
    return false;
}

/* Gives the outlet a pipe. False: there is none, and the bytes have to be copied. */
static bool take_pipe(struct transfer *transfer, struct outlet *outlet)
{
    if (outlet->pipe[0] >= 0)
        return true;
    if (transfer->pooled == 0)
        return make_pipe(transfer, outlet->pipe);
    memcpy(outlet->pipe, transfer->pool[--transfer->pooled], sizeof outlet->pipe);
    return true;
}

/* A pipe that still has bytes in it must never serve another pair. */
static void give_pipe_back(struct transfer *transfer, struct outlet *outlet)
{
    if (outlet->pipe[0] < 0)
        return;
    if (outlet->piped == 0 && transfer->pooled < POOL_MAX)
        memcpy(transfer->pool[transfer->pooled++], outlet->pipe, sizeof outlet->pipe);
    else
        close_pipe(transfer, outlet->pipe);
    outlet->pipe[0] = outlet->pipe[1] = -1;
    outlet->piped = 0;
}

/* ---- waiting to write ------------------------------------------------------------ */

/* Most connections never have to wait before a write, so EPOLLOUT is only asked for after the first
 * wait. */
static void await_writable(struct connection *connection)
{
    struct epoll_event event = {.events = TRANSFER_EVENTS | EPOLLOUT, .data.ptr = connection};
    connection->writable = false;
    if (!connection->awaited &&
        epoll_ctl(connection->epoll, EPOLL_CTL_MOD, connection->fd, &event) == 0)
        connection->awaited = true;
}

/* ---- outlets --------------------------------------------------------------------- */

static void drop_buffer(struct connection *connection)
{
    struct outlet *outlet = &connection->outlet;
    free(outlet->buffer);
    budget_give(&connection->account, outlet->room);
    outlet->buffer = NULL;
    outlet->start = outlet->size = outlet->room = 0;
}

/* Moves the waiting bytes to the front of `buffer`: the outlet's own, or the one that replaces it.
 */
static void compact(struct outlet *outlet, uint8_t *buffer)
{
    size_t waits = outlet->size - outlet->start;
    if (outlet->buffer != NULL)
        memmove(buffer, outlet->buffer + outlet->start, waits);
    outlet->start = 0;
    outlet->size = waits;
}

/* Makes room for `size` bytes more behind the waiting ones. The buffer is compacted if the space of
 * written bytes suffices and is at least as large as what has to be moved; else it grows to half as
 * much again as is needed. So each byte is moved a few times at most, however slowly the client
 * reads, and a buffer is at most half as large again as its contents. False: no memory. */
static bool extend_outlet(struct connection *connection, size_t size)
{
    struct outlet *outlet = &connection->outlet;
    size_t waits = outlet->size - outlet->start, wanted = waits + size;
    if (size <= outlet->room - outlet->size)
        return true;
    if (outlet->start >= waits && wanted <= outlet->room) {
        compact(outlet, outlet->buffer);
        return true;
    }
    size_t room = outlet->buffer == NULL ? wanted : wanted + wanted / 2;
    uint8_t *buffer = malloc(room);
    if (buffer == NULL)
        return false;
    compact(outlet, buffer);
    free(outlet->buffer);
    budget_take(&connection->account, room);
    budget_give(&connection->account, outlet->room);
    outlet->buffer = buffer;
    outlet->room = room;
    return true;
}

bool transfer_pending(const struct connection *connection)
{
    return connection->outlet.buffer != NULL || connection->outlet.piped > 0;
}

static void drop_outlet(struct transfer *transfer, struct connection *connection)
{
    drop_buffer(connection);
    give_pipe_back(transfer, &connection->outlet);
}

void transfer_break(struct transfer *transfer, struct connection *connection)
{
    connection->ended = connection->gone = connection->finished = true;
    drop_outlet(transfer, connection);
}

void transfer_lose(struct connection *connection)
{
    drop_buffer(connection);
    connection->finished = connection->lost = true;
    connection->writable = false;
    connection->readable = connection->hung_up = true;
}

/* Bytes cannot be written, kept or encrypted, for this reason (errno). EPIPE means that the client
 * had ended its own direction before: what it sent is complete. */
static void fail_write(struct connection *to, int error)
{
    to->broken = to->broken || error != EPIPE;
    to->starved = to->starved || error == ENOMEM;
    transfer_lose(to);
}

/* Writes what fits into the socket now. Returns how many bytes that was. */
static size_t send_some(struct connection *to, const struct iovec *parts, size_t count)
{
    struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)parts, .msg_iovlen = count};
    for (;;) {
        if (!to->writable)
            return 0;
        ssize_t done = sendmsg(to->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (done >= 0) {
            to->moved = true;
            return (size_t)done;
        }
        if (errno == EAGAIN)
            await_writable(to);
        else if (errno != EINTR)
            fail_write(to, errno);
    }
}

/* Keeps what did not fit, all but the first `done` bytes, in the outlet. Without memory for that,
 * only this pair ends. */
static void keep_unsent(struct connection *to, const struct iovec *parts, size_t count, size_t done)
{
    struct outlet *outlet = &to->outlet;
    size_t size = 0;
    for (size_t i = 0; i < count; i++)
        size += parts[i].iov_len;
    if (!extend_outlet(to, size - done)) {
        fail_write(to, ENOMEM);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        size_t skip = done < parts[i].iov_len ? done : parts[i].iov_len;
        size_t left = parts[i].iov_len - skip;
        memcpy(outlet->buffer + outlet->size, (const uint8_t *)parts[i].iov_base + skip, left);
        outlet->size += left;
        done -= skip;
    }
}

/* Writes bytes without encrypting them. */
static void write_raw(struct connection *to, const struct iovec *parts, size_t count)
{
    size_t size = 0;
    for (size_t i = 0; i < count; i++)
        size += parts[i].iov_len;
    if (size == 0 || to->finished)
        return;
    size_t done = to->outlet.buffer == NULL ? send_some(to, parts, count) : 0;
    if (done == size || to->finished)
        return;
    if (to->writable && to->outlet.buffer == NULL)
        await_writable(to); /* a short write has filled the socket's buffer */
    keep_unsent(to, parts, count, done);
}

/* Records are numbered when they are sealed, so what waits in an outlet is sealed already. */
static void write_sealed(struct connection *to, const struct iovec *parts, size_t count)
{
    struct records_source source = {parts, count, 0};
    while (!to->finished && !to->tls->ended) {
        uint8_t *bytes;
        ssize_t size = tls_stream_seal(to->tls, &source, &bytes);
        if (size == 0)
            return;
        if (size < 0) {
            fail_write(to, (int)-size);
            return;
        }
        struct iovec part = {bytes, (size_t)size};
        write_raw(to, &part, 1);
    }
}

void transfer_write(struct connection *to, const struct iovec *parts, size_t count)
{
    if (to->tls != NULL)
        write_sealed(to, parts, count);
    else
        write_raw(to, parts, count);
}

void transfer_say(struct connection *connection, const uint8_t *words, size_t size)
{
    struct iovec part = {(void *)(uintptr_t)words, size};
    transfer_write(connection, &part, 1);
}

void transfer_gather(struct connection *connection, const uint8_t *words, size_t size)
{
    struct iovec part = {(void *)(uintptr_t)words, size};
    if (connection->tls != NULL)
        write_sealed(connection, &part, 1);
    else if (!connection->finished)
        keep_unsent(connection, &part, 1, 0);
}

static void flush_buffer(struct connection *to)
{
    struct outlet *outlet = &to->outlet;
    if (outlet->buffer == NULL)
        return;
    while (to->writable && outlet->start < outlet->size) {
        struct iovec rest = {outlet->buffer + outlet->start, outlet->size - outlet->start};
        size_t done = send_some(to, &rest, 1); /* which drops the buffer if it fails */
        outlet->start += done;
    }
    if (outlet->start == outlet->size)
        drop_buffer(to);
}

static void flush_pipe(struct connection *to)
{
    struct outlet *outlet = &to->outlet;
    while (to->writable && outlet->piped > 0) {
        ssize_t count = splice(
            outlet->pipe[0], NULL, to->fd, NULL, outlet->piped, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (count > 0) {
            outlet->piped -= (size_t)count;
            to->moved = true;
        } else if (count < 0 && errno == EAGAIN)
            await_writable(to);
        else if (count == 0 || errno != EINTR)
            fail_write(to, errno);
    }
}

/* The buffer, with the relay's own words, comes before the pipe. */
void transfer_flush(struct connection *to)
{
    flush_buffer(to);
    if (to->outlet.buffer == NULL)
        flush_pipe(to);
}

/* Writes the last record of a TLS session, or puts it behind what waits. */
static void seal_last(struct connection *connection, enum records_alert alert)
{
    uint8_t *bytes;
    ssize_t size = tls_stream_seal_end(connection->tls, alert, &bytes);
    struct iovec part = {bytes, size > 0 ? (size_t)size : 0};
    write_raw(connection, &part, 1);
}

void transfer_shut(struct connection *connection)
{
    if (connection->kernel_tls && kernel_tls_say_end(connection->fd) == -EAGAIN) {
        await_writable(connection);
        return;
    }
    if (connection->tls != NULL)
        seal_last(connection, RECORDS_CLOSE_NOTIFY);
    if (connection->tls != NULL && transfer_pending(connection))
        return;
    connection->finished = true;
    if (shutdown(connection->fd, SHUT_WR) < 0)
        transfer_lose(connection);
}

void transfer_part(struct connection *connection)
{
    bool in_tls = connection->tls != NULL || connection->kernel_tls;
    if (in_tls && !connection->finished && !connection->cut && !transfer_pending(connection))
        transfer_shut(connection);
}

/* ---- reading --------------------------------------------------------------------- */

void transfer_count(struct transfer *transfer, struct connection *from, size_t count)
{
    transfer->moved += count;
    /* Only this process writes the count; others read it. */
    atomic_store_explicit(from->bytes,
        atomic_load_explicit(from->bytes, memory_order_relaxed) + count, memory_order_relaxed);
}

/* A read has failed because a TLS record that is not data comes next. */
static void judge_record(struct connection *from)
{
    int result = kernel_tls_take_record(from->fd);
    if (result <= 0)
        from->ended = from->gone = true;
    if (result < 0)
        from->finished = from->broken = true;
}

/* Whether an end of file is the client's own. In TLS, an attacker can make one, but no
 * close_notify. */
static bool is_authentic_end(const struct connection *from)
{
    return from->tls != NULL ? from->tls->closed : !from->kernel_tls;
}

bool transfer_broke_tls(const struct connection *connection)
{
    return connection->tls != NULL && connection->tls->failed;
}

/* The client has broken TLS. Its further input is discarded while it leaves, as a close with unread
 * input would reset the connection, and the alert would not arrive. */
static void refuse_records(struct connection *from)
{
    from->ended = from->broken = true;
    seal_last(from, from->tls->records.alert);
    transfer_shut(from);
}

/* Follows up what a read has returned. True: there are bytes. */
static bool judge_read(struct connection *from, ssize_t count)
{
    if (count > 0)
        return true;
    if (count == 0) {
        from->ended = from->gone = true;
        from->broken = from->broken || !is_authentic_end(from);
    } else if (errno == EAGAIN)
        from->readable = false;
    else if (errno == EIO && from->kernel_tls)
        judge_record(from);
    else if (errno == EPROTO && from->tls != NULL && from->tls->failed)
        refuse_records(from);
    else if (errno != EINTR) {
        from->starved = from->starved || errno == ENOMEM;
        from->ended = from->gone = from->finished = from->broken = true; /* it was reset */
    }
    return false;
}

/* Whether a read of up to `size` bytes has emptied the socket, so that more bytes make another
 * event. A read of the kernel's TLS ends with a record, and says nothing of that. */
static bool has_emptied(const struct connection *from, size_t count, size_t size)
{
    return from->tls != NULL ? from->tls->drained : count < size && !from->kernel_tls;
}

size_t transfer_read(struct transfer *transfer, struct connection *from, size_t size)
{
    ssize_t count = from->tls != NULL
                        ? tls_stream_read(from->tls, from->fd, transfer->scratch, size)
                        : recv(from->fd, transfer->scratch, size, MSG_DONTWAIT);
    if (!judge_read(from, count))
        return 0;
    if (has_emptied(from, (size_t)count, size) && !from->hung_up)
        from->readable = false;
    if (from->state == CONNECTION_LEAVING)
        from->discarded += (uint32_t)count;
    return (size_t)count;
}

static bool carries_plain(const struct connection *connection)
{
    return connection->tls == NULL && !connection->kernel_tls;
}

bool transfer_closes_plainly(const struct connection *connection)
{
    return connection->gone && carries_plain(connection);
}

static void copy_once(struct transfer *transfer, struct connection *from)
{
    size_t chunk = budget_allowance(BUDGET_STREAMS, TRANSFER_CHUNK_MIN, TRANSFER_CHUNK);
    size_t size = transfer_read(transfer, from, chunk);
    if (size == 0)
        return;
    from->splicing = size == chunk && carries_plain(from) && carries_plain(from->peer);
    transfer_count(transfer, from, size);
    transfer_say(from->peer, transfer->scratch, size);
}

static void splice_once(struct transfer *transfer, struct connection *from)
{
    struct outlet *outlet = &from->peer->outlet;
    if (!take_pipe(transfer, outlet)) {
        copy_once(transfer, from);
        from->splicing = false;
        return;
    }
    ssize_t count =
        splice(from->fd, NULL, outlet->pipe[1], NULL, PIPE_SIZE, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (!judge_read(from, count))
        return;
    outlet->piped = (size_t)count;
    from->splicing = count >= SPLICE_MIN;
    transfer_count(transfer, from, (size_t)count);
    flush_pipe(from->peer);
}

/* ---- both directions ------------------------------------------------------------- */

void transfer_finish(struct connection *from)
{
    struct connection *to = from->peer;
    if (!from->ended || transfer_pending(to) || to->finished)
        return;
    transfer_shut(to);
}

uint64_t transfer_total(const struct connection *connection)
{
    return atomic_load_explicit(connection->bytes, memory_order_relaxed) +
           atomic_load_explicit(connection->peer->bytes, memory_order_relaxed);
}

bool transfer_is_used_up(const struct transfer *transfer, const struct connection *connection)
{
    return transfer->pair_max > 0 && transfer_total(connection) >= transfer->pair_max;
}

bool transfer_can_move(const struct transfer *transfer, const struct connection *from)
{
    const struct connection *to = from->peer;
    return from->readable && !from->ended && !to->finished && !transfer_broke_tls(to) &&
           !transfer_pending(to) && !transfer_is_used_up(transfer, from);
}

void transfer_tidy(struct transfer *transfer, struct connection *from)
{
    struct connection *to = from->peer;
    if (to->finished)
        drop_outlet(transfer, to);
    if (from->finished)
        drop_outlet(transfer, from);
    if (to->outlet.piped == 0)
        give_pipe_back(transfer, &to->outlet);
    if (from->lost && !from->readable)
        from->ended = true;
}

bool transfer_move(struct transfer *transfer, struct connection *from)
{
    for (int turn = 0; turn < TURNS; turn++) {
        transfer_flush(from->peer);
        if (!transfer_can_move(transfer, from))
            break;
        if (from->splicing)
            splice_once(transfer, from);
        else
            copy_once(transfer, from);
    }
    transfer_tidy(transfer, from);
    return transfer_can_move(transfer, from);
}
