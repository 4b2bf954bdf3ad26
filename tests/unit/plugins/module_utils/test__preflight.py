# SPDX-License-Identifier: GPL-3.0-or-later
"""Each way in which a proxy can fail has its own sentence, within the time, without the password."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _preflight, _proxy
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError

from tests.unit.plugins.plugin_utils.certificates import Pair, make

PASSWORD = "p@ss%20#:/w0rd!"
TARGET = "registry-1.docker.io:443"


@contextlib.contextmanager
def server(answer: bytes | None) -> Iterator[tuple[int, list[bytes]]]:
    """Listen on 127.0.0.1; give an answer to each connection, or none and keep it open. Yields port and requests."""
    requests: list[bytes] = []
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    kept.append(connection)
                    requests.append(connection.recv(65536))
                    if answer is not None:
                        connection.sendall(answer)
                        connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1], requests
        listener.shutdown(socket.SHUT_RDWR)
        for connection in kept:
            connection.close()


def probe(url: str, user: str = "corp\\svc", password: str = PASSWORD) -> _preflight.Probe:
    proxy = _proxy.parse({"url": url, "user": user, "password": password})
    assert proxy is not None
    return _preflight.Probe(("docker_proxy_http",), proxy, TARGET)


def failures(*probes: _preflight.Probe, seconds: float = 2) -> list[str]:
    report = _preflight.check(probes, [], seconds=seconds)
    assert PASSWORD not in "".join(report.failures + report.warnings)
    return report.failures


def test_a_proxy_that_connects_is_fine_and_gets_the_credentials() -> None:
    with server(b"HTTP/1.1 200 Connection established\r\n\r\n") as (port, requests):
        assert failures(probe(f"http://127.0.0.1:{port}")) == []
    head = requests[0].decode().split("\r\n")
    token = base64.b64encode(f"corp\\svc:{PASSWORD}".encode()).decode()
    assert head[0] == f"CONNECT {TARGET} HTTP/1.1"
    assert f"Proxy-Authorization: Basic {token}" in head


def test_no_credentials_no_header() -> None:
    with server(b"HTTP/1.1 200 OK\r\n\r\n") as (port, requests):
        assert failures(probe(f"http://127.0.0.1:{port}", "", "")) == []
    assert b"Authorization" not in requests[0]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            b"HTTP/1.1 407 X\r\nProxy-Authenticate: Basic realm=x\r\n\r\n",
            "to user 'corp\\svc': it needs the right",
        ),
        (b"HTTP/1.0 407 X\r\n\r\n", "needs the right user and password"),
        (
            b"HTTP/1.1 407 X\r\nProxy-Authenticate: NTLM\r\nproxy-authenticate: Negotiate\r\n\r\n",
            "only NTLM, Negotiate",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "did not answer like an HTTP proxy"),
        (b"HTTP/1.1 what\r\n\r\n", "did not answer like an HTTP proxy"),
        (b"", "did not answer like an HTTP proxy"),
        (b"x" * (_preflight.MAX_ANSWER + 1), "did not answer like an HTTP proxy"),
    ],
)
def test_answers_that_do_not_let_us_through(answer: bytes, words: str) -> None:
    with server(answer) as (port, _):
        found = failures(probe(f"http://127.0.0.1:{port}"))
    assert len(found) == 1
    assert found[0].startswith(f"docker_proxy_http: the proxy 127.0.0.1:{port} ")
    assert words in found[0]


def test_407_without_a_user_asks_for_one() -> None:
    with server(b"HTTP/1.1 407 X\r\n\r\n") as (port, _):
        assert "no user is set" in failures(probe(f"http://127.0.0.1:{port}", "", ""))[0]


def test_a_forbidden_target_is_a_warning() -> None:
    with server(b"HTTP/1.1 403 Forbidden\r\n\r\n") as (port, _):
        report = _preflight.check([probe(f"http://127.0.0.1:{port}")], [], seconds=2)
    assert report.failures == []
    assert f"accepted the credentials but answered 403 for {TARGET}" in report.warnings[0]


def test_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert (
        "refused the connection: it needs a proxy that listens there" in failures(probe(f"http://127.0.0.1:{port}"))[0]
    )


def test_silence_ends_at_the_timeout() -> None:
    start = time.monotonic()
    with server(None) as (port, _):
        found = failures(probe(f"http://127.0.0.1:{port}"), seconds=0.3)
    assert "gave no answer within 0.3 s" in found[0]
    assert time.monotonic() - start < 2


def test_no_route() -> None:
    """A broadcast address cannot be connected to, with any network set-up."""
    assert "cannot be reached from this host" in failures(probe("http://255.255.255.255:1"))[0]


def test_a_plain_proxy_that_is_called_https() -> None:
    with server(b"HTTP/1.1 200 OK\r\n\r\n") as (port, _):
        assert "failed the TLS handshake" in failures(probe(f"https://127.0.0.1:{port}"))[0]


def test_the_second_address_is_tried() -> None:
    with server(b"HTTP/1.1 200 OK\r\n\r\n") as (port, _), socket.create_server(("127.0.0.2", 0)) as other:
        dead = other.getsockname()[1]
        other.close()
        good = socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM)
        bad = socket.getaddrinfo("127.0.0.2", dead, type=socket.SOCK_STREAM)
        report = _preflight.check(
            [probe("http://two.corp.lab:8080")], [], seconds=2, resolver=lambda _host, _port: bad + good
        )
    assert report.failures == []


def unknown(host: str, _port: int) -> list[Any]:
    raise socket.gaierror(-2, f"Name or service not known: {host}")


def test_names_that_do_not_resolve() -> None:
    names = [_preflight.Name("registry_trust_host", "registry.corp.lab")]
    report = _preflight.check([probe("http://proxy.corp.lab:8080")], names, seconds=1, resolver=unknown)
    end = " does not resolve on this host: it needs a name that the host's DNS servers or /etc/hosts know."
    assert report.failures == [
        f"docker_proxy_http: the proxy proxy.corp.lab:8080{end}",
        f"registry_trust_host: registry.corp.lab{end}",
    ]


def test_a_name_that_resolves_is_fine() -> None:
    assert _preflight.check([], [_preflight.Name("x", "localhost")], seconds=5).failures == []


def test_a_hanging_resolver_does_not_hang_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_preflight, "GRACE", 0.1)
    release = threading.Event()

    def hang(_host: str, _port: int) -> list[Any]:
        release.wait(10)
        return []

    start = time.monotonic()
    report = _preflight.check([], [_preflight.Name("x", "slow.corp.lab")], seconds=0.1, resolver=hang)
    release.set()
    assert "x: slow.corp.lab does not resolve on this host within 0.1 s" in report.failures[0]
    assert time.monotonic() - start < 5


def test_one_proxy_in_two_variables_is_asked_once() -> None:
    proxy = _proxy.Proxy("http", "p", 1, "u", "x")
    other = _proxy.Proxy("http", "p", 2)
    merged = _preflight.merge(
        [_preflight.Probe((name,), which, TARGET) for name, which in (("a", proxy), ("b", other), ("c", proxy))]
    )
    assert [(item.variables, item.proxy.port) for item in merged] == [(("a", "c"), 1), (("b",), 2)]


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (None, []),
        ("", []),
        ("{}", []),
        ("[]", []),
        ('{"proxies": null}', []),
        ('{"proxies": {"https-proxy": "http://p", "http-proxy": "http://p"}}', ["http-proxy", "https-proxy"]),
    ],
)
def test_docker_proxies(tmp_path: Path, text: str | None, keys: list[str]) -> None:
    path = tmp_path / "daemon.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    assert _preflight.docker_proxies(str(path)) == keys


def test_a_broken_daemon_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(HostError, match=r"daemon\.json is not JSON"):
        _preflight.docker_proxies(str(path))


@contextlib.contextmanager
def tls_server(directory: Path, head: str, pair: Pair | None = None) -> Iterator[int]:
    """Serve a head of an answer by TLS, to everybody; yields the port. What is asked goes to directory/asked."""
    pair = pair or make("control")
    (directory / "tls.pem").write_text(pair.key_pem + pair.pem, encoding="ascii")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "tls.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with context.wrap_socket(listener.accept()[0], server_side=True) as connection:
                        (directory / "asked").write_bytes(connection.recv(65536))
                        connection.sendall(head.encode())

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def reached(port: int, host: str = "127.0.0.1") -> list[str]:
    return _preflight.check([], [], [_preflight.Server("endpoint", host, port)], seconds=5).failures


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, ""), (60, ""), (600, "s ahead of this host's: both need the right time"), (-600, "s behind this host's")],
)
def test_a_server_is_reached_and_its_clock_compared(tmp_path: Path, seconds: int, words: str) -> None:
    date = email.utils.formatdate(time.time() + seconds, usegmt=True)
    with tls_server(tmp_path, f"HTTP/1.1 401 No\r\nDate: {date}\r\n\r\n") as port:
        found = reached(port)
    assert (words in found[0]) if words else found == []


def test_a_server_without_a_clock(tmp_path: Path) -> None:
    with tls_server(tmp_path, "HTTP/1.1 200 OK\r\n\r\n") as port:
        assert reached(port) == []


def test_a_server_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert reached(port) == [
        f"endpoint: 127.0.0.1:{port} refused the connection: it needs a server that listens there."
    ]
    assert "does not resolve" in reached(1, "no.invalid")[0]
    with server(b"no TLS") as (plain, _):
        assert f"endpoint: 127.0.0.1:{plain} cannot be reached from this host (" in reached(plain)[0]

    def silent(*_: object) -> socket.socket:
        raise TimeoutError

    monkeypatch.setattr(_preflight, "_connect", silent)
    assert "gave no answer within 5 s" in reached(port)[0]


def test_a_server_has_to_be_the_one_we_trust_and_to_know_us(tmp_path: Path) -> None:
    """The login goes to nobody for whom the authority does not vouch."""
    authority, other = make("authority"), make("other")
    pair = make("registry", issuer=authority, authority=False, address="127.0.0.1")
    login = f"puller:{PASSWORD}"

    def asked(port: int, ca: str) -> list[str]:
        server = _preflight.Server("site_registry", "127.0.0.1", port, "/v2/", ca, login)
        assert PASSWORD not in repr(server)
        return _preflight.check([], [], [server], seconds=5).failures

    with tls_server(tmp_path, "HTTP/1.1 200 OK\r\n\r\n", pair) as port:
        assert asked(port, authority.pem) == []
        request = (tmp_path / "asked").read_text().splitlines()
        assert request[0] == "HEAD /v2/ HTTP/1.0"
        assert f"Authorization: Basic {base64.b64encode(login.encode()).decode()}" in request
        assert asked(port, "") == []
        assert "Authorization" not in (tmp_path / "asked").read_text()
    with tls_server(tmp_path, "HTTP/1.1 200 OK\r\n\r\n", pair) as port:
        found = asked(port, other.pem)
        assert "has a certificate that the site's CA doesn't vouch for (" in found[0]
        assert "Authorization" not in (tmp_path / "asked").read_text()
    with tls_server(tmp_path, "HTTP/1.1 401 Unauthorized\r\n\r\n", pair) as port:
        found = asked(port, authority.pem)
        assert found == [
            f"site_registry: 127.0.0.1:{port} refuses the user 'puller': it needs the right user and password."
        ]
