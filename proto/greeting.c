/* What greetings share: reading and sending against a deadline, see greeting.h.
 *
 * Inside TLS, records are peeked at and opened with a copy of the keys. A record is consumed when
 * all of its bytes are consumed. So at the handoff the kernel's buffer still has every record that
 * is not used up, and records->skip says how many bytes of the first one are used already. */
#include "proto/greeting.h"

#include "base/clock.h"
#include "tls/kernel_tls.h"
#include "tls/records.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum {
    INTERRUPT_PACE = 250, /* milliseconds between two looks whether the greeting is interrupted */
    LOW_WATER_PAUSE = 5,  /* milliseconds between two peeks, where SO_RCVLOWAT does not work */
    SEALED_MAX = RECORDS_RECORD_MAX + 4096, /* bytes peeked at: one record, or many small ones */
};

static volatile sig_atomic_t interrupted;

void greeting_interrupt(int signal)
{
    (void)signal;
    interrupted = 1;
}

void greeting_resume(void)
{
    interrupted = 0;
}

/* ---- the socket ------------------------------------------------------------------ */

static int wait_until(const struct greeting *greeting, short events, int64_t until)
{
    struct pollfd entry = {.fd = greeting->fd, .events = events};
    for (;;) {
        int64_t left = until - clock_now();
        if (left <= 0 || interrupted)
            return -ETIMEDOUT;
        /* A signal may arrive just before poll(), which then is not interrupted. */
        int ready = poll(&entry, 1, left > INTERRUPT_PACE ? INTERRUPT_PACE : (int)left);
        if (ready > 0)
            return 0;
        if (ready < 0 && errno != EINTR)
            return -errno;
    }
}

int greeting_hold(const struct greeting *greeting)
{
    struct hearing *hearing = greeting->hearing;
    if (hearing == NULL || hearing->held)
        return 0;
    int error = hearing->hold(hearing->context);
    hearing->held = error == 0;
    hearing->crowded = hearing->given_up = error != 0 && !hearing->taken;
    hearing->taken = hearing->taken || error == 0;
    return error;
}

void greeting_settle(const struct greeting *greeting)
{
    struct hearing *hearing = greeting->hearing;
    if (hearing != NULL && !hearing->held) {
        hearing->taken = false;
        hearing->resumes = true;
    }
}

int greeting_wait(const struct greeting *greeting, short events)
{
    return greeting_hold(greeting) != 0 ? -ETIMEDOUT
                                        : wait_until(greeting, events, greeting->deadline);
}

/* Waits for more input to peek at. Where there is a porch, a greeting of which nothing is consumed
 * is given up: at once when nothing has come yet, else at hearing->until. */
static int wait_to_peek(const struct greeting *greeting, bool begun, size_t enough)
{
    struct hearing *hearing = greeting->hearing;
    int64_t until = greeting->deadline;
    if (hearing == NULL || hearing->taken)
        return greeting_wait(greeting, POLLIN);
    if (interrupted || clock_now() >= until)
        return -ETIMEDOUT;
    if (hearing->until < until)
        until = begun || hearing->resumes ? hearing->until : 0;
    int error = wait_until(greeting, POLLIN, until);
    if (error == -ETIMEDOUT && !interrupted && until < greeting->deadline) {
        hearing->given_up = true;
        hearing->enough = enough;
        return -EAGAIN;
    }
    return error;
}

static bool hung_up(int fd)
{
    struct pollfd entry = {.fd = fd, .events = POLLRDHUP};
    return poll(&entry, 1, 0) > 0;
}

/* Has poll() return only when at least `size` bytes are there. The kernel does so for TCP. */
static void set_low_water(int fd, size_t size)
{
    int low_water = (int)size;
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &low_water, sizeof low_water);
}

/* Keeps the wait from spinning on sockets that are not TCP. */
static void pause_briefly(void)
{
    struct timespec pause = {0, LOW_WATER_PAUSE * 1000000L};
    nanosleep(&pause, NULL);
}

/* Whether a new greeting is given up before any wait. */
static bool gives_up_at_once(const struct greeting *greeting, size_t count, size_t least)
{
    struct hearing *hearing = greeting->hearing;
    if (hearing == NULL || hearing->taken || hearing->resumes || hearing->returned || interrupted)
        return false;
    int64_t now = clock_now();
    if (now >= greeting->deadline || (count > 0 && now < hearing->until))
        return false;
    hearing->given_up = true;
    hearing->enough = least;
    return true;
}

/* Waits until `least` bytes are there; `count` are by now. */
static int wait_for_more(const struct greeting *greeting, size_t count, size_t least)
{
    if (gives_up_at_once(greeting, count, least))
        return -EAGAIN;
    if (count > 0 && hung_up(greeting->fd))
        return -ECONNRESET;
    if (least > 1)
        set_low_water(greeting->fd, least);
    int error = wait_to_peek(greeting, count > 0, least);
    if (least > 1)
        set_low_water(greeting->fd, 1);
    return error;
}

/* Peeks at the socket once at least `least` bytes are there. */
static ssize_t peek_at_socket(
    const struct greeting *greeting, void *buffer, size_t size, size_t least)
{
    size_t before = 0;
    for (;;) {
        ssize_t count = recv(greeting->fd, buffer, size, MSG_PEEK | MSG_DONTWAIT);
        if (count == 0 || count >= (ssize_t)least)
            return count;
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0 && errno != EAGAIN)
            return -errno;
        size_t here = count < 0 ? 0 : (size_t)count;
        if (here > 0 && here == before)
            pause_briefly(); /* poll() returned, and there was nothing new */
        before = here;
        int error = wait_for_more(greeting, here, least);
        if (error != 0)
            return error;
    }
}

/* Reads exactly `size` bytes from the socket, as they come. */
static int read_from_socket(const struct greeting *greeting, uint8_t *buffer, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t count = recv(greeting->fd, buffer + done, size - done, MSG_DONTWAIT);
        if (count == 0)
            return -ECONNRESET;
        if (count > 0) {
            done += (size_t)count;
            if (greeting->hearing != NULL)
                greeting->hearing->taken = true;
        } else if (errno == EAGAIN) {
            int error = greeting_wait(greeting, POLLIN);
            if (error != 0)
                return error;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

static void send_to_socket(const struct greeting *greeting, const void *words, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t count = send(
            greeting->fd, (const char *)words + done, size - done, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (count >= 0)
            done += (size_t)count;
        else if (errno == EAGAIN && greeting_wait(greeting, POLLOUT) == 0)
            continue;
        else if (errno != EINTR)
            return; /* the client is gone */
    }
}

/* ---- records --------------------------------------------------------------------- */

/* A look at the records in the kernel's buffer, which are opened one after the other. */
struct view {
    struct records records; /* the keys as they are after the records that are opened */
    size_t at, size;
    uint8_t sealed[SEALED_MAX];
    uint8_t plain[RECORDS_RECORD_MAX]; /* of the last record: the bytes not yet consumed */
    size_t plain_size;
};

/* Sends an alert, after which nothing may be sent. */
static int fail_with_alert(const struct greeting *greeting, enum records_alert alert)
{
    uint8_t sealed[RECORDS_CONTROL_MAX];
    ssize_t size =
        alert == RECORDS_NO_ALERT ? 0 : records_seal_alert(greeting->records, alert, sealed);
    send_to_socket(greeting, sealed, size > 0 ? (size_t)size : 0);
    greeting->records->alert = (uint8_t)alert;
    return -EPROTO;
}

/* Opens the next record. Returns 1; 0 if it is not whole; or a negative errno: -ENODATA when the
 * client has sent close_notify. */
static int open_next(struct view *view)
{
    size_t length = records_measure(view->sealed + view->at, view->size - view->at);
    view->plain_size = 0;
    if (length == 0)
        return 0;
    enum records_event event = records_open(
        &view->records, view->sealed + view->at, length, view->plain, &view->plain_size);
    if (event == RECORDS_FAILED)
        return -EPROTO;
    if (event == RECORDS_CLOSED)
        return -ENODATA;
    view->at += length;
    if (event == RECORDS_NEW_KEY)
        return 1;
    size_t skip = view->records.skip < view->plain_size ? view->records.skip : view->plain_size;
    view->records.skip = (uint16_t)(view->records.skip - skip);
    view->plain_size -= skip;
    memmove(view->plain, view->plain + skip, view->plain_size);
    return 1;
}

/* Starts again at the first record, once the kernel has more than `known` bytes. */
static ssize_t look_again(const struct greeting *greeting, struct view *view, size_t known)
{
    view->records = *greeting->records;
    view->at = 0;
    if (known == sizeof view->sealed)
        return -EMSGSIZE; /* a full buffer of records without data */
    if (interrupted || clock_now() >= greeting->deadline)
        return -ETIMEDOUT;
    ssize_t count = peek_at_socket(greeting, view->sealed, sizeof view->sealed, known + 1);
    view->size = count > 0 ? (size_t)count : 0;
    return count;
}

static void wipe_view(struct view *view)
{
    sodium_memzero(&view->records.in, sizeof view->records.in);
    sodium_memzero(&view->records.out, sizeof view->records.out);
    sodium_memzero(view->plain, sizeof view->plain);
}

/* The errno to return for the result of open_next(). */
static int failure_of(const struct greeting *greeting, const struct view *view, int result)
{
    if (result == -EPROTO)
        return fail_with_alert(greeting, view->records.alert);
    return result == -ENODATA ? -ECONNRESET : result;
}

/* Opens whole records until there are `size` bytes. Returns the last result of open_next(). */
static int open_records(struct view *view, uint8_t *buffer, size_t size, size_t *have)
{
    int result = 1;
    *have = 0;
    while (*have < size && (result = open_next(view)) > 0) {
        size_t here = view->plain_size < size - *have ? view->plain_size : size - *have;
        memcpy(buffer + *have, view->plain, here);
        *have += here;
    }
    return result;
}

static ssize_t peek_in_tls(
    const struct greeting *greeting, uint8_t *buffer, size_t size, size_t known)
{
    struct view view;
    ssize_t count;
    size_t have = 0;
    int result = 0;
    view.size = view.plain_size = 0; /* look_again() fills in the rest */
    do {
        count = look_again(greeting, &view, view.size);
        if (count > 0)
            result = open_records(&view, buffer, size, &have);
    } while (count > 0 && result >= 0 && have <= known);
    wipe_view(&view);
    if (count <= 0)
        return count;
    if (have > known)
        return (ssize_t)have;
    return result == -ENODATA && known == 0 ? 0 : failure_of(greeting, &view, result);
}

/* Reads up to `size` bytes of the next record. Returns how many; a record may have none. */
static ssize_t read_some_in_tls(const struct greeting *greeting, uint8_t *buffer, size_t size)
{
    struct view view;
    struct records *records = greeting->records;
    ssize_t count;
    int result = 0;
    view.size = view.plain_size = 0; /* look_again() fills in the rest */
    do {
        count = look_again(greeting, &view, view.size);
        if (count > 0)
            result = open_next(&view);
    } while (count > 0 && result == 0);
    size_t here = view.plain_size < size ? view.plain_size : size;
    if (count > 0 && result > 0) {
        memcpy(buffer, view.plain, here);
        if (here < view.plain_size)
            records->skip = (uint16_t)(records->skip + here);
        else if ((result = read_from_socket(greeting, view.sealed, view.at)) == 0)
            *records = view.records;
    }
    wipe_view(&view);
    if (count <= 0)
        return count < 0 ? count : -ECONNRESET;
    return result < 0 ? failure_of(greeting, &view, result) : (ssize_t)here;
}

static int read_in_tls(const struct greeting *greeting, uint8_t *buffer, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t count = read_some_in_tls(greeting, buffer + done, size - done);
        if (count < 0)
            return (int)count;
        done += (size_t)count;
    }
    return 0;
}

static void send_in_tls(const struct greeting *greeting, const void *words, size_t size)
{
    uint8_t sealed[RECORDS_SEALED_MAX + RECORDS_CONTROL_MAX];
    struct iovec part = {(void *)(uintptr_t)words, size};
    struct records_source source = {&part, 1, 0};
    ssize_t count;
    while (greeting->records->alert == 0 &&
           (count = records_seal(greeting->records, &source, sealed, sizeof sealed)) > 0)
        send_to_socket(greeting, sealed, (size_t)count);
}

/* ---- in TLS or not --------------------------------------------------------------- */

ssize_t greeting_peek(const struct greeting *greeting, void *buffer, size_t size, size_t known)
{
    return greeting->records != NULL ? peek_in_tls(greeting, buffer, size, known)
                                     : peek_at_socket(greeting, buffer, size, known + 1);
}

int greeting_await(const struct greeting *greeting, void *buffer, size_t size)
{
    ssize_t count = peek_at_socket(greeting, buffer, size, size);
    if (count < 0)
        return (int)count;
    return count == 0 ? -ECONNRESET : 0;
}

int greeting_read(const struct greeting *greeting, void *buffer, size_t size)
{
    return greeting->records != NULL ? read_in_tls(greeting, buffer, size)
                                     : read_from_socket(greeting, buffer, size);
}

void greeting_say(const struct greeting *greeting, const void *words, size_t size)
{
    if (greeting->records != NULL)
        send_in_tls(greeting, words, size);
    else
        send_to_socket(greeting, words, size);
}

void greeting_say_end(const struct greeting *greeting)
{
    uint8_t sealed[RECORDS_CONTROL_MAX];
    if (greeting->records != NULL && greeting->records->alert == 0) {
        ssize_t count = records_seal_alert(greeting->records, RECORDS_CLOSE_NOTIFY, sealed);
        send_to_socket(greeting, sealed, count > 0 ? (size_t)count : 0);
    } else if (greeting->records == NULL && greeting->in_tls) {
        (void)kernel_tls_say_end(greeting->fd); /* a full buffer has no room for it */
    }
}
