/* How a forwarder comes to run, and to retire. */
#include "launch.h"

#include "forward.h"
#include "handoff.h"
#include "log.h"
#include "notify.h"
#include "pair.h"
#include "process.h"
#include "recorder.h"
#include "records.h"
#include "sandbox.h"
#include "usage.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

enum {
    LOCK_WAIT = 1000, /* milliseconds for a forwarder that is just retiring */
    PAUSE = 5,
};

/* Whom a forwarder may leave. */
struct retirement {
    const struct runtime *runtime;
    int socket;
    int users_lock;
    int recorder;    /* the parent's, -1: there is none */
    bool own_socket; /* else systemd's, which starts us again when it is needed */
    pid_t parent;    /* who has to be gone first; 0: nobody */
    bool forsaken;   /* and who else has used it */
};

static void pause_briefly(void)
{
    struct timespec pause = {0, PAUSE * 1000000L};
    nanosleep(&pause, NULL);
}

/* ---- retiring -------------------------------------------------------------------- */

static bool has_handoffs(int socket)
{
    struct pollfd entry = {.fd = socket, .events = POLLIN};
    return poll(&entry, 1, 0) > 0;
}

/* Who may send a handoff holds users.lock, so when we get it for ourselves nobody is on the way
 * to us, and who comes later finds no socket and starts another forwarder. */
static bool retire(void *context)
{
    struct retirement *retirement = context;
    if (!retirement->own_socket)
        return !has_handoffs(retirement->socket);
    if (retirement->parent != 0 && getppid() == retirement->parent)
        return false;
    if (flock(retirement->users_lock, LOCK_EX | LOCK_NB) < 0)
        return false;
    if (has_handoffs(retirement->socket)) {
        (void)flock(retirement->users_lock, LOCK_UN);
        return false;
    }
    /* Should it stay, whoever connects to it is refused there, and starts another forwarder. */
    if (unlink(retirement->runtime->socket) < 0 && errno != ENOENT)
        log_warning_errno("cannot remove %s", retirement->runtime->socket);
    return true;
}

/* Whoever is about to use it holds users.lock, and whoever comes later waits for that until this
 * forwarder has ended. */
static bool is_forsaken(void *context)
{
    struct retirement *retirement = context;
    retirement->forsaken = flock(retirement->users_lock, LOCK_EX | LOCK_NB) == 0;
    return retirement->forsaken;
}

/* Whoever has connected to a socket that will be nobody's any more finds that out when it sends. */
static void leave(void *context)
{
    struct retirement *retirement = context;
    bool parent = retirement->parent != 0 && getppid() == retirement->parent;
    if (retirement->own_socket && (!parent || retirement->forsaken))
        launch_abandon(retirement->runtime, retirement->socket);
}

/* ---- running --------------------------------------------------------------------- */

static int open_users_lock(const struct runtime *runtime)
{
    int fd = open(runtime->users_lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        log_error_errno("cannot open %s", runtime->users_lock);
    return fd;
}

/* Unless the parent has one. */
static int start_recorder(const struct options *options, const struct runtime *runtime,
    struct pair_table *table, int *recorder)
{
    int pipe[2];
    if (!usage_wanted(&options->usage) || *recorder >= 0)
        return 0;
    int error = recorder_open(pipe);
    if (error == 0) {
        pid_t keeper = fork();
        if (keeper == 0) {
            pair_close(table);
            recorder_keep(options, runtime, pipe[0]);
        }
        error = keeper < 0 ? -errno : 0;
        close(pipe[0]);
        *recorder = pipe[1];
    }
    if (error == 0)
        return 0;
    errno = -error;
    log_error_errno("cannot start the recorder");
    return -1;
}

static int run(const struct options *options, struct retirement *retirement)
{
    struct forward_setup setup = {
        .options = options,
        .socket = retirement->socket,
        .recorder = retirement->recorder,
        .descriptors_max = (size_t)runtime_raise_descriptors(),
        .retire = retire,
        .forsaken = retirement->parent != 0 ? is_forsaken : NULL,
        .leave = leave,
        .context = retirement,
    };
    int status = EXIT_RUN_TIME;
    if (runtime_open_table(options, retirement->runtime, true, &setup.table) < 0)
        return EXIT_RUN_TIME;
    pair_adopt(setup.table);
    pair_set_forwarder(setup.table, HANDOFF_VERSION);
    retirement->users_lock = open_users_lock(retirement->runtime);
    if (retirement->users_lock < 0 ||
        start_recorder(options, retirement->runtime, setup.table, &setup.recorder) < 0)
        goto close;
    process_name("relay-forward", "forwarder", options->runtime_directory);
    if (records_prepare() != 0) {
        log_error("cannot forward: OpenSSL lacks what TLS needs");
        goto close;
    }
    if (sandbox_enter(SANDBOX_FORWARDER, -1) < 0)
        goto close;
    notify_ready("Forwarding");
    int error = forward_run(&setup);
    errno = -error;
    if (error != 0)
        log_error_errno("cannot forward");
    else
        status = 0;
close:
    if (setup.recorder >= 0)
        close(setup.recorder);
    if (retirement->users_lock >= 0)
        close(retirement->users_lock);
    pair_close(setup.table);
    return status;
}

/* ---- as a process of its own ----------------------------------------------------- */

/* Returns the lock, or closes it and returns a negative errno. */
static int note_origin(int lock, bool on_demand)
{
    int error = runtime_note_origin(lock, on_demand);
    if (error == 0)
        return lock;
    close(lock);
    return error;
}

static int take_forward_lock(const struct runtime *runtime, int64_t patience, bool on_demand)
{
    int64_t until = runtime_now() + patience;
    for (;;) {
        int lock = runtime_lock(runtime->forward_lock, false, false);
        if (lock >= 0)
            return note_origin(lock, on_demand);
        if (lock != -EWOULDBLOCK || runtime_now() >= until)
            return lock;
        pause_briefly();
    }
}

static int open_socket(const struct runtime *runtime, bool patient, bool on_demand, int *lock)
{
    *lock = take_forward_lock(runtime, patient ? LOCK_WAIT : 0, on_demand);
    if (*lock < 0)
        return *lock;
    int socket = handoff_listen(runtime->socket);
    if (socket >= 0)
        return socket;
    close(*lock);
    *lock = -1;
    return socket;
}

int launch_socket(const struct runtime *runtime, bool patient, int *lock)
{
    return open_socket(runtime, patient, false, lock);
}

void launch_abandon(const struct runtime *runtime, int socket)
{
    if (unlink(runtime->socket) < 0 && errno != ENOENT)
        log_warning_errno("cannot remove %s", runtime->socket);
    if (shutdown(socket, SHUT_RD) < 0)
        log_warning_errno("cannot shut %s down", runtime->socket);
}

/* The socket that systemd passed: -1 if there is none, -2 if it is none of ours. */
static int passed_socket(void)
{
    int count = sd_listen_fds(1);
    if (count <= 0)
        return -1;
    if (count == 1 && sd_is_socket(SD_LISTEN_FDS_START, AF_UNIX, SOCK_DGRAM, -1) > 0)
        return SD_LISTEN_FDS_START;
    log_error("cannot forward: systemd is to pass one datagram socket (ListenDatagram=)");
    return -2;
}

/* passed: the socket that systemd passed, -1: there is none. on_demand: several may start at once,
 * and it is no news that only one of them is needed. */
static int forward(const struct options *options, int passed, bool on_demand)
{
    struct runtime runtime;
    struct retirement retirement = {
        .runtime = &runtime, .socket = passed, .users_lock = -1, .recorder = -1};
    int lock = -1;
    if (runtime_prepare(options, &runtime) < 0 || runtime_drop_root(options) < 0)
        return EXIT_RUN_TIME;
    runtime_share_log(options);
    retirement.own_socket = passed < 0;
    if (retirement.own_socket)
        retirement.socket = open_socket(&runtime, true, on_demand, &lock);
    else
        lock = take_forward_lock(&runtime, LOCK_WAIT, on_demand);
    if (lock < 0 || retirement.socket < 0) {
        errno = lock < 0 ? -lock : -retirement.socket;
        if (errno == EWOULDBLOCK && on_demand)
            return 0;
        if (errno == EWOULDBLOCK)
            log_error("another forwarder runs in %s", options->runtime_directory);
        else
            log_error_errno("cannot become the forwarder in %s", options->runtime_directory);
        return EXIT_RUN_TIME;
    }
    int status = run(options, &retirement);
    close(retirement.socket);
    close(lock);
    return status;
}

int launch_forward(const struct options *options)
{
    notify_open(options->notify_fd);
    int socket = passed_socket();
    if (socket == -2 || runtime_raise_descriptors() == 0 || sandbox_check() < 0)
        return EXIT_RUN_TIME;
    return forward(options, socket, false);
}

int launch_child(const struct options *options, const struct runtime *runtime, int socket,
    int recorder, pid_t parent)
{
    struct retirement retirement = {
        .runtime = runtime,
        .socket = socket,
        .users_lock = -1,
        .recorder = recorder,
        .own_socket = true,
        .parent = parent,
    };
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    /* An interrupt from the terminal is for the parent, which lets handshakes end before us. */
    if (sigaction(SIGINT, &ignore, NULL) < 0) {
        log_error_errno("cannot start the forwarder");
        return EXIT_RUN_TIME;
    }
    return run(options, &retirement);
}

/* ---- on demand ------------------------------------------------------------------- */

/* Its names are looked up in the directory that this process was started in. */
static bool names_are_relative(const struct options *options)
{
    const char *database = options->usage.database;
    return options->runtime_directory[0] != '/' || (database != NULL && database[0] != '/');
}

int launch_detached(const struct options *options)
{
    int nowhere = process_open_nowhere();
    (void)setsid(); /* it leads no group: its process id is new */
    if (nowhere < 0 || dup2(nowhere, STDIN_FILENO) < 0 || dup2(nowhere, STDOUT_FILENO) < 0 ||
        (!names_are_relative(options) && chdir("/") < 0)) {
        log_error_errno("cannot start the forwarder");
        return EXIT_RUN_TIME;
    }
    runtime_close_others(options->usage.log_fd, -1);
    log_setup(options->debug); /* a connection of the log was one of them */
    return forward(options, -1, true);
}

static int start_forwarder(void (*become)(void *context), void *context)
{
    pid_t child = fork();
    if (child < 0)
        return -errno;
    if (child == 0) {
        pid_t forwarder = fork();
        if (forwarder == 0)
            become(context);
        _exit(forwarder < 0 ? EXIT_RUN_TIME : 0);
    }
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        continue;
    return 0;
}

int launch_on_demand(
    const struct runtime *runtime, void (*become)(void *context), void *context, int timeout)
{
    bool started = false;
    int64_t until = runtime_now() + timeout;
    for (;;) {
        int socket = handoff_connect(runtime->socket, timeout);
        if (socket >= 0 || runtime_now() >= until)
            return socket;
        /* One may be about to open its socket, or have just closed it. */
        if (!started && !runtime_has_forwarder(runtime)) {
            int error = start_forwarder(become, context);
            if (error != 0)
                return error;
            started = true;
        }
        pause_briefly();
    }
}
