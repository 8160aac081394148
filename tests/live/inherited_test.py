"""Descriptors: numbers that a starter closed are not used for other files, and descriptors that it
forgot to close are closed."""

import fcntl
import os
import subprocess
import tempfile

from harness import (PATIENCE, RELAY, Client, Relay, behaviour, exchange, free_port, line, make_pair,
                     new_side, new_token, run, wait_until)


def answers(port):
    try:
        with Client(("127.0.0.1", port)) as client:
            client.send(b"GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n")
            return client.receive_some(1000).startswith(b"HTTP/1.1 200")
    except ConnectionRefusedError:
        return False


@behaviour("0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-")
def serve_runs_with_streams_closed_and_clients_read_nothing_of_its_log(closed):
    with tempfile.TemporaryDirectory(prefix="relay-closed-") as directory:
        os.chmod(directory, 0o755)
        port = free_port()
        command = ["sh", "-c", f'exec "$@" {closed}', "sh", RELAY, "serve", "--debug",
                   f"--listen=127.0.0.1:{port}", f"--runtime-dir={directory}/run",
                   f"--state-dir={directory}/state"]
        with open(os.path.join(directory, "log"), "wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wait_until(lambda: process.poll() is not None or answers(port), "the relay to listen")
            assert process.poll() is None, process.poll()
            token = new_token()
            first, second = (Client(("127.0.0.1", port)).send(line(token, new_side()))
                             for _ in range(2))
            for client in (first, second):
                client.expect(b"ok\n")
            exchange(first, second)
            for number in range(3):
                name = os.readlink(f"/proc/{process.pid}/fd/{number}")
                assert name in ("/dev/null", os.path.join(directory, "log")), name
        finally:
            process.terminate()
            process.wait(PATIENCE)


@behaviour()
def a_lock_that_a_start_script_holds_is_not_held_by_the_relay():
    with tempfile.NamedTemporaryFile() as lock:
        fd = os.open(lock.name, os.O_RDWR)
        fcntl.flock(fd, fcntl.LOCK_EX)
        with Relay(pass_fds=[fd]) as relay:
            os.close(fd)
            pair = make_pair(relay)
            forwarder = relay.forwarder()
            held = [os.readlink(f"/proc/{forwarder}/fd/{name}") for name in os.listdir(f"/proc/{forwarder}/fd")]
            assert lock.name not in held, held
            exchange(*pair)


if __name__ == "__main__":
    run()
