"""Certificates and their keys: missing, late, unusable, renewed; and `relay run-relay-server`, which
requires one."""

import os
import shutil
import subprocess

from harness import (PATIENCE, RELAY, Relay, Skip, behaviour, exchange, free_port, make_pair, meet,
                     run)
from tls_client import FIRST, SECOND, Certificate, Secure, renewable, secure_relay, work

WAYS = Relay.MODES


@behaviour(*WAYS)
def a_renewed_certificate_serves_the_next_connection(how):
    certificate = renewable("renewed-" + how)
    with secure_relay(how, certificate) as relay:
        kept = meet(Secure(relay), relay.connect())
        for _ in range(5):
            for installed in (SECOND, FIRST):
                installed.install_as(certificate)
                with Secure(relay, installed.context()) as client:
                    assert client.name() == os.path.basename(installed.certfile)[:-4]
        exchange(*kept)


def as_root_only():
    if os.geteuid() != 0:
        raise Skip("only root can drop root")
    certificate = renewable("root-only")
    os.chmod(certificate.keyfile, 0o600)
    directory = os.path.join(work, "closed")
    os.makedirs(directory, exist_ok=True)
    os.chmod(directory, 0o700)
    for name in ("certfile", "keyfile"):
        path = os.path.join(directory, os.path.basename(getattr(certificate, name)))
        shutil.copy(getattr(certificate, name), path)
        setattr(certificate, name, path)
    os.chmod(certificate.keyfile, 0o600)
    return certificate


@behaviour("serve", "accept", "activate")
def a_key_that_only_root_may_read_serves_and_is_renewed_after_root_is_dropped(how):
    certificate = as_root_only()
    with secure_relay(how, certificate) as relay:
        with Secure(relay) as client:
            assert client.name() == "first"
        SECOND.install_as(certificate)
        os.chmod(certificate.keyfile, 0o600)
        with Secure(relay, SECOND.context()) as client:
            assert client.name() == "second"
        for worker in relay.workers():
            assert user_of(worker) != 0


def user_of(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return int(next(text for text in file if text.startswith("Uid:")).split()[1])


@behaviour("a broken certificate", "the key of another", "no file at all", "an empty file",
           "a file without end")
def a_certificate_that_cannot_be_used_leaves_the_one_before_and_is_logged_once(what):
    certificate = renewable("spoilt")
    with secure_relay(certificate=certificate) as relay:
        with Secure(relay):
            pass
        if what == "a broken certificate":
            with open(certificate.certfile, "w", encoding="ascii") as file:
                file.write("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        elif what == "the key of another":
            shutil.copy(SECOND.keyfile, certificate.keyfile)
        elif what == "no file at all":
            os.unlink(certificate.keyfile)
        elif what == "an empty file":
            with open(certificate.certfile, "wb"):
                pass
        else:
            os.unlink(certificate.certfile)
            os.symlink("/dev/zero", certificate.certfile)
        for _ in range(20):
            with Secure(relay) as client:
                assert client.name() == "first"
        assert relay.log().count("stays in use") == 1, relay.log()
        SECOND.install_as(certificate)
        with Secure(relay, SECOND.context()) as client:
            assert client.name() == "second"


UNUSABLE = {
    "missing": (lambda: [f"--certfile={work}/none"], "cannot read"),
    "no key in it": (lambda: [f"--certfile={FIRST.certfile}"], "cannot use the certificate"),
    "another's key": (
        lambda: [f"--certfile={FIRST.certfile}", f"--keyfile={SECOND.keyfile}"], "mismatch"),
}


def expect_tls_refused(relay):
    with relay.connect() as client:
        client.send(b"\x16\x03\x01\x00\x05hello").expect(b"\x15\x03\x01\0\2\2\50")
        client.expect_end()


@behaviour(*UNUSABLE)
def a_certificate_that_cannot_be_used_at_the_start_takes_nothing_from_plain_clients(what):
    options, expected = UNUSABLE[what]
    with Relay(options=options()) as relay:
        exchange(*make_pair(relay))
        for _ in range(3):
            expect_tls_refused(relay)
        exchange(*make_pair(relay))
        log = relay.log()
        assert log.count(expected) == 1, log  # and not once for each connection
        assert "TLS is not served until the certificate can be used" in log, log


@behaviour("accept", "inetd")
def a_worker_without_a_usable_certificate_serves_plain_clients(how):
    with Relay(how, options=UNUSABLE["missing"][0]()) as relay:
        exchange(*make_pair(relay))
        expect_tls_refused(relay)
        if how != "inetd":  # which logs to syslog
            assert "TLS is not served until" in relay.log(), relay.log()


@behaviour("ec", "rsa")
def a_certificate_that_comes_late_serves_the_next_connection(kind):
    certificate = Certificate("late-" + kind, kind)
    context = certificate.context()
    kept = certificate.certfile + ".kept"
    os.rename(certificate.certfile, kept)
    with secure_relay(certificate=certificate) as relay:
        for _ in range(2):
            expect_tls_refused(relay)
        assert relay.log().count("cannot read") == 1, relay.log()
        with open(certificate.certfile, "w", encoding="ascii") as file:
            file.write("no certificate\n")
        for _ in range(2):
            expect_tls_refused(relay)
        assert relay.log().count("TLS is still not served") == 1, relay.log()
        os.rename(kept, certificate.certfile)
        exchange(*meet(Secure(relay, context), Secure(relay, context)))
        log = relay.log()
        assert "using the renewed certificate" in log and "killed" not in log, log


@behaviour()
def a_key_without_a_certificate_is_a_wrong_option():
    result = subprocess.run([RELAY, "serve", f"--keyfile={FIRST.keyfile}"], stderr=subprocess.PIPE,
                            check=False, timeout=PATIENCE)
    text = result.stderr.decode()
    assert result.returncode == 2 and text.count("\n") == 1, (result.returncode, text)
    assert "expected --certfile" in text, text


@behaviour(*UNUSABLE)
def run_relay_server_does_not_start_without_a_certificate_that_it_can_use(what):
    options, expected = UNUSABLE[what]
    result = subprocess.run(
        [RELAY, "run-relay-server", "127.0.0.1", str(free_port()), f"--runtime-dir={work}/none-run",
         *options()], stderr=subprocess.PIPE, check=False, timeout=PATIENCE)
    text = result.stderr.decode()
    assert result.returncode == 1 and text.count("\n") == 1, (result.returncode, text)
    assert expected in text, text


@behaviour()
def a_key_in_the_certificates_own_file_needs_no_other():
    both = os.path.join(work, "both.pem")
    with open(both, "wb") as file:
        for part in (FIRST.certfile, FIRST.keyfile):
            with open(part, "rb") as source:
                file.write(source.read())
    with Relay(options=[f"--certfile={both}"]) as relay:
        exchange(*meet(Secure(relay), Secure(relay)))


@behaviour()
def a_bare_name_is_one_of_systemds_credentials():
    directory = os.path.join(work, "credentials")
    os.makedirs(directory, exist_ok=True)
    shutil.copy(FIRST.certfile, os.path.join(directory, "cert"))
    shutil.copy(FIRST.keyfile, os.path.join(directory, "key"))
    with Relay(options=["--certfile=cert", "--keyfile=key"],
               environment={"CREDENTIALS_DIRECTORY": directory}) as relay:
        exchange(*meet(Secure(relay), Secure(relay)))


# ---- p2p-copy's own spelling ----------------------------------------------------------


@behaviour()
def run_relay_server_requires_a_certificate_or_no_tls():
    result = subprocess.run(
        [RELAY, "run-relay-server", "127.0.0.1", str(free_port()), f"--runtime-dir={work}/none-run"],
        stderr=subprocess.PIPE, check=False, timeout=PATIENCE)
    text = result.stderr.decode()
    assert result.returncode != 0 and text.count("\n") == 1, text
    assert "--certfile" in text and "--no-tls" in text, text


@behaviour()
def run_relay_server_takes_host_and_port_anywhere_and_nothing_else():
    for words in ([], ["127.0.0.1"], ["127.0.0.1", "8765", "more"], ["127.0.0.1", "x"],
                  ["127.0.0.1", "65536"], ["", ""]):
        result = subprocess.run(
            [RELAY, "run-relay-server", "--no-tls", *words, f"--runtime-dir={work}/none-run"],
            stderr=subprocess.PIPE, check=False, timeout=PATIENCE)
        text = result.stderr.decode()
        assert result.returncode == 2 and text.count("\n") == 1, (words, text)


class RelayServer(Relay):
    """run-relay-server, with its words in the order given."""

    def __init__(self, *words):
        self.words = words
        super().__init__()

    def _command(self, address):
        words = [str(self.port) if word == "PORT" else word for word in self.words]
        return [RELAY, "run-relay-server", *words, *self.options]


@behaviour()
def run_relay_server_serves_with_TLS():
    with RelayServer("127.0.0.1", "PORT", "--tls", "--certfile", FIRST.certfile,
                     "--keyfile", FIRST.keyfile) as relay:
        exchange(*meet(Secure(relay), Secure(relay)))


@behaviour()
def run_relay_server_serves_without_TLS():
    with RelayServer("--no-tls", "127.0.0.1", "--max-use", "3", "PORT") as relay:
        exchange(*make_pair(relay))


if __name__ == "__main__":
    run()
