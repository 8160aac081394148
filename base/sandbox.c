/* The sandbox: a system-call filter per role, by libseccomp. */
#include "base/sandbox.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef RELAY_NO_SANDBOX

int sandbox_enter(enum sandbox_role role, int handoff_socket)
{
    (void)role;
    (void)handoff_socket;
    return 0;
}

void sandbox_setup(bool filtered)
{
    (void)filtered;
}

int sandbox_check(void)
{
    return 0;
}

#else

static bool is_filtered = true;

/* What every role needs: memory, time, locks, reads and writes of open descriptors, exit. */
static const int common_calls[] = {
    SCMP_SYS(brk),
    SCMP_SYS(mmap),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(futex),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(time),
    SCMP_SYS(getrandom),
    SCMP_SYS(getpid),
    SCMP_SYS(getppid),
    SCMP_SYS(gettid),
    SCMP_SYS(kill),
    SCMP_SYS(tgkill),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    SCMP_SYS(close),
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(fstat),
    SCMP_SYS(newfstatat),
    SCMP_SYS(sysinfo),   /* the C library's first qsort(), as when a certificate is renewed */
    SCMP_SYS(fallocate), /* the table's slots */
    /* The same calls under the names that 32-bit and newer processors have for them. */
    SCMP_SYS(mmap2),
    SCMP_SYS(statx),
    SCMP_SYS(fstat64),
    SCMP_SYS(fstatat64),
    SCMP_SYS(futex_time64),
    SCMP_SYS(clock_gettime64),
    SCMP_SYS(clock_nanosleep_time64),
    SCMP_SYS(ppoll_time64),
    SCMP_SYS(sigreturn),
    SCMP_SYS(recv),
    SCMP_SYS(send),
    SCMP_SYS(recvfrom),
    SCMP_SYS(recvmsg),
    SCMP_SYS(sendto),
    SCMP_SYS(sendmsg),
    SCMP_SYS(writev),
    SCMP_SYS(shutdown),
    SCMP_SYS(setsockopt),
    SCMP_SYS(getsockopt),
    SCMP_SYS(getsockname),
    SCMP_SYS(getpeername),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(pwritev2), /* the log: writes that do not wait, */
    SCMP_SYS(vmsplice),
    SCMP_SYS(pread64), /* and the file of repeated lines */
    SCMP_SYS(pwrite64),
};

static const int worker_calls[] = {
    SCMP_SYS(accept4), SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait),
    SCMP_SYS(socketpair), /* for the keeper's answer */
};

static const int porch_calls[] = {
    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(epoll_ctl),
};

static const int forwarder_calls[] = {
    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(epoll_create1),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(splice),
    SCMP_SYS(pipe2),
    SCMP_SYS(fcntl),
    SCMP_SYS(flock),
    SCMP_SYS(unlink),
    SCMP_SYS(unlinkat),
    SCMP_SYS(fcntl64),
    SCMP_SYS(bind), /* makes its socket again if the file was removed */
    SCMP_SYS(umask),
};

/* What a library may try and can do without: fails with EPERM. */
static const int refused_calls[] = {
    SCMP_SYS(openat),
};

static const int no_socket[] = {
    SCMP_SYS(socket),
};

static int add_rules(scmp_filter_ctx filter, uint32_t action, const int *calls, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int error = seccomp_rule_add(filter, action, calls[i], 0);
        if (error != 0)
            return error;
    }
    return 0;
}

#define ADD(action, calls) add_rules(filter, action, calls, sizeof(calls) / sizeof((calls)[0]))

static int allow_if(
    scmp_filter_ctx filter, int call, unsigned int argument, uint64_t mask, uint64_t value)
{
    return seccomp_rule_add(filter, SCMP_ACT_ALLOW, call, 1,
        (struct scmp_arg_cmp){
            .arg = argument, .op = SCMP_CMP_MASKED_EQ, .datum_a = mask, .datum_b = value});
}

/* fcntl(F_SETLK), for the file of repeated lines. */
static int allow_locking(scmp_filter_ctx filter)
{
    int error = allow_if(filter, SCMP_SYS(fcntl), 1, UINT32_MAX, F_SETLK);
    return error != 0 ? error : allow_if(filter, SCMP_SYS(fcntl64), 1, UINT32_MAX, F_SETLK);
}

static int allow_worker(scmp_filter_ctx filter, int handoff_socket)
{
    int error = ADD(SCMP_ACT_ALLOW, worker_calls);
    return error != 0
               ? error
               : allow_if(filter, SCMP_SYS(connect), 0, UINT32_MAX, (uint32_t)handoff_socket);
}

/* ioctl(FIONREAD), which says how much can be read. */
static int allow_porch(scmp_filter_ctx filter)
{
    int error = ADD(SCMP_ACT_ALLOW, porch_calls);
    return error != 0 ? error : allow_if(filter, SCMP_SYS(ioctl), 1, UINT32_MAX, FIONREAD);
}

/* openat() for reading only. */
static int allow_keeper(scmp_filter_ctx filter)
{
    return allow_if(filter, SCMP_SYS(openat), 2, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY);
}

/* prlimit() that sets nothing; and Unix sockets, to make its own again: those of other families
 * fail with EPERM. */
static int allow_forwarder(scmp_filter_ctx filter)
{
    int error = ADD(SCMP_ACT_ALLOW, forwarder_calls);
    if (error == 0)
        error = allow_if(filter, SCMP_SYS(prlimit64), 2, UINT64_MAX, 0);
    if (error == 0)
        error = allow_if(filter, SCMP_SYS(socket), 0, UINT32_MAX, AF_UNIX);
    if (error == 0)
        error = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(socket), 1,
            (struct scmp_arg_cmp){.op = SCMP_CMP_NE, .datum_a = AF_UNIX});
    /* Where socketcall() makes sockets (i386, s390x), a filter cannot see of which kind. */
    return error == -EEXIST ? 0 : error;
}

static int add_rules_for(scmp_filter_ctx filter, enum sandbox_role role, int handoff_socket)
{
    int error = ADD(SCMP_ACT_ALLOW, common_calls);
    if (error == 0)
        error = allow_locking(filter);
    if (error == 0 && role != SANDBOX_FORWARDER)
        error = ADD(SCMP_ACT_ERRNO(EPERM), no_socket);
    if (error == 0 && role != SANDBOX_KEEPER)
        error = ADD(SCMP_ACT_ERRNO(EPERM), refused_calls);
    if (error != 0)
        return error;
    switch (role) {
    case SANDBOX_KEEPER:
        return allow_keeper(filter);
    case SANDBOX_PORCH:
        return allow_porch(filter);
    case SANDBOX_FORWARDER:
        return allow_forwarder(filter);
    default:
        return allow_worker(filter, handoff_socket);
    }
}

static int log_unfiltered(int error)
{
    errno = -error;
    log_error_errno("cannot filter system calls (seccomp), and without the filter no client is "
                    "served unless --no-sandbox is given");
    return -1;
}

int sandbox_enter(enum sandbox_role role, int handoff_socket)
{
    int error = -EINVAL;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) {
        log_error_errno("cannot give up privileges");
        return -1;
    }
    if (!is_filtered)
        return 0;
    /* Fails where the kernel does not know the action. */
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (filter != NULL)
        error = seccomp_attr_set(filter, SCMP_FLTATR_API_SYSRAWRC, 1);
    if (error == 0)
        error = add_rules_for(filter, role, handoff_socket);
    if (error == 0)
        error = seccomp_load(filter);
    seccomp_release(filter);
    return error == 0 ? 0 : log_unfiltered(error);
}

void sandbox_setup(bool filtered)
{
    is_filtered = filtered;
}

int sandbox_check(void)
{
    int status;
    if (!is_filtered) {
        log_repeated(LOG_WARNING, "system calls are not filtered, as --no-sandbox is given");
        return 0;
    }
    pid_t child = fork();
    if (child == 0)
        _exit(sandbox_enter(SANDBOX_WORKER, -1) == 0 ? 0 : 1);
    if (child < 0) {
        log_error_errno("cannot start a process that tries to filter system calls");
        return -1;
    }
    while (waitpid(child, &status, 0) < 0) {
        if (errno == EINTR)
            continue;
        log_error_errno("cannot wait for the process that tries to filter system calls");
        return -1;
    }
    if (WIFSIGNALED(status))
        log_error("cannot filter system calls: the process that tried was killed by signal %d",
            WTERMSIG(status));
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

#endif
