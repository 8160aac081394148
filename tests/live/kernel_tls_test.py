"""TLS carried by the kernel: what tls_test.py says of bytes, ends and refusals, under a kernel that
can do it. Few machines' kernels have that loaded, so Debian's user-mode-linux is booted as a process
here, on the files that there are; its version of OpenSSL has the kernel carry TLS 1.2."""

import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

from harness import TOP, Skip, behaviour, run

BOOT_TIME = 300  # seconds for all of it
MODULES = ("crypto/gf128mul", "crypto/ghash-generic", "crypto/ctr", "crypto/gcm", "net/tls/tls")
BEHAVIOURS = (r"kernel carries|end of file is passed|without a close notify|vanishes|slow reader|"
              r"every size|a client that waits|judged as any other|full relay|"
              r"(same port|large|byte by byte|page|offset nodes|websocket pairs).*\[(serve|accept)\]")

# Process 1 of the machine inside. Only a real file system tells a file's owner.
INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin TMPDIR=/run/t PYTHONDONTWRITEBYTECODE=1 TLS_1_2=1
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -m 1777 /run/t
ip link set lo up
{python} - {modules} <<'END'
import ctypes, os, sys
for path in sys.argv[1:]:
    module = os.open(path, os.O_RDONLY)
    if ctypes.CDLL(None).syscall({finit_module}, module, b"", 0) != 0:
        print("cannot load", path)
END
cd {top}
RELAY={relay} {python} tests/live/tls_test.py "{behaviours}" > {out} 2>&1
sync
echo o > /proc/sysrq-trigger
sleep 60
"""


def modules_of(root):
    found = [glob.glob(f"{root}/*/kernel/{name}.ko") for name in MODULES]
    if not all(found):
        raise Skip("user-mode-linux has no TLS module here")
    return [paths[0] for paths in found]


def boot(work):
    program = shutil.which("linux.uml")
    if program is None:
        raise Skip("Debian's user-mode-linux is not installed")
    if os.geteuid() != 0 or os.uname().machine != "x86_64":
        raise Skip("it takes root, on x86-64")
    init, out = os.path.join(work, "init"), os.path.join(work, "out")
    relay = os.path.abspath(os.environ.get("RELAY", os.path.join(TOP, "build", "relay")))
    with open(init, "w", encoding="ascii") as file:
        file.write(INIT.format(
            python=sys.executable, modules=" ".join(modules_of("/usr/lib/uml/modules")),
            finit_module=313, top=TOP, relay=relay, behaviours=BEHAVIOURS, out=out))
    os.chmod(init, 0o755)
    subprocess.run(
        [program, "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", "mem=512M",
         f"init={init}", f"uml_dir={work}", "con=null", "con0=null,fd:1"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        timeout=BOOT_TIME)
    with open(out, encoding="utf-8") as file:
        return file.read()


@behaviour()
def tls_test_passes_where_the_kernel_carries_TLS():
    with tempfile.TemporaryDirectory(prefix="relay-kernel-") as work:
        said = boot(work)
    sys.stdout.write("".join(f"#   inside: {line}\n" for line in said.splitlines()))
    total = re.search(r"^# (\d+) passed, (\d+) failed, (\d+) skipped", said, re.MULTILINE)
    assert total and int(total[1]) > 0 and total[2] == total[3] == "0", "see above"


if __name__ == "__main__":
    run()
