"""The soak: relay as README installs it, under a systemd of its own (systemd_boot.py), at work with
clients of every protocol for $SOAK_SECONDS. What is done there is soak_inside.py's."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir))

from systemd_boot import run_inside  # pylint: disable=wrong-import-position

if __name__ == "__main__":
    run_inside("the soak", "soak/soak_inside.py", os.environ.get("SOAK_SECONDS", "600"))
