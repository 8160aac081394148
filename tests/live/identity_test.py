"""Offset's identities and tickets: the commands as people type them, called as stmgr, as strelay and
as roles of relay."""

import base64
import json
import os
import select
import shutil
import signal
import stat
import subprocess
import tempfile
import threading

from harness import (PATIENCE, RELAY, Client, Relay, behaviour, exchange, free_port, line,
                     make_pair, new_token, run, wait_until)

SEED = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
PUBLIC = "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg"
APP_SEED = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8"
APP_PUBLIC = "Kay64UG8yvCyLhqU000LxzYeUm0L_hLIl5S8kyKWbdc"
TICKET = f'{{\n  "publicKey": "{PUBLIC}",\n  "address": "h:1"\n}}'
TICKETS = ("relay-ticket", "index-ticket", "node-ticket")
COMMANDS = ("gen-ident", *TICKETS, "app-ticket", "node-entry")


class Desk:
    """A directory to work in, with the programs on the path and a few files at hand."""

    def __enter__(self):
        self.directory = tempfile.mkdtemp(prefix="relay-identity-")
        os.chmod(self.directory, 0o755)
        self.programs = os.path.join(self.directory, "bin")
        os.mkdir(self.programs)
        os.symlink(RELAY, os.path.join(self.programs, "relay"))
        for name in ("strelay", "stmgr"):
            os.symlink("relay", os.path.join(self.programs, name))
        self.environment = dict(
            os.environ, PATH=f"{self.programs}:{os.environ['PATH']}",
            RUNTIME_DIRECTORY=self.path("run"), STATE_DIRECTORY=self.path("state"))
        self.write("node", f'{{"privateKey":"{SEED}"}}')
        self.write("app", f'{{"privateKey":"{APP_SEED}"}}')
        self.write("bad", '{"privateKey":"AAAA"}')
        return self

    def __exit__(self, *unused):
        shutil.rmtree(self.directory)

    def path(self, name):
        return os.path.join(self.directory, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)

    def read(self, name):
        with open(self.path(name), encoding="utf-8", newline="") as file:
            return file.read()

    def mode(self, name):
        return stat.S_IMODE(os.lstat(self.path(name)).st_mode)

    def run(self, command, **more):
        """Of a command line: its status, standard output and standard error."""
        done = subprocess.run(
            command if isinstance(command, list) else command.split(), cwd=self.directory,
            env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, timeout=20, check=False, **more)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def expect(self, command, **more):
        """It works, and says nothing."""
        result = self.run(command, **more)
        assert result == (0, "", ""), (command, result)

    def expect_failure(self, command, words, status=1):
        """It fails with one line that has these words, and leaves every file as it was."""
        before = self.everything()
        result = self.run(command)
        assert result[:2] == (status, ""), (command, result)
        assert result[2].count("\n") == 1 and result[2].endswith("\n"), (command, result)
        assert words in result[2], (command, result)
        assert self.everything() == before, command

    def everything(self):
        found = {}
        for directory, _, names in os.walk(self.directory):
            for name in names:
                path = os.path.join(directory, name)
                status = os.lstat(path)
                found[path] = (status.st_mode, status.st_ino, status.st_mtime_ns)
        return found


def public_key(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)["publicKey"]


def listens(address, port):
    try:
        Client((address, port)).close()
        return True
    except ConnectionRefusedError:
        return False


# ---- as published ---------------------------------------------------------------------


@behaviour()
def the_published_lines_work_word_for_word():
    script = """
        mkdir relay
        stmgr gen-ident --output relay/relay.ident
        stmgr relay-ticket --address $RELAY_ADDRESS:$RELAY_PORT --idfile relay/relay.ident --output relay/relay.relay
        strelay --idfile relay/relay.ident --laddr 0.0.0.0:$RELAY_PORT &
        echo $! >pid
    """
    with Desk() as desk:
        port = free_port()
        desk.environment.update(RELAY_ADDRESS="127.0.0.1", RELAY_PORT=str(port))
        with open(desk.path("log"), "wb") as log:
            subprocess.run(["sh", "-ec", script], cwd=desk.directory, env=desk.environment,
                           stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)
        relay = os.pidfd_open(int(desk.read("pid")))
        try:
            wait_until(lambda: listens("127.0.0.1", port), "strelay to listen")
            assert desk.mode("relay/relay.ident") == 0o600
            assert desk.mode("relay/relay.relay") == 0o644
            ticket = json.loads(desk.read("relay/relay.relay"))
            assert ticket["address"] == f"127.0.0.1:{port}", ticket
            assert len(base64.urlsafe_b64decode(ticket["publicKey"] + "=")) == 32, ticket
            token = new_token()  # it serves everybody, on the same port
            first, second = (Client(("127.0.0.1", port)).send(line(token)) for _ in range(2))
            first.expect(b"ok\n")
            second.expect(b"ok\n")
            exchange(first, second)
            first.close()
            second.close()
        finally:
            signal.pidfd_send_signal(relay, signal.SIGTERM)
            ended, _, _ = select.select([relay], [], [], PATIENCE)
            os.close(relay)
            assert ended, "strelay did not end"
        assert "ident" not in desk.read("log"), desk.read("log")
        assert not os.path.exists(desk.path("state")), "it was given an identity, and made another"


# ---- the commands ---------------------------------------------------------------------


@behaviour("stmgr", "relay")
def every_command_writes_what_the_original_does(program):
    with Desk() as desk:
        desk.expect(f"{program} gen-ident --output own")
        assert desk.mode("own") == 0o600
        seed = json.loads(desk.read("own"))["privateKey"]
        assert desk.read("own") == f'{{\n  "privateKey": "{seed}"\n}}'
        for command in TICKETS:
            desk.expect(f"{program} {command} --idfile node --address h:1 --output {command}")
            assert desk.read(command) == TICKET
            assert desk.mode(command) == 0o644
        desk.expect(f"{program} app-ticket --idfile app --proutes --pconfig --output ticket")
        assert desk.read("ticket") == (
            f'{{\n  "publicKey": "{APP_PUBLIC}",\n  "permissions": {{\n    "routes": true,\n'
            '    "buyer": false,\n    "seller": false,\n    "config": true\n  }\n}')
        assert desk.mode("ticket") == 0o644
        desk.expect(f"{program} node-entry --nodeid node --appid app --address h:1 --output entry")
        assert desk.read("entry") == (
            f'{{\n  "nodePublicKey": "{PUBLIC}",\n  "nodeAddress": "h:1",\n'
            f'  "appPrivateKey": "{APP_SEED}"\n}}')
        assert desk.mode("entry") == 0o600


@behaviour()
def options_may_be_spelled_as_the_original_takes_them():
    spellings = ("--idfile node --address h:1 --output out", "-i node -a h:1 -o out",
                 "-inode -ah:1 -oout", "--output=out --address=h:1 --idfile=node",
                 "-o out --idfile=node -ah:1", "-i=node -a=h:1 -o=out", "-i=node -a h:1 -o=out")
    with Desk() as desk:
        for spelling in spellings:
            desk.expect(f"stmgr relay-ticket {spelling}")
            assert desk.read("out") == TICKET, spelling
            os.unlink(desk.path("out"))
        desk.expect("stmgr node-entry -n node -p app -a h:1 -o out")
        assert json.loads(desk.read("out"))["nodePublicKey"] == PUBLIC


@behaviour()
def strelay_takes_a_letter_with_an_equals_sign():
    with Desk() as desk:
        desk.expect_failure("strelay -i=missing -l=127.0.0.1:0", "the identity missing")
        desk.expect_failure("strelay -i=node -l=127.0.0.1:99999", "cannot listen on 127.0.0.1:99999", 2)


@behaviour()
def a_permission_may_be_given_as_true():
    with Desk() as desk:
        desk.expect("stmgr app-ticket -i app --proutes=true -o out")
        assert json.loads(desk.read("out"))["permissions"]["routes"] is True


@behaviour()
def help_is_a_command_too():
    with Desk() as desk:
        assert desk.run("stmgr help") == desk.run("stmgr --help")
        for command in COMMANDS:
            assert desk.run(f"stmgr help {command}") == desk.run(f"stmgr {command} --help")
            assert desk.run(f"stmgr help {command}")[0] == 0
        desk.expect_failure("stmgr help no-such-command", "unknown command", status=2)


@behaviour()
def a_part_of_an_options_name_is_refused():
    with Desk() as desk:
        for arguments in ("relay-ticket --id node -a h:1 -o x", "relay-ticket --idf=node -a h:1 -o x",
                          "app-ticket -i app --prou -o x"):
            desk.expect_failure(f"stmgr {arguments}", "unknown option --", status=2)
        for arguments in ("--idf node -l 127.0.0.1:0", "--lad=127.0.0.1:0 -i node"):
            desk.expect_failure(f"strelay {arguments}", "unknown option --", status=2)


@behaviour()
def control_characters_in_an_address_are_escaped_as_the_original_does():
    with Desk() as desk:
        desk.expect(["stmgr", "relay-ticket", "-i", "node", "-a", "\x1f\n\\u001F\"\x7f", "-o", "out"])
        address = desk.read("out").split('"address": ')[1]
        assert address == '"\\u001f\\n\\\\u001F\\"\x7f"\n}', address


@behaviour()
def each_permission_is_given_by_itself():
    with Desk() as desk:
        for name in ("routes", "buyer", "seller", "config"):
            desk.expect(f"stmgr app-ticket -i app --p{name} -o {name}")
            permissions = json.loads(desk.read(name))["permissions"]
            assert [key for key, value in permissions.items() if value] == [name], permissions


@behaviour()
def an_identity_can_be_read_by_its_user_alone_and_a_ticket_as_the_umask_allows():
    with Desk() as desk:
        for mask, public in ((0o000, 0o644), (0o022, 0o644), (0o077, 0o600), (0o777, 0o600)):
            desk.expect("stmgr gen-ident -o ident", umask=mask)
            desk.expect("stmgr relay-ticket -i node -a h:1 -o ticket", umask=mask)
            assert (desk.mode("ident"), desk.mode("ticket")) == (0o600, public), oct(mask)
            os.unlink(desk.path("ident"))
            os.unlink(desk.path("ticket"))


@behaviour("stmgr", "relay")
def help_and_version_go_to_standard_output(program):
    with Desk() as desk:
        for arguments in (["--version"], ["gen-ident", "-V"], ["node-entry", "--version"]):
            status, out, error = desk.run([program, *arguments])
            assert (status, out, error) == (0, f"{program} 0.1.0\n", ""), (arguments, out)
        for help_option in ("-h", "--help"):
            status, out, error = desk.run([program, help_option])
            assert (status, error) == (0, "") and all(name in out for name in COMMANDS), out
            for command in COMMANDS:
                status, out, error = desk.run([program, command, help_option])
                assert (status, error) == (0, "") and "--output=FILE" in out, out
        assert desk.run("stmgr -V") == (0, "stmgr 0.1.0\n", "")
        for version in ("-V", "--version"):
            assert desk.run(f"strelay {version}") == (0, "strelay 0.1.0\n", "")


# ---- what fails -----------------------------------------------------------------------


@behaviour("stmgr", "relay")
def wrong_usage_is_one_line_and_status_2(program):
    with Desk() as desk:
        for arguments, words in (
                ("", "expected one that"),
                ("no-such-command", "unknown"),
                ("gen-ident", "needs --output=FILE"),
                ("gen-ident --output", "needs a value"),
                ("gen-ident --output=", "empty value"),
                ("gen-ident -o x y", "unexpected argument y"),
                ("gen-ident -o x --idfile node", "unknown option --idfile"),
                ("gen-ident -o x -o y", "given twice"),
                ("relay-ticket -i node -o x", "needs --address=ADDRESS"),
                ("relay-ticket -i node -i node -a h:1 -o x", "given twice"),
                ("relay-ticket -i node -a h:1 --address=h:2 -o x", "given twice"),
                ("relay-ticket -i node -a h:1 -o x --pbuyer", "unknown option --pbuyer"),
                ("app-ticket -i app -o x --pbuyer --pbuyer", "given twice"),
                ("app-ticket -i app -o x --pbuyer=yes", "takes no value"),
                ("node-entry -p app -a h:1 -o x", "needs --nodeid=FILE"),
                ("node-entry -n node -a h:1 -o x", "needs --appid=FILE"),
                ("node-entry -n node -p app -o x", "needs --address=ADDRESS")):
            desk.expect_failure(f"{program} {arguments}", words, status=2)


@behaviour()
def stmgr_needs_an_identity_and_offers_no_database():
    with Desk() as desk:
        for arguments in ("relay-ticket -a h:1 -o x", "app-ticket -o x"):
            desk.expect_failure(f"stmgr {arguments}", "needs --idfile=FILE", status=2)
        desk.expect_failure("stmgr relay-ticket --state-dir=. -a h:1 -o x", "unknown", status=2)
        desk.expect_failure("stmgr init-node-db -i node -o x", "not offered", status=2)


@behaviour()
def strelay_needs_identity_and_address():
    with Desk() as desk:
        desk.expect_failure("strelay", "needs --idfile=FILE", status=2)
        desk.expect_failure("strelay -l 127.0.0.1:0", "needs --idfile=FILE", status=2)
        desk.expect_failure("strelay -i node", "needs --laddr=ADDR", status=2)
        desk.environment["PORT"] = "0"
        desk.expect_failure("strelay -i node", "needs --laddr=ADDR", status=2)


BAD = {"missing": "No such file", "bad": "privateKey is not 32 bytes"}


@behaviour(*BAD)
def a_bad_identity_stops_strelay_before_it_listens(name):
    with Desk() as desk:
        os.mkdir(desk.path("run"), 0o700)
        desk.expect_failure(f"strelay -i {name} -l 127.0.0.1:0", BAD[name])


@behaviour(*BAD)
def a_bad_identity_stops_offset_and_no_other_protocol(name):
    """Nor is another one made in its place."""
    with Desk() as desk:
        with Relay(options=[f"--idfile={desk.path(name)}"]) as relay:
            exchange(*make_pair(relay))
            with relay.connect() as node:
                node.send(bytes(7) + b"\x04" + bytes(4)).expect_end()
            assert relay.log().count(BAD[name]) == 1, relay.log()
            assert "Offset is not served without its identity" in relay.log(), relay.log()
            assert not os.path.exists(os.path.join(relay.state, "relay.ident"))


@behaviour("stmgr", "relay")
def a_file_that_exists_is_never_overwritten(program):
    with Desk() as desk:
        desk.write("file", "precious")
        os.symlink("nowhere", desk.path("link"))
        os.mkdir(desk.path("directory"))
        for taken in ("file", "link", "directory"):
            for arguments in ("gen-ident", "relay-ticket -i node -a h:1", "app-ticket -i app",
                              "node-entry -n node -p app -a h:1"):
                desk.expect_failure(f"{program} {arguments} -o {taken}", "File exists")
        assert desk.read("file") == "precious"


@behaviour()
def the_first_of_several_faults_is_named():
    with Desk() as desk:
        desk.write("file", "precious")
        for address, words in (("h:1", ""), ("a" * 257, "257 bytes")):
            for command in TICKETS:
                desk.expect_failure(f"stmgr {command} -i bad -a {address} -o file", "File exists")
                desk.expect_failure(f"stmgr {command} -i bad -a {address} -o x", "privateKey")
                if words:
                    desk.expect_failure(f"stmgr {command} -i node -a {address} -o x", words)
        entry = "stmgr node-entry -a " + "a" * 257
        desk.expect_failure(f"{entry} -n bad -p missing -o file", "File exists")
        desk.expect_failure(f"{entry} -n bad -p missing -o x", "identity bad")
        desk.expect_failure(f"{entry} -n node -p missing -o x", "identity missing")
        desk.expect_failure(f"{entry} -n node -p app -o x", "257 bytes")
        desk.expect_failure("stmgr app-ticket -i bad -o file", "identity bad")
        desk.expect_failure("stmgr app-ticket -i app -o file", "File exists")


@behaviour()
def an_address_has_256_bytes_at_most():
    with Desk() as desk:
        desk.expect("stmgr relay-ticket -i node -o most -a " + "é" * 128)
        assert json.loads(desk.read("most"))["address"] == "é" * 128
        desk.expect(["stmgr", "relay-ticket", "-inode", "-onone", "-a", ""])
        assert json.loads(desk.read("none"))["address"] == ""
        desk.expect_failure("stmgr relay-ticket -i node -o x -a " + "é" * 128 + "a", "257 bytes")
        desk.expect_failure([b"stmgr", b"relay-ticket", b"-inode", b"-ox", b"-a\xff"], "UTF-8")


@behaviour()
def missing_and_full_directories_are_named():
    with Desk() as desk:
        for arguments in ("gen-ident", "relay-ticket -i node -a h:1", "app-ticket -i app",
                          "node-entry -n node -p app -a h:1"):
            desk.expect_failure(f"stmgr {arguments} -o missing/x", "No such file or directory")
            desk.expect_failure(f"stmgr {arguments} -o node/x", "Not a directory")
            desk.expect_failure(
                ["sh", "-c", f"trap '' XFSZ; ulimit -f 0; exec stmgr {arguments} -o x"],
                "File too large")
        desk.expect_failure("stmgr relay-ticket -i missing -a h:1 -o x", "missing: No such file")


# ---- the relay's own identity ---------------------------------------------------------


@behaviour()
def a_relay_without_an_identity_makes_one_and_tickets_are_made_of_it():
    with Desk() as desk:
        with Relay() as relay:
            path = os.path.join(relay.state, "relay.ident")
            wait_until(lambda: os.path.exists(path), "the identity")
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            assert stat.S_IMODE(os.stat(relay.state).st_mode) == 0o700
            option = f"--state-dir={relay.state}"
            desk.expect(f"relay relay-ticket -a h:1 -o ticket {option}")
            wait_until(lambda: "public key" in relay.log(), "the key in the log")
            assert f"public key {public_key(desk.path('ticket'))}\n" in relay.log(), relay.log()
            with open(path, encoding="utf-8") as file:
                assert json.load(file)["privateKey"] not in relay.log()
        os.mkdir(desk.path("state"))
        desk.expect("relay gen-ident -o state/relay.ident")
        for command in TICKETS:  # in $STATE_DIRECTORY
            desk.expect(f"relay {command} -a h:1 -o {command}")
        desk.expect("relay app-ticket -o app-ticket")
        desk.expect("stmgr relay-ticket -i state/relay.ident -a h:1 -o same")
        assert desk.read("relay-ticket") == desk.read("same")
        assert public_key(desk.path("app-ticket")) == public_key(desk.path("same"))


@behaviour()
def the_identity_outlives_the_relay():
    with tempfile.TemporaryDirectory(prefix="relay-state-") as directory:
        os.chmod(directory, 0o777)
        kept = set()
        for _ in range(2):
            with Relay(options=[f"--state-dir={directory}/deep/state"]):
                with open(f"{directory}/deep/state/relay.ident", encoding="utf-8") as file:
                    kept.add(file.read())
        assert len(kept) == 1


@behaviour()
def relays_that_start_at_once_share_one_identity():
    with tempfile.TemporaryDirectory(prefix="relay-state-") as directory:
        os.chmod(directory, 0o777)
        relays = []

        def start():
            relays.append(Relay(options=[f"--state-dir={directory}/state"]))

        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        try:
            assert len(relays) == 4
            # They listen before they look for an identity.
            wait_until(lambda: os.listdir(f"{directory}/state") == ["relay.ident"], "one identity")
            wait_until(lambda: all(relay.forwarder() for relay in relays), "all to serve")
            assert sum("made the identity" in relay.log() for relay in relays) == 1
        finally:
            for relay in relays:
                relay.stop()


@behaviour()
def a_state_directory_that_cannot_be_used_stops_offset_and_no_other_protocol():
    with tempfile.NamedTemporaryFile() as file:
        with Relay(options=[f"--state-dir={file.name}/state"]) as relay:
            token = new_token()
            first, second = relay.connect().send(line(token)), relay.connect().send(line(token))
            first.expect(b"ok\n")
            second.expect(b"ok\n")
            exchange(first, second)
            first.close()
            second.close()
            said = [text for text in relay.log().splitlines() if file.name in text]
            assert len(said) == 1, said
            assert f"make the state directory {file.name}/state: Not a dir" in said[0], said
        with Relay(options=[f"--state-dir={file.name}"]) as relay:
            assert f"the identity {file.name}/relay.ident: Not a dir" in relay.log(), relay.log()
            assert "Offset is not served without its identity" in relay.log(), relay.log()


@behaviour(*Relay.MODES)
def however_it_is_started_there_is_an_identity(how):
    with Relay(how) as relay:
        token = new_token()
        first, second = relay.connect().send(line(token)), relay.connect().send(line(token))
        first.expect(b"ok\n")
        second.expect(b"ok\n")
        assert os.listdir(relay.state) == ["relay.ident"]
        first.close()
        second.close()


if __name__ == "__main__":
    run()
