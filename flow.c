/* Moving bytes: by copying while there are few, by splicing through a pipe while there are
 * many. Events are edge-triggered, so `readable` and `writable` stay true until the kernel has
 * said EAGAIN, and there is no call but those that move something. */
#include "flow.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    PIPE_SIZE = 1 << 20, /* as large as a user's pipe may be: the more at once, the cheaper */
    POOL_MAX = 64,
    SPLICE_MIN = 16384, /* less at once than this, and copying is cheaper */
    TURNS = 4,          /* reads, before another pair has its turn */
};

/* ---- pipes ----------------------------------------------------------------------- */

int flow_open(struct flow *flow, size_t pipes_max)
{
    *flow = (struct flow){.pipes_max = pipes_max};
    flow->scratch = malloc(FLOW_CHUNK);
    flow->pool = calloc(POOL_MAX, sizeof *flow->pool);
    if (flow->scratch != NULL && flow->pool != NULL)
        return 0;
    flow_close(flow);
    return -ENOMEM;
}

static void close_pipe(struct flow *flow, int *pipe)
{
    close(pipe[0]);
    close(pipe[1]);
    flow->pipes--;
}

void flow_close(struct flow *flow)
{
    while (flow->pooled > 0)
        close_pipe(flow, flow->pool[--flow->pooled]);
    free(flow->pool);
    free(flow->scratch);
    *flow = (struct flow){.scratch = NULL};
}

/* A new pipe. A user whose share of pipe memory is used up gets small ones, which are worse than
 * copying. */
static bool make_pipe(struct flow *flow, int *pipe)
{
    if (flow->pipes >= flow->pipes_max || pipe2(pipe, O_CLOEXEC | O_NONBLOCK) < 0) {
        pipe[0] = pipe[1] = -1;
        return false;
    }
    flow->pipes++;
    if (fcntl(pipe[1], F_SETPIPE_SZ, PIPE_SIZE) >= PIPE_SIZE)
        return true;
    if (fcntl(pipe[1], F_GETPIPE_SZ) >= FLOW_CHUNK)
        return true;
    close_pipe(flow, pipe);
    pipe[0] = pipe[1] = -1;
    return false;
}

/* Gives the outlet a pipe; false: none to be had, the bytes have to be copied. */
static bool take_pipe(struct flow *flow, struct outlet *outlet)
{
    if (outlet->pipe[0] >= 0)
        return true;
    if (flow->pooled == 0)
        return make_pipe(flow, outlet->pipe);
    memcpy(outlet->pipe, flow->pool[--flow->pooled], sizeof outlet->pipe);
    return true;
}

/* One with data left must never serve another pair. */
static void give_pipe_back(struct flow *flow, struct outlet *outlet)
{
    if (outlet->pipe[0] < 0)
        return;
    if (outlet->piped == 0 && flow->pooled < POOL_MAX)
        memcpy(flow->pool[flow->pooled++], outlet->pipe, sizeof outlet->pipe);
    else
        close_pipe(flow, outlet->pipe);
    outlet->pipe[0] = outlet->pipe[1] = -1;
    outlet->piped = 0;
}

/* ---- outlets --------------------------------------------------------------------- */

static void drop_buffer(struct outlet *outlet)
{
    free(outlet->buffer);
    outlet->buffer = NULL;
    outlet->start = outlet->size = 0;
}

bool flow_pending(const struct end *end)
{
    return end->outlet.buffer != NULL || end->outlet.piped > 0;
}

static void drop_outlet(struct flow *flow, struct end *end)
{
    drop_buffer(&end->outlet);
    give_pipe_back(flow, &end->outlet);
}

void flow_break(struct flow *flow, struct end *end)
{
    end->ended = end->finished = true;
    drop_outlet(flow, end);
}

/* A write failed: what the other side sent before it went is still to be read. */
static void mark_unwritable(struct end *end)
{
    end->finished = true;
    end->writable = false;
    end->readable = end->hung_up = true;
}

/* Writes at once what fits. Returns how much that was. */
static size_t send_some(struct end *to, const uint8_t *bytes, size_t size)
{
    size_t done = 0;
    while (to->writable && done < size) {
        ssize_t count = send(to->fd, bytes + done, size - done, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (count >= 0)
            done += (size_t)count;
        else if (errno == EAGAIN)
            to->writable = false;
        else if (errno != EINTR)
            mark_unwritable(to);
    }
    if (done > 0)
        to->moved = true;
    return done;
}

/* Keeps what did not fit. Without memory the pair is lost, and no other. */
static void keep(struct end *to, const uint8_t *bytes, size_t size)
{
    struct outlet *outlet = &to->outlet;
    uint8_t *buffer = realloc(outlet->buffer, outlet->size + size);
    if (buffer == NULL) {
        mark_unwritable(to);
        return;
    }
    memcpy(buffer + outlet->size, bytes, size);
    outlet->buffer = buffer;
    outlet->size += size;
}

void flow_say(struct end *end, const uint8_t *words, size_t size)
{
    size_t done = end->outlet.buffer == NULL ? send_some(end, words, size) : 0;
    if (done < size && !end->finished)
        keep(end, words + done, size - done);
}

static void flush_buffer(struct end *to)
{
    struct outlet *outlet = &to->outlet;
    if (outlet->buffer == NULL)
        return;
    outlet->start += send_some(to, outlet->buffer + outlet->start, outlet->size - outlet->start);
    if (outlet->start == outlet->size)
        drop_buffer(outlet);
}

static void flush_pipe(struct end *to)
{
    struct outlet *outlet = &to->outlet;
    while (to->writable && outlet->piped > 0) {
        ssize_t count = splice(
            outlet->pipe[0], NULL, to->fd, NULL, outlet->piped, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (count > 0) {
            outlet->piped -= (size_t)count;
            to->moved = true;
        } else if (count < 0 && errno == EAGAIN)
            to->writable = false;
        else if (count == 0 || errno != EINTR)
            mark_unwritable(to);
    }
}

/* Writes what waits for an end, words of ours before spliced bytes. */
static void flush(struct end *to)
{
    flush_buffer(to);
    if (to->outlet.buffer == NULL)
        flush_pipe(to);
}

/* ---- reading --------------------------------------------------------------------- */

static void count_bytes(struct flow *flow, struct end *from, size_t count)
{
    flow->moved += count;
    /* The only writer is this process; others read. */
    atomic_store_explicit(from->bytes,
        atomic_load_explicit(from->bytes, memory_order_relaxed) + count, memory_order_relaxed);
}

/* What a read has returned: true if there are bytes. */
static bool judge_read(struct end *from, ssize_t count)
{
    if (count > 0)
        return true;
    if (count == 0)
        from->ended = true;
    else if (errno == EAGAIN)
        from->readable = false;
    else if (errno != EINTR)
        from->ended = from->finished = true; /* reset: both ways */
    return false;
}

static void copy_once(struct flow *flow, struct end *from)
{
    struct end *to = from->peer;
    ssize_t count = recv(from->fd, flow->scratch, FLOW_CHUNK, MSG_DONTWAIT);
    if (!judge_read(from, count))
        return;
    size_t size = (size_t)count;
    /* A short read emptied the socket; more bytes are another edge. */
    if (size < FLOW_CHUNK && !from->hung_up)
        from->readable = false;
    from->splicing = size == FLOW_CHUNK;
    count_bytes(flow, from, size);
    flow_say(to, flow->scratch, size);
}

static void splice_once(struct flow *flow, struct end *from)
{
    struct outlet *outlet = &from->peer->outlet;
    if (!take_pipe(flow, outlet)) {
        copy_once(flow, from);
        from->splicing = false;
        return;
    }
    ssize_t count =
        splice(from->fd, NULL, outlet->pipe[1], NULL, PIPE_SIZE, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (!judge_read(from, count))
        return;
    outlet->piped = (size_t)count;
    from->splicing = count >= SPLICE_MIN;
    count_bytes(flow, from, (size_t)count);
    flush_pipe(from->peer);
}

/* ---- both directions ------------------------------------------------------------- */

/* Passes on an end of file once everything before it has been delivered. */
static void finish(struct end *from)
{
    struct end *to = from->peer;
    if (!from->ended || flow_pending(to) || to->finished)
        return;
    to->finished = true;
    if (shutdown(to->fd, SHUT_WR) < 0)
        mark_unwritable(to);
}

bool flow_move(struct flow *flow, struct end *from)
{
    struct end *to = from->peer;
    for (int turn = 0; turn < TURNS; turn++) {
        flush(to);
        if (to->finished || flow_pending(to) || from->ended || !from->readable)
            break;
        if (from->splicing)
            splice_once(flow, from);
        else
            copy_once(flow, from);
    }
    if (to->finished)
        drop_outlet(flow, to);
    if (from->finished)
        drop_outlet(flow, from);
    finish(from);
    if (to->outlet.piped == 0)
        give_pipe_back(flow, &to->outlet);
    return from->readable && !from->ended && !to->finished && !flow_pending(to);
}
