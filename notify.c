/* The service manager's socket: see notify.h. sd_notify(3) itself makes a socket for each message,
 * which no sandbox allows. */
#include "notify.h"

#include "log.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int manager = -1;

/* A path, or behind '@' a name in the abstract name space. Returns the address's size, 0: neither.
 */
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

void notify_open(void)
{
    struct sockaddr_un address;
    const char *name = getenv("NOTIFY_SOCKET");
    if (name == NULL || manager >= 0)
        return;
    socklen_t size = make_address(name, &address);
    if (size == 0) {
        log_error("cannot notify the service manager: $NOTIFY_SOCKET is no address of a socket");
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

/* Without waiting: a manager that does not listen must not hold up who is served. */
void notify_tell(const char *state)
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

void notify_close(void)
{
    if (manager >= 0)
        close(manager);
    manager = -1;
}
