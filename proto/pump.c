/* The pump's loop: whatever can be moved is moved, then it waits for what can be next. One buffer
 * for each direction, and nothing more is read until it is empty, so a slow reader slows its
 * sender down. An end of file is passed on once everything before it has been delivered, and the
 * other direction goes on. */
#include "pump.h"

#include "../runtime.h"
#include "../sandbox.h"
#include "../vital.h"

#include <errno.h>
#include <openssl/err.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    BUFFER_SIZE = 65536,
    RECORD_SIZE = 16384, /* as much as TLS hands over at once */
    WATCH = 15000,       /* milliseconds between two looks at whether the client lives */
    LEAVE = 5000,        /* for the client to close, once everything is said */
};

/* One direction. */
struct stream {
    uint8_t *buffer;
    size_t start, end;
    bool ended;    /* nothing more comes from where it starts */
    bool finished; /* nothing more goes to where it ends, which has been told */
};

struct pump {
    SSL *ssl;
    int tcp, plain;
    struct stream in;              /* from the client */
    struct stream out;             /* to the client */
    short read_wants, write_wants; /* what TLS waits for on its socket */
    bool abandoned;                /* the plain end is closed both ways */
    bool watched;                  /* something was written that may not be acknowledged */
    int64_t next_watch;
};

static bool pending(const struct stream *stream)
{
    return stream->start < stream->end;
}

static void drop(struct stream *stream)
{
    stream->start = stream->end = 0;
    stream->ended = stream->finished = true;
}

/* ---- moving ---------------------------------------------------------------------- */

/* What a call of OpenSSL's that moved nothing says: true to try again after *wants. */
static bool judge(struct pump *pump, int result, short *wants)
{
    switch (SSL_get_error(pump->ssl, result)) {
    case SSL_ERROR_WANT_READ:
        *wants = POLLIN;
        return true;
    case SSL_ERROR_WANT_WRITE:
        *wants = POLLOUT;
        return true;
    case SSL_ERROR_ZERO_RETURN:
        pump->in.ended = true;
        return false;
    default:
        pump->in.ended = true;
        drop(&pump->out);
        return false;
    }
}

/* Gathers records: many small ones, or a few whole ones, are one write. */
static bool read_client(struct pump *pump)
{
    struct stream *in = &pump->in;
    if (in->ended || in->finished || pending(in))
        return false;
    in->start = in->end = 0;
    while (BUFFER_SIZE - in->end >= RECORD_SIZE) {
        ERR_clear_error();
        int count = SSL_read(pump->ssl, in->buffer + in->end, RECORD_SIZE);
        if (count <= 0) {
            (void)judge(pump, count, &pump->read_wants);
            break;
        }
        in->end += (size_t)count;
    }
    return pending(in) || in->ended;
}

static bool write_plain(struct pump *pump)
{
    struct stream *in = &pump->in;
    size_t before = in->start;
    while (pending(in)) {
        ssize_t count = send(
            pump->plain, in->buffer + in->start, in->end - in->start, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (count > 0) {
            in->start += (size_t)count;
        } else if (errno == EAGAIN) {
            return in->start != before;
        } else if (errno != EINTR) {
            drop(in); /* nobody is there */
            return true;
        }
    }
    if (!in->ended || in->finished)
        return in->start != before;
    (void)shutdown(pump->plain, SHUT_WR);
    in->finished = true;
    return true;
}

static bool read_plain(struct pump *pump)
{
    struct stream *out = &pump->out;
    if (out->ended || pending(out))
        return false;
    ssize_t count = recv(pump->plain, out->buffer, BUFFER_SIZE, MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    out->start = 0;
    out->end = count > 0 ? (size_t)count : 0;
    out->ended = count <= 0;
    return true;
}

static bool say_end(struct pump *pump)
{
    ERR_clear_error();
    int result = SSL_shutdown(pump->ssl);
    if (result < 0 && judge(pump, result, &pump->write_wants))
        return false;
    (void)shutdown(pump->tcp, SHUT_WR);
    pump->out.finished = true;
    return true;
}

static bool write_client(struct pump *pump)
{
    struct stream *out = &pump->out;
    size_t before = out->start;
    while (pending(out)) {
        ERR_clear_error();
        int count = SSL_write(pump->ssl, out->buffer + out->start, (int)(out->end - out->start));
        if (count <= 0)
            return !judge(pump, count, &pump->write_wants) || out->start != before;
        out->start += (size_t)count;
        pump->watched = true;
    }
    bool said = out->ended && !out->finished && say_end(pump);
    return said || out->start != before;
}

/* ---- waiting --------------------------------------------------------------------- */

/* A connection that has nothing to do gives back what it used for doing it. */
static void rest(struct pump *pump)
{
    if (!pending(&pump->in))
        (void)madvise(pump->in.buffer, BUFFER_SIZE, MADV_DONTNEED);
    if (!pending(&pump->out))
        (void)madvise(pump->out.buffer, BUFFER_SIZE, MADV_DONTNEED);
}

/* False: the client is gone, or nobody is left who would wait for it. */
static bool watch(struct pump *pump)
{
    enum vital vital = vital_check(pump->tcp);
    if (vital == VITAL_DEAD || pump->abandoned)
        return false;
    pump->watched = vital == VITAL_WAITING;
    rest(pump);
    return true;
}

/* Waits for what can be moved next. False: there is nothing to wait for any more. */
static bool wait_for_more(struct pump *pump)
{
    struct stream *in = &pump->in, *out = &pump->out;
    short tcp = 0, plain = 0;
    if (!in->ended && !in->finished && !pending(in))
        tcp |= pump->read_wants;
    if (pending(out) || (out->ended && !out->finished))
        tcp |= pump->write_wants;
    if (pending(in))
        plain |= POLLOUT;
    if (!out->ended && !pending(out))
        plain |= POLLIN;
    /* A hang-up is reported unasked, so a socket that nothing is wanted of is left out. */
    struct pollfd entries[] = {
        {.fd = tcp != 0 ? pump->tcp : -1, .events = tcp},
        {.fd = plain != 0 || !pump->abandoned ? pump->plain : -1, .events = plain},
    };
    int64_t left = pump->next_watch - runtime_now();
    if (left <= 0) {
        pump->next_watch = runtime_now() + WATCH;
        return watch(pump);
    }
    bool timed = pump->watched || pump->abandoned;
    int ready = poll(entries, 2, timed ? (int)left : -1);
    if (ready < 0 && errno != EINTR)
        return false;
    if (ready > 0 && (entries[1].revents & (POLLHUP | POLLERR)) != 0) {
        pump->abandoned = true;
        drop(in);
        pump->next_watch = runtime_now() + WATCH;
    }
    return true;
}

/* A close with unread input would be a reset, which may overtake what was said last. */
static void drain(const struct pump *pump)
{
    int64_t left, until = runtime_now() + LEAVE;
    struct pollfd entry = {.fd = pump->tcp, .events = POLLIN};
    while ((left = until - runtime_now()) > 0 && poll(&entry, 1, (int)left) > 0) {
        ssize_t count = recv(pump->tcp, pump->in.buffer, BUFFER_SIZE, MSG_DONTWAIT);
        if (count <= 0)
            return;
    }
}

static void run(struct pump *pump)
{
    while (!pump->in.finished || !pump->out.finished) {
        bool moved = read_client(pump);
        moved |= write_plain(pump);
        moved |= read_plain(pump);
        moved |= write_client(pump);
        if (moved && pump->abandoned)
            pump->next_watch = runtime_now() + WATCH;
        if (!moved && !wait_for_more(pump))
            break;
    }
    close(pump->plain);
    if (pump->abandoned)
        drain(pump);
    close(pump->tcp);
}

/* ---- starting -------------------------------------------------------------------- */

static _Noreturn void be_pump(SSL *ssl, int tcp, int plain)
{
    struct pump pump = {.ssl = ssl,
        .tcp = tcp,
        .plain = plain,
        .read_wants = POLLIN,
        .write_wants = POLLOUT,
        .next_watch = runtime_now() + WATCH};
    sigset_t all;
    sigfillset(&all);
    runtime_close_others(tcp, plain);
    uint8_t *buffers = mmap(
        NULL, (size_t)2 * BUFFER_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    /* It ends when either side does: who stops relay stops the forwarder, and that ends pairs. */
    if (buffers == MAP_FAILED || sigprocmask(SIG_SETMASK, &all, NULL) < 0 ||
        prctl(PR_SET_NAME, "relay-tls") < 0 || sandbox_enter(SANDBOX_PUMP, -1) < 0)
        _exit(1);
    pump.in.buffer = buffers;
    pump.out.buffer = buffers + BUFFER_SIZE;
    SSL_set_mode(ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_set_read_ahead(ssl, 1);
    SSL_set_default_read_buffer_len(ssl, BUFFER_SIZE);
    run(&pump);
    _exit(0);
}

int pump_start(SSL *ssl, int tcp, bool stay, void (*close_rest)(void *context), void *context)
{
    int ends[2];
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    /* Nobody waits for a pump, so none is to be waited for. */
    if (sigaction(SIGCHLD, &ignore, NULL) < 0 ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
        return -errno;
    pid_t child = fork();
    if (child < 0) {
        int error = -errno;
        close(ends[0]);
        close(ends[1]);
        return error;
    }
    if ((child == 0) != stay) {
        close_rest(context);
        be_pump(ssl, tcp, ends[1]);
    }
    close(ends[1]);
    close(tcp);
    return ends[0];
}
