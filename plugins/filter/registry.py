# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters of the role registry; each has its page beside this file."""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import os
import re
import typing as t

from ansible.errors import AnsibleFilterError
from cryptography import x509
from cryptography.exceptions import InvalidSignature

# bcrypt's own alphabet, in the order of the standard one (crypt(5), section bcrypt).
STANDARD = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
BCRYPT = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
ROUNDS = 10


def salt(site: str, user: str) -> bytes:
    """Return bcrypt's salt for a user: the same on every run, another for each user and registry.

    It must not depend on the password, or a guess could be tested by the salt alone, without bcrypt's slowness.
    """
    digest = hashlib.sha256(f"slipway registry\0{site}\0{user}".encode()).digest()[:16]
    text = base64.b64encode(digest).decode().rstrip("=").translate(str.maketrans(STANDARD, BCRYPT))
    return f"$2b${ROUNDS:02d}${text}".encode()


def htpasswd(users: t.Iterable[t.Mapping[str, t.Any]], site: str) -> str:
    """A list of {name, password} to the text of an htpasswd file with bcrypt hashes, the same for the same input."""
    try:
        import bcrypt
    except ImportError as exc:
        raise AnsibleFilterError("the controller needs the Python package bcrypt to make logins") from exc
    lines = []
    for user in sorted(users, key=lambda item: str(item["name"])):
        hashed = bcrypt.hashpw(str(user["password"]).encode(), salt(site, str(user["name"])))
        lines.append(f"{user['name']}:{hashed.decode()}\n")
    return "".join(lines)


def _pattern(repositories: t.Iterable[str]) -> str:
    """Return a pattern for names: `a/` is all that is below a, `a/b` exactly that one; %2F is a slash too."""
    parts = sorted({re.escape(name) + ("." if name.endswith("/") else "$") for name in repositories})
    return f"(?:{'|'.join(parts)})".replace("/", "(?:/|%2[Ff])")


def _role(user: t.Mapping[str, t.Any]) -> str:
    """Return a user's role; one without any right in the list may do everything, as all could before there were any."""
    return str(user.get("role") or ("writer" if user.get("write") else "reader" if user.get("read") else "admin"))


def registry_rights(users: t.Iterable[t.Mapping[str, t.Any]], pull: str) -> str:
    """A list of {name, role, write, delete, read} to nginx's maps slipway_may, _may_mount and _may_delete."""
    may, mount = [], []
    if pull == "anonymous":
        may.append("^ (?:read|list) ")
    for user in sorted(users, key=lambda item: str(item["name"])):
        name, role = re.escape(str(user["name"])), _role(user)
        write = [str(item) for item in user.get("write") or []]
        read = [str(item) for item in user.get("read") or []]
        if role == "admin":
            may.append(f"^{name} ")
        if role == "writer":
            verbs = "(?:write|delete)" if user.get("delete") else "write"
            may.append(f"^{name} {verbs} {_pattern(write) if write else '.'}")
        if read and role != "admin":
            may.append(f"^{name} read {_pattern(read + write)}")
            mount.append(f"^{name} {_pattern(read + write)}")
        else:
            may += [f"^{name} (?:read|list) "] if role != "admin" else []
            mount.append(f"^{name} .")
    return "".join(
        [
            _map('"$slipway_login $slipway_act $slipway_repository" $slipway_may', may),
            _map('"$slipway_login $slipway_from" $slipway_may_mount', mount),
            _map('"$slipway_login delete $slipway_repository" $slipway_may_delete', may),
        ]
    )


def registry_retention(rules: t.Iterable[t.Mapping[str, t.Any]]) -> list[dict[str, t.Any]]:
    """A list of retention rules to the same with every key, as the program on the machine reads them."""
    return [
        {
            "repositories": [str(item) for item in rule.get("repositories") or ["*"]],
            "tags": [str(item) for item in rule.get("tags") or ["*"]],
            "keep_last": int(rule.get("keep_last") or 0),
            "keep_days": int(rule.get("keep_days") or 0),
        }
        for rule in rules
    ]


def _map(head: str, patterns: t.Iterable[str]) -> str:
    lines = "".join(f'    "~{pattern}" 1;\n' for pattern in patterns)
    return f"map {head} {{\n    default 0;\n{lines}}}\n"


def subject_alternative_names(names: t.Iterable[str]) -> list[str]:
    """Host names and addresses to what community.crypto calls them: DNS:name, IP:address."""
    return [f"{'IP' if _address(name) else 'DNS'}:{name}" for name in names]


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def name_constraints(names: t.Iterable[str]) -> dict[str, list[str]]:
    """Host names and addresses to the constraints of an issuer that may sign for these only: permitted, excluded.

    Where no address of a family is permitted, that family is excluded: a kind of name that no constraint speaks of
    is free (RFC 5280, 4.2.1.10).
    """
    permitted, free = [], {4: "IP:0.0.0.0/0", 6: "IP:::/0"}
    for name in names:
        address = _address(name)
        permitted.append(f"IP:{address}/{address.max_prefixlen}" if address else f"DNS:{name}")
        if address:
            free.pop(address.version, None)
    return {"permitted": permitted, "excluded": list(free.values())}


def _certificate(path: str) -> x509.Certificate | None:
    """Return the first certificate of a file; None when there is no such file or no certificate in it."""
    try:
        with open(path, "rb") as handle:
            return x509.load_pem_x509_certificate(handle.read())
    except (OSError, ValueError):
        return None


def _ends_within(certificate: x509.Certificate, days: float) -> bool:
    return certificate.not_valid_after_utc < datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)


def _names(certificate: x509.Certificate) -> set[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {*found.get_values_for_type(x509.DNSName), *(str(ip) for ip in found.get_values_for_type(x509.IPAddress))}


def _signed(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _signs_issuers(authority: x509.Certificate) -> bool:
    """Tell whether an authority may have another one below it: those of earlier releases may not."""
    try:
        limits = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return False
    return limits.path_length is None or limits.path_length > 0


def _permitted(certificate: x509.Certificate) -> set[str]:
    """Return what an issuer may sign for, spelled as name_constraints() does."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or []
    except x509.ExtensionNotFound:
        return set()
    return {f"{'IP' if isinstance(name, x509.IPAddress) else 'DNS'}:{name.value}" for name in found}


def _issuer_due(wanted: t.Mapping[str, t.Any], authority: x509.Certificate) -> bool:
    stem = os.path.join(str(wanted["directory"]), str(wanted["host"]))
    issuer = _certificate(f"{stem}.issuer.crt")
    # It has to outlast the certificate that it signs last before the controller comes by again.
    days = float(wanted["renew_before"]) + float(wanted.get("certificate_days", 0))
    return not (
        issuer is not None
        and os.path.exists(f"{stem}.issuer.key")
        and os.path.exists(f"{stem}.key")
        and not _ends_within(issuer, days)
        and _permitted(issuer) == set(name_constraints(wanted["names"])["permitted"])
        and _signed(issuer, authority)
    )


def certificates_due(wanted: t.Mapping[str, t.Any]) -> list[str]:
    """What of {directory, host, names, renew_before (days)} has to be made or renewed: ca, server, issuer or nothing.

    With renewal: true and an authority that may sign issuers it is an issuer instead of the server's certificate.
    """
    directory, host = str(wanted["directory"]), str(wanted["host"])
    days = float(wanted["renew_before"])
    authority = _certificate(os.path.join(directory, "ca.crt"))
    key_is_there = os.path.exists(os.path.join(directory, "ca.key"))
    if authority is None or not key_is_there or _ends_within(authority, days):
        return ["ca", "issuer" if wanted.get("renewal") else "server"]
    if wanted.get("renewal") and _signs_issuers(authority):
        return ["issuer"] if _issuer_due(wanted, authority) else []
    server = _certificate(os.path.join(directory, f"{host}.crt"))
    good = (
        server is not None
        and os.path.exists(os.path.join(directory, f"{host}.key"))
        and not _ends_within(server, days)
        and _names(server) == {str(_address(name) or name) for name in wanted["names"]}
        and _signed(server, authority)
    )
    return [] if good else ["server"]


def renews_itself(wanted: t.Mapping[str, t.Any]) -> bool:
    """Whether the registry's machine signs its own certificates: wanted, and the authority may sign issuers."""
    authority = _certificate(os.path.join(str(wanted["directory"]), "ca.crt"))
    return bool(wanted.get("renewal")) and authority is not None and _signs_issuers(authority)


class FilterModule:
    """What ansible-core looks for in a filter file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {
            "certificates_due": certificates_due,
            "htpasswd": htpasswd,
            "name_constraints": name_constraints,
            "registry_retention": registry_retention,
            "registry_rights": registry_rights,
            "renews_itself": renews_itself,
            "subject_alternative_names": subject_alternative_names,
        }
