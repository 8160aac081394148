"""The table's file may be removed, replaced, cut or written over at any time, and its file system may
be full: that is noticed and said, pairs go on, and newcomers are served as ever."""

import os
import shutil
import signal
import subprocess
import tempfile

from harness import (Relay, Skip, behaviour, can_pair, exchange, line, make_pair, new_side,
                     new_token, run, wait_until)

SLOTS = "512"  # a small table is written over quickly


def table_of(relay):
    return os.path.join(relay.runtime, "table")


def remove(path):
    os.unlink(path)


def cut(path):
    os.truncate(path, 0)


def cut_in_the_middle(path):
    os.truncate(path, os.path.getsize(path) // 2)


def write_over_with_zeros(path):
    with open(path, "r+b") as file:
        file.write(bytes(os.path.getsize(path)))


def write_over_with_anything(path):
    with open(path, "r+b") as file:
        file.write(os.urandom(os.path.getsize(path)))


def replace_by_something_else(path):
    with open(path + ".new", "wb") as file:
        file.write(b"no table at all")
    shutil.chown(path + ".new", os.stat(path).st_uid, os.stat(path).st_gid)
    os.rename(path + ".new", path)


DAMAGES = {"removed": remove, "cut": cut, "half": cut_in_the_middle,
           "zeros": write_over_with_zeros, "garbage": write_over_with_anything,
           "replaced": replace_by_something_else}


def expect_pairs(relay, count=8):
    for _ in range(count):
        first, second = make_pair(relay)
        with first, second:
            exchange(first, second)


@behaviour(*[f"{how}, {damage}" for how in ("serve", "accept") for damage in DAMAGES])
def a_lost_table_is_made_anew_and_pairs_go_on(variant):
    how, damage = variant.split(", ")
    with Relay(how, ["--max-connections", SLOTS]) as relay:
        first, second = make_pair(relay)
        with first, second:
            exchange(first, second)
            DAMAGES[damage](table_of(relay))
            wait_until(lambda: can_pair(relay), "newcomers are served")
            expect_pairs(relay)
            exchange(first, second)
            wait_until(lambda: "the table" in relay.log(), "it is said")
            relay.wait_for(joined=2)
        relay.wait_for(joined=0)
        assert "signal 7" not in relay.log() and "signal 11" not in relay.log(), relay.log()


@behaviour("removed", "replaced")
def a_client_that_waits_meets_its_peer_in_the_new_table(damage):
    with Relay(options=["--max-connections", SLOTS]) as relay:
        token = new_token()
        with relay.connect() as first:
            first.send(line(token, new_side()))
            relay.wait_for(waiting=1)
            DAMAGES[damage](table_of(relay))
            expect_pairs(relay)
            with relay.connect() as second:
                second.send(line(token, new_side()))
                first.expect(b"ok\n")
                second.expect(b"ok\n")
                exchange(first, second)


@behaviour(*DAMAGES)
def a_forwarder_that_dies_with_the_table_is_replaced(damage):
    with Relay(options=["--max-connections", SLOTS]) as relay:
        expect_pairs(relay, 1)
        forwarder = relay.forwarder()
        DAMAGES[damage](table_of(relay))
        os.kill(forwarder, signal.SIGKILL)
        wait_until(lambda: can_pair(relay), "newcomers are served")
        expect_pairs(relay)


@behaviour("1m")
def a_full_file_system_refuses_newcomers_and_ends_no_process(size):
    mount = tempfile.mkdtemp(prefix="relay-full-")
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=777", "tmpfs", mount]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        os.rmdir(mount)
        raise Skip("needs root, to mount a file system")
    try:
        with Relay(options=["--runtime-dir", mount + "/run"]) as relay:
            expect_pairs(relay, 1)
            with open(mount + "/filler", "wb", buffering=0) as filler:
                try:
                    while True:
                        filler.write(bytes(4096))
                except OSError:
                    pass
            expect_pairs(relay, 40)
            assert "killed by signal" not in relay.log(), relay.log()
    finally:
        subprocess.run(["umount", "-l", mount], check=True)
        os.rmdir(mount)


if __name__ == "__main__":
    run()
