/* What greetings share: reading against a deadline and never past what was understood, and saying.
 *
 * In TLS the same holds of whole records: what is peeked at is opened with a copy of the keys, and
 * a record is consumed once nothing in it is left to be. So at the handoff the kernel has every
 * record of which something is left, and records->skip says how much of the next was taken. */
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
    HURRY_LOOK = 250,    /* milliseconds between two looks whether the greeting is to end */
    LOW_WATER_PAUSE = 5, /* milliseconds between two peeks, where the kernel cannot wait */
    SEALED_MAX = RECORDS_RECORD_MAX + 4096, /* peeked at: one record, or many small ones */
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

/* Waits for what only the worker can wait for, or until `until`. */
static int wait_until(const struct greeting *greeting, short events, int64_t until)
{
    struct pollfd entry = {.fd = greeting->fd, .events = events};
    for (;;) {
        int64_t left = until - clock_now();
        if (left <= 0 || interrupted)
            return -ETIMEDOUT;
        /* An interrupt may come just before poll() does. */
        int ready = poll(&entry, 1, left > HURRY_LOOK ? HURRY_LOOK : (int)left);
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

/* Waits for more of what can be peeked at. A greeting of which nothing is consumed is given up, if
 * somebody else can wait for it: at once if nothing has come, or when its time is up. */
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

/* Has the kernel wake us only when at least `size` bytes are there; it does so for TCP. */
static void set_low_water(int fd, size_t size)
{
    int low_water = (int)size;
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &low_water, sizeof low_water);
}

/* Where the kernel cannot wait for more than there is, a pause keeps the wait from spinning. */
static void pause_briefly(void)
{
    struct timespec pause = {0, LOW_WATER_PAUSE * 1000000L};
    nanosleep(&pause, NULL);
}

/* Whether a greeting that came just now is given up without another look: nobody waits here. */
static bool passes_on(const struct greeting *greeting, size_t count, size_t least)
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

/* Waits, with `count` bytes there, for `least`. */
static int wait_for_more(const struct greeting *greeting, size_t count, size_t least)
{
    if (passes_on(greeting, count, least))
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

/* Peeks once there are at least `least` bytes: mostly they are there already. */
static ssize_t peek(const struct greeting *greeting, void *buffer, size_t size, size_t least)
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
            pause_briefly(); /* there was no more to wake us for */
        before = here;
        int error = wait_for_more(greeting, here, least);
        if (error != 0)
            return error;
    }
}

/* Takes exactly so many bytes, as they come. */
static int take(const struct greeting *greeting, uint8_t *buffer, size_t size)
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

static void say(const struct greeting *greeting, const void *words, size_t size)
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
            return; /* a client that is gone needs no words */
    }
}

/* ---- records --------------------------------------------------------------------- */

/* Records in the kernel's buffer, as they are opened one after the other. */
struct view {
    struct records records; /* after those that were opened */
    size_t at, size;
    uint8_t sealed[SEALED_MAX];
    uint8_t plain[RECORDS_RECORD_MAX]; /* of the last one: what was not taken yet */
    size_t plain_size;
};

/* What breaks TLS is said once, and nothing after it. */
static int refuse_record(const struct greeting *greeting, enum records_alert alert)
{
    uint8_t sealed[RECORDS_CONTROL_MAX];
    ssize_t size =
        alert == RECORDS_NO_ALERT ? 0 : records_seal_alert(greeting->records, alert, sealed);
    say(greeting, sealed, size > 0 ? (size_t)size : 0);
    greeting->records->alert = (uint8_t)alert;
    return -EPROTO;
}

/* Opens the next record. 1, or 0 if it is not whole, or a negative errno: -ENODATA when the client
 * has said that nothing more comes. */
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

/* Starts again with what the kernel has by now, once that is more than `known` bytes. */
static ssize_t look(const struct greeting *greeting, struct view *view, size_t known)
{
    view->records = *greeting->records;
    view->at = 0;
    if (known == sizeof view->sealed)
        return -EMSGSIZE; /* records without end, and nothing in them */
    if (interrupted || clock_now() >= greeting->deadline)
        return -ETIMEDOUT;
    ssize_t count = peek(greeting, view->sealed, sizeof view->sealed, known + 1);
    view->size = count > 0 ? (size_t)count : 0;
    return count;
}

static void forget(struct view *view)
{
    sodium_memzero(&view->records.in, sizeof view->records.in);
    sodium_memzero(&view->records.out, sizeof view->records.out);
    sodium_memzero(view->plain, sizeof view->plain);
}

/* Why there is nothing more to take. */
static int end_of(const struct greeting *greeting, const struct view *view, int result)
{
    if (result == -EPROTO)
        return refuse_record(greeting, view->records.alert);
    return result == -ENODATA ? -ECONNRESET : result;
}

/* Opens what whole records there are, until there are `size` bytes. Returns as open_next() did. */
static int gather(struct view *view, uint8_t *buffer, size_t size, size_t *have)
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

static ssize_t peek_inside(
    const struct greeting *greeting, uint8_t *buffer, size_t size, size_t known)
{
    struct view view;
    ssize_t count;
    size_t have = 0;
    int result = 0;
    view.size = view.plain_size = 0; /* look() fills in the rest */
    do {
        count = look(greeting, &view, view.size);
        if (count > 0)
            result = gather(&view, buffer, size, &have);
    } while (count > 0 && result >= 0 && have <= known);
    forget(&view);
    if (count <= 0)
        return count;
    if (have > known)
        return (ssize_t)have;
    return result == -ENODATA && known == 0 ? 0 : end_of(greeting, &view, result);
}

/* Takes up to `size` bytes of the next record. Returns how many: there may be none in it. */
static ssize_t take_inside(const struct greeting *greeting, uint8_t *buffer, size_t size)
{
    struct view view;
    struct records *records = greeting->records;
    ssize_t count;
    int result = 0;
    view.size = view.plain_size = 0; /* look() fills in the rest */
    do {
        count = look(greeting, &view, view.size);
        if (count > 0)
            result = open_next(&view);
    } while (count > 0 && result == 0);
    size_t here = view.plain_size < size ? view.plain_size : size;
    if (count > 0 && result > 0) {
        memcpy(buffer, view.plain, here);
        if (here < view.plain_size)
            records->skip = (uint16_t)(records->skip + here);
        else if ((result = take(greeting, view.sealed, view.at)) == 0)
            *records = view.records;
    }
    forget(&view);
    if (count <= 0)
        return count < 0 ? count : -ECONNRESET;
    return result < 0 ? end_of(greeting, &view, result) : (ssize_t)here;
}

static int read_inside(const struct greeting *greeting, uint8_t *buffer, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t count = take_inside(greeting, buffer + done, size - done);
        if (count < 0)
            return (int)count;
        done += (size_t)count;
    }
    return 0;
}

static void say_inside(const struct greeting *greeting, const void *words, size_t size)
{
    uint8_t sealed[RECORDS_SEALED_MAX + RECORDS_CONTROL_MAX];
    struct iovec part = {(void *)(uintptr_t)words, size};
    struct records_source source = {&part, 1, 0};
    ssize_t count;
    while (greeting->records->alert == 0 &&
           (count = records_seal(greeting->records, &source, sealed, sizeof sealed)) > 0)
        say(greeting, sealed, (size_t)count);
}

/* ---- either ---------------------------------------------------------------------- */

ssize_t greeting_peek(const struct greeting *greeting, void *buffer, size_t size)
{
    return greeting_peek_more(greeting, buffer, size, 0);
}

ssize_t greeting_peek_more(const struct greeting *greeting, void *buffer, size_t size, size_t known)
{
    return greeting->records != NULL ? peek_inside(greeting, buffer, size, known)
                                     : peek(greeting, buffer, size, known + 1);
}

int greeting_await(const struct greeting *greeting, void *buffer, size_t size)
{
    ssize_t count = peek(greeting, buffer, size, size);
    if (count < 0)
        return (int)count;
    return count == 0 ? -ECONNRESET : 0;
}

int greeting_read(const struct greeting *greeting, void *buffer, size_t size)
{
    return greeting->records != NULL ? read_inside(greeting, buffer, size)
                                     : take(greeting, buffer, size);
}

void greeting_say(const struct greeting *greeting, const void *words, size_t size)
{
    if (greeting->records != NULL)
        say_inside(greeting, words, size);
    else
        say(greeting, words, size);
}

void greeting_say_end(const struct greeting *greeting)
{
    uint8_t sealed[RECORDS_CONTROL_MAX];
    if (greeting->records != NULL && greeting->records->alert == 0) {
        ssize_t count = records_seal_alert(greeting->records, RECORDS_CLOSE_NOTIFY, sealed);
        say(greeting, sealed, count > 0 ? (size_t)count : 0);
    } else if (greeting->records == NULL && greeting->in_tls) {
        (void)kernel_tls_say_end(greeting->fd); /* as far as it fits */
    }
}
