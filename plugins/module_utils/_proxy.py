# SPDX-License-Identifier: GPL-3.0-or-later
"""Proxy credentials and no_proxy lists, encoded once for each file and program that reads them.

Everything here is pure: values in, text out. No message of this file holds a password.
"""

from __future__ import annotations

import base64
import dataclasses
import ipaddress
import re
import typing as t
import urllib.parse

DEFAULT_PORTS = {"http": 80, "https": 443}
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?/?", re.I
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# systemd drops an assignment that holds a control character other than tab and newline (env-util.c).
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class ProxyError(ValueError):
    """A proxy setting that no consumer could use; the message is one sentence without secrets."""


@dataclasses.dataclass(frozen=True)
class Proxy:
    """One proxy: scheme (http or https), host as in the URL, port, and raw credentials (empty: none)."""

    scheme: str
    host: str
    port: int
    user: str = ""
    password: str = dataclasses.field(default="", repr=False)

    @property
    def address(self) -> str:
        """host:port, for messages."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL with credentials, each percent-encoded once; the port always stands, as programs differ on it."""
        credentials = f"{percent_encode(self.user)}:{percent_encode(self.password)}@" if self.user else ""
        return f"{self.scheme}://{credentials}{self.address}"

    @property
    def basic(self) -> str:
        """The value of a Proxy-Authorization header (RFC 7617, UTF-8); empty without credentials."""
        if not self.user:
            return ""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def percent_encode(text: str) -> str:
    """Encode every byte of the UTF-8 form that is not unreserved in RFC 3986 (letters, digits, `-._~`)."""
    try:
        return urllib.parse.quote(text, safe="")
    except UnicodeEncodeError:
        raise ProxyError("the proxy's credentials are not valid Unicode text: they need to be UTF-8") from None


def parse(setting: t.Mapping[str, t.Any] | None) -> Proxy | None:
    """Turn {url, user, password} into a Proxy; nothing, {} and an empty url mean no proxy.

    Raises ProxyError for a URL that is no proxy's, and for half a pair of credentials. A colon in the user cannot
    be sent at all: Basic authentication ends the user there (RFC 7617 section 2).
    """
    if not setting or not setting.get("url"):
        return None
    url = str(setting["url"])
    match = _URL.fullmatch(url)
    if match is None:
        # A refused URL may hold a password, so only a harmless one is repeated.
        shown = f" {url!r}" if "@" not in url else ""
        raise ProxyError(
            f"the proxy's url{shown} is not usable: it needs a scheme, a host and a port and nothing else, "
            "for example http://proxy.corp.lab:8080, with user and password beside it"
        )
    scheme = match["scheme"].lower()
    port = int(match["port"] or DEFAULT_PORTS[scheme])
    user, password = ("" if setting.get(key) is None else str(setting[key]) for key in ("user", "password"))
    _check_credentials(user, password, address=f"{match['host']}:{port}")
    if not 1 <= port <= 65535:
        raise ProxyError(f"the proxy's port is {port}: it needs to be between 1 and 65535")
    return Proxy(scheme, match["host"].lower(), port, user, password)


def _check_credentials(user: str, password: str, *, address: str) -> None:
    if bool(user) != bool(password):
        missing = "password" if user else "user"
        raise ProxyError(f"the proxy {address} has no {missing}: it needs both user and password, or neither")
    if ":" in user:
        raise ProxyError(f"the proxy {address} has a user with a colon: Basic authentication cannot send one")
    if _CONTROL.search(user + password):
        raise ProxyError(f"the proxy {address} has a control character in its credentials: they need printable text")


def proxy_url(setting: t.Mapping[str, t.Any] | None) -> str:
    """Return the URL with credentials percent-encoded once, or an empty string for no proxy. Raises ProxyError."""
    proxy = parse(setting)
    return proxy.url if proxy else ""


def no_proxy_entries(entries: t.Iterable[t.Any]) -> list[str]:
    """Return the entries of a no_proxy list in one spelling, each once, sorted.

    Sorted, because a reordered list is the same list and must not restart anything. The grammar is Go's
    (golang.org/x/net/http/httpproxy): CIDR, address, name, .suffix, each but CIDR with an optional :port.
    Raises ProxyError for an entry that would be read as another one.
    """
    return sorted({_no_proxy_entry(entry) for entry in entries})


def _no_proxy_entry(entry: t.Any) -> str:
    text = str(entry)
    if not re.fullmatch(r"[A-Za-z0-9._:/\[\]-]+", text):
        raise ProxyError(
            f"no_proxy holds {text!r}: it needs a name, a .suffix, an address, a CIDR or host:port, one per entry"
        )
    if "/" in text:
        try:
            return str(ipaddress.ip_network(text, strict=False))
        except ValueError:
            raise ProxyError(f"no_proxy holds {text!r}: it needs a network such as 10.0.0.0/8") from None
    return text.lower()


def no_proxy_string(entries: t.Iterable[t.Any]) -> str:
    """Return a no_proxy list as the value of NO_PROXY: comma-separated, no spaces. Raises ProxyError."""
    return ",".join(no_proxy_entries(entries))


def variables(
    *,
    http: t.Mapping[str, t.Any] | None = None,
    https: t.Mapping[str, t.Any] | None = None,
    no_proxy: t.Iterable[t.Any] = (),
) -> dict[str, str]:
    """Return the environment variables of a proxy setting in upper and in lower case, since programs differ.

    NO_PROXY stands only beside a proxy. Raises ProxyError.
    """
    named = {"http_proxy": proxy_url(http), "https_proxy": proxy_url(https)}
    if any(named.values()):
        named["no_proxy"] = no_proxy_string(no_proxy)
    given = {name: value for name, value in named.items() if value}
    return {key: value for name, value in given.items() for key in (name.upper(), name)}


def _assignments(values: t.Mapping[str, t.Any]) -> list[tuple[str, str]]:
    pairs = [(str(name), str(value)) for name, value in values.items()]
    for name, value in pairs:
        if not _VARIABLE.fullmatch(name):
            raise ProxyError(f"{name!r} is not the name of an environment variable")
        if _CONTROL.search(value):
            raise ProxyError(f"the value of {name} holds a control character: systemd would drop it")
    return pairs


def systemd_environment_file(values: t.Mapping[str, t.Any]) -> str:
    """Return variables as the lines of a systemd EnvironmentFile.

    Single quotes keep everything but themselves (systemd.exec(5), EnvironmentFile=); specifiers are not expanded
    there, so a % stays single. Raises ProxyError.
    """
    lines = [f"""{name}='{value.replace("'", "'" + '"' + "'" + '"' + "'")}'""" for name, value in _assignments(values)]
    return "".join(line + "\n" for line in lines)


def systemd_environment(values: t.Mapping[str, t.Any]) -> str:
    r"""Return variables as Environment= lines of a unit.

    systemd takes the quotes and backslashes off first and expands specifiers then (systemd.unit(5)), so a % is
    doubled, and " and \ are escaped. $ means nothing in Environment=. Raises ProxyError.
    """
    lines = []
    for name, value in _assignments(values):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
        lines.append(f'Environment="{name}={escaped}"\n')
    return "".join(lines)


def apt_proxy(
    *,
    http: t.Mapping[str, t.Any] | None = None,
    https: t.Mapping[str, t.Any] | None = None,
    no_proxy: t.Iterable[t.Any] = (),
) -> str:
    """Return apt.conf(5) lines that send apt through the proxies, or an empty string for none.

    A scheme without a proxy goes DIRECT, explicitly: apt's https would else take the proxy of http. apt knows no
    suffixes and no networks, so of no_proxy the names and single addresses count, without their port.
    Raises ProxyError.
    """
    proxies = {"http": parse(http), "https": parse(https)}
    if not any(proxies.values()):
        return ""
    lines = [f'Acquire::{scheme}::Proxy "{proxy.url if proxy else "DIRECT"}";' for scheme, proxy in proxies.items()]
    hosts = sorted({host for entry in no_proxy_entries(no_proxy) if (host := _exact_host(entry))})
    lines += [f'Acquire::{scheme}::Proxy::{host} "DIRECT";' for scheme in proxies for host in hosts]
    return "".join(line + "\n" for line in lines)


def _exact_host(entry: str) -> str:
    """Return the host that an entry names exactly; empty for suffixes, networks and IPv6 (`::` divides apt's keys)."""
    host, _, port = entry.partition(":")
    exact = not entry.startswith(".") and "/" not in entry and "[" not in entry and ":" not in port
    return host if exact else ""


ENVIRONMENT_DIR = "/etc/slipway/docker_proxy"


def drop_ins(
    *,
    http: t.Mapping[str, t.Any] | None = None,
    https: t.Mapping[str, t.Any] | None = None,
    no_proxy: t.Iterable[t.Any] = (),
    units: t.Sequence[str],
    in_unit: bool,
    header: str,
) -> list[dict[str, str]]:
    """Return the files, as host_state takes them, that give systemd units a proxy; none without one.

    Each scheme has its own drop-in in each unit. in_unit: the variables stand in the drop-in, where every local user
    can ask systemd for them; else in a file that only root can read. Files come before the drop-ins that name them.
    Raises ProxyError.
    """
    entries = no_proxy_entries(no_proxy)
    contents = {
        "http": variables(http=http, no_proxy=entries),
        "https": variables(https=https, no_proxy=entries),
    }
    given = {scheme: values for scheme, values in contents.items() if values}
    files: list[dict[str, str]] = []
    if given and not in_unit:
        files.append({"path": ENVIRONMENT_DIR, "state": "directory", "mode": "0700"})
        for scheme, values in given.items():
            text = header + "\n" + systemd_environment_file(values)
            files.append({"path": f"{ENVIRONMENT_DIR}/{scheme}.env", "secret_content": text, "mode": "0600"})
    for unit in units:
        for scheme, values in given.items():
            path = f"/etc/systemd/system/{unit}.service.d/{scheme}-proxy.conf"
            if in_unit:
                text = f"{header}\n[Service]\n{systemd_environment(values)}"
                files.append({"path": path, "secret_content": text, "mode": "0600"})
            else:
                text = f"{header}\n[Service]\nEnvironmentFile={ENVIRONMENT_DIR}/{scheme}.env\n"
                files.append({"path": path, "content": text, "mode": "0644"})
    return files
