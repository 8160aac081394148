/* `relay serve`: opens what the server needs, as root where that is necessary, and runs it. */
#include "worker/serve.h"

#include "base/descriptors.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/process.h"
#include "base/sandbox.h"
#include "ident.h"
#include "proto/tls.h"
#include "setup/runtime.h"
#include "setup/user.h"
#include "worker/attendants.h"
#include "worker/forwarding.h"
#include "worker/listen.h"
#include "worker/pool.h"
#include "worker/server.h"
#include "worker/stop.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

/* ---- opening --------------------------------------------------------------------- */

static int use_passed_sockets(struct server *server, int count)
{
    server->sockets_passed = true;
    if (count > SOCKETS_MAX) {
        log_error("cannot listen on %d sockets: %d at most", count, (int)SOCKETS_MAX);
        return -1;
    }
    for (int i = 0; i < count; i++) {
        int fd = SD_LISTEN_FDS_START + i;
        if (sd_is_socket(fd, AF_UNSPEC, SOCK_STREAM, 1) <= 0) {
            log_error("cannot serve: a socket passed by systemd does not listen; relay serve "
                      "needs Accept=no");
            return -1;
        }
        listen_tune(fd, server->options);
        listen_defer(fd);
        server->sockets[server->socket_count++] = fd;
    }
    return 0;
}

/* inetd (wait) passes its listening socket as standard input, and listens again once this server
 * has ended. The children get another standard input. */
static int use_standard_input(struct server *server)
{
    int fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    int nowhere = process_open_null();
    bool done = fd >= 0 && nowhere >= 0 && dup2(nowhere, STDIN_FILENO) >= 0;
    if (!done)
        log_error_errno("cannot listen on standard input");
    if (nowhere >= 0)
        close(nowhere);
    if (!done)
        return -1;
    server->sockets_passed = true;
    server->sockets[server->socket_count++] = fd;
    listen_tune(fd, server->options);
    return 0;
}

static int open_sockets(struct server *server)
{
    int count = sd_listen_fds(1);
    if (count > 0)
        return use_passed_sockets(server, count);
    if (listen_is_listening(STDIN_FILENO))
        return use_standard_input(server);
    for (size_t i = 0; i < server->options->listen_count; i++) {
        count = listen_open(server->options->listen[i], server->options,
            server->sockets + server->socket_count, SOCKETS_MAX - server->socket_count);
        if (count < 0)
            return -1;
        server->socket_count += (size_t)count;
    }
    return 0;
}

/* Written as root: tools that read the file trust only root's files. */
static int write_pid_file(struct server *server)
{
    const char *path = server->options->pid_file;
    if (path == NULL)
        return 0;
    server->pid_file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
    if (server->pid_file >= 0 && ftruncate(server->pid_file, 0) == 0 &&
        dprintf(server->pid_file, "%d\n", (int)server->pid) > 0)
        return 0;
    log_error_errno("cannot write the process id to %s", path);
    return -1;
}

/* Several workers may wake for one connection: the late ones must not block in accept(). */
static int unblock_sockets(const struct server *server)
{
    for (size_t i = 0; i < server->socket_count; i++) {
        if (fcntl(server->sockets[i], F_SETFL, O_NONBLOCK) < 0) {
            log_error_errno("cannot use a listening socket");
            return -1;
        }
    }
    return 0;
}

static int open_signals(struct server *server)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGCHLD);
    if (sigprocmask(SIG_BLOCK, &set, &server->inherited_mask) < 0)
        return -1;
    sigdelset(&server->inherited_mask, SIGTERM);
    sigdelset(&server->inherited_mask, SIGINT);
    server->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    server->nudge = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return server->signals < 0 || server->nudge < 0 ? -1 : 0;
}

/* Without root a file in root's directory cannot be removed, but it can be emptied. */
static void remove_pid_file(const struct server *server)
{
    if (server->pid_file >= 0 && unlink(server->options->pid_file) < 0 &&
        ftruncate(server->pid_file, 0) < 0)
        log_warning_errno("cannot empty %s", server->options->pid_file);
}

static int open_porch(struct server *server)
{
    int error = porch_open(&server->porch);
    if (error == 0 && fcntl(server->porch.leave[1], F_SETFL, O_NONBLOCK) < 0)
        error = -errno;
    errno = -error;
    server->worker.porch = &server->porch;
    server->worker.porch_pid = &server->board->porch;
    return error;
}

static int prepare_as_root(struct server *server)
{
    const struct options *options = server->options;
    if (runtime_prepare(options, &server->runtime) < 0 ||
        worker_prepare(&server->worker, options) < 0 || open_sockets(server) < 0 ||
        unblock_sockets(server) < 0 || write_pid_file(server) < 0)
        return -1;
    if (server->worker.tls == NULL)
        return 0;
    (void)tls_is_current(
        server->worker.tls); /* it logs a certificate that clients will not accept */
    return attendants_start_certificate_keeper(server);
}

static int prepare_as_user(struct server *server)
{
    const struct options *options = server->options;
    if (user_drop_root(options) < 0)
        return -1;
    runtime_share_log(options);
    if (worker_open(&server->worker, options, &server->runtime) < 0 || forwarding_find(server) < 0)
        return -1;
    randombytes_buf(&server->worker.server, sizeof server->worker.server);
    server->board = board_make((size_t)options->max_workers);
    if (server->board != NULL && open_signals(server) == 0 && open_porch(server) == 0)
        return 0;
    log_error_errno("cannot serve");
    return -1;
}

/* ---- running --------------------------------------------------------------------- */

/* Logged last: a script that waits for this line can connect. */
static void announce_ready(const struct server *server)
{
    for (size_t i = 0; !server->sockets_passed && i < server->options->listen_count; i++)
        log_info("listening on %s", server->options->listen[i]);
    notify_ready("Serving");
}

/* The shorter of two times to sleep; -1: for ever. */
static int sooner(int a, int b)
{
    return a < 0 || (b >= 0 && b < a) ? b : a;
}

static void run(struct server *server)
{
    server_reap(server); /* children that ended before SIGCHLD was blocked */
    while (!server->stopping) {
        int looks = sooner(attendants_watch_porch(server), forwarding_watch(server));
        server_wait(server, sooner(looks, server_keep(server)));
    }
    stop_server(server);
    remove_pid_file(server);
    (void)log_write_sums(true);
}

int serve_main(const struct options *options)
{
    struct server server = {.options = options,
        .handoff_socket = -1,
        .forward_lock = -1,
        .pid_file = -1,
        .records = {-1, -1},
        .recorder_keeper = -1,
        .inquiry = {.answer = -1, .accepts = UINT64_MAX},
        .pid = getpid(),
        .forwarder = -1};
    notify_open(options->notify_fd);
    bool passed = sd_listen_fds(0) > 0 || listen_is_listening(STDIN_FILENO);
    if ((passed ? listen_refuse(options) : listen_understand(options)) < 0)
        return EXIT_USAGE;
    if (!passed && listen_is_client(STDIN_FILENO)) {
        log_error("standard input is a client's connection, which `relay worker` serves: expected "
                  "a socket that listens (inetd's wait), or no socket");
        return EXIT_USAGE;
    }
    if (descriptors_raise() == 0 || sandbox_check() < 0)
        return EXIT_RUN_TIME;
    if (prepare_as_root(&server) < 0 || prepare_as_user(&server) < 0) {
        remove_pid_file(&server);
        return EXIT_RUN_TIME;
    }
    for (int i = 0; i < SPARE_START; i++)
        (void)pool_start_worker(&server);
    announce_ready(&server);
    run(&server);
    ident_free(server.worker.identity);
    worker_close(&server.worker);
    return server.failed ? EXIT_RUN_TIME : 0;
}
