"""What all benchmarks share: carriers that are started, loaded and measured, turns that
are taken, and one way to print the figures beside their goals."""

import argparse
import operator
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

BENCH = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(BENCH)
BUILD = os.path.join(TOP, "build")
TICKS = os.sysconf("SC_CLK_TCK")


class Missing(Exception):
    """A peer that is not there."""


def arguments(description):
    """A parser of what all benchmarks understand."""
    parser = argparse.ArgumentParser(description=description.split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="less of everything")
    return parser


def raise_descriptors():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def build_generator(name, *libraries):
    """A load generator's path."""
    program = os.path.join(BUILD, name)
    sources = [os.path.join(BENCH, source) for source in (f"{name}.c", "measure.c")]
    subprocess.run([os.environ.get("CC", "gcc"), "-O2", "-D_GNU_SOURCE", "-pthread", "-o", program,
                    *sources, *libraries], check=True)
    return program


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# ---- processes -----------------------------------------------------------------------

def processes_under(pid):
    """A process and all its descendants."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="ascii", errors="replace") as file:
                    parents[int(entry)] = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                pass
    found = [pid]
    for one in found:
        found.extend(child for child, parent in parents.items() if parent == one)
    return found


def processor_time(pid):
    """Processor seconds of a process and all its descendants, also of ended ones."""
    total = 0
    for one in processes_under(pid):
        try:
            with open(f"/proc/{one}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(field) for field in fields[11:15])
    return total / TICKS


def memory(pid):
    """Bytes of a process and all its descendants; shared bytes are divided among those that share them."""
    total = 0
    for one in processes_under(pid):
        try:
            with open(f"/proc/{one}/smaps_rollup", encoding="ascii") as file:
                for text in file:
                    if text.startswith("Pss:"):
                        total += int(text.split()[1]) * 1024
        except OSError:
            pass
    return total


# ---- carriers ------------------------------------------------------------------------

class Carrier:
    """A server that carries bytes between two of our connections."""

    name = None
    pairs = True  # it pairs its clients, rather than connecting them to a server of ours

    def __init__(self, directory):
        self.port = free_port()
        self.directory = tempfile.mkdtemp(dir=directory)
        os.chmod(self.directory, 0o755)
        self.process = None

    def command(self):
        """What starts it; None where nothing is to be started."""
        raise NotImplementedError

    def generator(self, mode):
        """What starts the load generator; numbers follow."""
        raise NotImplementedError

    def start(self):
        command = self.command()
        if command is None:
            return
        log = open(os.path.join(self.directory, "log"), "wb")
        self.process = subprocess.Popen(command, cwd=self.directory, stdin=subprocess.DEVNULL,
                                        stdout=log, stderr=log)
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                break
            except OSError:
                if self.process.poll() is not None or time.monotonic() > until:
                    self.stop()
                    raise Missing(f"{self.name} does not start") from None
                time.sleep(0.05)
        time.sleep(0.3)

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def load(self, mode, *numbers):
        output = subprocess.run([*self.generator(mode), *map(str, numbers)],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                check=True, timeout=300).stdout
        return [float(word) for word in output.split()]

    def settled_memory(self):
        """The memory that is used once no process starts or ends any more."""
        processes = None
        while processes != (now := processes_under(self.process.pid)):
            processes = now
            time.sleep(2)
        return memory(self.process.pid)

    def memory_each(self, count, what):
        before = self.settled_memory()
        held = subprocess.Popen([*self.generator("hold"), str(count), what],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        held.stdout.readline()
        grown = self.settled_memory() - before
        held.stdin.close()
        held.wait()
        return grown / count


def measure(carrier, sizes):
    """Measures everything but memory of one carrier, once."""
    figures = {}
    server = carrier.process is not None
    for pairs in (1, 8):
        counted = f"{pairs} pair{'s' * (pairs > 1)}"
        each = sizes["bytes"] // pairs
        gigabytes = each * pairs / 1e9
        before = processor_time(carrier.process.pid) if server else 0
        figures[f"throughput, {counted}"] = gigabytes / carrier.load("throughput", pairs, each)[0]
        if server:
            spent = processor_time(carrier.process.pid) - before
            figures[f"processor per GB, {counted}"] = spent / gigabytes
    figures["round trip p50"], figures["round trip p99"] = carrier.load("latency", sizes["rounds"])
    if carrier.pairs:
        figures["pairs set up, 4 clients"] = carrier.load("setup", 4, sizes["seconds"])[0]
    return figures


def measure_memory(carrier, sizes):
    return {"memory per waiting connection": carrier.memory_each(sizes["waiting"], "waiting"),
            "memory per idle pair": carrier.memory_each(sizes["pairs"], "pairs")}


def take_turns(kinds, rounds, given, look):
    """The medians of each kind's figures, which carriers are missing, and why. Each turn has a new
    carrier, made with the arguments `given`; look(carrier, first) returns its figures; first: it is the
    kind's first turn."""
    collected, missing = {}, {}
    for number in range(rounds):
        for kind in kinds:
            if kind.name in missing:
                continue
            print(f"round {number + 1} of {rounds}: {kind.name:20}", end="\r", file=sys.stderr)
            carrier = kind(*given)
            try:
                carrier.start()
                for row, value in look(carrier, number == 0).items():
                    collected.setdefault(kind.name, {}).setdefault(row, []).append(value)
            except Missing as reason:
                missing[kind.name] = str(reason)
            except subprocess.SubprocessError as error:
                missing[kind.name] = f"does not serve: {error}"
            finally:
                carrier.stop()
    print(" " * 60, end="\r", file=sys.stderr)
    return {name: {row: statistics.median(values) for row, values in figures.items()}
            for name, figures in collected.items()}, missing


# ---- printing -----------------------------------------------------------------

# By a row's first word, in the order of the table.
UNITS = {"throughput": "GB/s", "processor": "s/GB", "round": "us", "pairs": "1/s",
         "handshakes": "1/s", "handshake": "us", "memory": "bytes"}
COMPARISONS = {"<=": operator.le, ">=": operator.ge}


def first_word(row):
    return row.split()[0].rstrip(",")


def text_of(value, unit):
    if value is None:
        return "-"
    return f"{value:.3f}" if unit in ("GB/s", "s/GB") else f"{value:,.0f}"


def print_table(results):
    """results: by name, then by row. Ratios are to relay's."""
    names = list(results)
    rows = []
    for figures in results.values():
        rows.extend(row for row in figures if row not in rows)
    rows.sort(key=lambda row: [*UNITS].index(first_word(row)))
    titles = {row: f"{row}, {UNITS[first_word(row)]}" for row in rows}
    width = max(map(len, titles.values()))
    print(f"{'':{width}}" + "".join(f"{name:>15}" for name in names)
          + "".join(f"{'relay/' + name:>21}" for name in names if name != "relay"))
    for row in rows:
        ours = results["relay"].get(row)
        cells = [text_of(results[name].get(row), UNITS[first_word(row)]) for name in names]
        ratios = []
        for name in names:
            theirs = results[name].get(row)
            if name != "relay":
                ratios.append(f"{ours / theirs:.2f}" if ours is not None and theirs else "-")
        print(f"{titles[row]:{width}}" + "".join(f"{cell:>15}" for cell in cells)
              + "".join(f"{ratio:>21}" for ratio in ratios))


def print_goals(results, goals):
    """What relay is meant to reach: a row, a comparison and a limit, of the ratio to a peer's or,
    where none is named, of relay's own."""
    print("\ngoals")
    for row, comparison, limit, peer in goals:
        if peer is None:
            unit = UNITS[first_word(row)]
            value, text = results["relay"][row], f"{text_of(limit, unit)} {unit}"
            shown = f"{text_of(value, unit)} {unit}"
        elif peer in results:
            value, text = results["relay"][row] / results[peer][row], f"{limit:.2f} of {peer}"
            shown = f"{value:.2f}"
        else:
            print(f"  open    {row}: {peer} was not measured")
            continue
        met = COMPARISONS[comparison](value, limit)
        print(f"  {'met   ' if met else 'missed'}  {row}: {shown}, goal {comparison} {text}")


def report(title, results, missing, goals):
    """Prints a table, the carriers that are missing, and the goals. Ends the program if relay is missing."""
    if "relay" not in results:
        sys.exit(f"relay was not measured: {missing['relay']}")
    print(f"\n{title}, {os.cpu_count()} processors")
    print_table(results)
    for name, reason in missing.items():
        print(f"skipped: {name}: {reason}")
    if goals:
        print_goals(results, goals)
