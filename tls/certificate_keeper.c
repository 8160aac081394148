/* The certificate keeper: see certificate_keeper.h. A question is one packet with the version that
 * the worker has, and a socket for the answer. The answer is one packet with the certificate; if
 * there is no other certificate, the keeper closes the socket. */
#include "tls/certificate_keeper.h"

#include "base/clock.h"
#include "base/descriptors.h"
#include "base/log.h"
#include "base/pass_descriptor.h"
#include "base/process.h"
#include "base/sandbox.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    ANSWER_TIME = 1000, /* milliseconds for an answer, which takes a few system calls */
    RETRY_TIME = 10000, /* milliseconds before a keeper that did not answer is asked again */
};

/* Until then no worker asks the keeper: milliseconds, CLOCK_MONOTONIC. Shared by all workers. */
static _Atomic int64_t *quiet_until;

struct keeper {
    const struct options *options;
    certificate_keeper_judge *judge;
    struct certificate current;
    struct certificate_stamp stamp;
};

/* ---- in the keeper --------------------------------------------------------------- */

/* Files are tried only when they changed since the last try, so that a fault is logged once. */
static void read_if_changed(struct keeper *keeper)
{
    struct certificate candidate;
    if (!certificate_changed(keeper->options, &keeper->stamp))
        return;
    bool good = certificate_read(keeper->options, &candidate) == 0;
    bool known =
        good && memcmp(candidate.version, keeper->current.version, sizeof candidate.version) == 0;
    good = good && (known || keeper->judge(keeper->options, &candidate));
    if (good)
        keeper->current = candidate;
    if (good && !known)
        log_info("using the renewed certificate %s", options_shown(keeper->options->certfile));
    if (!good)
        log_warning("%s", sodium_is_zero(keeper->current.version, sizeof keeper->current.version)
                              ? "TLS is still not served"
                              : "the certificate that was in use before stays in use");
    sodium_memzero(&candidate, sizeof candidate);
}

/* Whether the keeper has a certificate, and the worker another version. */
static bool is_news(const struct keeper *keeper, const uint8_t *version)
{
    return keeper->current.chain_size > 0 &&
           memcmp(version, keeper->current.version, CERTIFICATE_VERSION_SIZE) != 0;
}

/* Receives a question. Returns the socket for the answer; -1: there was none; -2: no process is
 * left that could ask. */
static int receive_question(int socket, uint8_t version[static CERTIFICATE_VERSION_SIZE])
{
    int fd;
    size_t dropped;
    ssize_t size =
        pass_descriptor_receive(socket, version, CERTIFICATE_VERSION_SIZE, 0, &fd, &dropped);
    if (size < 0)
        return size == -EINTR || size == -EBADMSG || size == -EMFILE ? -1 : -2;
    if (size == 0 && fd < 0)
        return -2;
    if (size == CERTIFICATE_VERSION_SIZE)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

/* It is no error if the worker has ended, or does not read. */
static void send_certificate(const struct keeper *keeper, int worker)
{
    const struct certificate *current = &keeper->current;
    if (send(worker, current, sizeof *current, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EPIPE &&
        errno != ECONNRESET && errno != EAGAIN)
        log_error_errno("cannot hand out the renewed certificate");
}

static _Noreturn void run_keeper(struct keeper *keeper, int socket)
{
    sigset_t all;
    sigfillset(&all);
    process_name("relay-keeper", "keeper of the certificate", keeper->options->runtime_directory);
    tzset(); /* reads a file, as gmtime() does when a certificate's time is first asked for */
    /* No signal ends the keeper: it ends when no process is left that could ask. */
    if (sigprocmask(SIG_SETMASK, &all, NULL) < 0 || sandbox_enter(SANDBOX_KEEPER, -1) < 0)
        _exit(EXIT_RUN_TIME);
    for (;;) {
        uint8_t version[CERTIFICATE_VERSION_SIZE];
        int worker = receive_question(socket, version);
        if (worker == -2)
            _exit(0);
        if (worker < 0)
            continue;
        read_if_changed(keeper);
        if (is_news(keeper, version))
            send_certificate(keeper, worker);
        close(worker);
    }
}

/* ---- starting and asking --------------------------------------------------------- */

static int share_quiet_until(void)
{
    if (quiet_until != NULL) {
        atomic_store(quiet_until, 0);
        return 0;
    }
    void *memory =
        mmap(NULL, sizeof *quiet_until, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    quiet_until = memory;
    return 0;
}

pid_t certificate_keeper_start(const struct options *options,
    const uint8_t version[static CERTIFICATE_VERSION_SIZE], const struct certificate_stamp *stamp,
    certificate_keeper_judge *judge, int *socket)
{
    static struct keeper keeper;
    int ends[2];
    int error = share_quiet_until();
    if (error != 0)
        return error;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return -errno;
    pid_t pid = fork();
    if (pid == 0) {
        descriptors_close_others(ends[1], ends[1]);
        log_setup(log_debugging()); /* the descriptor of syslog was closed, too */
        keeper = (struct keeper){.options = options, .judge = judge, .stamp = *stamp};
        memcpy(keeper.current.version, version, CERTIFICATE_VERSION_SIZE);
        run_keeper(&keeper, ends[1]);
    }
    error = -errno;
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return error;
    }
    *socket = ends[0];
    return pid;
}

/* After a handshake that waited for the keeper in vain, the next ones do not wait. */
static void stop_asking(void)
{
    atomic_store(quiet_until, clock_now() + RETRY_TIME);
    log_repeated(LOG_WARNING,
        "the keeper of the certificate does not answer: TLS goes on with the certificate in use");
}

int certificate_keeper_ask(
    int socket, const uint8_t version[static CERTIFICATE_VERSION_SIZE], struct certificate *ret)
{
    int ends[2];
    int news = 0;
    if (clock_now() < atomic_load(quiet_until))
        return 0;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return 0;
    int error = pass_descriptor_send(
        socket, version, CERTIFICATE_VERSION_SIZE, ends[1], MSG_DONTWAIT | MSG_NOSIGNAL);
    close(ends[1]);
    struct pollfd entry = {.fd = ends[0], .events = POLLIN};
    int ready = error == 0 ? poll(&entry, 1, ANSWER_TIME) : 0;
    if (ready > 0)
        news = recv(ends[0], ret, sizeof *ret, MSG_DONTWAIT) == (ssize_t)sizeof *ret &&
               ret->chain_size <= sizeof ret->chain && ret->key_size <= sizeof ret->key;
    else if (ready == 0 && (error == 0 || error == -EAGAIN))
        stop_asking(); /* unless a signal said that this client has to give way */
    close(ends[0]);
    return news;
}
