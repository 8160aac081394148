"""make install puts everything where it belongs, under a prefix and a DESTDIR, and make uninstall
takes all of it away again, and nothing else."""

import contextlib
import os
import re
import stat
import subprocess
import tempfile

from harness import PATIENCE, RELAY, TOP, Skip, behaviour, run

UNITS = ("relay.socket", "relay@.service", "relay-forward.socket", "relay-forward.service",
         "relay-prefork.socket", "relay-prefork.service", "relay-check.path",
         "relay-check.service", "relay-failed.service")
SOURCE_DOCUMENTS = ("README.md", "SECURITY.md", "CHANGELOG.md", "LICENSE")
DOCUMENTS = (*SOURCE_DOCUMENTS, "relay.xinetd", "relay.inetd", "haproxy.cfg", "nginx-stream.conf",
             "nginx-web.conf", "run", "run-s6", "supervisord.conf", "relay.init")
PAGES = ("man1/strelay.1", "man1/stmgr.1", "man7/relay-protocols.7", "man7/relay-proxies.7",
         "man8/relay.8")
LINKS = ("strelay", "stmgr")
STARTERS = ("relay@.service", "relay-forward.service", "relay-prefork.service", "relay-check.service",
            "relay.socket", "relay-prefork.socket", "relay.xinetd", "relay.inetd", "run", "run-s6",
            "supervisord.conf", "relay.init")  # files that name the program


def expected(prefix):
    """All that is installed."""
    return {f"{prefix}/bin/relay", *(f"{prefix}/bin/{name}" for name in LINKS),
            *(f"{prefix}/share/man/{name}" for name in PAGES),
            *(f"{prefix}/share/doc/relay/{name}" for name in DOCUMENTS),
            *(f"/etc/systemd/system/{name}" for name in UNITS),
            "/usr/lib/sysusers.d/relay.conf", "/usr/lib/tmpfiles.d/relay.conf"}


class Root:
    """A directory that stands for the root of a file system."""

    def __init__(self, path):
        self.path = path

    def make(self, target, *variables, umask=0o022):
        """Installs what was built, with no variable from a make around this one."""
        result = subprocess.run(
            ["make", "--no-print-directory", target, f"BUILD={os.path.dirname(RELAY)}",
             f"DESTDIR={self.path}", *variables], cwd=TOP, env={"PATH": os.environ["PATH"]},
            umask=umask, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        assert result.returncode == 0, result.stdout.decode()

    def files(self):
        return {"/" + os.path.relpath(os.path.join(directory, name), self.path)
                for directory, _, names in os.walk(self.path) for name in names}

    def find(self, name):
        [path] = [path for path in self.files() if os.path.basename(path) == name]
        return path

    def read(self, name):
        with open(self.path + self.find(name), encoding="utf-8") as file:
            return file.read()


@contextlib.contextmanager
def installed(prefix=None, **how):
    with tempfile.TemporaryDirectory(prefix="relay-install-") as path:
        root = Root(path)
        root.make("install", *([f"prefix={prefix}"] if prefix else []), **how)
        yield root


@behaviour("/usr", "/usr/local", "/opt/relay")
def every_file_and_no_other_is_installed_under_the_prefix_in_the_destdir(prefix):
    with installed(prefix) as root:
        assert root.files() == expected(prefix), root.files() ^ expected(prefix)


@behaviour()
def the_prefix_is_usr_local_if_none_is_given():
    with installed() as root:
        assert root.files() == expected("/usr/local"), root.files() ^ expected("/usr/local")


@behaviour()
def installed_files_are_equal_to_those_of_the_source():
    with installed("/usr") as root:
        sources = {**{name: "." for name in SOURCE_DOCUMENTS},
                   "relay-forward.socket": "units",
                   **{name: "samples" for name in DOCUMENTS
                      if name.endswith((".cfg", ".conf")) and name not in STARTERS},
                   **{os.path.basename(name): "man" for name in PAGES}}
        for name, directory in sources.items():
            with open(os.path.join(TOP, directory, name), encoding="utf-8") as file:
                assert root.read(name) == file.read(), name


@behaviour("/usr", "/usr/local")
def units_and_scripts_name_relay_by_its_prefix_and_not_by_the_destdir(prefix):
    with installed(prefix) as root:
        for name in STARTERS:
            named = re.findall(r"[^\s=]*/relay(?= |$)", root.read(name), re.MULTILINE)
            assert f"{prefix}/bin/relay" in named, (name, named)
        for name in (*UNITS, *DOCUMENTS):
            text = root.read(name)
            assert root.path not in text and "@BINDIR@" not in text, name


@behaviour()
def strelay_and_stmgr_are_links_to_relay_that_hold_wherever_the_root_is():
    with installed("/usr") as root:
        for name in LINKS:
            assert os.readlink(f"{root.path}/usr/bin/{name}") == "relay"
        for name in ("relay", *LINKS):
            said = subprocess.run([f"{root.path}/usr/bin/{name}", "--help"], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, check=True, timeout=PATIENCE).stdout
            assert name.encode() in said, said


@behaviour("022", "077")
def everybody_may_read_all_of_it_and_run_the_program(umask):
    with installed("/usr", umask=int(umask, 8)) as root:
        for path in root.files():
            mode = stat.S_IMODE(os.stat(root.path + path).st_mode)
            assert mode == (0o755 if path.startswith("/usr/bin/") else 0o644), f"{path}: {mode:o}"
        for directory, _, _ in os.walk(root.path):
            mode = stat.S_IMODE(os.stat(directory).st_mode)
            assert directory == root.path or mode == 0o755, f"{directory}: {mode:o}"


@behaviour("/usr", "/opt/relay")
def uninstall_removes_every_installed_file_and_no_other(prefix):
    with installed(prefix) as root:
        root.make("install", f"prefix={prefix}")  # over what is there
        others = {f"{prefix}/bin/relayed", "/etc/systemd/system/other.service"}
        for path in others:
            with open(root.path + path, "w", encoding="ascii"):
                pass
        root.make("uninstall", f"prefix={prefix}")
        assert root.files() == others, root.files() ^ others
        assert not os.path.exists(f"{root.path}{prefix}/share/doc/relay")


@behaviour()
def uninstall_removes_what_the_units_note_of_workers_that_fail():
    with installed() as root:
        [noted] = re.findall(r"> (/run/[\w-]+)", root.read("relay-failed.service"))
        os.mkdir(f"{root.path}/run")
        with open(root.path + noted, "w", encoding="ascii"):
            pass
        root.make("uninstall")
        assert root.files() == set(), root.files()


@behaviour()
def uninstall_where_nothing_is_installed_is_no_failure():
    with tempfile.TemporaryDirectory(prefix="relay-install-") as path:
        Root(path).make("uninstall", "prefix=/usr")


def install_here(place, hidden=(), user=0, destdir=""):
    """What make says of installing, and the users that there are then. /etc is a
    copy, and relay goes elsewhere; hidden: programs that are not there."""
    if os.geteuid() != 0:
        raise Skip("this needs root")
    os.chmod(place, 0o777)
    hide = "".join(f"mount --bind /dev/null {path} && " for path in hidden if os.path.exists(path))
    script = (f"cp -a /etc {place}/etc && mount --bind {place}/etc /etc && "
              "sed -i /^relay:/d /etc/passwd /etc/group /etc/shadow /etc/gshadow && "
              f"{hide} setpriv --reuid={user} --clear-groups \"$@\"")
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", "make", "--no-print-directory", "install",
         f"BUILD={os.path.dirname(RELAY)}", f"prefix={place}/usr", f"unitdir={place}/units",
         f"sysusersdir={place}/sysusers", f"tmpfilesdir={place}/tmpfiles", f"DESTDIR={destdir}"],
        cwd=TOP, env={"PATH": os.environ["PATH"]}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        check=False)
    assert result.returncode == 0, result.stdout.decode()
    with open(f"{place}/etc/passwd", encoding="utf-8") as file:
        users = [entry.split(":") for entry in file]
    return result.stdout.decode(), [user for user in users if user[0] == "relay"]


SYSUSERS, USERADD = "/usr/bin/systemd-sysusers", "/usr/sbin/useradd"


@behaviour("systemd-sysusers", "useradd")
def the_user_is_made_where_no_systemd_runs(program):
    with tempfile.TemporaryDirectory(prefix="relay-install-") as place:
        said, users = install_here(place, hidden=[SYSUSERS] if program == "useradd" else [USERADD])
        [(_, _, uid, gid, *_, shell)] = users
        assert 0 < int(uid) < 1000 and 0 < int(gid) < 1000, users
        assert shell.strip().endswith("nologin"), users
        assert "could not be made" not in said, said


@behaviour("no program for it", "not as root")
def where_the_user_cannot_be_made_install_says_how_to_make_it(why):
    with tempfile.TemporaryDirectory(prefix="relay-install-") as place:
        hidden = [SYSUSERS, USERADD, "/usr/sbin/addgroup"] if why == "no program for it" else []
        said, users = install_here(place, hidden, user=31234 if why == "not as root" else 0)
        assert users == [], users
        assert "useradd --system" in said, said


@behaviour()
def an_install_for_elsewhere_makes_no_user_here():
    with tempfile.TemporaryDirectory(prefix="relay-install-") as place:
        said, users = install_here(place, destdir=f"{place}/root")
        assert users == [] and "useradd" not in said, said


if __name__ == "__main__":
    run()
