/* How a forwarder starts, and how it retires: see launch.h. */
#include "forward/launch.h"

#include "base/clock.h"
#include "base/descriptors.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/process.h"
#include "base/sandbox.h"
#include "forward/forward.h"
#include "handoff.h"
#include "pair.h"
#include "setup/user.h"
#include "tls/records.h"
#include "usage/recorder.h"
#include "usage/usage.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

enum {
    LOCK_WAIT = 1000, /* milliseconds for a forwarder that is just retiring */
    PAUSE = 5,        /* milliseconds between two attempts */
};

/* The file at a path. */
struct place {
    dev_t device;
    ino_t inode;
};

/* What a forwarder looks at before it retires. */
struct retirement {
    const struct runtime *runtime;
    struct place name, lock; /* its socket and its lock, as long as they have their names */
    int socket;
    int renewed;     /* the socket that has the name now; -1: the first one */
    int users_lock;  /* shared by all processes that use the forwarder */
    int recorder;    /* the parent's, -1: there is none */
    bool own_socket; /* else systemd's, which starts a forwarder again when it is needed */
    pid_t parent;    /* it retires only after this process; 0: there is none */
    bool forsaken;   /* no process uses the forwarder any more */
};

static void pause_briefly(void)
{
    struct timespec pause = {0, PAUSE * 1000000L};
    nanosleep(&pause, NULL);
}

/* ---- the socket's name ----------------------------------------------------------- */

/* inode 0: there is no file. */
static struct place find_file(const char *path)
{
    struct stat status;
    if (lstat(path, &status) < 0)
        return (struct place){.inode = 0};
    return (struct place){.device = status.st_dev, .inode = status.st_ino};
}

static bool is_at(const struct place *place, const char *path)
{
    struct place found = find_file(path);
    return found.inode == place->inode && found.device == place->device && found.inode != 0;
}

static bool has_parent(const struct retirement *retirement)
{
    return retirement->parent != 0 && getppid() == retirement->parent;
}

/* A name that nobody answers at is the socket of a forwarder before this one. */
static void remember_places(struct retirement *retirement)
{
    const struct runtime *runtime = retirement->runtime;
    int socket = handoff_connect(runtime->socket, 0);
    retirement->lock = find_file(runtime->forward_lock);
    if (socket < 0)
        return;
    retirement->name = find_file(runtime->socket);
    close(socket);
}

/* Whether systemd's socket was started again: its forwarder starts as soon as this one has ended.
 */
static bool is_superseded(const struct retirement *retirement)
{
    struct stat status;
    return retirement->own_socket && !has_parent(retirement) &&
           lstat(retirement->runtime->socket, &status) == 0 && S_ISSOCK(status.st_mode);
}

/* Makes the socket anew if its name was removed or replaced, so that connections which come later
 * find it. If the lock was removed, too, another forwarder may run already, unless the parent,
 * which takes the lock anew, is there and the name is free. */
static int renew_name(void *context)
{
    struct retirement *retirement = context;
    const struct runtime *runtime = retirement->runtime;
    if (is_at(&retirement->name, runtime->socket))
        return -1;
    bool missing = find_file(runtime->socket).inode == 0;
    if (!is_at(&retirement->lock, runtime->forward_lock) && !(missing && has_parent(retirement)))
        return -1;
    if (is_superseded(retirement)) {
        log_warning("another socket is at %s: leaving new connections to it, and ending the others",
            runtime->socket);
        (void)kill(getpid(), SIGTERM); /* cannot fail */
        return -1;
    }
    int socket = handoff_listen(runtime->socket);
    if (socket < 0) {
        errno = -socket;
        log_repeated_errno(LOG_ERR, "cannot make the socket %s anew", runtime->socket);
        return -1;
    }
    log_warning("the socket %s was removed or replaced: it was made anew", runtime->socket);
    retirement->name = find_file(runtime->socket);
    retirement->renewed = socket;
    return socket;
}

/* A name that is another socket's by now is left alone. */
static void remove_name(const struct retirement *retirement)
{
    const char *path = retirement->runtime->socket;
    if (is_at(&retirement->name, path) && unlink(path) < 0 && errno != ENOENT)
        log_warning_errno("cannot remove %s", path);
}

/* ---- retiring -------------------------------------------------------------------- */

static bool has_handoffs(int socket)
{
    struct pollfd entry = {.fd = socket, .events = POLLIN};
    return poll(&entry, 1, 0) > 0;
}

/* A process that may send a handoff holds users.lock. So when this process gets the lock
 * exclusively, no handoff is on its way, and a worker that comes later finds no socket and starts
 * another forwarder.
 */
static bool retire(void *context)
{
    struct retirement *retirement = context;
    if (!retirement->own_socket && retirement->renewed < 0)
        return !has_handoffs(retirement->socket);
    if (has_parent(retirement))
        return false;
    if (flock(retirement->users_lock, LOCK_EX | LOCK_NB) < 0)
        return false;
    if (has_handoffs(retirement->socket) ||
        (retirement->renewed >= 0 && has_handoffs(retirement->renewed))) {
        (void)flock(retirement->users_lock, LOCK_UN);
        return false;
    }
    /* If the name stays, workers that connect to it are refused, and start another forwarder. */
    remove_name(retirement);
    return true;
}

/* A process that is about to use the forwarder holds users.lock; one that comes later waits for the
 * lock until this forwarder has ended. */
static bool is_forsaken(void *context)
{
    struct retirement *retirement = context;
    retirement->forsaken = flock(retirement->users_lock, LOCK_EX | LOCK_NB) == 0;
    return retirement->forsaken;
}

static void shut_socket(const struct runtime *runtime, int socket)
{
    if (shutdown(socket, SHUT_RD) < 0)
        log_warning_errno("cannot shut %s down", runtime->socket);
}

/* If no forwarder will have the socket, a process that still sends to it gets an error. */
static void leave_socket(void *context)
{
    struct retirement *retirement = context;
    bool stays = has_parent(retirement) && !retirement->forsaken;
    if (retirement->renewed >= 0 || (retirement->own_socket && !stays))
        remove_name(retirement);
    if (retirement->own_socket && !stays)
        shut_socket(retirement->runtime, retirement->socket);
}

/* ---- running --------------------------------------------------------------------- */

static int open_users_lock(const struct runtime *runtime)
{
    int fd = open(runtime->users_lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        log_error_errno("cannot open %s", runtime->users_lock);
    return fd;
}

/* Starts a recorder, unless the parent has one or nothing is to be recorded. */
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

/* What a forwarder needs besides its socket and its table. Returns -1, and logs why, if it cannot
 * be had. */
static int prepare_process(
    const struct options *options, struct retirement *retirement, struct forward_setup *setup)
{
    retirement->users_lock = open_users_lock(retirement->runtime);
    if (retirement->users_lock < 0 ||
        start_recorder(options, retirement->runtime, setup->table, &setup->recorder) < 0)
        return -1;
    remember_places(retirement);
    process_name("relay-forward", "forwarder", options->runtime_directory);
    if (records_prepare() != 0) {
        log_error("cannot forward: OpenSSL lacks what TLS needs");
        return -1;
    }
    return sandbox_enter(SANDBOX_FORWARDER, -1);
}

static int run_until_retired(const struct options *options, struct retirement *retirement)
{
    struct forward_setup setup = {
        .options = options,
        .socket = retirement->socket,
        .recorder = retirement->recorder,
        .descriptors_max = (size_t)descriptors_raise(),
        .retire = retire,
        .forsaken = retirement->parent != 0 ? is_forsaken : NULL,
        .leave = leave_socket,
        .renew = renew_name,
        .context = retirement,
    };
    int status = EXIT_RUN_TIME;
    if (runtime_open_table(options, retirement->runtime, true, &setup.table) < 0)
        return EXIT_RUN_TIME;
    pair_adopt(setup.table);
    pair_set_forwarder(setup.table, HANDOFF_VERSION);
    if (prepare_process(options, retirement, &setup) == 0) {
        notify_ready("Forwarding");
        int error = forward_run(&setup);
        errno = -error;
        if (error != 0)
            log_error_errno("cannot forward");
        else
            status = 0;
    }
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
    int64_t until = clock_now() + patience;
    for (;;) {
        int lock = runtime_lock(runtime->forward_lock, false, false);
        if (lock >= 0)
            return note_origin(lock, on_demand);
        if (lock != -EWOULDBLOCK || clock_now() >= until)
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
    shut_socket(runtime, socket);
}

/* The socket that systemd passed; -1: there is none; -2: it is of another kind. */
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

/* passed: the socket that systemd has passed, -1: there is none. on_demand: several forwarders may
 * be started at once, and it is not logged that only one of them is needed. */
static int forward(const struct options *options, int passed, bool on_demand)
{
    struct runtime runtime;
    struct retirement retirement = {
        .runtime = &runtime, .socket = passed, .renewed = -1, .users_lock = -1, .recorder = -1};
    int lock = -1;
    if (runtime_prepare(options, &runtime) < 0 || user_drop_root(options) < 0)
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
    int status = run_until_retired(options, &retirement);
    close(retirement.socket);
    close(lock);
    return status;
}

int launch_forward(const struct options *options)
{
    notify_open(options->notify_fd);
    int socket = passed_socket();
    if (socket == -2 || descriptors_raise() == 0 || sandbox_check() < 0)
        return EXIT_RUN_TIME;
    return forward(options, socket, false);
}

int launch_child(const struct options *options, const struct runtime *runtime, int socket,
    int recorder, pid_t parent)
{
    struct retirement retirement = {
        .runtime = runtime,
        .socket = socket,
        .renewed = -1,
        .users_lock = -1,
        .recorder = recorder,
        .own_socket = true,
        .parent = parent,
    };
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    /* An interrupt from the terminal is for the parent, which ends its workers before the
     * forwarder. */
    if (sigaction(SIGINT, &ignore, NULL) < 0) {
        log_error_errno("cannot start the forwarder");
        return EXIT_RUN_TIME;
    }
    return run_until_retired(options, &retirement);
}

/* ---- on demand ------------------------------------------------------------------- */

/* Relative names are looked up in the directory that this process was started in. */
static bool names_are_relative(const struct options *options)
{
    const char *database = options->usage.database;
    return options->runtime_directory[0] != '/' || (database != NULL && database[0] != '/');
}

int launch_detached(const struct options *options)
{
    int nowhere = process_open_null();
    (void)setsid(); /* cannot fail: a new process leads no group */
    if (nowhere < 0 || dup2(nowhere, STDIN_FILENO) < 0 || dup2(nowhere, STDOUT_FILENO) < 0 ||
        (!names_are_relative(options) && chdir("/") < 0)) {
        log_error_errno("cannot start the forwarder");
        return EXIT_RUN_TIME;
    }
    descriptors_close_others(options->usage.log_fd, -1);
    log_setup(options->debug); /* its connection to the journal was closed, too */
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
    int64_t until = clock_now() + timeout;
    for (;;) {
        int socket = handoff_connect(runtime->socket, timeout);
        if (socket >= 0 || clock_now() >= until)
            return socket;
        /* A forwarder may be about to open its socket, or have just closed it. */
        if (!started && !runtime_has_forwarder(runtime)) {
            int error = start_forwarder(become, context);
            if (error != 0)
                return error;
            started = true;
        }
        pause_briefly();
    }
}
