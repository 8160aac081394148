"""Starting from nothing: however many workers start at once, there is one forwarder,
and all clients are served."""

import os
import socket
import subprocess
import tempfile

from harness import (PATIENCE, RELAY, Relay, alive, behaviour, line, new_side, new_token, run,
                     wait_until)

WORKERS = 24
ROUNDS = 5


def start_worker(directory, log):
    """A worker as inetd starts it, and the client's end of its connection."""
    client, server = socket.socketpair()
    client.settimeout(PATIENCE)
    worker = subprocess.Popen(
        [RELAY, "worker", f"--runtime-dir={directory}/run", f"--state-dir={directory}/state",
         "--idle-timeout=1"],
        stdin=server, stdout=log, stderr=log)
    server.close()
    return worker, client


@behaviour()
def workers_that_start_at_once_in_a_new_directory_all_serve_and_none_complains():
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(prefix="relay-start-") as directory:
            os.chmod(directory, 0o755)
            with open(os.path.join(directory, "log"), "w+", encoding="utf-8") as log:
                tokens = [new_token() for _ in range(WORKERS // 2)] * 2
                started = [start_worker(directory, log) for _ in tokens]
                for token, (_, client) in zip(tokens, started):
                    client.sendall(line(token, new_side()))
                for worker, client in started:
                    answer = client.recv(3)
                    log.seek(0)
                    assert answer == b"ok\n", log.read()
                    assert worker.wait(PATIENCE) == 0
                for _, client in started:
                    client.close()
                assert sorted(os.listdir(directory)) == ["log", "run", "state"], "nothing is left over"
                socket_path = os.path.join(directory, "run", "forward.sock")
                wait_until(lambda: not os.path.exists(socket_path), "the forwarder to retire")
                log.seek(0)
                complaints = [text for text in log if "made the identity" not in text]
                assert complaints == [], complaints


@behaviour()
def a_second_forwarder_says_that_there_is_one_and_fails():
    with Relay() as relay:
        second = subprocess.run(
            [RELAY, "forward", f"--runtime-dir={relay.runtime}"], stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE, timeout=PATIENCE, check=False)
        assert second.returncode == 1, second
        assert second.stderr == f"relay: another forwarder runs in {relay.runtime}\n".encode()
        assert alive(relay.forwarder())


if __name__ == "__main__":
    run()
