"""--check says what a role would use and what is wrong with it, and leaves everything as it is."""

import contextlib
import datetime
import os
import re
import subprocess
import tempfile

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from harness import RELAY, Relay, behaviour, exchange, make_pair, run
from tls_client import FIRST, SECOND, Certificate

ROLES = ("serve", "worker", "forward", "run-relay-server")
PLACE = {"run-relay-server": ["127.0.0.1", "4000", "--no-tls"]}


@contextlib.contextmanager
def place():
    """A directory that the user that root becomes can use."""
    with tempfile.TemporaryDirectory(prefix="relay-check-") as directory:
        os.chmod(directory, 0o777)
        yield directory


def check(role, directory, *options, form="--check"):
    """Its exit status, what it says would be used, and what it says is wrong."""
    result = subprocess.run(
        [RELAY, role, *PLACE.get(role, []), form, f"--runtime-dir={directory}/run",
         f"--state-dir={directory}/state", *options], stdin=subprocess.DEVNULL, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, timeout=20)
    return result.returncode, result.stdout, result.stderr


def expect_wrong(role, directory, words, *options, status=2, form="--check"):
    code, _, error = check(role, directory, *options, form=form)
    assert code == status, (code, error)
    assert len(re.findall(words, error)) == 1, (words, error)


@behaviour(*ROLES)
def good_options_are_shown_and_no_file_is_made(role):
    with place() as directory:
        code, out, error = check(role, directory)
        assert (code, error) == (0, ""), (code, error)
        assert f"{directory}/run, which will be made" in out, out
        if role != "forward":
            assert f"{directory}/state/relay.ident, which will be made" in out, out
        assert not os.listdir(directory), os.listdir(directory)


@behaviour()
def a_relay_that_runs_is_shown_and_not_disturbed():
    with Relay(options=[f"--certfile={FIRST.certfile}", f"--keyfile={FIRST.keyfile}"]) as relay:
        pair = make_pair(relay)
        result = subprocess.run([RELAY, "serve", "--check", f"--listen=127.0.0.1:{relay.port}",
                                 *relay.options], text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, check=False)
        assert (result.returncode, result.stderr) == (0, ""), result
        assert "forwarder          runs" in result.stdout, result.stdout
        assert re.search(r"relay\.ident, public key \S{43}\n", result.stdout), result.stdout
        assert re.search(r"certificate +\S+, valid until 2\d{3}-", result.stdout), result.stdout
        exchange(*pair)
        exchange(*make_pair(relay))




def valid_in(year):
    """A certificate that is valid in that year."""
    made = Certificate(f"of-{year}")
    with open(made.keyfile, "rb") as file:
        key = load_pem_private_key(file.read(), None)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "relay.test")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(year)
    signed = builder.public_key(key.public_key()).not_valid_before(datetime.datetime(year, 1, 1)).not_valid_after(
        datetime.datetime(year, 12, 31)).sign(key, SHA256())
    with open(made.certfile, "wb") as file:
        file.write(signed.public_bytes(Encoding.PEM))
    return made


PAST, FUTURE = valid_in(2020), valid_in(2200)
LOCKED = Certificate("locked")
subprocess.run(["openssl", "pkey", "-aes128", "-passout", "pass:secret", "-in", FIRST.keyfile, "-out", LOCKED.keyfile],
               check=True)

WRONG = {
    "a certificate that has ended": ("is not valid any more", PAST.options()),
    "a certificate that is for later": ("is not valid yet", FUTURE.options()),
    "a key with a password": ("the key is encrypted", LOCKED.options()),
    "a key's file without a key": (
        "there is no private key in the key's file",
        [f"--certfile={FIRST.certfile}", f"--keyfile={FIRST.certfile}"]),
    "a database that is a directory": ("cannot write to the usage database /tmp: it is no file", ["--usage-db=/tmp"]),
    "a certificate that is missing": ("cannot read /none", ["--certfile=/none"]),
    "another's key": (
        "mismatch", [f"--certfile={FIRST.certfile}", f"--keyfile={SECOND.keyfile}"]),
    "an identity that is missing": ("cannot read the identity /none", ["--idfile=/none"]),
    "a directory that cannot be made": (
        "cannot make the directory /none/run", ["--runtime-dir=/none/run"]),
    "a runtime directory that all may write to": (
        "cannot use the runtime directory /tmp", ["--runtime-dir=/tmp"]),
    "a database in no directory": (
        "cannot write to the usage database /none/usage", ["--usage-db=/none/usage"]),
    "a descriptor that is closed": ("usage records to descriptor 77", ["--log-fd=77"]),
    "an address that nobody has": (
        "cannot listen on host.invalid:1", ["--listen=host.invalid:1"]),
    "a wrong option": ("unknown option --bogus", ["--bogus"]),
    "a wrong value": ("bad value \"x\" for --linger", ["--linger=x"]),
}


@behaviour(*WRONG)
def a_fault_is_one_line_and_status_2(what):
    words, options = WRONG[what]
    with place() as directory:
        expect_wrong("serve", directory, words, *options)


@behaviour()
def run_relay_server_needs_a_certificate_or_no_tls():
    with place() as directory:
        expect_wrong("run-relay-server", directory, "no certificate for TLS", "--tls")
        expect_wrong("run-relay-server", directory, "cannot read /none", "--tls", "--certfile=/none",
                     form="--check-unit")


@behaviour()
def a_unit_is_started_if_it_can_serve_any_client():
    with place() as directory:
        for option in ("--certfile=/none", "--idfile=/none", "--usage-db=/none/usage"):
            expect_wrong("serve", directory, "cannot ", option, status=0, form="--check-unit")
        expect_wrong("worker", directory, "--listen=:1 does not hold where systemd has the sockets, or inetd",
                     "--listen=:1", form="--check-unit")
        expect_wrong("worker", directory, "cannot use the runtime directory", "--runtime-dir=/tmp",
                     form="--check-unit")


@behaviour()
def a_unit_is_not_started_with_options_that_serve_no_client():
    with place() as directory:
        for option in ("--help", "--version"):
            expect_wrong("serve", directory, "a unit serves nobody with --help or --version", option,
                         form="--check-unit")
        os.environ["RUNTIME_DIRECTORY"] = f"{directory}/another"
        try:
            expect_wrong("serve", directory, f"--runtime-dir={directory}/run does not hold where systemd",
                         form="--check-unit")
        finally:
            del os.environ["RUNTIME_DIRECTORY"]


@behaviour("has ended", "is for later")
def a_certificate_outside_its_time_is_logged_at_the_start(which):
    certificate, words = (PAST, "any more") if which == "has ended" else (FUTURE, "yet")
    with Relay(options=certificate.options()) as relay:
        exchange(*make_pair(relay))
        assert f"the certificate {certificate.certfile} is not valid {words}" in relay.log(), relay.log()


if __name__ == "__main__":
    run()
