"""A worker that is stopped, at whatever step of its connection's handshake, holds no other client up,
keeps its place in the table no longer than its time, and does no harm when it is killed, or goes on
as if nothing had been."""

import contextlib
import ctypes
import os
import platform
import signal
import struct
import time

from harness import (PATIENCE, Relay, Skip, behaviour, descriptors, exchange, line, make_pair, new_side,
                     new_token, run, wait_until)
from websocket_client import upgrade_request


def worker_of(relay, client):
    """The worker that has the other end of a connection."""
    ends = f":{relay.port:04X} ", f":{client.socket.getsockname()[1]:04X} 01 "

    def found():
        with open("/proc/net/tcp", encoding="ascii") as file:
            inodes = [text.split()[9] for text in file if all(end in text for end in ends)]
        for pid in relay.workers():
            for number in descriptors(pid):
                if os.readlink(f"/proc/{pid}/fd/{number}") in [f"socket:[{i}]" for i in inodes]:
                    return pid
        return None

    return wait_until(found, "a worker to take the connection")


def others_meet(relay):
    for _ in range(10):
        first, second = make_pair(relay)
        exchange(first, second)
        first.close()
        second.close()


# ---- before it knows which peer its client wants to meet ----------------------------------------

# Where `serve` listens, only what must be consumed as it comes keeps its worker, as the rest of
# Offset's handshake does; a worker that has its one connection waits for all of it.
STEPS = {"nothing": ("accept", b""), "half a line": ("accept", b"please relay 0123"),
         "half a request": ("accept", b"GET / HTTP/1.1\r\nH"), "an upgrade": ("accept", upgrade_request()),
         "half of Offset": ("accept", b"\0\0\0\0\0\0\0\4\0"),
         "Offset's first frame": ("serve", b"\0\0\0\0\0\0\0\4\0\0\0\0")}


@contextlib.contextmanager
def stopped_worker(relay, client, greeting=1):
    """The worker of a connection, stopped. greeting: how many are in a handshake."""
    relay.wait_for(greeting=greeting)
    pid = worker_of(relay, client)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@behaviour(*STEPS)
def a_worker_that_is_stopped_in_the_middle_of_a_greeting_gives_back_its_place(step):
    how, said = STEPS[step]
    with Relay(how, ["--handshake-timeout=4"]) as relay, contextlib.ExitStack() as stopped:
        clients, workers = [], []
        for count in (1, 2):
            clients.append(relay.connect().send(said))
            workers.append(stopped.enter_context(stopped_worker(relay, clients[-1], count)))
        others_meet(relay)
        relay.wait_for(used=0)
        for pid, ending in zip(workers, (signal.SIGKILL, signal.SIGCONT)):
            os.kill(pid, ending)
        for client in clients:
            while client.receive(1):
                continue  # up to its end
        others_meet(relay)
        relay.wait_for(used=0)


@behaviour()
def a_worker_that_goes_on_too_late_meets_no_peer():
    with Relay("accept", ["--handshake-timeout=2"]) as relay:
        token = new_token()
        late = relay.connect().send(line(token)[:20])
        with stopped_worker(relay, late):
            relay.wait_for(used=0)
            waiting = relay.connect().send(line(token))
            relay.wait_for(waiting=1, used=1)
            late.send(line(token)[20:])
        late.expect_end()
        relay.wait_for(waiting=1, used=1)
        exchange(relay.connect().send(line(token)).expect(b"ok\n"), waiting.expect(b"ok\n"))


# ---- between the match and the handoff ----------------------------------------------------

SENDMSG = {"x86_64": 46, "aarch64": 211}.get(platform.machine())
# ptrace(2)
ATTACH, DETACH, SYSCALL, SET_OPTIONS, GET_SYSCALL_INFO = 16, 17, 24, 0x4200, 0x420E
TELL_SYSCALLS = 1
INFO = struct.Struct("=B3xI2Q7Q")  # struct ptrace_syscall_info: op, arch, ip, sp, number, ...
ENTRY = 1


class Tracer:
    """A worker that stops where it enters, or has left, a system call."""

    def __init__(self, pid):
        if SENDMSG is None:
            raise Skip("this machine's system calls are not known here")
        self.pid = pid
        self.library = ctypes.CDLL(None, use_errno=True)
        self.library.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
        if self._ask(ATTACH) != 0:
            raise Skip(f"ptrace: {os.strerror(ctypes.get_errno())}")
        self._wait()
        self._ask(SET_OPTIONS, None, TELL_SYSCALLS)

    def _ask(self, request, address=None, data=None):
        return self.library.ptrace(request, self.pid, address, data)

    def _wait(self):
        _, status = wait_until(self._stopped, "the worker to stop")
        assert os.WIFSTOPPED(status), status

    def _stopped(self):
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return (pid, status) if pid else None

    def step(self):
        assert self._ask(SYSCALL) == 0, os.strerror(ctypes.get_errno())
        self._wait()

    def go_to_sendmsg(self):
        info = ctypes.create_string_buffer(INFO.size)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            self.step()
            self._ask(GET_SYSCALL_INFO, INFO.size, ctypes.cast(info, ctypes.c_void_p))
            operation, _, _, _, number, *_ = INFO.unpack(info.raw)
            if operation == ENTRY and number == SENDMSG:
                return
        raise AssertionError("it sends nothing")

    def detach(self):
        self._ask(DETACH)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)  # its parent is told after its tracer

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        """The relay could not end while one of its workers, dead or alive, is held here."""
        self.detach()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)


@contextlib.contextmanager
def halted_handoff(relay):
    """One who waits, its peer, whose worker has stopped as it hands it over, their token, and the
    worker's tracer."""
    token = new_token()
    waiting = relay.connect().send(line(token, new_side()))
    relay.wait_for(waiting=1)
    peer = relay.connect()
    relay.wait_for(greeting=1)
    with Tracer(worker_of(relay, peer)) as tracer:
        peer.send(line(token, new_side()))
        tracer.go_to_sendmsg()
        yield waiting, peer, token, tracer


@behaviour("is killed", "goes on")
def a_match_whose_worker_stops_before_the_handoff_waits_for_it_a_little(and_then):
    with Relay("accept") as relay, halted_handoff(relay) as (waiting, peer, token, tracer):
        if and_then == "is killed":
            tracer.kill()
            peer.expect_end()
            relay.wait_for(waiting=1, used=1)
            peer = relay.connect().send(line(token, new_side()))
        else:
            tracer.detach()
        exchange(waiting.expect(b"ok\n"), peer.expect(b"ok\n"))
        relay.wait_for(joined=2, used=2)


@behaviour("is killed", "goes on")
def a_match_whose_handoff_does_not_come_is_undone_for_good(and_then):
    with Relay("accept") as relay, halted_handoff(relay) as (waiting, peer, token, tracer):
        others_meet(relay)
        relay.wait_for(waiting=1, used=1)
        another = relay.connect().send(line(token, new_side())).expect(b"ok\n")
        exchange(waiting.expect(b"ok\n"), another)
        if and_then == "is killed":
            tracer.kill()
        else:
            tracer.detach()
        peer.expect_end()
        exchange(waiting, another)
        relay.wait_for(joined=2, used=2)


@behaviour("is killed", "goes on")
def a_worker_that_stops_right_behind_the_handoff_is_needed_no_more(and_then):
    with Relay("accept") as relay, halted_handoff(relay) as (waiting, peer, _, tracer):
        tracer.step()
        exchange(waiting.expect(b"ok\n"), peer.expect(b"ok\n"))
        others_meet(relay)
        if and_then == "is killed":
            tracer.kill()
        else:
            tracer.detach()
        exchange(waiting, peer)
        relay.wait_for(joined=2, used=2)


if __name__ == "__main__":
    run()
