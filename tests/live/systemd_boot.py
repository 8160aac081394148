"""A systemd of one's own, booted as process 1 of namespaces: over an overlay of `/`, so that nothing
here is touched, and in a control group and directories of its own, so that several may run at once.
What is done inside is another program's, which runs there as a process of that system."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

from harness import PATIENCE, TOP, children, process_name

MASKED = """
    systemd-udevd.service systemd-udev-trigger.service systemd-udevd-control.socket
    systemd-udevd-kernel.socket systemd-modules-load.service systemd-sysctl.service
    systemd-random-seed.service systemd-update-utmp.service systemd-firstboot.service
    systemd-machine-id-commit.service systemd-timesyncd.service systemd-networkd.service
    systemd-networkd.socket systemd-resolved.service systemd-pstore.service
    systemd-hwdb-update.service systemd-sysusers.service systemd-remount-fs.service
    systemd-binfmt.service dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount
    sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount
    proc-sys-fs-binfmt_misc.automount systemd-ask-password-console.path
    systemd-ask-password-wall.path kmod-static-nodes.service modprobe@configfs.service
    modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service modprobe@dm_mod.service
    modprobe@loop.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer
    e2scrub_all.timer fstrim.timer man-db.timer logrotate.timer dbus.socket dbus.service
""".split()

# Runs as the first process of the new namespaces: moves into a control group of its own, which is
# to be the root of the system's view of them, and goes on with BOOT.
ENCLOSE = r"""
set -e
work=$1 group=$2
mount --make-rprivate /
mount -t tmpfs tmpfs "$work"
mkdir "$work/groups"
mount -t cgroup2 cgroup2 "$work/groups"
mkdir "$work/groups/$group"
echo 0 > "$work/groups/$group/cgroup.procs"
exec unshare --cgroup sh -c "$BOOT" sh "$@"
"""

# Ends as systemd.
BOOT = r"""
set -e
work=$1 source=$3
shift 3
umount "$work/groups"
mkdir "$work/upper" "$work/work" "$work/root"
mount -t overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" overlay "$work/root"
cd "$work/root"
mkdir -p srv/relay
mount --bind "$source" srv/relay
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
: > etc/fstab
rm -f etc/machine-id
echo 0123456789abcdef0123456789abcdef > etc/machine-id
rm -rf etc/default/relay var/lib/relay etc/systemd/system/*.wants
for unit in "$@"; do ln -sf /dev/null "etc/systemd/system/$unit"; done
mkdir -p old
pivot_root . old; cd /
# Shared, as at any boot: what systemd mounts for a service has to reach that.
exec chroot . sh -c 'umount -l /old && mount --make-rshared / && exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=basic.target --log-target=journal --show-status=0'
"""

# Removes the control groups that a system has left behind.
REMOVE = r"""
mount -t cgroup2 cgroup2 "$1" && find "$1/$2" -depth -type d -exec rmdir {} +
"""


class Unavailable(Exception):
    """systemd cannot be booted here."""


class System:
    """A systemd that runs, and commands in it."""

    def __init__(self):
        if os.geteuid() != 0:
            raise Unavailable("it takes root to make namespaces")
        for program in ("/lib/systemd/systemd", "unshare", "nsenter", "ip"):
            if shutil.which(program) is None:
                raise Unavailable(f"{program} is not installed")
        self.work = tempfile.mkdtemp(prefix="relay-test-systemd-", dir="/run")
        self.group = self._own_group() + "/" + os.path.basename(self.work)
        self.outer = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child",
             "sh", "-c", ENCLOSE, "sh", self.work, self.group, TOP, *MASKED],
            env=dict(os.environ, BOOT=BOOT), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT)
        try:
            self.init = self._wait_for(self._find_init, "systemd to start")
            self._wait_for(self._is_up, "systemd to come up")
        except BaseException:
            self.stop()
            raise
        self.run("ip", "link", "set", "lo", "up")

    @staticmethod
    def _own_group():
        """The control group (of version 2) that this process is in."""
        with open("/proc/self/cgroup", encoding="ascii") as file:
            found = re.search(r"^0::(.*)$", file.read(), re.MULTILINE)
        if not found:
            raise Unavailable("there are no control groups of version 2")
        return found[1].strip("/")

    def _wait_for(self, condition, what):
        until = time.monotonic() + 3 * PATIENCE
        while time.monotonic() < until:
            value = condition()
            if value:
                return value
            if self.outer.poll() is not None:
                raise Unavailable("systemd does not boot in namespaces here: " +
                                  self.outer.stdout.read().decode().strip())
            time.sleep(0.05)
        raise Unavailable(f"waited in vain for {what}")

    def _find_init(self):
        for pid in children(self.outer.pid):
            if process_name(pid) == "systemd":
                return pid
        return None

    def command(self, *arguments):
        return ["nsenter", f"--target={self.init}", "--all", "env", "-C", "/", "-i",
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *arguments]

    def run(self, *arguments):
        return subprocess.run(self.command(*arguments), stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE,
                              check=False)

    def _is_up(self):
        state = self.run("systemctl", "is-system-running").stdout.strip()
        return state in (b"running", b"degraded")

    def stop(self):
        for pid in children(self.outer.pid):
            os.kill(pid, 9)  # process 1 takes all others of its namespace with it
        self.outer.wait(PATIENCE)
        subprocess.run(["unshare", "--mount", "sh", "-c", REMOVE, "sh", self.work, self.group],
                       stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(self.work, ignore_errors=True)


def run_inside(what, program, *arguments):
    """Boots a systemd, runs one of our programs in it, which counts as harness.run() does, and exits
    with its status. what: it is called in what is said if it cannot be run."""
    try:
        system = System()
    except Unavailable as reason:
        print(f"skip - {what}: {reason}")
        print("# 0 passed, 0 failed, 1 skipped")
        sys.exit(0)
    counted, status = False, 1
    try:
        inside = subprocess.Popen(
            system.command("/usr/bin/python3", "-u", f"/srv/relay/tests/live/{program}", *arguments),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        for text in inside.stdout:
            sys.stdout.write(text.decode(errors="replace"))
            sys.stdout.flush()
            counted = counted or re.match(rb"# \d+ passed", text)
        status = inside.wait()
    finally:
        system.stop()
    if not counted:
        print(f"not ok - {what}: it did not come to its end")
        print("# 0 passed, 1 failed, 0 skipped")
        status = 1
    sys.exit(status)
