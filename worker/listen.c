/* Listening sockets: see listen.h. */
#include "worker/listen.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "setup/runtime.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    BACKLOG = 4096, /* the kernel caps it at net.core.somaxconn */
    DEFER_TIME = 1, /* seconds for a client to send something, before a worker is woken anyway */
    HOST_MAX = 256,
    TAKEN_TIME = 1000,   /* milliseconds for the workers of a dead server to close an address */
    TAKEN_PAUSE = 10,    /* milliseconds between two attempts to bind it */
    KEEPALIVE_IDLE = 60, /* seconds of silence before the first probe */
    KEEPALIVE_INTERVAL = 15,
    KEEPALIVE_PROBES = 4,
};

void listen_tune(int fd, const struct options *options)
{
    struct {
        int level, name;
        unsigned int value;
    } settings[] = {
        {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_NODELAY, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE},
        {IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL},
        {IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES},
    };
    int domain = 0;
    socklen_t size = sizeof domain;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0 ||
        (domain != AF_INET && domain != AF_INET6))
        return;
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
        if (setsockopt(fd, settings[i].level, settings[i].name, &settings[i].value,
                sizeof settings[i].value) < 0)
            log_repeated_errno(
                LOG_WARNING, "cannot set option %d on a connection", settings[i].name);
    }
    uint64_t rate = options->session_rate;
    if (rate > 0 && setsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof rate) < 0)
        log_repeated_errno(LOG_WARNING, "cannot set the rate of a connection");
}

bool listen_is_listening(int fd)
{
    int listens = 0;
    socklen_t size = sizeof listens;
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 && listens != 0;
}

bool listen_is_client(int fd)
{
    struct sockaddr_storage peer;
    return listen_peer(fd, &peer) == 0 && (peer.ss_family == AF_INET || peer.ss_family == AF_INET6);
}

void listen_defer(int fd)
{
    int defer = DEFER_TIME;
    /* Fails for other sockets than TCP. It only saves workers time. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &defer, sizeof defer);
}

int listen_peer(int fd, struct sockaddr_storage *ret)
{
    socklen_t size = sizeof *ret;
    memset(ret, 0, sizeof *ret);
    return getpeername(fd, (struct sockaddr *)ret, &size) < 0 ? -errno : 0;
}

uint64_t listen_source(const struct sockaddr_storage *peer, const struct pair_table *table)
{
    if (peer->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)peer;
        return pair_source(table, &v4->sin_addr, sizeof v4->sin_addr);
    }
    if (peer->ss_family != AF_INET6)
        return 0;
    const struct in6_addr *v6 = &((const struct sockaddr_in6 *)peer)->sin6_addr;
    if (IN6_IS_ADDR_V4MAPPED(v6))
        return pair_source(table, v6->s6_addr + 12, 4);
    return pair_source(table, v6->s6_addr, 8);
}

/* Whether a process listens on a Unix socket. */
static bool is_listened_on(const char *path)
{
    int fd = unix_socket_connect(path, SOCK_STREAM | SOCK_NONBLOCK);
    if (fd >= 0)
        close(fd);
    return fd != -ECONNREFUSED;
}

/* Removes the socket of a process that has ended, or is just ending. */
static void remove_left_over(const char *path)
{
    struct timespec pause = {0, TAKEN_PAUSE * 1000000L};
    int64_t until = clock_now() + TAKEN_TIME;
    while (is_listened_on(path)) {
        if (clock_now() >= until)
            return; /* it is in use, and bind() will fail */
        nanosleep(&pause, NULL);
    }
    if (unlink(path) < 0)
        log_warning_errno("cannot remove the socket %s, which a dead process has left", path);
}

static bool is_unix(const char *address)
{
    return strncmp(address, "unix:", 5) == 0;
}

static bool is_path_good(const char *path)
{
    bool good = path[0] != '\0' && strlen(path) < sizeof((struct sockaddr_un *)0)->sun_path;
    if (!good)
        log_error("cannot listen on unix:%s: the path is %s", path,
            path[0] == '\0' ? "missing" : "too long");
    return good;
}

/* All users may connect, as to a port; permissions of the directory can keep some out. */
static int bind_for_all(int fd, const struct sockaddr_un *address)
{
    mode_t mask = umask(0111);
    int done = bind(fd, (const struct sockaddr *)address, sizeof *address);
    umask(mask);
    return done;
}

static int open_unix_socket(const char *path, int *sockets)
{
    struct sockaddr_un address;
    struct stat status;
    if (!is_path_good(path) || unix_socket_address(path, &address) != 0)
        return -1;
    bool taken = lstat(path, &status) == 0;
    if (taken && !S_ISSOCK(status.st_mode)) {
        log_error("cannot listen on unix:%s: a file that is no socket is there", path);
        return -1;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        log_error_errno("cannot listen on unix:%s", path);
        return -1;
    }
    if (taken)
        remove_left_over(path);
    if (bind_for_all(fd, &address) < 0 || listen(fd, BACKLOG) < 0) {
        log_error_errno("cannot listen on unix:%s", path);
        close(fd);
        return -1;
    }
    sockets[0] = fd;
    return 1;
}

/* Stricter than the resolver, which takes signs and spaces, and a port modulo 65536. */
static bool is_port_number(const char *text)
{
    size_t digits = strspn(text, "0123456789");
    return digits > 0 && digits <= 5 && text[digits] == '\0' &&
           strtol(text, NULL, 10) <= UINT16_MAX;
}

/* Splits HOST:PORT; an empty host means every address. */
static bool find_host_and_port(const char *address, char *host, size_t size, const char **port)
{
    const char *colon = strrchr(address, ':');
    if (colon == NULL || !is_port_number(colon + 1))
        return false;
    const char *begin = address, *end = colon;
    if (*begin == '[') {
        begin++;
        end--;
        if (end < begin || *end != ']')
            return false;
    } else if (memchr(begin, ':', (size_t)(end - begin)) != NULL) {
        return false; /* an IPv6 address needs its brackets */
    }
    if ((size_t)(end - begin) >= size)
        return false;
    memcpy(host, begin, (size_t)(end - begin));
    host[end - begin] = '\0';
    *port = colon + 1;
    return true;
}

static int split_address(const char *address, char *host, size_t size, const char **port)
{
    if (find_host_and_port(address, host, size, port))
        return 0;
    log_error("cannot listen on %s: expected HOST:PORT, [V6]:PORT, :PORT (0 to 65535) or unix:PATH",
        address);
    return -1;
}

/* Tries for a while, as workers of a server that was just killed may still hold the address. */
static int bind_patiently(int fd, const struct sockaddr *address, socklen_t size)
{
    struct timespec pause = {0, TAKEN_PAUSE * 1000000L};
    int64_t until = clock_now() + TAKEN_TIME;
    while (bind(fd, address, size) < 0) {
        if (errno != EADDRINUSE || clock_now() >= until)
            return -1;
        nanosleep(&pause, NULL);
    }
    return 0;
}

/* early: the machine may not have the address yet, as while it boots. */
static int open_internet(const struct addrinfo *info, bool early)
{
    int on = 1;
    int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    listen_defer(fd);
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        (info->ai_family == AF_INET6 &&
            setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on) < 0) ||
        (early && setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &on, sizeof on) < 0) ||
        bind_patiently(fd, info->ai_addr, info->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

/* The resolver may list an address twice. */
static bool came_before(const struct addrinfo *list, const struct addrinfo *info)
{
    for (; list != info; list = list->ai_next)
        if (list->ai_addrlen == info->ai_addrlen &&
            memcmp(list->ai_addr, info->ai_addr, info->ai_addrlen) == 0)
            return true;
    return false;
}

/* Opens the addresses of `list` that this machine has; if `early`, also those that it does not have
 * yet. Returns how many, or -1 and errno. */
static int open_list(const struct addrinfo *list, bool early, const struct options *options,
    int *sockets, size_t size)
{
    size_t count = 0;
    for (const struct addrinfo *info = list; info != NULL && count < size; info = info->ai_next) {
        if (came_before(list, info))
            continue;
        int fd = open_internet(info, early);
        if (fd >= 0) {
            listen_tune(fd, options);
            sockets[count++] = fd;
        } else if (errno != EAFNOSUPPORT && errno != EADDRNOTAVAIL) { /* those: no IPv6, or early */
            int error = errno;
            while (count > 0)
                close(sockets[--count]);
            errno = error;
            return -1;
        }
    }
    return (int)count;
}

/* The addresses of HOST:PORT. NULL (logged) on failure. */
static struct addrinfo *resolve(const char *address)
{
    char host[HOST_MAX];
    const char *port;
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list;
    if (split_address(address, host, sizeof host, &port) < 0)
        return NULL;
    int error = getaddrinfo(host[0] == '\0' ? NULL : host, port, &hints, &list);
    if (error == 0)
        return list;
    log_error("cannot listen on %s: %s", address, gai_strerror(error));
    return NULL;
}

int listen_understand(const struct options *options)
{
    char host[HOST_MAX];
    const char *port;
    for (size_t i = 0; i < options->listen_count; i++) {
        const char *address = options->listen[i];
        if (is_unix(address) ? !is_path_good(address + 5)
                             : split_address(address, host, sizeof host, &port) < 0)
            return -1;
    }
    return 0;
}

int listen_check(const char *address)
{
    if (is_unix(address))
        return is_path_good(address + 5) ? 0 : -1;
    struct addrinfo *list = resolve(address);
    if (list == NULL)
        return -1;
    freeaddrinfo(list);
    return 0;
}

int listen_refuse(const struct options *options)
{
    const char *directory = getenv("RUNTIME_DIRECTORY");
    if (options->listen_given) {
        log_error("--listen=%s does not hold where systemd has the sockets, or inetd: expected it "
                  "to be left out, and ListenStream= in their unit, or the port in inetd's line",
            options->listen[0]);
        return -1;
    }
    if (directory != NULL && strcmp(directory, options->runtime_directory) != 0) {
        log_error("--runtime-dir=%s does not hold where systemd has made %s: expected it to be "
                  "left out, and RuntimeDirectory= in all units",
            options->runtime_directory, directory);
        return -1;
    }
    return 0;
}

void listen_remove(const struct options *options)
{
    for (size_t i = 0; i < options->listen_count; i++)
        if (is_unix(options->listen[i]))
            (void)unlink(
                options->listen[i] + 5); /* else it stays, and the next server removes it */
}

int listen_open(const char *address, const struct options *options, int *sockets, size_t size)
{
    if (is_unix(address))
        return open_unix_socket(address + 5, sockets);
    struct addrinfo *list = resolve(address);
    if (list == NULL)
        return -1;
    int count = open_list(list, false, options, sockets, size);
    if (count == 0) {
        count = open_list(list, true, options, sockets, size);
        if (count > 0)
            log_warning("this machine has no address %s yet", address);
    }
    if (count < 0)
        log_error_errno("cannot listen on %s", address);
    else if (count == 0)
        log_error("cannot listen on %s: this machine has no such address", address);
    freeaddrinfo(list);
    return count > 0 ? count : -1;
}
