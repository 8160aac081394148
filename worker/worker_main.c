/* `relay worker`: one connection, from systemd, inetd or xinetd, in a process of its own. */
#include "worker/worker.h"

#include "base/descriptors.h"
#include "base/log.h"
#include "base/process.h"
#include "base/sandbox.h"
#include "forward/launch.h"
#include "handoff.h"
#include "ident.h"
#include "pair.h"
#include "setup/runtime.h"
#include "setup/user.h"
#include "worker/link.h"
#include "worker/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

static int find_connection(void)
{
    int count = sd_listen_fds(1);
    int fd = count > 0 ? SD_LISTEN_FDS_START : STDIN_FILENO;
    if (count > 1) {
        log_error("cannot serve %d sockets as one worker: use Accept=yes, or relay serve", count);
        return -1;
    }
    if (sd_is_socket(fd, AF_UNSPEC, SOCK_STREAM, 0) > 0)
        return fd;
    if (listen_is_listening(fd)) {
        log_error("cannot serve: %s is a socket that listens, and no connection; inetd is to say "
                  "nowait for relay worker, xinetd wait = no, and systemd Accept=yes; relay serve "
                  "takes such a socket",
            count > 0 ? "the socket passed" : "standard input");
        return -1;
    }
    log_error("cannot serve: %s is no connection; relay worker is started by systemd "
              "(Accept=yes), inetd or xinetd",
        count > 0 ? "the socket passed" : "standard input");
    return -1;
}

/* The forwarder starts with nothing that this worker has read. */
static void become_forwarder(void *context)
{
    struct worker *worker = context;
    const struct options *options = worker->options;
    ident_free(worker->identity);
    worker_close(worker);
    log_sum_up_all(false);
    _exit(launch_detached(options));
}

/* Finds the forwarder, or starts one. */
static int connect_forwarder(struct worker *worker)
{
    int timeout = worker->options->handshake_timeout * 1000;
    worker->forwarder = handoff_connect(worker->runtime->socket, timeout);
    if (worker->forwarder < 0 && sandbox_check() < 0)
        return -1;
    if (worker->forwarder < 0)
        worker->forwarder = launch_on_demand(worker->runtime, become_forwarder, worker, timeout);
    if (worker->forwarder >= 0)
        return 0;
    errno = -worker->forwarder;
    log_error_errno("cannot reach a forwarder at %s", worker->runtime->socket);
    return -1;
}

/* The socket of a forwarder that stands still takes messages until it is full, so the forwarder is
 * asked. A forwarder that is short of memory or descriptors has logged that itself. */
static void check_answer(const struct worker *worker)
{
    if (!pair_forwarder_is_full(worker->table) && pair_is_adopted(worker->table) &&
        !link_answers(worker))
        link_log_silence(worker);
}

static int serve_connection(struct worker *worker, int fd)
{
    listen_tune(fd, worker->options);
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0) {
        log_error_errno("cannot serve a connection");
        return EXIT_RUN_TIME;
    }
    /* Without a forwarder the client is at least told that it is refused. */
    worker->closing = connect_forwarder(worker) < 0;
    if (!worker->closing)
        link_offer_table(worker);
    if (sandbox_enter(SANDBOX_WORKER, worker->forwarder) != 0)
        return EXIT_RUN_TIME;
    worker_greet(worker, fd);
    if (worker->closing)
        return EXIT_RUN_TIME;
    check_answer(worker);
    return 0;
}

int worker_main(const struct options *options)
{
    struct runtime runtime;
    struct worker worker;
    log_sum_up_all(true);
    if (sd_listen_fds(0) > 0 && listen_refuse(options) < 0)
        return EXIT_USAGE;
    int fd = find_connection();
    if (fd < 0 || descriptors_raise() == 0)
        return EXIT_RUN_TIME;
    process_name("relay-worker", "worker", options->runtime_directory);
    if (runtime_prepare(options, &runtime) < 0)
        return EXIT_RUN_TIME;
    runtime_share_log(options); /* before worker_prepare(), which logs what is wrong with a file */
    if (worker_prepare(&worker, options) < 0 || user_drop_root(options) < 0 ||
        worker_open(&worker, options, &runtime) < 0)
        return EXIT_RUN_TIME;
    int status = serve_connection(&worker, fd);
    worker_close(&worker);
    return status;
}
