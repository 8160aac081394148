/* The service manager's socket: see notify.h. sd_notify(3) itself makes a socket for each message,
 * which the sandbox does not allow. */
#include "base/notify.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int manager = -1;
static int newline = -1; /* the descriptor that a newline is written to when the service is ready */

/* The address of a path, or of an abstract name, which begins with '@'. Returns its size, 0 if
 * `name` is neither. */
static socklen_t make_address(const char *name, struct sockaddr_un *address)
{
    size_t length = strlen(name);
    if ((name[0] != '/' && name[0] != '@') || length < 2 || length >= sizeof address->sun_path)
        return 0;
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(address->sun_path, name, length);
    if (name[0] == '@')
        address->sun_path[0] = '\0';
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + (name[0] == '/'));
}

static void open_newline(int ready)
{
    newline = ready;
    if (ready >= 0 && fcntl(ready, F_SETFD, FD_CLOEXEC) == 0)
        return;
    if (ready >= 0)
        log_error_errno("cannot tell on descriptor %d that the service is ready", ready);
    newline = -1;
}

void notify_open(int ready)
{
    struct sockaddr_un address;
    const char *name = getenv("NOTIFY_SOCKET");
    open_newline(ready);
    if (name == NULL || manager >= 0)
        return;
    socklen_t size = make_address(name, &address);
    if (size == 0) {
        log_error(
            "cannot notify the service manager: $NOTIFY_SOCKET is not the address of a socket");
        return;
    }
    manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (manager >= 0 && connect(manager, (const struct sockaddr *)&address, size) == 0)
        return;
    log_error_errno("cannot notify the service manager at %s", name);
    if (manager >= 0)
        close(manager);
    manager = -1;
}

/* Does not wait: a manager that does not read must not delay clients. */
void notify_send(const char *state)
{
    if (manager < 0)
        return;
    while (send(manager, state, strlen(state), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        if (errno == EINTR)
            continue;
        log_error_errno(
            "cannot tell the service manager \"%.*s\"", (int)strcspn(state, "\n"), state);
        return;
    }
}

/* An empty pipe has room for one byte, so this does not wait. */
static void write_newline(void)
{
    struct pollfd entry = {.fd = newline, .events = POLLOUT};
    bool room = poll(&entry, 1, 0) == 1 && (entry.revents & POLLOUT) != 0;
    if (!room)
        log_error(
            "cannot tell on descriptor %d that the service is ready: nobody reads it", newline);
    else if (write(newline, "\n", 1) != 1)
        log_error_errno("cannot tell on descriptor %d that the service is ready", newline);
    close(newline);
    newline = -1;
}

void notify_ready(const char *status)
{
    char state[128];
    (void)snprintf(state, sizeof state, "READY=1\nSTATUS=%s", status);
    notify_send(state);
    if (newline >= 0)
        write_newline();
}

void notify_close(void)
{
    if (newline >= 0)
        close(newline);
    newline = -1;
    if (manager >= 0)
        close(manager);
    manager = -1;
}
