"""relay under a real systemd. What is tested is systemd_inside.py's, which runs in a system of its
own (systemd_boot.py)."""

import sys

from systemd_boot import run_inside

if __name__ == "__main__":
    run_inside("relay under systemd", "systemd_inside.py", *sys.argv[1:])
