# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask, from the host itself, whether proxies let it through and names resolve; read-only and within a bounded time."""

from __future__ import annotations

import base64
import dataclasses
import email.utils
import json
import re
import socket
import ssl
import threading
import time
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _proxy
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError

# An answer to CONNECT is a few header lines; a proxy that sends more than this without an end is none.
MAX_ANSWER = 65536
# Sockets end by themselves at the deadline; this much later only a hanging getaddrinfo(3) is left.
GRACE = 1.0
# Certificates are valid from some minutes before they are made (kubeadm: 5); more than half of that is a mistake.
MAX_CLOCK_SECONDS = 120

Resolver = t.Callable[[str, int], list[t.Any]]


@dataclasses.dataclass(frozen=True)
class Probe:
    """A proxy to try: the variables that name it, and the host:port to ask it for."""

    variables: tuple[str, ...]
    proxy: _proxy.Proxy
    target: str


@dataclasses.dataclass(frozen=True)
class Name:
    """A host name that has to resolve, and the variable that holds it."""

    variable: str
    name: str


@dataclasses.dataclass(frozen=True)
class Server:
    """A TLS server that the host has to reach directly, and the variable that names it.

    ca: the authority that has to vouch for it; only then it gets the login (`user:password`).
    """

    variable: str
    host: str
    port: int
    path: str = "/healthz"
    ca: str = ""
    login: str = dataclasses.field(default="", repr=False)


@dataclasses.dataclass
class Report:
    """Sentences about what cannot work, and notes on what works but may surprise."""

    failures: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)


class Deadline:
    """A point in time (monotonic seconds) that several steps share."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds left, never less than a moment, so that a socket never blocks forever."""
        return max(0.001, self._end - time.monotonic())


def resolve(host: str, port: int) -> list[t.Any]:
    """Return the TCP addresses of a host as getaddrinfo(3) gives them; raises OSError."""
    return socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)


def merge(probes: t.Iterable[Probe]) -> list[Probe]:
    """Join probes of the same proxy and target, so that one is not asked twice; each keeps the order it came in."""
    joined: dict[tuple[_proxy.Proxy, str], tuple[str, ...]] = {}
    for probe in probes:
        key = (probe.proxy, probe.target)
        joined[key] = tuple(dict.fromkeys([*joined.get(key, ()), *probe.variables]))
    return [Probe(variables, proxy, target) for (proxy, target), variables in joined.items()]


def check(
    probes: t.Sequence[Probe],
    names: t.Sequence[Name],
    servers: t.Sequence[Server] = (),
    *,
    seconds: float,
    resolver: Resolver = resolve,
) -> Report:
    """Try everything at once; what is not decided within seconds (each, and so all together) counts as failed."""
    deadline = Deadline(seconds)
    jobs: list[tuple[str, t.Callable[[], tuple[str, str]]]] = []
    for probe in probes:
        subject = f"{', '.join(probe.variables)}: the proxy {probe.proxy.address}"
        jobs.append((subject, lambda probe=probe: _try_proxy(probe, deadline, resolver)))  # type: ignore[misc]
    for name in names:
        subject = f"{name.variable}: {name.name}"
        jobs.append((subject, lambda name=name: _try_name(name, resolver)))  # type: ignore[misc]
    for server in servers:
        subject = f"{server.variable}: {server.host}:{server.port}"
        jobs.append((subject, lambda server=server: _try_server(server, deadline, resolver)))  # type: ignore[misc]
    return _run_all(jobs, deadline)


def _run_all(jobs: t.Sequence[tuple[str, t.Callable[[], tuple[str, str]]]], deadline: Deadline) -> Report:
    results: dict[int, tuple[str, str]] = {}

    def work(index: int, job: t.Callable[[], tuple[str, str]]) -> None:
        results[index] = job()

    # getaddrinfo(3) cannot be interrupted: daemon threads do not keep the process when it hangs.
    threads = [threading.Thread(target=work, args=(i, job), daemon=True) for i, (_, job) in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(deadline.left + GRACE)
    report = Report()
    for index, (subject, _) in enumerate(jobs):
        late = f"does not resolve on this host within {deadline.seconds:g} s: it needs a DNS server that answers"
        failure, warning = results.get(index, (late, ""))
        if failure:
            report.failures.append(f"{subject} {failure}.")
        if warning:
            report.warnings.append(f"{subject} {warning}.")
    return report


def _try_name(name: Name, resolver: Resolver) -> tuple[str, str]:
    try:
        resolver(name.name, 0)
    except (OSError, UnicodeError):
        return "does not resolve on this host: it needs a name that the host's DNS servers or /etc/hosts know", ""
    return "", ""


def _try_server(server: Server, deadline: Deadline, resolver: Resolver) -> tuple[str, str]:
    """Reach a server, compare its clock with ours, and see whether it is the one we trust and that knows us."""
    try:
        addresses = resolver(server.host, server.port)
    except (OSError, UnicodeError):
        return "does not resolve on this host: it needs a name that the host's DNS servers or /etc/hosts know", ""
    try:
        with _connect(addresses, deadline) as plain:
            plain.settimeout(deadline.left)
            late = _judge_clock(_ask_server(plain, server, _no_trust()))
        return late or (_trust(server, addresses, deadline) if server.ca else ""), ""
    except TimeoutError:
        return f"gave no answer within {deadline.seconds:g} s: it needs to be reachable from this host directly", ""
    except ConnectionRefusedError:
        return "refused the connection: it needs a server that listens there", ""
    except OSError as exc:
        return f"cannot be reached from this host ({exc.strerror or exc}): it needs a route to it", ""


def _no_trust() -> ssl.SSLContext:
    """Return a context that trusts everybody: nothing but a question after the time is sent with it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _ask_server(plain: socket.socket, server: Server, context: ssl.SSLContext, *headers: str) -> str:
    """Return the head of a server's answer."""
    lines = (f"HEAD {server.path} HTTP/1.0", f"Host: {server.host}", *headers)
    with context.wrap_socket(plain, server_hostname=server.host) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return connection.recv(MAX_ANSWER).decode("latin-1")


def _trust(server: Server, addresses: t.Sequence[t.Any], deadline: Deadline) -> str:
    """Ask again as one who knows the server's authority, with the login; return why that fails."""
    try:
        context = ssl.create_default_context(cadata=server.ca)
        basic = base64.b64encode(server.login.encode()).decode()
        headers = [f"Authorization: Basic {basic}"] if server.login else []
        with _connect(addresses, deadline) as plain:
            plain.settimeout(deadline.left)
            head = _ask_server(plain, server, context, *headers)
    except ssl.SSLCertVerificationError as exc:
        return f"has a certificate that the site's CA doesn't vouch for ({exc.verify_message}): it needs one of that CA"
    if server.login and re.match(r"HTTP/\S+ 40[13]\b", head):
        return f"refuses the user '{server.login.partition(':')[0]}': it needs the right user and password"
    return ""


def _judge_clock(head: str) -> str:
    """Compare the time in an answer's head with ours: certificates of a cluster are made for now."""
    match = re.search(r"^date: *(.*?)\r?$", head, re.I | re.M)
    try:
        theirs = email.utils.parsedate_to_datetime(match[1] if match else "").timestamp()
    except ValueError:
        return ""
    off = time.time() - theirs
    if abs(off) <= MAX_CLOCK_SECONDS:
        return ""
    return f"has a clock {abs(off):.0f} s {'behind' if off > 0 else 'ahead of'} this host's: both need the right time"


def _try_proxy(probe: Probe, deadline: Deadline, resolver: Resolver) -> tuple[str, str]:
    proxy = probe.proxy
    try:
        addresses = resolver(proxy.host, proxy.port)
    except (OSError, UnicodeError):
        return "does not resolve on this host: it needs a name that the host's DNS servers or /etc/hosts know", ""
    try:
        with _connect(addresses, deadline) as connection:
            return _judge(_ask(connection, probe, deadline), probe)
    except TimeoutError:
        return f"gave no answer within {deadline.seconds:g} s: it needs a proxy that this host can reach", ""
    except ConnectionRefusedError:
        return "refused the connection: it needs a proxy that listens there", ""
    except ssl.SSLError as exc:
        return f"failed the TLS handshake ({exc.reason or exc}): it needs a certificate that this host trusts", ""
    except OSError as exc:
        return f"cannot be reached from this host ({exc.strerror or exc}): it needs a route to it", ""


def _connect(addresses: t.Sequence[t.Any], deadline: Deadline) -> socket.socket:
    """Connect to the first address that answers; the time is shared out, so that a dead first one does not eat it."""
    error: OSError = OSError("no address")
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        connection = socket.socket(family, kind, protocol)
        connection.settimeout(deadline.left / (len(addresses) - index))
        try:
            connection.connect(address)
        except OSError as exc:
            connection.close()
            error = exc
        else:
            return connection
    raise error


def _ask(connection: socket.socket, probe: Probe, deadline: Deadline) -> str:
    """Send CONNECT (RFC 9110 section 9.3.6) and return the head of the answer."""
    connection.settimeout(deadline.left)
    if probe.proxy.scheme == "https":
        context = ssl.create_default_context()
        connection = context.wrap_socket(connection, server_hostname=probe.proxy.host.strip("[]"))
    lines = [f"CONNECT {probe.target} HTTP/1.1", f"Host: {probe.target}", "User-Agent: slipway-preflight"]
    if probe.proxy.basic:
        lines.append(f"Proxy-Authorization: {probe.proxy.basic}")
    connection.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < MAX_ANSWER:
        connection.settimeout(deadline.left)
        part = connection.recv(4096)
        if not part:
            break
        answer += part
    return answer.split(b"\r\n\r\n")[0].decode("latin-1")


def _judge(head: str, probe: Probe) -> tuple[str, str]:
    """Return the end of a failure sentence and of a warning for an answer to CONNECT; each may be empty."""
    status, *headers = head.split("\r\n")
    words = status.split(None, 2)
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdigit():
        return "did not answer like an HTTP proxy: it needs the address of one", ""
    code = int(words[1])
    if code == 407:
        return _judge_credentials(headers, probe.proxy), ""
    if 200 <= code < 300:
        return "", ""
    # Squid and others authenticate first: the proxy lets this user in, but not to this target.
    return "", f"accepted the credentials but answered {code} for {probe.target}"


def _judge_credentials(headers: t.Sequence[str], proxy: _proxy.Proxy) -> str:
    offers = [line.split(":", 1)[1].strip() for line in headers if line.lower().startswith("proxy-authenticate:")]
    if offers and not any(offer.lower().startswith("basic") for offer in offers):
        schemes = ", ".join(offer.split()[0] for offer in offers if offer)
        return f"answered 407 and offers only {schemes}: it needs to offer Basic authentication"
    if not proxy.user:
        return "answered 407 (authentication required) and no user is set: it needs user and password"
    return f"answered 407 (authentication required) to user '{proxy.user}': it needs the right user and password"


def docker_proxies(path: str) -> list[str]:
    """Return the keys under `proxies` in a daemon.json: what dockerd uses before its environment.

    A missing file has none. Raises HostError when the file is not JSON, as dockerd would not start either.
    """
    try:
        with open(path, encoding="utf-8") as handle:
            text = handle.read()
        document = json.loads(text) if text.strip() else {}
    except FileNotFoundError:
        return []
    except ValueError as exc:
        raise HostError(f"{path} is not JSON ({exc}): dockerd cannot start with it") from exc
    found = document.get("proxies") if isinstance(document, dict) else None
    return sorted(found) if isinstance(found, dict) else []
