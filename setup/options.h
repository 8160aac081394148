/* The options of the roles. Every role takes every option and uses those that concern it, so that
 * one line of options fits all units. */
#ifndef RELAY_OPTIONS_H
#define RELAY_OPTIONS_H

#include "base/networks.h"
#include "pair.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    OPTIONS_LISTEN_MAX = 16
};

/* The runtime directory of the system's relay. */
#define OPTIONS_SYSTEM_DIRECTORY "/run/relay"

/* The version that strelay and stmgr show: that of the tools which they replace. */
#define OFFSET_VERSION "0.1.0"

/* Exit statuses, besides 0. */
enum {
    EXIT_RUN_TIME = 1,
    EXIT_USAGE = 2,
};

/* Where usage records are written. */
struct usage_options {
    int log_fd;           /* JSON lines; -1: none */
    const char *database; /* SQLite file; NULL: none */
    uint32_t blur;        /* seconds; 0: exact */
};

static inline bool usage_wanted(const struct usage_options *options)
{
    return options->log_fd >= 0 || options->database != NULL;
}

struct options {
    const char *listen[OPTIONS_LISTEN_MAX];
    size_t listen_count;
    bool listen_given; /* false: it is the default */
    struct pair_limits limits;
    int handshake_timeout; /* seconds, as all times here */
    int wait_timeout;
    int linger;
    int idle_timeout;       /* an idle forwarder retires after it; 0: never */
    uint64_t session_rate;  /* bytes per second; 0: unlimited */
    uint64_t session_bytes; /* 0: unlimited */
    int max_workers;
    int max_use;
    const char *certfile;    /* NULL: no TLS */
    const char *keyfile;     /* certfile, if no other was given */
    bool plain;              /* no TLS, even if there is a certificate */
    bool certificate_needed; /* unless `plain`, relay ends if it has no usable certificate */
    bool identity_needed;    /* relay ends if it has no usable identity */
    struct networks proxies;
    struct usage_options usage;
    const char *runtime_directory; /* never NULL once read */
    bool runtime_directory_given;  /* false: it is the default */
    const char *state_directory;
    const char *idfile;   /* NULL: relay.ident in the state directory */
    const char *user;     /* NULL: not given */
    const char *pid_file; /* NULL: none */
    int notify_fd; /* readiness is written there, too; -1: only the service manager is told */
    bool json;
    bool openmetrics;
    bool debug;
    bool no_sandbox; /* system calls are not filtered */
    bool check;      /* only shows what would be done */
    bool check_unit; /* the same, for a unit of systemd */
};

/* Reads argv[1...]; argv[0] names the command in messages. As `strelay`, an identity and an address
 * have to be given. place: HOST and PORT have to stand among the options, and are listened on.
 * Returns -1 to go on, or the status to exit with: EXIT_USAGE (logged in one line), or 0 after
 * --help and --version. Strings are borrowed from argv and the environment. */
int options_read(struct options *options, int argc, char **argv, bool place);

/* A file's path as the log may show it: a credential without its directory, as systemd names the
 * directory of a worker's unit after the client's address. Borrowed from path. */
const char *options_shown(const char *path);

/* The default directories. */
const char *options_runtime_directory(void);
const char *options_state_directory(void);

#endif
