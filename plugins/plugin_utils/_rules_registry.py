# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules of the role registry, for the action plugin validate."""

from __future__ import annotations

import dataclasses
import re
import typing as t

from ansible_collections.slipway.platform.plugins.plugin_utils import _rules
from ansible_collections.slipway.platform.plugins.plugin_utils._rules import Problem, Rule, Verdict
from cryptography import x509

# A repository's name, as distribution/reference takes it; with a slash at the end, all that is below.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
REPOSITORIES = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*/?\Z")
# An image that retention leaves alone: [host:port/]repository pattern, with a tag pattern or a digest.
PROTECTED = re.compile(
    r"[A-Za-z0-9][^\s@:]*(?::\d+/[^\s@:]+)?(?::[^\s@:/]+)?(?:@[a-z0-9+._-]+:[0-9a-f]{32,128})?\Z|\*[^\s@]*\Z"
)
# What each role leaves no room for.
_MEANINGLESS = {"reader": ("write", "delete"), "writer": (), "admin": ("write", "delete", "read")}


def registry_names(value: t.Any) -> Verdict:
    """Accept a list of host names and IP addresses."""
    if not isinstance(value, list):
        return "a list of host names and IP addresses"
    return [
        Problem("a host name or an IP address", f"[{index}]", _rules.shown(name))
        for index, name in enumerate(value)
        if not _rules.is_ip(name) and _rules.host_name(name)
    ]


def registry_tls(value: t.Any) -> Verdict:
    """Accept {tls, host, certificate, private_key, ca}: with tls files, a certificate that is for the host."""
    if value.get("tls") != "files":
        given = [part for part in ("certificate", "private_key") if value.get(part)]
        needs = "to be empty while registry_tls is own_ca (give registry_tls: files to use it)"
        return [Problem(needs, f".{part}", "set") for part in given]
    verdict = _rules.certificate(value)
    if verdict:
        return verdict
    leaf = _rules.load_certificates(value.get("certificate", ""))[0]
    return None if _is_for(leaf, str(value.get("host"))) else _wrong_host(leaf, str(value.get("host")))


def registry_pki(value: t.Any) -> Verdict:
    """Accept {tls, directory, root, issuer, certificate, key}: files of the own CA that are what their names say.

    None is there before the first run. Being here, they are also part of what decides whether a machine is unchanged.
    """
    if value.get("tls") != "own_ca":
        return None
    problems = []
    for part, name in (("root", "ca.crt"), ("issuer", "HOST.issuer.crt"), ("certificate", "HOST.crt")):
        if value.get(part) and not _rules.load_certificates(value[part]):
            problems.append(Problem(f"{name} to be a certificate, or not to be there", ".directory", "damaged"))
    if value.get("key") and "PRIVATE KEY-----" not in str(value["key"]):
        problems.append(Problem("HOST.key to be a private key, or not to be there", ".directory", "damaged"))
    return problems


def _alternative_names(leaf: x509.Certificate) -> list[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*names.get_values_for_type(x509.DNSName), *(str(ip) for ip in names.get_values_for_type(x509.IPAddress))]


def _is_for(leaf: x509.Certificate, host: str) -> bool:
    """RFC 6125, 6.4.3: a wildcard stands for exactly the first label."""
    wildcard = "*." + host.partition(".")[2]
    return any(name.lower() in (host.lower(), wildcard.lower()) for name in _alternative_names(leaf))


def _wrong_host(leaf: x509.Certificate, host: str) -> Problem:
    names = ", ".join(_alternative_names(leaf)) or "no name (it has no subject alternative name)"
    return Problem(f"a certificate for registry_host, {host}", ".certificate", f"a certificate for {names}")


def registry_pull(value: t.Any) -> Verdict:
    """Accept {pull, users}: authenticated pulls need a user, and limits to reading need authenticated pulls."""
    users = value.get("users") or []
    if value.get("pull") == "authenticated":
        needs = "at least one user while registry_pull is authenticated"
        return None if users else Problem(needs, ".users", "empty")
    limited = [str(user.get("name")) for user in users if user.get("read")]
    if limited:
        got = f"a list that limits what {', '.join(limited)} may read"
        return Problem("registry_pull: authenticated, because now anybody may read everything", ".users", got)
    return None


def registry_retention(value: t.Any) -> Verdict:
    """Accept retention rules that keep something: a rule without keep_last and keep_days would delete all it fits."""
    problems: list[Problem] = []
    for index, rule in enumerate(value if isinstance(value, list) else []):
        if isinstance(rule, dict):
            problems += [dataclasses.replace(item, path=f"[{index}]{item.path}") for item in _retention(rule)]
    return problems


def _retention(rule: dict[str, t.Any]) -> list[Problem]:
    problems = []
    for part in ("repositories", "tags"):
        given = rule.get(part)
        if given is not None and (not given or not all(isinstance(item, str) and item for item in given)):
            problems.append(Problem("patterns such as team-a/* or pr-*, or to be left out", f".{part}", "empty"))
    kept = [int(rule.get(part) or 0) for part in ("keep_last", "keep_days")]
    if min(kept) < 0 or not any(kept):
        needs = "keep_last or keep_days of at least 1, or it would delete every tag that it fits"
        problems.append(Problem(needs, "", "a rule that keeps nothing"))
    return problems


def registry_protected(value: t.Any) -> Verdict:
    """Accept images as repository, repository:tag or repository@digest; without the digest, patterns."""
    return [
        Problem("repository, repository:tag or repository@sha256:…", f"[{index}]", _rules.shown(item))
        for index, item in enumerate(value if isinstance(value, list) else [])
        if not isinstance(item, str) or not PROTECTED.match(item)
    ]


def registry_clusters(value: t.Any) -> Verdict:
    """Accept clusters with an https server, an authority that is one, a token of one line, and paths of lists."""
    problems: list[Problem] = []
    for index, item in enumerate(value if isinstance(value, list) else []):
        if isinstance(item, dict):
            problems += [dataclasses.replace(found, path=f"[{index}]{found.path}") for found in _cluster(item)]
    return problems


def _cluster(item: dict[str, t.Any]) -> list[Problem]:
    problems = []
    if not re.fullmatch(
        r"https://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::\d{1,5})?(?:/[\w./~-]*)?", str(item.get("server"))
    ):
        needs = "the API server's address, such as https://kube.example.com:6443"
        problems.append(Problem(needs, ".server", _rules.shown(item.get("server"))))
    authority = _rules.ca_certificate(item.get("ca_certificate"))
    if isinstance(authority, Problem):
        problems.append(dataclasses.replace(authority, path=".ca_certificate"))
    if not re.fullmatch(r"[!-~]+", str(item.get("token") or "").strip()):
        problems.append(Problem("the token of a service account, one line", ".token", "a value that may be secret"))
    for number, path in enumerate(item.get("resources") or []):
        if not re.fullmatch(r"/apis?/[A-Za-z0-9./-]+", str(path)):
            needs = "the path of a list, such as /apis/argoproj.io/v1alpha1/rollouts"
            problems.append(Problem(needs, f".resources[{number}]", _rules.shown(path)))
    return problems


def registry_calendar(value: t.Any) -> Verdict:
    """Accept a calendar event of systemd, as far as that can be told here; the machine's systemd says the rest."""
    if value is None or (isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9*:,./~_+ -]*", value)):
        return None
    return "a time as systemd takes it, such as Sun 04:00 or daily, or nothing"


# What S3 calls buckets, and the paths in them that need no care.
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")
PREFIX = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?\Z")
ENDPOINT = re.compile(r"(?:https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?)?\Z")
REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*\Z")


def registry_storage(value: t.Any) -> Verdict:
    """Accept {storage, endpoint, …, beside}: a bucket with all that it takes; only that can several machines share."""
    if value.get("storage") != "s3":
        if not value.get("beside"):
            return None
        needs = f"to be s3 where several machines are one registry, as this one and {len(value['beside'])} more here"
        return Problem(needs, ".storage", "filesystem")
    problems = [problem for part, rule in _BUCKET.items() if (problem := rule(str(value.get(part) or ""), part))]
    return problems + _no_collection(value)


def _no_collection(value: t.Any) -> list[Problem]:
    needs = "to be empty with registry_storage s3: see docs/registry_scale.md for what takes its place"
    return [Problem(needs, f".{part}", "set") for part in ("retention", "schedule", "clusters") if value.get(part)]


def _matching(pattern: re.Pattern[str], needs: str) -> t.Callable[[str, str], Problem | None]:
    def judge(text: str, part: str) -> Problem | None:
        return None if pattern.match(text) else Problem(needs, f".{part}", _rules.shown(text))

    return judge


def _key(text: str, part: str) -> Problem | None:
    if re.fullmatch(r"[\x21-\x7e]+", text):
        return None
    return Problem(
        "what the object storage gave for this registry", f".{part}", "a text with blanks" if text else "empty"
    )


_BUCKET: dict[str, t.Callable[[str, str], Problem | None]] = {
    "endpoint": _matching(
        ENDPOINT, "an http or https address without path and credentials, such as https://s3.corp.lab:9000"
    ),
    "region": _matching(REGION, "a region such as us-east-1"),
    "bucket": _matching(BUCKET, "a bucket's name: 3 to 63 of a-z, 0-9, dot and dash"),
    "prefix": _matching(PREFIX, "a path such as registry/main, without a slash at its ends"),
    "access_key": _key,
    "secret_key": _key,
}


def registry_collection(value: t.Any) -> Verdict:
    """Accept {untagged_days, share}: days from 0, per cent from 1 to 100."""
    problems = []
    if int(value.get("untagged_days") or 0) < 0:
        problems.append(Problem("a number of days, or 0", ".untagged_days", str(value["untagged_days"])))
    if not 1 <= int(value.get("share") or 0) <= 100:
        problems.append(Problem("per cent from 1 to 100", ".share", str(value.get("share"))))
    return problems


def registry_rights(value: t.Any) -> Verdict:
    """Accept users whose role, write, delete and read fit together; names and passwords are another rule's."""
    problems: list[Problem] = []
    for index, user in enumerate(value if isinstance(value, list) else []):
        if isinstance(user, dict):
            problems += [dataclasses.replace(item, path=f"[{index}]{item.path}") for item in _rights(user)]
    return problems


def _rights(user: dict[str, t.Any]) -> list[Problem]:
    problems = []
    for part in ("write", "read"):
        if isinstance(user.get(part), list):
            problems += _repositories(part, user[part])
    role = str(user.get("role") or ("writer" if user.get("write") else ""))
    for part in _MEANINGLESS.get(role, ()):
        if user.get(part):
            needs = f"to be left out: {'an admin may do everything' if role == 'admin' else 'a reader only reads'}"
            problems.append(Problem(needs, f".{part}", _rules.shown(user[part])))
    if user.get("delete") and not role:
        problems.append(Problem("role: writer beside it", ".delete", "set"))
    return problems


def _repositories(part: str, names: list[t.Any]) -> list[Problem]:
    if not names:
        return [Problem("at least one repository, or to be left out", f".{part}", "empty")]
    problems = []
    for index, name in enumerate(names):
        if not isinstance(name, str) or not REPOSITORIES.match(name):
            needs = "a repository (team/app) or all below a prefix (team/), in small letters and without *"
            problems.append(Problem(needs, f".{part}[{index}]", _rules.shown(name)))
        elif name.startswith("library/"):
            needs = "the name without library/, which is taken out of all names"
            problems.append(Problem(needs, f".{part}[{index}]", _rules.shown(name)))
    return problems


def registry_renewal(value: t.Any) -> Verdict:
    """Accept {days, before, issuer, renewal}: what lives longer than it is renewed before its end, or each run renews.

    The issuer only counts where there is one (renewal).
    """
    days, before, issuer = (int(value.get(part) or 0) for part in ("days", "before", "issuer"))
    if not 1 <= before < days:
        return Problem(f"at least 1 and less than registry_certificate_days, {days}", ".before", str(before))
    if value.get("renewal") and issuer <= days + before:
        needs = f"more than registry_certificate_days and registry_renew_before together, {days + before}"
        return Problem(needs, ".issuer", str(issuer))
    return None


RULES: dict[str, Rule] = {
    "registry_calendar": registry_calendar,
    "registry_clusters": registry_clusters,
    "registry_collection": registry_collection,
    "registry_names": registry_names,
    "registry_pki": registry_pki,
    "registry_protected": registry_protected,
    "registry_pull": registry_pull,
    "registry_renewal": registry_renewal,
    "registry_retention": registry_retention,
    "registry_rights": registry_rights,
    "registry_storage": registry_storage,
    "registry_tls": registry_tls,
}
