"""`relay status` tells the truth, wherever it looks and whatever it finds there."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile

from harness import (RELAY, Relay, Skip, alive, behaviour, children, exchange, make_pair, run,
                     wait_until)

STRANGER = 1  # a user that no relay runs as


def status(*options, user=None, environment=None):
    """Its exit status, standard output and standard error."""
    become = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    result = subprocess.run([*become, RELAY, "status", *options], text=True, check=False,
                            env=dict(os.environ, **(environment or {})), stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)
    return result.returncode, result.stdout, result.stderr


@behaviour()
def the_status_of_a_running_relay_shows_its_counts():
    with Relay() as relay:
        exchange(*make_pair(relay))
        code, out, error = status(f"--runtime-dir={relay.runtime}")
        assert (code, error) == (0, "") and "forwarder    process" in out, (code, out, error)


@behaviour("stopped", "killed")
def the_status_of_a_dead_relay_says_so_and_shows_what_is_left(how):
    with Relay() as relay:
        pair = make_pair(relay)
        processes = [relay.process.pid, *children(relay.process.pid)]
        if how == "killed":
            for process in processes:
                with contextlib.suppress(ProcessLookupError):  # it ends with its parent
                    os.kill(process, signal.SIGKILL)
        else:
            relay.process.terminate()
        relay.process.wait()
        wait_until(lambda: not any(alive(process) for process in processes), "the end of all")
        for form in ((), ("--json",), ("--openmetrics",)):
            code, out, error = status(f"--runtime-dir={relay.runtime}", *form)
            assert code == 1 and out, (code, out)
            assert f"no relay runs in {relay.runtime}: this is what the last one" in error, error
        for client in pair:
            client.close()


@behaviour()
def a_relay_that_rests_until_its_next_client_is_not_dead():
    """Without clients, inetd is the only process that is left of it."""
    with Relay("inetd") as relay:
        exchange(*make_pair(relay))
        forwarder = relay.forwarder()
        wait_until(lambda: not alive(forwarder), "the forwarder to retire")
        code, out, error = status(f"--runtime-dir={relay.runtime}")
        assert (code, error) == (0, "") and "forwarder    none" in out, (code, out, error)
        exchange(*make_pair(relay))


@behaviour()
def where_no_relay_was_the_status_says_so_and_what_to_do():
    with tempfile.TemporaryDirectory() as directory:
        for path, words in ((directory, "no relay has run in"),
                            (f"{directory}/none", "there is no such directory")):
            code, out, error = status(f"--runtime-dir={path}")
            assert (code, out) == (1, "") and error.count("\n") == 1, (code, out, error)
            assert words in error and path in error and "relay serve, starts one" in error, error


@behaviour()
def a_user_that_may_not_see_the_status_is_told_which_user_may():
    if os.geteuid() != 0:
        raise Skip("it takes root to become somebody else")
    with Relay() as relay:
        code, out, error = status(f"--runtime-dir={relay.runtime}", user=STRANGER)
        assert (code, out) == (1, "") and error.count("\n") == 1, (code, out, error)
        assert f"cannot look into {relay.runtime}: only root and the user" in error, error


@behaviour()
def a_users_own_relay_is_named_when_no_directory_was_given():
    if os.geteuid() != 0:
        raise Skip("it takes root to become somebody else")
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        mine = os.path.join(directory, "mine")
        os.mkdir(mine, 0o700)
        shutil.chown(mine, STRANGER, STRANGER)
        program = shutil.copy(RELAY, os.path.join(directory, "relay"))
        environment = dict(os.environ, XDG_RUNTIME_DIR=mine, XDG_STATE_HOME=mine)
        become = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]
        server = subprocess.Popen([*become, program, "serve", "--listen=127.0.0.1:0"], text=True,
                                  env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            for line in server.stderr:
                if "listening" in line:
                    break
            code, out, error = status("--json", user=STRANGER, environment=environment)
            assert code == 0 and json.loads(out)["used"] == 0, (code, out, error)
            assert f"showing the relay in {mine}/relay" in error, error
        finally:
            server.terminate()
            server.communicate()


@behaviour("serve", "accept")
def the_status_says_that_the_table_was_removed_until_another_is_made(how):
    with Relay(how) as relay:
        pair = make_pair(relay)
        os.unlink(f"{relay.runtime}/table")
        code, _, error = status(f"--runtime-dir={relay.runtime}")
        assert code == 1 and "which runs: its table was removed" in error, (code, error)
        exchange(*make_pair(relay))
        exchange(*pair)
        code, _, error = status(f"--runtime-dir={relay.runtime}")
        assert (code, error) == (0, ""), (code, error)


if __name__ == "__main__":
    run()
