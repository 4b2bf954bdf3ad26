# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules that the action plugin validate applies to role variables, before anything changes on a host.

A rule takes a templated value and returns what is wrong with it: nothing, the words after "it needs", or Problems
that also name the part of the value which is wrong. Rules of a single role live in _rules_<role>.py beside this file.
"""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
import re
import typing as t
import urllib.parse

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

# resolv.conf(5): MAXNS is 3; six search domains and 256 characters were the limits before glibc 2.26, musl keeps them.
MAX_DNS_SERVERS = 3
MAX_SEARCH_DOMAINS = 6
MAX_SEARCH_CHARACTERS = 256
# RFC 1123, section 2.1, with RFC 1035's lengths; a last label of digits only would be (part of) an address.
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z)(?!(?:.*\.)?[0-9]+\.?\Z){_LABEL}(?:\.{_LABEL})*\.?\Z")
# resolv.conf(5), section options.
DNS_OPTION = re.compile(
    r"(ndots|timeout|attempts):[0-9]+\Z|(rotate|edns0|single-request|single-request-reopen|use-vc|trust-ad|no-aaaa"
    r"|no-check-names|no-reload|no-tld-query|inet6|ip6-bytestring|ip6-dotint|no-ip6-dotint|debug)\Z"
)
# bcrypt reads no more than 72 bytes of a password.
MAX_PASSWORD_BYTES = 72


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is wrong with a part of a value.

    path is appended to the variable's name (".url", "[2]"); got is shown to the user, so it never holds a secret.
    """

    needs: str
    path: str = ""
    got: str | None = None


Verdict = str | Problem | list[Problem] | None
Rule = t.Callable[[t.Any], Verdict]


def shown(value: t.Any) -> str:
    """Return a value as text for a message: repr-like, one line, at most 80 characters, no credentials of a URL."""
    text = " ".join((repr(value) if isinstance(value, str) else str(value)).split())
    text = re.sub(r"://.*@", "://***@", text)
    return text if len(text) <= 80 else text[:77] + "..."


def port(value: t.Any) -> Verdict:
    """Accept a TCP port, 1 to 65535, as a number or a string of digits."""
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,5}", str(value)) or not 0 < int(value) < 65536:
        return "a port number from 1 to 65535"
    return None


def host_name(value: t.Any) -> Verdict:
    """Accept a host name (RFC 1123) or an IP address."""
    if is_ip(value) or (isinstance(value, str) and HOST_NAME.match(value)):
        return None
    return "a host name or IP address without scheme, port or path"


def is_ip(value: t.Any) -> bool:
    """Tell whether a value is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(str(value))
    except ValueError:
        return False
    return True


def absolute_path(value: t.Any) -> Verdict:
    """Accept an absolute path without `.`, `..` and control characters that is not the root directory."""
    if (
        isinstance(value, str)
        and re.fullmatch(r"(/[^/\x00-\x1f\x7f]+)+", value)
        and not {".", ".."} & {*value.split("/")}
    ):
        return None
    return "an absolute path below /, without .. and without a slash at the end"


def size(value: t.Any) -> Verdict:
    """Accept a number of bytes with an optional unit k, m, g or t (Docker's and systemd's sizes)."""
    return None if re.fullmatch(r"[0-9]+[kKmMgGtT]?", str(value)) else "a size such as 10m or 2g"


def duration(value: t.Any) -> Verdict:
    """Accept a whole number with a unit s, m, h or d."""
    return None if re.fullmatch(r"[0-9]+[smhd]", str(value)) else "a duration such as 30s, 15m, 12h or 30d"


def proxy(value: t.Any) -> Verdict:
    """Accept a proxy {url, user, password}; {} or an empty url means none.

    RFC 7617 (Basic): the user has no colon; neither part has control characters.
    """
    if not isinstance(value, dict):
        needs = "a dictionary with url and, if the proxy asks for them, user and password"
        return Problem(needs, "", "something else")
    url, user, password = (str(value.get(key) or "") for key in ("url", "user", "password"))
    problems = _proxy_url(url) if url else []
    if not url and (user or password):
        problems.append(Problem("a URL, because user or password is set", ".url", shown(url)))
    if bool(user) != bool(password):
        missing = "password" if user else "user"
        problems.append(Problem(f"a value, because {'user' if user else 'password'} is set", f".{missing}", "empty"))
    if ":" in user:
        needs = "to be without a colon (HTTP Basic authentication can't carry one)"
        problems.append(Problem(needs, ".user", shown(user.partition(":")[0] + ":***")))  # the rest may be a password
    for key, text in (("user", user), ("password", password)):
        if _has_control_characters(text):
            problems.append(Problem("to be without control characters", f".{key}", "a text with control characters"))
    return problems


def _has_control_characters(text: str) -> bool:
    return any(ord(character) < 32 or ord(character) == 127 for character in text)


def _proxy_url(url: str) -> list[Problem]:
    example = "for example http://proxy.corp.lab:8080"
    # Whatever stands before an @ may be a password, also where the rest is no URL.
    hidden = shown(re.sub(r"^([a-z][a-z0-9+.-]*://)?.*@", r"\1***@", url, flags=re.DOTALL | re.IGNORECASE))
    if "@" in url:
        return [Problem("no user or password inside: give them as .user and .password, raw", ".url", hidden)]
    if not re.match(r"https?://", url):
        scheme = url.split("://")[0] if "://" in url else ""
        needs = f"the scheme http or https, not {scheme}" if scheme else "a scheme"
        return [Problem(f"{needs}, {example}", ".url", hidden)]
    needs = _url_parts(url)
    return [Problem(f"{needs}, {example}", ".url", hidden)] if needs else []


def _url_parts(url: str) -> str:
    """Return what a URL with a scheme lacks to be scheme, host and port, nothing else; empty when it is."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:  # brackets that are not closed
        return "a host and a port"
    try:
        number = parts.port
    except ValueError:
        return "a port from 1 to 65535"
    # urlsplit() drops tabs and line ends without a word; here they would end up in configuration files.
    if not number or not parts.hostname or host_name(parts.hostname) or _has_control_characters(url):
        return "a host and a port"
    return "to end after the port" if parts.path not in ("", "/") or parts.query or parts.fragment else ""


def no_proxy(value: t.Any) -> Verdict:
    """Accept the entries that Go's httpproxy understands: name, .suffix, IP, CIDR, each with an optional port.

    Source: golang.org/x/net/http/httpproxy, Config.NoProxy.
    """
    if not isinstance(value, list):
        return "a list such as [.corp.lab, 10.0.0.0/8]"
    found = [(index, entry, _no_proxy_entry(entry)) for index, entry in enumerate(value)]
    return [Problem(needs, f"[{index}]", shown(entry)) for index, entry, needs in found if needs]


def _no_proxy_entry(entry: t.Any) -> str:
    text = str(entry)
    if not text or re.search(r"\s", text) or "," in text:
        return "one name, .suffix, address or CIDR without spaces or commas"
    if "*" in text:
        return "a suffix with a leading dot instead of *, for example .corp.lab"
    if "://" in text:
        return "a name without scheme"
    bare = re.sub(r"^\[(.*)\](:\d+)?$|^([\d.]+):\d+$", r"\1\3", text)
    if is_ip(bare) or _is_network(text):
        return ""
    name = re.sub(r":\d+$", "", text).removeprefix(".")
    return "" if HOST_NAME.match(name) else "a name, .suffix, IP address or CIDR"


def _is_network(text: str) -> bool:
    """Tell whether a text is a CIDR as Go's net.ParseCIDR takes it: host bits may be set, a netmask may not."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return bool(re.search(r"/[0-9]{1,3}\Z", text))


def dns_servers(value: t.Any) -> Verdict:
    """Accept up to three different IP addresses (resolv.conf(5), MAXNS)."""
    if not isinstance(value, list):
        return "a list of IP addresses"
    problems = [Problem("an IP address", f"[{i}]", shown(entry)) for i, entry in enumerate(value) if not is_ip(entry)]
    if len(value) > MAX_DNS_SERVERS:
        problems.append(Problem(f"at most {MAX_DNS_SERVERS} servers, because resolvers ignore the rest"))
    if len(set(map(str, value))) != len(value):
        problems.append(Problem("each server once"))
    return problems


def dns_search(value: t.Any) -> Verdict:
    """Accept up to six search domains of 256 characters together."""
    if not isinstance(value, list):
        return "a list of domains"
    wrong = [(index, entry) for index, entry in enumerate(value) if not HOST_NAME.match(str(entry))]
    problems = [Problem("a domain name", f"[{index}]", shown(entry)) for index, entry in wrong]
    if len(value) > MAX_SEARCH_DOMAINS or len(" ".join(map(str, value))) > MAX_SEARCH_CHARACTERS:
        problems.append(Problem(f"at most {MAX_SEARCH_DOMAINS} domains of {MAX_SEARCH_CHARACTERS} characters together"))
    return problems


def dns_options(value: t.Any) -> Verdict:
    """Accept options of resolv.conf(5)."""
    if not isinstance(value, list):
        return "a list such as [ndots:2, timeout:1]"
    return [
        Problem("an option of resolv.conf(5) such as ndots:2", f"[{i}]", shown(entry))
        for i, entry in enumerate(value)
        if not DNS_OPTION.match(str(entry))
    ]


def load_certificates(text: t.Any) -> list[x509.Certificate]:
    """Return the certificates of a PEM text; an empty list when there is none or one can't be read."""
    try:
        return x509.load_pem_x509_certificates(str(text).encode())
    except ValueError:
        return []


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _not_valid_today(certificate: x509.Certificate) -> str:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if start > _now():
        return f"a certificate that starts on {start:%Y-%m-%d}"
    return f"a certificate that ended on {end:%Y-%m-%d}" if end < _now() else ""


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return certificate.issuer == certificate.subject  # a version 1 root has no extensions


def ca_certificate(value: t.Any) -> Verdict:
    """Accept PEM text of CA certificates that have not expired; empty means none."""
    if value in (None, ""):
        return None
    found = load_certificates(value)
    if not found:
        got = "a text that is no certificate"
        return Problem("PEM text of a CA certificate (-----BEGIN CERTIFICATE-----)", "", got)
    if "PRIVATE KEY-----" in str(value):  # it would be copied to every host, readable by all
        return Problem("the certificate alone, without its private key", "", "a text with a private key")
    for certificate in found:
        if wrong := _not_valid_today(certificate):
            return Problem("a CA certificate that is valid today", "", wrong)
        if not _is_authority(certificate):
            subject = certificate.subject.rfc4514_string()
            return Problem("the certificate of the CA, not of a server", "", f"the certificate of {subject!r}, no CA")
    return None


def ca_certificates(value: t.Any) -> Verdict:
    """Accept a dictionary from a short name (a file name on the host) to the PEM text of a CA."""
    if not isinstance(value, dict):
        return "a dictionary from a short name to PEM text"
    problems = []
    for name, text in value.items():
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", str(name)):
            problems.append(Problem("a name of a-z, 0-9, dot, dash and underscore", "", f"the name {shown(str(name))}"))
        verdict = ca_certificate(text) if text else "PEM text of a CA certificate"
        if isinstance(verdict, str):
            verdict = Problem(verdict, "", "empty")
        if isinstance(verdict, Problem):
            problems.append(dataclasses.replace(verdict, path=f".{name}"))
    return problems


def certificate(value: t.Any) -> Verdict:
    """Accept {certificate, private_key, ca}: a key that matches, a chain that is valid today and was signed by the ca.

    ca may be missing or empty.
    """
    chain = load_certificates(value.get("certificate", ""))
    if not chain:
        return Problem("PEM text of a certificate", ".certificate", "a text that is no certificate")
    if wrong := _not_valid_today(chain[0]):
        return Problem("a certificate that is valid today", ".certificate", wrong)
    try:
        key = serialization.load_pem_private_key(str(value.get("private_key", "")).encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return Problem("PEM text of an unencrypted private key", ".private_key", "a text that is no such key")
    if _public_bytes(key.public_key()) != _public_bytes(chain[0].public_key()):
        got = "the key of another certificate"
        return Problem("the private key that belongs to the certificate", ".private_key", got)
    return _signed_by(chain, value.get("ca") or "")


def _public_bytes(key: t.Any) -> bytes:
    return t.cast(bytes, key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def _signed_by(chain: t.Sequence[x509.Certificate], authority_text: str) -> Verdict:
    if not authority_text:
        return None
    authorities = load_certificates(authority_text)
    if not authorities:
        return Problem("PEM text of the CA's certificate", ".ca", "a text that is no certificate")
    last, rest = chain[0], list(chain[1:])
    while not any(_issued(last, authority) for authority in authorities):
        above = next((issuer for issuer in rest if _issued(last, issuer)), None)
        if above is None:
            name = last.issuer.rfc4514_string()
            return Problem("the CA that signed the certificate", ".ca", f"a CA that did not sign it (it was {name!r})")
        rest.remove(above)
        last = above
    return None


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def users(value: t.Any) -> Verdict:
    """Accept a list of {name, password} with different names; a password has 8 to 72 bytes (bcrypt's limit)."""
    if not isinstance(value, list):
        return Problem("a list of {name, password}", "", "something else")
    problems: list[Problem] = []
    for index, user in enumerate(value):
        if not isinstance(user, dict):
            problems.append(Problem("a dictionary with name and password", f"[{index}]", "something else"))
        else:
            problems += _user(user, f"[{index}]")
    names = [str(user.get("name")) for user in value if isinstance(user, dict)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    return problems + [Problem("each name once", "", f"{shown(name)} twice") for name in repeated]


def _user(user: dict[str, t.Any], path: str) -> list[Problem]:
    problems = []
    name, password = str(user.get("name") or ""), str(user.get("password") or "")
    if not re.fullmatch(r"[A-Za-z0-9._@+-]{1,64}", name):
        problems.append(Problem("a name of letters, digits and . _ @ + -", f"{path}.name", shown(name)))
    if not password:
        problems.append(Problem(f"a password for user {name!r}", f"{path}.password", "empty"))
    elif not 8 <= len(password.encode()) <= MAX_PASSWORD_BYTES:
        problems.append(
            Problem(f"8 to {MAX_PASSWORD_BYTES} bytes", f"{path}.password", f"a text of {len(password.encode())} bytes")
        )
    elif _has_control_characters(password):  # RFC 7617, section 2
        problems.append(
            Problem("to be without control characters", f"{path}.password", "a text with control characters")
        )
    return problems


def web_address(value: t.Any, part: str = "") -> Problem | None:
    """Return what an address needs to be one of a repository: http or https, and no credentials, which would leak."""
    text = str(value)
    if re.fullmatch(r"https?://[^/@\s]+(/[^@\s]*)?", text):
        return None
    got = "an address with credentials" if "@" in text else shown(value)
    return Problem("an http or https address without credentials", part, got)


RULES: dict[str, Rule] = {
    "absolute_path": absolute_path,
    "ca_certificate": ca_certificate,
    "ca_certificates": ca_certificates,
    "certificate": certificate,
    "dns_options": dns_options,
    "dns_search": dns_search,
    "dns_servers": dns_servers,
    "duration": duration,
    "host_name": host_name,
    "no_proxy": no_proxy,
    "port": port,
    "proxy": proxy,
    "size": size,
    "users": users,
}
