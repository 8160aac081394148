"""relay under the supervisors and super-servers that the manual names, each of them the real one,
with the files of samples/."""

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess

from harness import (PATIENCE, PEERS, RELAY, TOP, Relay, Skip, alive, behaviour, children, exchange,
                     make_pair, process_name, run, wait_until)
from websocket_client import get


class Place(Relay):
    """The directories and the port of a relay that something else starts."""

    def __init__(self):  # pylint: disable=super-init-not-called
        self.prepare()
        self.started = []

    def relay(self, role="serve"):
        """The command, as one of the samples has it."""
        listen = [f"--listen=127.0.0.1:{self.port}"] if role == "serve" else []
        return " ".join([RELAY, role, *listen, *self.options])

    def sample(self, name, path, *changes):
        """Puts a sample at a path, with what it starts and what else has to be ours."""
        with open(os.path.join(TOP, "samples", name), encoding="ascii") as file:
            text = file.read()
        for old, new in changes or [("@BINDIR@/relay serve", self.relay())]:
            assert old in text, (name, old)
            text = text.replace(old, new)
        path = os.path.join(self.directory, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        os.chmod(path, 0o755)
        return path

    def start(self, *command, **more):
        program = shutil.which(command[0])
        if program is None:
            raise Skip(f"{command[0]} is not installed")
        with open(self.log_path, "ab") as log:
            process = subprocess.Popen([program, *command[1:]], stdin=subprocess.DEVNULL, stdout=log,
                                       stderr=log, cwd=self.directory, **more)
        self.started.append(process)
        return process

    def listens(self):
        with open("/proc/net/tcp", encoding="ascii") as file:
            return f":{self.port:04X} 00000000:0000 0A" in file.read()

    def wait_until_it_listens(self):
        try:
            wait_until(self.listens, "a socket that listens")
        except AssertionError:
            raise AssertionError(f"nobody listens: {self.log()}") from None

    def stop(self):
        for process in self.started:
            if process.poll() is None:
                process.terminate()
            process.wait(PATIENCE)
        return super().stop()


def serves(place):
    first, second = make_pair(place)
    exchange(first, second)
    first.close()
    second.close()


def server_of(pid):
    """The one process of `relay serve` below a supervisor."""
    found = [child for child in children(pid) if process_name(child) == "relay"]
    return found[0] if found else None


def wait_for_server(pid, other_than=None):
    return wait_until(lambda: server_of(pid) != other_than and server_of(pid), "the server")


def it_serves_again_when_it_is_killed(place, supervisor):
    serves(place)
    server = wait_for_server(supervisor.pid)
    os.kill(server, signal.SIGKILL)
    wait_for_server(supervisor.pid, server)
    place.wait_until_it_listens()
    serves(place)


# ---- supervisors ----------------------------------------------------------------------


@behaviour()
def s6_learns_when_the_relay_is_ready_and_starts_it_again():
    with Place() as place:
        service = os.path.join(place.directory, "service")
        place.sample("run-s6", "service/run")
        with open(os.path.join(service, "notification-fd"), "w", encoding="ascii") as file:
            file.write("3\n")
        supervisor = place.start("s6-supervise", service)
        wait_until(lambda: os.path.exists(f"{service}/event"), "s6")
        subprocess.run(["s6-svwait", "-U", "-t", "20000", service], check=True)
        assert place.listens(), "it is ready when it says so"
        serves(place)
        server = wait_for_server(supervisor.pid)
        subprocess.run(["s6-svc", "-r", service], check=True)
        wait_for_server(supervisor.pid, server)
        subprocess.run(["s6-svwait", "-U", "-t", "20000", service], check=True)
        serves(place)
        subprocess.run(["s6-svc", "-wD", "-T", "20000", "-d", service], check=True)
        assert not place.listens()
        subprocess.run(["s6-svc", "-x", service], check=True)
        supervisor.wait(PATIENCE)


def supervise(place, program):
    """runit's and daemontools' supervisors are each other's like: returns the process."""
    service = os.path.join(place.directory, "service")
    place.sample("run", "service/run")
    supervisor = place.start(program, service)
    place.wait_until_it_listens()
    return supervisor, service


@behaviour()
def runit_keeps_it_running_and_its_signals_end_no_pair():
    with Place() as place:
        supervisor, service = supervise(place, "runsv")
        serves(place)
        pair = make_pair(place)
        for command in ("hup", "1", "2", "quit"):
            subprocess.run(["sv", command, service], check=True, stdout=subprocess.DEVNULL)
            exchange(*pair)
        it_serves_again_when_it_is_killed(place, supervisor)
        exchange(*pair)
        subprocess.run(["sv", "-w", "20", "stop", service], check=True, stdout=subprocess.DEVNULL)
        assert not place.listens()
        subprocess.run(["sv", "exit", service], check=False, stdout=subprocess.DEVNULL)
        supervisor.wait(PATIENCE)


@behaviour()
def daemontools_keep_it_running():
    with Place() as place:
        supervisor, service = supervise(place, "supervise")
        it_serves_again_when_it_is_killed(place, supervisor)
        subprocess.run(["svc", "-dx", service], check=True)
        supervisor.wait(PATIENCE)
        assert not place.listens()


@behaviour()
def supervisord_keeps_it_running():
    program = os.path.join(PEERS, "usr/bin/supervisord")
    if not os.access(program, os.X_OK):
        raise Skip("supervisord could not be had from Debian")
    with Place() as place:
        sample = place.sample("supervisord.conf", "relay.conf")
        with open(os.path.join(place.directory, "supervisord.conf"), "w", encoding="ascii") as file:
            file.write(f"[supervisord]\nlogfile={place.directory}/supervisord.log\n"
                       f"pidfile={place.directory}/supervisord.pid\n[include]\nfiles={sample}\n")
        supervisor = place.start(
            "/usr/bin/python3", program, "-n", "-c", file.name,
            env=dict(os.environ, PYTHONPATH=os.path.join(PEERS, "usr/lib/python3/dist-packages")))
        place.wait_until_it_listens()
        it_serves_again_when_it_is_killed(place, supervisor)
        supervisor.terminate()
        assert supervisor.wait(PATIENCE) == 0
        assert not place.listens()


@behaviour()
def start_stop_daemon_finds_the_server_by_its_pid_file():
    with Place() as place:
        pid_file = os.path.join(place.directory, "relay.pid")
        script = place.sample(
            "relay.init", "relay.init", ("relay=@BINDIR@/relay", f"relay={RELAY}"),
            ("pid=/run/relay.pid", f"pid={pid_file}"),
            ('-- serve --pid-file="$pid"',
             f'-- {place.relay()[len(RELAY):]} --pid-file="$pid"')) \
            if shutil.which("start-stop-daemon") else None
        if script is None:
            raise Skip("start-stop-daemon is not installed")

        def call(word):
            return subprocess.run([script, word], check=False, stdout=subprocess.DEVNULL).returncode

        def pid():
            with contextlib.suppress(OSError, ValueError):
                with open(pid_file, encoding="ascii") as file:
                    return int(file.read())
            return 0

        assert call("status") == 3
        assert call("start") == 0
        place.wait_until_it_listens()
        server = wait_until(pid, "the pid file")
        assert process_name(server) == "relay"
        assert call("status") == 0
        serves(place)
        assert call("start") == 0 and pid() == server, "it runs already"
        os.kill(server, signal.SIGKILL)
        wait_until(lambda: not alive(server), "it to be dead")
        assert call("status") == 1
        assert call("start") == 0, "though a forwarder still runs the same program"
        wait_until(lambda: pid() not in (0, server), "another server")
        place.wait_until_it_listens()
        serves(place)
        last = pid()
        os.kill(last, signal.SIGTERM)
        wait_until(lambda: not alive(last), "it to end by itself")
        assert call("status") == 3
        assert call("start") == 0
        place.wait_until_it_listens()
        last = wait_until(pid, "the pid file")
        assert call("stop") == 0
        assert not alive(last) and pid() == 0
        assert call("status") == 3


@behaviour()
def the_pid_file_belongs_to_root_and_is_emptied_if_it_cannot_be_removed():
    if os.geteuid() != 0:
        raise Skip("only root gives root up")
    with Relay() as relay:
        relay.process.terminate()
        relay.process.wait(PATIENCE)
        path = os.path.join(relay.directory, "pid")
        relay.options.append(f"--pid-file={path}")
        with open(relay.log_path, "ab") as log:
            relay.process = subprocess.Popen(
                relay._command(None), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(lambda: os.path.exists(path) and os.path.getsize(path) > 0, "the pid file")
        with open(path, encoding="ascii") as file:
            assert file.read() == f"{relay.process.pid}\n"
        assert os.stat(path).st_uid == 0
        assert os.stat(path).st_mode & 0o7777 == 0o644
        wait_until(lambda: relay.log().count("listening on") == 2, "it to listen")
        serves(relay)
        relay.process.terminate()
        assert relay.process.wait(PATIENCE) == 0
        assert os.path.getsize(path) == 0
        bad = subprocess.run([*relay._command(None), f"--pid-file={relay.directory}/none/pid"],
                             stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=PATIENCE,
                             check=False)
        assert bad.returncode == 1
        assert b"cannot write the process id to" in bad.stderr, bad.stderr


# ---- super-servers --------------------------------------------------------------------


@behaviour()
def tcpserver_starts_workers():
    with Place() as place:
        place.start("tcpserver", "-RHl0", "-c", "512", "-b", "512", "127.0.0.1", str(place.port),
                    *place.relay("worker").split())
        place.wait_until_it_listens()
        serves(place)
        assert get(place, "/healthz").status == 200


@behaviour()
def socat_starts_workers():
    with Place() as place:
        place.start("socat", f"TCP-LISTEN:{place.port},fork,reuseaddr,backlog=512,max-children=512",
                    f"EXEC:{place.relay('worker')},nofork")
        place.wait_until_it_listens()
        serves(place)
        assert get(place, "/healthz").status == 200


def for_nobody(place):
    """Directories as tmpfiles makes them, and a relay that no client can reach."""
    user = pwd.getpwnam("nobody")
    for directory in (place.runtime, place.state):
        os.mkdir(directory, 0o700)
        os.chown(directory, user.pw_uid, user.pw_gid)
    return shutil.copy(RELAY, os.path.join(place.directory, "relay"))


def start_inetd(place, words):
    program = os.path.join(PEERS, "usr/sbin/inetd")
    if not os.access(program, os.X_OK):
        raise Skip("inetd could not be had from Debian")
    if os.geteuid() != 0:
        raise Skip("inetd needs root")
    config = os.path.join(place.directory, "inetd.conf")
    with open(config, "w", encoding="ascii") as file:
        file.write(f"127.0.0.1:{place.port} stream tcp {words} {' '.join(place.options)}\n")
    script = 'mount -t tmpfs tmpfs /run && exec "$@"'
    inetd = place.start("unshare", "--mount", "sh", "-c", script, "sh", program, "-i", config)
    place.wait_until_it_listens()
    return inetd


@behaviour("relay serve", "relay")
def a_line_of_inetd_that_waits_starts_a_server_on_its_socket(name):
    with Place() as place:
        inetd = start_inetd(place, f"wait nobody {for_nobody(place)} {name}")
        try:
            serves(place)
            server = wait_for_server(inetd.pid)
            serves(place)
            assert server_of(inetd.pid) == server
            os.kill(server, signal.SIGTERM)
            wait_until(lambda: not alive(server), "it to end")
            serves(place)  # inetd starts another one
            wait_for_server(inetd.pid)
        finally:
            server = server_of(inetd.pid)
            if server:
                os.kill(server, signal.SIGTERM)


@behaviour()
def a_worker_that_is_given_a_listening_socket_names_the_remedy():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        worker = subprocess.run([RELAY, "worker"], stdin=listening, stderr=subprocess.PIPE,
                                timeout=PATIENCE, check=False)
        server = subprocess.run([RELAY, "serve", "--listen=:1"], stdin=listening,
                                stderr=subprocess.PIPE, timeout=PATIENCE, check=False)
    assert worker.returncode == 1 and b"nowait" in worker.stderr, worker
    assert server.returncode == 2 and b"--listen=:1 does not hold" in server.stderr, server


@behaviour()
def the_manual_has_the_command_lines_of_these_tests():
    with open(os.path.join(TOP, "man", "relay.8"), encoding="ascii") as file:
        manual = re.sub(r"\s+", " ", file.read())
    for words in ("tcpserver -RHl0 -c 512 -b 512 0 4001 /usr/local/bin/relay worker",
                  "socat TCP-LISTEN:4001,fork,reuseaddr,backlog=512,max-children=512",
                  "command=/usr/local/bin/relay serve",
                  "-- serve --pid-file=/run/relay.pid",
                  'EXEC:"/usr/local/bin/relay worker",nofork',
                  "exec /usr/local/bin/relay serve --notify-fd=3",
                  "exec /usr/local/bin/relay serve",
                  "4001 stream tcp wait root /usr/local/bin/relay relay serve"):
        assert words in manual, words


if __name__ == "__main__":
    run()
