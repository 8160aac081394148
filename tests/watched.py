"""What runs tests, here and for other processors (tests/cross): a test that is watched to its end."""

import os
import re
import subprocess
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PYTHON = "/usr/bin/python3"  # the one that Debian's packages are for

# What a unit test and a live test print last: their counts.
UNIT_TOTAL = re.compile(rb"^\d+%: Checks: (\d+), Failures: (\d+), Errors: (\d+)", re.M)
LIVE_TOTAL = re.compile(rb"^# (\d+) passed, (\d+) failed, (\d+) skipped", re.M)


def watch(command, environment, limit):
    """Runs a test. Returns what it printed, its exit status, and the seconds that it took. After
    `limit` seconds it hangs, and is killed."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=TOP, env=environment, stdin=subprocess.DEVNULL,
                                   stdout=output, stderr=subprocess.STDOUT)
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            status = f"{process.wait()}, as it took longer than {limit} s"
        output.seek(0)
        return output.read(), status, time.monotonic() - started


def counts(total, printed):
    """The three numbers that a test has printed last; None: it did not come to its end."""
    found = total.findall(printed)
    return [int(number) for number in found[-1]] if found else None
