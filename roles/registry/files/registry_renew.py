#!/usr/bin/python3
# Managed by slipway.platform.registry. Edits are undone by the next run.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renew the certificate of this host's registry before it ends, and have nginx serve it.

Without arguments: look, and renew when it is due; for the systemd timer and for the role. --force renews at once.

The controller's authority has signed an issuer for this machine that may sign for the registry's names only (critical
name constraints). A new certificate is made beside the old one, checked as a client would (the authority alone is
trusted), put in its place in one step, and nginx is told; a connection that is open goes on. When nginx does not serve
it, the old one comes back. Killed at any point, the old or the new one lies there whole, and the next look goes on.

Only the standard library, Python 3.11 or later, and the program openssl, 3.0 or later.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import http.client
import ipaddress
import json
import os
import re
import secrets
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import typing as t
import urllib.parse

CONFIG = "/etc/slipway/registry/renewal/renewal.json"
DOCKER_SOCKET = "/run/docker.sock"
DAY = 86400.0
# Seconds that nginx has to serve a new certificate.
PATIENCE = 20.0
BLOCK = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
EXTENSIONS = """basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {names}
"""
ERROR, NOTICE = "<3>", "<5>"


class RenewalError(Exception):
    """Why there is no new certificate, for the journal."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What the role wrote: names, paths, days."""

    host: str
    port: int
    names: list[str]
    days: int
    before: int
    root: str
    issuer: str
    issuer_key: str
    key: str
    certificate: str
    state: str
    lock: str
    proxy: str


class Docker:
    """The two calls to dockerd that a renewal needs."""

    def __init__(self, path: str = DOCKER_SOCKET) -> None:
        self.path = path

    def request(self, method: str, path: str) -> tuple[int, t.Any]:
        """Return status and decoded JSON body; raises OSError when dockerd does not answer."""
        connection = http.client.HTTPConnection("docker", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.sock.settimeout(30)
            connection.sock.connect(self.path)
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read()
            return response.status, json.loads(body) if body else None
        except http.client.HTTPException as exc:
            raise OSError(f"dockerd sent no HTTP answer: {exc}") from exc
        finally:
            connection.close()

    def runs(self, name: str) -> bool:
        """Tell whether a container runs; one that does not, or is not there, reads its files when it starts."""
        try:
            status, body = self.request("GET", f"/containers/{urllib.parse.quote(name)}/json")
        except FileNotFoundError:  # no dockerd yet
            return False
        return status == 200 and body["State"]["Status"] == "running"

    def reload(self, name: str) -> None:
        """Have the container read its files again; raises OSError with dockerd's reason."""
        status, body = self.request("POST", f"/containers/{urllib.parse.quote(name)}/kill?signal=HUP")
        if status >= 400:
            raise OSError(f"reload {name}: {(body or {}).get('message', status)}")


def openssl(*arguments: str) -> str:
    """Run openssl and return what it printed; raises RenewalError with its first words."""
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        said = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise RenewalError(f"openssl {arguments[0]}: {'; '.join(said[:2]) or done.returncode}")
    return done.stdout


def ends(path: str) -> float:
    """Return when the first certificate of a file ends, in epoch seconds."""
    text = openssl("x509", "-in", path, "-noout", "-enddate")
    return float(ssl.cert_time_to_seconds(text.strip().removeprefix("notAfter=")))


def plain(name: str) -> str:
    """Return a name as two spellings of it compare: an address in its short form, all else in small letters."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(name))
    return name.lower()


def kind(name: str) -> str:
    """Return what openssl calls a name."""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return "IP"
    return "DNS"


def names(path: str) -> set[str]:
    """Return the names and addresses that the first certificate of a file is for."""
    text = openssl("x509", "-in", path, "-noout", "-ext", "subjectAltName")
    return {plain(found) for found in re.findall(r"(?:DNS|IP Address):([^,\s]+)", text)}


def first(text: str) -> str:
    """Return the first certificate of a PEM text, empty without one."""
    found = BLOCK.search(text)
    return found[0] if found else ""


def read(path: str) -> str:
    """Return the text of a file, empty when there is none."""
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as handle:
        return handle.read()
    return ""


def problem(config: Config, path: str) -> str:
    """Return why clients would refuse a chain (whatever its age left), or why it is not what is wanted; empty if not.

    As a client does it: only the authority is trusted, the issuer's constraints count, the name has to fit.
    """
    if first(read(config.issuer)) not in read(path):
        return "it is not by the present issuer"
    try:
        openssl(
            *("verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", config.host),
            *("-no-CApath", "-no-CAstore", "-CAfile", config.root, "-untrusted", config.issuer, path),
        )
        if openssl("x509", "-in", path, "-noout", "-pubkey") != openssl("pkey", "-in", config.key, "-pubout"):
            return "it does not belong to the key"
        found = names(path)
    except RenewalError as exc:
        return str(exc)
    wanted = {plain(name) for name in config.names}
    return "" if found == wanted else f"it is for {', '.join(sorted(found))}"


def life(config: Config) -> float:
    """Return the seconds that a new certificate would last: not longer than the issuer and the authority do."""
    left = min(ends(config.issuer), ends(config.root)) - time.time()
    return min(config.days * DAY, left // DAY * DAY)


def due(config: Config) -> str:
    """Return why a new certificate is due; empty when the present one is good, or a new one would last no longer."""
    if not os.path.exists(config.certificate):
        return "there is none"
    if wrong := problem(config, config.certificate):
        return wrong
    left = ends(config.certificate) - time.time()
    if left >= config.before * DAY or life(config) < left + DAY:
        return ""
    return f"it ends in {max(left, 0) / DAY:.0f} days"


def sign(config: Config, directory: str) -> str:
    """Return the text of a new chain, made in a directory that only root reads."""
    seconds = life(config)
    if seconds < DAY:
        raise RenewalError("the issuer ends within a day: run site.yml, the controller makes a new one")
    request, extensions, leaf = (os.path.join(directory, name) for name in ("request.pem", "extensions", "leaf.pem"))
    with open(extensions, "w", encoding="utf-8") as handle:
        handle.write(EXTENSIONS.format(names=", ".join(f"{kind(name)}:{name}" for name in config.names)))
    openssl("req", "-new", "-sha256", "-key", config.key, "-subj", f"/CN={config.host[:64]}", "-out", request)
    openssl(
        *("x509", "-req", "-sha256", "-in", request, "-CA", config.issuer, "-CAkey", config.issuer_key),
        *("-set_serial", str(secrets.randbits(127) | 1 << 126), "-days", str(int(seconds / DAY))),
        *("-extfile", extensions, "-out", leaf),
    )
    return first(read(leaf)) + "\n" + first(read(config.issuer)) + "\n"


def replace(path: str, text: str) -> None:
    """Put a text in the place of a file in one step."""
    temporary = f"{path}.new"
    with open(temporary, "w", encoding="utf-8") as handle:
        os.fchmod(handle.fileno(), 0o644)
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, path)


def served(config: Config) -> bytes:
    """Return the certificate that nginx serves; raises OSError when it does not answer."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # compared byte by byte with what was checked before
    with (
        socket.create_connection(("127.0.0.1", config.port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname=config.host) as connection,
    ):
        return connection.getpeercert(binary_form=True) or b""


def is_served(config: Config) -> bool:
    """Tell whether nginx serves the certificate that lies on the disk."""
    wanted = ssl.PEM_cert_to_DER_cert(first(read(config.certificate)))
    with contextlib.suppress(OSError):
        return served(config) == wanted
    return False


def prove(config: Config, docker: Docker) -> None:
    """Have a running nginx serve what lies on the disk; raises RenewalError when it does not come to it."""
    if not docker.runs(config.proxy) or is_served(config):
        return
    docker.reload(config.proxy)
    deadline = time.monotonic() + PATIENCE
    while not is_served(config):
        if time.monotonic() > deadline:
            raise RenewalError(f"{config.proxy} does not serve the certificate on the disk")
        time.sleep(0.3)


def renew(config: Config, docker: Docker) -> None:
    """Make, check and install a new certificate; what was there comes back when nginx does not serve the new one."""
    with tempfile.TemporaryDirectory() as directory:
        text = sign(config, directory)
        path = os.path.join(directory, "chain.pem")
        replace(path, text)
        if wrong := problem(config, path):
            raise RenewalError(f"the new certificate is no good: {wrong}")
    old = read(config.certificate)
    keep = old if old and not problem(config, config.certificate) else ""
    replace(config.certificate, text)
    try:
        prove(config, docker)
    except (RenewalError, OSError):
        if keep:
            replace(config.certificate, keep)
            with contextlib.suppress(OSError):
                docker.reload(config.proxy)
        raise


def note(config: Config, error: str, renewed: float | None) -> None:
    """Leave word of how it went for the health unit and verify."""
    try:
        known = json.loads(read(config.state))
    except ValueError:
        known = {}
    known.update(ok=not error, error=error, looked=time.time())
    if renewed is not None:
        known["renewed"] = renewed
    for key, path in (("not_after", config.certificate), ("issuer_not_after", config.issuer)):
        with contextlib.suppress(RenewalError):
            known[key] = ends(path)
    replace(config.state, json.dumps(known))


def look(config: Config, docker: Docker, *, force: bool) -> list[str]:
    """Renew if it is due, and have nginx serve what lies there; return the journal lines."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{config.certificate}.new")  # of one that was killed
    why = "asked for" if force else due(config)
    if not why:
        prove(config, docker)
        note(config, "", None)
        return []
    renew(config, docker)
    note(config, "", time.time())
    return [
        f"{NOTICE}renewed the certificate ({why}): it lasts {(ends(config.certificate) - time.time()) / DAY:.0f} days"
    ]


def main(argv: list[str] | None = None) -> int:
    """Look once; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--force", action="store_true", help="renew also when it is not due")
    parser.add_argument("--config", default=CONFIG)
    args = parser.parse_args(argv)
    with open(args.config, encoding="utf-8") as handle:
        config = Config(**json.load(handle))
    with open(config.lock, "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            lines = look(config, Docker(), force=args.force)
        except (RenewalError, OSError, subprocess.TimeoutExpired) as exc:
            note(config, str(exc), None)
            print(f"{ERROR}the certificate was not renewed: {exc}")
            return 1
    if lines:
        print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
