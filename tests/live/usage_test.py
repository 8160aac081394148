"""Usage records and the status, as operators and their munin plugins read them."""

import contextlib
import glob
import json
import os
import signal
import sqlite3
import subprocess
import tempfile
import time

from harness import (RELAY, Relay, Skip, alive, behaviour, children, exchange, line, make_pair, new_side,
                     new_token, process_name, run, wait_until)
from web_protocols import expect_introduction, introduced


class Records:
    """A relay that writes its records into a file, and reads them back."""

    def __init__(self, *options, how="serve", database=False, environment=None):
        self.directory = tempfile.TemporaryDirectory(prefix="relay-usage-")
        os.chmod(self.directory.name, 0o777)
        self.lines = open(os.path.join(self.directory.name, "lines"), "a+b")
        self.database = os.path.join(self.directory.name, "usage.sqlite")
        fd = self.lines.fileno()
        chosen = [*options, f"--log-fd={fd}"]
        if database:
            chosen.append(f"--usage-db={self.database}")
        self.relay = Relay(how, chosen, pass_fds=[fd], environment=environment)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.relay.__exit__(*exception)
        self.lines.close()
        self.directory.cleanup()

    def texts(self):
        self.lines.seek(0)
        return self.lines.read().decode().splitlines()

    def wait(self, count):
        wait_until(lambda: len(self.texts()) >= count, f"{count} records")
        texts = self.texts()
        assert len(texts) == count, texts
        return [json.loads(text) for text in texts]

    def query(self, statement):
        with sqlite3.connect(f"file:{self.database}?mode=ro", uri=True) as database:
            return database.execute(statement).fetchall()

    def has_rows(self, count):
        with contextlib.suppress(sqlite3.Error):  # it is just being made
            return self.query("SELECT count(*) FROM usage")[0][0] >= count
        return False

    def wait_rows(self, count):
        wait_until(lambda: self.has_rows(count), "rows")
        return self.query("SELECT started, total_time, waiting_time, total_bytes, result FROM usage")


def in_one_file(pair):
    first, second = pair
    exchange(first, second, 10)
    first.close()
    second.expect_end()
    second.close()


@behaviour()
def a_pair_is_one_happy_record_with_its_five_keys_in_order():
    with Records() as records:
        token = new_token()
        before = time.time()
        first = records.relay.connect().send(line(token, new_side()))
        records.relay.wait_for(waiting=1)
        time.sleep(0.3)
        second = records.relay.connect().send(line(token, new_side()))
        in_one_file((first.expect(b"ok\n"), second.expect(b"ok\n")))
        record = records.wait(1)[0]
        assert list(record) == ["started", "total_time", "waiting_time", "total_bytes", "mood"]
        assert before - 1 < record["started"] < time.time(), record
        assert isinstance(record["started"], float), record
        assert record["mood"] == "happy" and record["total_bytes"] == 20, record
        assert 0.25 < record["waiting_time"] <= record["total_time"], record


@behaviour()
def every_end_has_its_mood():
    with Records() as records:
        relay = records.relay
        with relay.connect() as client:
            client.send(b"nonsense\n").expect(b"bad handshake\n")
        with relay.connect() as client:
            client.send(line(new_token()) + b"x").expect(b"impatient\n")
        relay.connect().send(b"please").close()
        records.wait(3)
        with relay.connect() as client:
            client.send(line(new_token()))
            relay.wait_for(waiting=1)
        records.wait(4)
        token, side = new_token(), new_side()
        same = [relay.connect().send(line(token, side)) for _ in range(2)]
        relay.wait_for(waiting=2)
        with relay.connect() as other:
            other.send(line(token, new_side())).expect(b"ok\n")
            relay.wait_for(joined=2, used=2)
        for client in same:
            client.close()
        moods = sorted(record["mood"] for record in records.wait(6))
        expected = ["empty", "errory", "happy", "impatient", "lonely", "redundant"]
        assert moods == expected, moods
        for record in records.wait(6):
            if record["mood"] != "happy":
                assert record["waiting_time"] is None and record["total_bytes"] == 0, record


def settable_clock(path):
    """An environment whose clock on the wall differs by what the file says."""
    libraries = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
    if not libraries:
        raise Skip("libfaketime is not installed")
    if "ASAN_OPTIONS" in os.environ:
        raise Skip("AddressSanitizer does not go with libfaketime")
    return {"LD_PRELOAD": libraries[0], "FAKETIME_TIMESTAMP_FILE": path, "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@behaviour("+40", "-40")
def a_clock_that_is_set_while_a_client_greets_changes_no_duration(step):
    with tempfile.TemporaryDirectory(prefix="relay-clock-") as directory:
        os.chmod(directory, 0o755)
        clock = os.path.join(directory, "clock")

        def set_clock(difference):
            with open(clock + ".new", "w", encoding="ascii") as file:
                file.write(difference)
            os.rename(clock + ".new", clock)

        set_clock("+0")
        with Records("--no-sandbox", environment=settable_clock(clock)) as records:
            relay, token = records.relay, new_token()
            greeting = line(token, new_side())
            first = relay.connect().send(greeting[:20])
            relay.wait_for(used=1)
            set_clock(step)
            first.send(greeting[20:])
            relay.wait_for(waiting=1)
            second = relay.connect().send(line(token, new_side()))
            first.expect(b"ok\n")
            second.expect(b"ok\n")
            in_one_file((first, second))
            record = records.wait(1)[0]
            assert 0 <= record["waiting_time"] <= record["total_time"] < 30, record


@behaviour()
def blurred_records_round_times_down_and_sizes_up():
    with Records("--blur-usage=3600") as records:
        first, second = make_pair(records.relay)
        exchange(first, second, 7001)
        first.close()
        second.expect_end()
        second.close()
        record = records.wait(1)[0]
        assert record["started"] % 3600 == 0, record
        assert record["total_bytes"] == 20000, record


@behaviour()
def the_database_is_what_munin_plugins_read():
    with Records("--blur-usage=60", database=True) as records:
        relay = records.relay
        waiting = relay.connect().send(line(new_token()))
        relay.wait_for(waiting=1)
        pair = make_pair(relay)
        exchange(*pair, 500)
        in_one_file(make_pair(relay))
        row = records.wait_rows(1)[0]
        assert row[0] % 60 == 0 and row[3] == 10000 and row[4] == "happy", row
        assert 0 <= row[2] <= row[1], row
        rebooted, updated, connected, waits, incomplete = wait_until(
            lambda: records.query("SELECT * FROM current"), "the current row")[0]
        assert time.time() - 60 < rebooted <= updated <= time.time(), (rebooted, updated)
        assert (connected, waits, incomplete) == (2, 1, 1000), (connected, waits, incomplete)
        assert records.query("SELECT version FROM version") == [(1,)]
        names = {name for (name,) in records.query("SELECT name FROM sqlite_master")}
        assert names == {"version", "current", "usage", "usage_started_index",
                         "usage_result_index"}, names
        waiting.close()
        rows = records.wait_rows(2)
        assert rows[1][2] is None and rows[1][4] == "lonely", rows
        assert os.stat(records.database).st_mode & 0o777 == 0o600


@behaviour("serve", "accept")
def the_current_row_is_of_the_table_that_is_made_anew(how):
    with Records(how=how, database=True) as records:
        relay = records.relay
        in_one_file(make_pair(relay))
        records.wait_rows(1)
        waiting = relay.connect().send(line(new_token()))
        relay.wait_for(waiting=1)
        os.unlink(os.path.join(relay.runtime, "table"))
        pair = make_pair(relay)
        exchange(*pair)
        relay.wait_for(joined=2)
        in_one_file(make_pair(relay))
        records.wait_rows(2)
        status = relay.status()
        expected = (status["states"]["joined"], status["tokens"])
        assert expected[0] == 2, status
        counts = records.query("SELECT connected, waiting FROM current")
        assert counts == [expected], counts
        waiting.close()


@behaviour()
def records_survive_a_restart_in_one_database():
    with Records(database=True) as records:
        in_one_file(make_pair(records.relay))
        records.wait_rows(1)
        forwarder = records.relay.forwarder()
        os.kill(forwarder, 9)
        wait_until(lambda: records.relay.forwarder() not in (0, forwarder), "the next forwarder")
        in_one_file(make_pair(records.relay))
        records.wait_rows(2)
        assert len(records.query("SELECT * FROM current")) == 1


@behaviour()
def a_database_that_cannot_be_used_is_logged_and_stops_no_service():
    with tempfile.TemporaryDirectory(prefix="relay-database-") as directory:
        os.chmod(directory, 0o777)
        junk = os.path.join(directory, "junk")
        with open(junk, "wb") as file:
            file.write(b"this is no database at all, whatever its name may be" * 100)
        other = os.path.join(directory, "other")
        with sqlite3.connect(other) as database:
            database.execute("CREATE TABLE version (version INTEGER)")
            database.execute("INSERT INTO version VALUES (2)")
        for path in (junk, other):
            os.chmod(path, 0o666)
        for path in (junk, other, os.path.join(directory, "missing", "file")):
            with Relay(options=[f"--usage-db={path}"]) as relay:
                in_one_file(make_pair(relay))
                wait_until(lambda relay=relay, path=path: f"cannot write to the usage database {path}" in relay.log(),
                           "a word")


@behaviour()
def the_status_counts_what_is_there():
    with Relay() as relay:
        assert relay.status()["used"] == 0
        waiting = [relay.connect().send(line(new_token())) for _ in range(3)]
        pair = make_pair(relay)
        exchange(*pair, 100)
        relay.wait_for(waiting=3, joined=2, tokens=3, used=5)
        status = relay.status()
        assert status["incomplete_bytes"] == 200 and status["forwarder"] > 0, status
        text = subprocess.run([RELAY, "status", f"--runtime-dir={relay.runtime}"],
                              stdout=subprocess.PIPE, check=True).stdout.decode()
        assert "waiting      3 under 3 keys" in text and "transit" in text, text
        for client in waiting:
            client.close()
        relay.wait_for_outcomes(lonely=3)


@behaviour()
def the_status_names_no_forwarder_once_there_is_none():
    with Relay("accept", options=["--idle-timeout=1"]) as relay:
        with relay.connect() as client:
            client.send(b"nonsense\n").expect(b"bad handshake\n")
        assert relay.status()["forwarder"] > 0
        os.kill(relay.status()["forwarder"], signal.SIGKILL)
        wait_until(lambda: relay.status()["forwarder"] == 0, "the status to say so")
        command = [RELAY, "status", f"--runtime-dir={relay.runtime}"]
        text = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode()
        assert "forwarder    none\n" in text, text
        exchange(*make_pair(relay))
        assert relay.status()["forwarder"] > 0


@behaviour()
def the_status_of_no_relay_is_an_error_that_says_so():
    with tempfile.TemporaryDirectory() as directory:
        result = subprocess.run([RELAY, "status", f"--runtime-dir={directory}"],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        assert result.returncode == 1 and b"no relay has run" in result.stderr, result


def keeper_of(relay):
    """The process that replaces a recorder; the server's child, as the forwarder is."""
    keeper, = [pid for pid in children(relay.process.pid) if process_name(pid) == "relay-records"]
    return keeper


def recorder_of(relay):
    recorder, = children(keeper_of(relay))
    return recorder


@behaviour()
def a_recorder_that_was_killed_is_replaced_and_no_record_is_lost():
    with Records(database=True) as records:
        relay = records.relay
        in_one_file(make_pair(relay))
        records.wait_rows(1)
        recorder = recorder_of(relay)
        os.kill(recorder, signal.SIGKILL)
        wait_until(lambda: not alive(recorder), "its end")
        in_one_file(make_pair(relay))
        records.wait_rows(2)
        assert len(records.wait(2)) == 2
        assert f"recorder {recorder} was killed by signal 9" in relay.log(), relay.log()


@behaviour()
def a_recorder_that_was_killed_with_its_keeper_is_replaced_and_no_record_is_lost():
    with Records(database=True) as records:
        relay = records.relay
        in_one_file(make_pair(relay))
        records.wait_rows(1)
        keeper, recorder, forwarder = keeper_of(relay), recorder_of(relay), relay.forwarder()
        for pid in (keeper, recorder):
            os.kill(pid, signal.SIGKILL)
        in_one_file(make_pair(relay))  # a forwarder that sends records now finds no reader
        wait_until(lambda: not alive(keeper) and not alive(recorder), "their end")
        in_one_file(make_pair(relay))
        records.wait_rows(3)
        assert len(records.wait(3)) == 3
        assert relay.forwarder() == forwarder, "the forwarder was not to be touched"
        assert f"recorder's keeper {keeper} was killed by signal 9" in relay.log(), relay.log()


def reading(records):
    """Another program that reads the database for long."""
    reader = sqlite3.connect(records.database, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM usage").fetchall()
    return reader


@behaviour()
def a_long_reader_of_the_database_costs_no_record_and_delays_no_client():
    with Records(database=True) as records:
        in_one_file(make_pair(records.relay))
        records.wait_rows(1)
        reader = reading(records)
        for count in (2, 3):
            in_one_file(make_pair(records.relay))
            records.wait(count)
        # The last record is printed, so the recorder has tried to store the one before.
        with sqlite3.connect(records.database, timeout=1) as other:
            assert other.execute("SELECT count(*) FROM usage").fetchall() == [(1,)]
        reader.close()
        assert len(records.wait_rows(3)) == 3


@behaviour()
def a_recorder_that_is_killed_while_records_wait_loses_none():
    with Records(database=True) as records:
        relay = records.relay
        in_one_file(make_pair(relay))
        records.wait_rows(1)
        reader = reading(records)
        in_one_file(make_pair(relay))
        records.wait(2)
        os.kill(recorder_of(relay), signal.SIGKILL)
        in_one_file(make_pair(relay))
        records.wait(3)
        reader.close()
        assert len(records.wait_rows(3)) == 3
        assert len(records.wait(3)) == 3, "a line was written twice"


@behaviour()
def a_database_that_is_locked_at_start_delays_no_client_and_gets_its_records_later():
    with Records(database=True) as records:
        in_one_file(make_pair(records.relay))
        records.wait_rows(1)
        with sqlite3.connect(records.database, isolation_level=None) as other:
            other.execute("BEGIN EXCLUSIVE")
            with Relay(options=[f"--usage-db={records.database}"]) as another:
                in_one_file(make_pair(another))
                another.wait_for(used=0)
                other.execute("COMMIT")
                assert len(records.wait_rows(2)) == 2
        other.close()


@behaviour()
def a_database_that_was_moved_away_is_made_anew():
    with Records(database=True) as records:
        in_one_file(make_pair(records.relay))
        records.wait_rows(1)
        os.rename(records.database, records.database + ".1")
        in_one_file(make_pair(records.relay))
        wait_until(lambda: os.path.exists(records.database), "another database")
        wait_until(lambda: records.query("SELECT count(*) FROM sqlite_master")[0][0], "its tables")
        assert len(records.wait_rows(1)) == 1
        with sqlite3.connect(records.database + ".1") as moved:
            assert moved.execute("SELECT count(*) FROM usage").fetchall() == [(1,)]


@behaviour()
def a_database_of_another_user_delays_no_client_and_the_log_names_that_user():
    if os.geteuid() != 0:
        raise Skip("only root can have two users")
    with tempfile.TemporaryDirectory(prefix="relay-database-") as directory:
        os.chmod(directory, 0o777)
        path = os.path.join(directory, "usage")
        sqlite3.connect(path).execute("CREATE TABLE made_by_root (hand INTEGER)").connection.close()
        os.chmod(path, 0o600)
        with Relay(options=[f"--usage-db={path}"]) as relay:
            exchange(*make_pair(relay))
            wait_until(lambda: f"cannot write to the usage database {path}" in relay.log(), "a word")
            assert "the file belongs to user root and has mode 0600" in relay.log(), relay.log()
            in_one_file(make_pair(relay))
            os.unlink(path)
            wait_until(lambda: os.path.exists(path), "a database of its own")
            wait_until(lambda: "is written to again, and no usage record was lost" in relay.log(),
                       "the log to say so")
            with sqlite3.connect(path) as database:
                assert database.execute("SELECT count(*) FROM usage").fetchone()[0] >= 1


@behaviour()
def lines_that_are_not_read_delay_no_database_and_none_is_lost_or_cut():
    """A pipe takes 64 KiB, less than the lines of this many records."""
    count = 1000
    reader, writer = os.pipe()
    with tempfile.TemporaryDirectory(prefix="relay-database-") as directory:
        os.chmod(directory, 0o777)
        path = os.path.join(directory, "usage")
        options = [f"--log-fd={writer}", f"--usage-db={path}"]
        with Relay(options=options, pass_fds=[writer]) as relay:
            for _ in range(count):
                with relay.connect() as client:
                    client.send(b"nonsense\n").expect(b"bad handshake\n")
            with sqlite3.connect(path, timeout=10) as database:
                wait_until(lambda: database.execute(
                    "SELECT count(*) FROM usage").fetchone() == (count,), "every row")
            with os.fdopen(reader) as lines:
                for _ in range(count):
                    assert json.loads(lines.readline())["mood"] == "errory"
            os.close(writer)


@behaviour()
def no_token_side_or_address_is_logged_or_kept():
    with Relay(options=["--blur-usage=60"]) as relay:
        token, side = new_token(), new_side()
        first = relay.connect().send(line(token, side))
        relay.wait_for(waiting=1)
        with open(os.path.join(relay.runtime, "table"), "rb") as file:
            table = file.read()
        for secret in (token, side, bytes.fromhex(token.decode()), b"\x7f\0\0\1"):
            assert secret not in table, "the table holds what it should not"
        relay.connect().send(b"please relay nonsense\n").expect(b"bad handshake\n")
        first.send(b"impatient").expect(b"impatient\n")
        assert token.decode() not in relay.log() and "127.0.0.1" not in relay.log().replace(
            f"listening on 127.0.0.1:{relay.port}", ""), relay.log()


@behaviour("serve", "accept")
def addresses_are_logged_only_where_that_is_asked_for(how):
    with Relay(how, options=["--debug"]) as relay:
        token = new_token()
        with relay.connect() as client:
            client.send(b"nonsense\n").expect(b"bad handshake\n")
            port = client.socket.getsockname()[1]
        waiting = relay.connect().send(line(token))
        relay.wait_for(waiting=1)
        expected = [f"a connection from 127.0.0.1 port {port} (transit): errory",
                    f"a connection from 127.0.0.1 port {waiting.socket.getsockname()[1]} (transit): "
                    "handed over"]
        wait_until(lambda: all(text in relay.log() for text in expected), "the two lines")
        assert token.decode() not in relay.log()


@behaviour()
def status_as_openmetrics_counts_and_names_no_client():
    with Relay() as relay:
        waiting = relay.connect().send(line(new_token()))
        pair = make_pair(relay)
        relay.wait_for(waiting=1, joined=2)
        text = subprocess.run(
            [RELAY, "status", "--openmetrics", f"--runtime-dir={relay.runtime}"],
            stdout=subprocess.PIPE, check=True, encoding="ascii").stdout
        assert text.endswith("# EOF\n"), text
        samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
        assert samples['relay_connections{state="waiting"}'] == "1", samples
        assert samples['relay_connections{state="joined"}'] == "2", samples
        assert samples['relay_outcomes_total{protocol="transit",outcome="happy"}'] == "0", samples
        families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
        for sample in samples:
            name = sample.partition("{")[0]
            assert name in families or name.removesuffix("_total") in families, sample
        for end in (waiting, *pair):
            end.close()


@behaviour()
def a_client_that_waits_for_news_leaves_no_record():
    with Records() as records:
        alice, bob = (introduced(records.relay, peer, "doc") for peer in ("alice", "bob"))
        expect_introduction(bob, "alice", "doc")
        alice.close()
        bob.close_politely()
        introduced(records.relay, "alice").reset()
        records.relay.wait_for(used=0)
        in_one_file(make_pair(records.relay))
        assert records.wait(1)[0]["mood"] == "happy"
        counts = records.relay.status()["protocols"]["localfirst"]
        assert counts["happy"] == 0, counts


if __name__ == "__main__":
    run()
