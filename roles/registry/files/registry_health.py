#!/usr/bin/python3
# Managed by slipway.platform.registry. Edits are undone by the next run.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Watch the registry of this host, repair what can be repaired, and stop pushes before its disk is full.

Without arguments: one round, for the systemd timer. It always exits 0; what is wrong goes to the journal once when it
begins and once when it ends (and every six hours in between), and to the state file.
With --ready, for the role: set the read-only switch, repair nothing, print what is wrong, exit 1 if users would notice.

Only the standard library, Python 3.11 or later. dockerd is asked on its socket (Docker Engine API, unversioned paths).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import fcntl
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import time
import typing as t
import urllib.parse

CONFIG = "/etc/slipway/registry/health.json"
BUCKET = "/etc/slipway/registry/bucket.json"
DOCKER_SOCKET = "/run/docker.sock"
# A container that was just started is left alone for this many seconds.
GRACE = 20.0
# Rounds in a row that have to fail before a running container is restarted: a restart cuts pulls in flight.
PATIENCE = 2
REMIND_AFTER = 6 * 3600.0
# Pushes are let in again when this much more than min_free is free, so that the switch does not flap.
HYSTERESIS = 1.1
MIN_INODES = 1000
PEM_END = "-----END CERTIFICATE-----\n"
# The renewal looks every day.
MAX_RENEWAL_AGE = 3 * 86400.0
ERROR, WARNING, NOTICE = "<3>", "<4>", "<5>"


@dataclasses.dataclass(frozen=True)
class Config:
    """What the role wrote: names, paths, sizes in bytes, days from which to warn.

    bucket is the program that asks the object storage; empty where the images are in data_dir.
    """

    host: str
    port: int
    certificate: str
    data_dir: str
    marker: str
    data_uid: int
    min_free: int
    warn_days: int
    registry: str
    proxy: str
    run_dir: str
    lock: str
    warn_free: int = 0
    bucket: str = ""
    renewal: str = ""
    issuer_days: int = 90

    @property
    def flag(self) -> str:
        """File whose presence makes nginx refuse pushes."""
        return os.path.join(self.run_dir, "read-only")

    @property
    def collecting(self) -> str:
        """File by which a garbage collection has nginx hold writes off."""
        return os.path.join(self.run_dir, "collecting")

    @property
    def collecting_lock(self) -> str:
        """File that a garbage collection locks as long as it lives."""
        return os.path.join(self.run_dir, "gc.lock")

    @property
    def state(self) -> str:
        """File that remembers what the last round saw."""
        return os.path.join(self.run_dir, "health.json")


@dataclasses.dataclass
class State:
    """What the rounds remember. `problems` maps a key to [text, first logged or last reminded (epoch seconds)]."""

    problems: dict[str, list[t.Any]] = dataclasses.field(default_factory=dict)
    failures: dict[str, int] = dataclasses.field(default_factory=dict)
    facts: dict[str, t.Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Findings:
    """One round's result: problems by key, facts for the state file, and the containers that do not answer."""

    problems: dict[str, str] = dataclasses.field(default_factory=dict)
    facts: dict[str, t.Any] = dataclasses.field(default_factory=dict)
    dead: set[str] = dataclasses.field(default_factory=set)
    stale_certificate: bool = False


class Docker:
    """The few calls to dockerd that a repair needs."""

    def __init__(self, path: str = DOCKER_SOCKET) -> None:
        self.path = path

    def request(self, method: str, path: str, timeout: float = 60) -> tuple[int, t.Any]:
        """Return status and decoded JSON body; raises OSError when dockerd does not answer."""
        connection = http.client.HTTPConnection("docker", timeout=timeout)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.sock.settimeout(timeout)
            connection.sock.connect(self.path)
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read()
            return response.status, json.loads(body) if body else None
        except http.client.HTTPException as exc:
            raise OSError(f"dockerd sent no HTTP answer: {exc}") from exc
        finally:
            connection.close()

    def inspect(self, name: str) -> dict[str, t.Any] | None:
        """Return what dockerd knows of a container, None when there is no such one."""
        status, body = self.request("GET", f"/containers/{urllib.parse.quote(name)}/json", timeout=20)
        return t.cast("dict[str, t.Any]", body) if status == 200 else None

    def act(self, name: str, action: str) -> None:
        """Start, unpause, restart?t=10 or kill?signal=HUP a container; raises OSError with dockerd's reason."""
        status, body = self.request("POST", f"/containers/{urllib.parse.quote(name)}/{action}")
        if status >= 400:
            raise OSError(f"{action} {name}: {(body or {}).get('message', status)}")


def human(size: float) -> str:
    """Return bytes as GiB or MiB, for a message."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def check_disk(config: Config, findings: Findings, known: t.Collection[str] = ()) -> bool | None:
    """Look at the data path; return whether pushes have to stop, None when neither limit is crossed.

    known: keys of the problems that were there at the last look.
    """
    if config.bucket:
        return False
    try:
        usage = os.statvfs(config.data_dir)
        os.scandir(config.data_dir).close()
    except OSError as exc:
        findings.problems["data"] = f"{config.data_dir} cannot be read: {exc.strerror}"
        return True
    if not os.path.exists(os.path.join(config.data_dir, config.marker)):
        findings.problems["data"] = (
            f"{config.data_dir} is not the directory that the role prepared ({config.marker} is missing): is its disk"
            " mounted?"
        )
        return True
    free = usage.f_bavail * usage.f_frsize
    findings.facts["free_bytes"] = free
    stored = os.path.join(config.data_dir, "docker")
    if os.path.isdir(stored) and os.stat(stored).st_uid != config.data_uid:
        findings.problems["owner"] = (
            f"{stored} belongs to another user, the registry cannot write there: chown -R {config.data_uid} {stored}"
        )
    few_inodes = bool(usage.f_files) and usage.f_favail < MIN_INODES
    if free < config.min_free or few_inodes:
        what = f"{usage.f_favail} inodes" if few_inodes else f"{human(free)} of the wanted {human(config.min_free)}"
        findings.problems["disk"] = f"{config.data_dir} has {what} free: pushes are refused, pulls go on"
        return True
    if free < config.warn_free * (HYSTERESIS if "space" in known else 1):
        findings.problems["space"] = (
            f"{config.data_dir} has {human(free)} free: below {human(config.min_free)} pushes are refused"
        )
    return False if free >= config.min_free * HYSTERESIS else None


def _connect(config: Config, context: ssl.SSLContext) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", config.port), timeout=10)
    try:
        return context.wrap_socket(raw, server_hostname=config.host)
    except BaseException:
        raw.close()
        raise


def handshake(config: Config, findings: Findings) -> ssl.SSLSocket | None:
    """Return a TLS connection; trust exactly the certificate file, which tells a stale or expired one."""
    with open(config.certificate, encoding="utf-8") as handle:  # the issuer below it would vouch for an older one
        strict = ssl.create_default_context(cadata=handle.read().partition(PEM_END)[0] + PEM_END)
    strict.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if hasattr(ssl, "VERIFY_X509_STRICT"):
        strict.verify_flags &= ~ssl.VERIFY_X509_STRICT
    try:
        connection = _connect(config, strict)
    except ssl.SSLCertVerificationError as exc:
        if exc.verify_code == 10:  # X509_V_ERR_CERT_HAS_EXPIRED
            findings.problems["certificate"] = f"the certificate has expired: {remedy(config)} to renew it"
        else:
            findings.stale_certificate = True
            findings.problems["certificate"] = f"nginx serves another certificate than {config.certificate}"
        loose = ssl.create_default_context()
        loose.check_hostname = False
        loose.verify_mode = ssl.CERT_NONE
        return _connect(config, loose)
    not_after = str((connection.getpeercert() or {}).get("notAfter", ""))
    if not_after:
        days = (ssl.cert_time_to_seconds(not_after) - time.time()) / 86400
        findings.facts["certificate_days"] = int(days)
        if days < config.warn_days:
            findings.problems["certificate"] = (
                f"the certificate expires in {days:.0f} days: {remedy(config)} to renew it"
            )
    return connection


def remedy(config: Config) -> str:
    """Return what a person does about a certificate that is old."""
    return "systemctl start slipway-registry-renew" if config.renewal else "run site.yml"


def check_renewal(config: Config, findings: Findings) -> None:
    """Look at what the renewal of the certificate left: whether it fails, no longer looks, or has no future."""
    if not config.renewal:
        return
    try:
        with open(config.renewal, encoding="utf-8") as handle:
            last = json.load(handle)
        looked, issuer_end = float(last["looked"]), float(last["issuer_not_after"])
    except (OSError, ValueError, KeyError, TypeError):
        findings.problems["renewal"] = (
            "the certificate's renewal has left no word: systemctl start slipway-registry-renew"
        )
        return
    now = time.time()
    findings.facts["issuer_days"] = int((issuer_end - now) / 86400)
    findings.facts["certificate_renewed"] = last.get("renewed")
    if not last.get("ok"):
        findings.problems["renewal"] = f"the certificate cannot be renewed: {last.get('error')}"
    elif now - looked > MAX_RENEWAL_AGE:
        days = (now - looked) / 86400
        findings.problems["renewal"] = (
            f"nobody looks after the certificate for {days:.0f} days: slipway-registry-renew.timer"
        )
    elif issuer_end - now < config.issuer_days * 86400:
        days = (issuer_end - now) / 86400
        findings.problems["renewal"] = (
            f"the issuer of the certificate ends in {days:.0f} days: run site.yml for a new one"
        )


def get(connection: ssl.SSLSocket, host: str, path: str) -> int:
    """Return the status of a GET on an open connection."""
    client = http.client.HTTPConnection(host)
    client.sock = connection
    client.request("GET", path)
    response = client.getresponse()
    response.read()
    return response.status


def probe(config: Config, findings: Findings) -> None:
    """Ask nginx and, through it, the registry; note who does not answer."""
    try:
        connection = handshake(config, findings)
        if connection is None:
            return
        with connection:
            front = get(connection, config.host, "/v2/")
            behind = get(connection, config.host, "/healthz")
    except (OSError, http.client.HTTPException) as exc:
        findings.dead.add(config.proxy)
        findings.problems["answer"] = f"https://{config.host}:{config.port} does not answer: {exc}"
        return
    if front != 401:
        findings.dead.add(config.proxy)
        findings.problems["answer"] = f"/v2/ answers {front} instead of asking for a login"
    if behind != 200:
        findings.problems["registry"] = f"the registry behind nginx answers {behind}"
        check_bucket(config, findings)
        if "storage" not in findings.problems:
            findings.dead.add(config.registry)  # otherwise a restart would help nobody


def check_bucket(config: Config, findings: Findings) -> None:
    """Ask the object storage, which the registry itself does all the time: here, why that does not answer any more."""
    if not config.bucket:
        return
    argv = [sys.executable, config.bucket, "--config", BUCKET]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as exc:
        findings.problems["storage"] = f"the object storage cannot be asked: {exc}"
        return
    if done.returncode:
        lines = (done.stdout or done.stderr).strip().splitlines()
        findings.problems["storage"] = lines[-1] if lines else "the object storage cannot be asked"


def _mounted_device(pid: int, target: str) -> str:
    """Return major:minor of what a process sees at a mount point; empty when unknown."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/mountinfo", encoding="utf-8") as handle:
        for line in handle:
            fields = line.split()
            if fields[4] == target:
                return fields[2]
    return ""


def _device(path: str) -> str:
    with contextlib.suppress(OSError):
        number = os.stat(path).st_dev
        return f"{os.major(number)}:{os.minor(number)}"
    return ""


def _age(started_at: str) -> float:
    """Return seconds since a timestamp of dockerd, which has nanoseconds and Z."""
    stamp = started_at.split(".")[0].rstrip("Z")
    try:
        started = datetime.datetime.fromisoformat(stamp).replace(tzinfo=datetime.UTC)
    except ValueError:
        return GRACE
    return time.time() - started.timestamp()


def _needed_action(config: Config, name: str, known: dict[str, t.Any], findings: Findings, state: State) -> str:
    status = known["State"]["Status"]
    if status == "paused":
        return "unpause"
    if status != "running":
        return "" if status == "restarting" else "start"
    if name == config.registry and not config.bucket:
        seen = _mounted_device(known["State"]["Pid"], "/var/lib/registry")
        if seen and seen != _device(config.data_dir):
            return "restart?t=10"  # its disk was mounted after the container had started
    if name not in findings.dead:
        return ""
    if _age(known["State"]["StartedAt"]) < GRACE:
        return ""
    return "restart?t=10" if state.failures.get(name, 0) >= PATIENCE else ""


def repair(config: Config, findings: Findings, state: State, docker: Docker) -> list[str]:
    """Start what is stopped, restart what does not answer, have nginx read a new certificate; return what was done."""
    done = []
    for name in (config.registry, config.proxy):
        state.failures[name] = state.failures.get(name, 0) + 1 if name in findings.dead else 0
        known = docker.inspect(name)
        if known is None:
            findings.problems["container"] = f"container {name} is gone: run playbooks/registry.yml"
            continue
        action = _needed_action(config, name, known, findings, state)
        if action:
            docker.act(name, action)
            state.failures[name] = 0
            done.append(f"{action.split('?')[0]} {name}")
    if findings.stale_certificate and not findings.dead:
        docker.act(config.proxy, "kill?signal=HUP")
        done.append(f"reload {config.proxy}")
    return done


def switch(config: Config, stop_pushes: bool | None) -> None:
    """Create or remove the file that makes nginx refuse pushes; None leaves it."""
    if stop_pushes is None or stop_pushes == os.path.exists(config.flag):
        return
    if stop_pushes:
        with open(config.flag, "w", encoding="utf-8"):
            pass
    else:
        os.unlink(config.flag)


def release(config: Config) -> list[str]:
    """Let writes in again when the garbage collection that stopped them is no more; return what was done."""
    if not os.path.exists(config.collecting):
        return []
    with alone(config.collecting_lock) as dead:
        if not dead:
            return []
        with contextlib.suppress(FileNotFoundError):  # it ended just now
            os.unlink(config.collecting)
            return ["let pushes in again after a garbage collection that was killed"]
    return []


def report(findings: Findings, state: State, now: float) -> list[str]:
    """Return the journal lines of this round: what began, what ended, what goes on for long; update the state."""
    lines = []
    for key, text in findings.problems.items():
        known = state.problems.get(key)
        if known is None or now - known[1] >= REMIND_AFTER:
            lines.append(f"{WARNING if key in ('disk', 'space', 'certificate', 'renewal') else ERROR}{text}")
            state.problems[key] = [text, now]
        else:
            known[0] = text
    for key in [key for key in state.problems if key not in findings.problems]:
        lines.append(f"{NOTICE}over: {state.problems.pop(key)[0]}")
    state.facts = findings.facts
    return lines


def load_state(path: str) -> State:
    """Return what the last round left; an unreadable file is a first round."""
    try:
        with open(path, encoding="utf-8") as handle:
            return State(**json.load(handle))
    except (OSError, ValueError, TypeError):
        return State()


def save_state(path: str, state: State) -> None:
    """Replace the state file in one step."""
    temporary = f"{path}.new"
    with open(temporary, "w", encoding="utf-8") as handle:
        json.dump(dataclasses.asdict(state), handle)
    os.replace(temporary, path)


def look(config: Config, known: t.Collection[str] = ()) -> tuple[Findings, bool | None]:
    """Return everything that is seen without asking dockerd, and whether pushes have to stop."""
    findings = Findings()
    stop_pushes = check_disk(config, findings, known)
    probe(config, findings)
    check_renewal(config, findings)
    return findings, stop_pushes


@contextlib.contextmanager
def alone(lock: str) -> t.Iterator[bool]:
    """Yield False while somebody else holds a lock, such as the role while it is at work on the containers."""
    try:
        handle = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        yield True
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(handle)


def one_round(config: Config, docker: Docker) -> list[str]:
    """Look, switch, repair; return the journal lines."""
    state = load_state(config.state)
    findings, stop_pushes = look(config, state.problems)
    switch(config, stop_pushes)
    findings.facts["read_only"] = os.path.exists(config.flag)
    done = release(config)
    findings.facts["collecting"] = os.path.exists(config.collecting)
    try:
        done += repair(config, findings, state, docker)
    except OSError as exc:
        findings.problems["docker"] = f"dockerd: {exc}"
    lines = report(findings, state, time.time()) + [f"{NOTICE}repaired: {action}" for action in done]
    save_state(config.state, state)
    return lines


def main(argv: list[str] | None = None) -> int:
    """Run one round, or with --ready only say what is wrong; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ready", action="store_true", help="repair nothing; exit 1 if a user would notice")
    parser.add_argument("--config", default=CONFIG)
    args = parser.parse_args(argv)
    with open(args.config, encoding="utf-8") as handle:
        config = Config(**json.load(handle))
    if args.ready:
        findings, stop_pushes = look(config)
        switch(config, stop_pushes)
        print("\n".join(findings.problems.values()))
        # A nearly full disk and an old certificate are told, but what runs is what was asked for.
        harmless = {"disk", "space", "renewal"} | ({"certificate"} if not findings.stale_certificate else set())
        return 1 if findings.problems.keys() - harmless else 0
    with alone(config.lock) as free:
        lines = one_round(config, Docker()) if free else []
    if lines:
        print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
