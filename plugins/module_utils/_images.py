# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of images, and copies of them from registry to registry by skopeo, digest by digest.

Nothing here knows Ansible's module object. Credentials stand in files that skopeo reads, never in a command line.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError

HUB = "docker.io"
# distribution/reference: a repository's path, a tag, a digest. Only sha256, as the registry itself.
_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_NAME = re.compile(
    rf"(?:(?P<host>[A-Za-z0-9.\[\]-]+(?::\d+)?)/)?(?P<path>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?\Z",
    re.ASCII,
)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
# What registries answer for what they do not have, as skopeo 1.9 to 1.18 words it.
_UNKNOWN = re.compile(r"manifest unknown|name unknown|not known to registry|status code 404|not found", re.IGNORECASE)
_FATAL = re.compile(r'level=fatal msg="((?:[^"\\]|\\.)*)"')
LOCK_HEADER = "# Which image each name is, written by playbooks/mirror.yml: name, digest. Keep it in version control.\n"
WORKERS = 4


@dataclasses.dataclass(frozen=True)
class Name:
    """An image's name: host (docker.io where it names none), path, and tag or digest or both."""

    host: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        """Host and path, as skopeo takes them."""
        return f"{self.host}/{self.path}" if self.host else self.path

    def __str__(self) -> str:
        return self.repository + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def own(self) -> str:
        """Name in the private registry: without the upstream's host and without library/ (decision 0013)."""
        return self.path.removeprefix("library/") + (f":{self.tag}" if self.tag else f"@{self.digest}")


def parse(text: str) -> Name:
    """Read an image's name with tag or digest; raises ValueError with what it needs."""
    match = _NAME.match(text)
    if match is None:
        raise ValueError("a name such as docker.io/library/debian:13 or quay.io/team/app@sha256:…")
    host, path = match["host"] or "", match["path"]
    if host and not re.search(r"[.:]|\Alocalhost\Z", host):
        if host != host.lower():
            raise ValueError("a name in small letters")
        host, path = "", f"{host}/{path}"
    if not match["tag"] and not match["digest"]:
        raise ValueError("a tag or a digest: what no version is named for is another image tomorrow")
    if (host or HUB) == HUB:
        host, path = HUB, path if "/" in path else f"library/{path}"
    return Name(host, path, match["tag"] or "", match["digest"] or "")


def parse_target(text: str) -> Name:
    """Read a name in the private registry: a repository without a host, with tag or digest."""
    match = _NAME.match(text)
    if match is None or re.search(r"[.:]|\Alocalhost\Z", match["host"] or "") or not (match["tag"] or match["digest"]):
        raise ValueError("a repository without a host, with a tag, such as base/debian:13")
    path = "/".join(part for part in (match["host"], match["path"]) if part)
    return Name("", path.removeprefix("library/"), match["tag"] or "", match["digest"] or "")


@dataclasses.dataclass(frozen=True)
class Wish:
    """An image to mirror: where it is upstream, and its name in the private registry."""

    source: Name
    target: Name

    @classmethod
    def make(cls, *, name: str, target: str = "") -> Wish:
        """Read both names; raises HostError with one sentence."""
        try:
            source = parse(name)
        except ValueError as exc:
            raise HostError(f"image '{name}' cannot be mirrored: it needs {exc}") from None
        try:
            return cls(source, parse_target(target or source.own))
        except ValueError as exc:
            raise HostError(f"image '{name}' cannot be mirrored to '{target}': that needs {exc}") from None


@dataclasses.dataclass
class Found:
    """What was found of a wish: the digest it has upstream, and the one that the private registry has now."""

    wish: Wish
    digest: str
    before: str = ""

    @property
    def missing(self) -> bool:
        """Whether the registry lacks the image, or has another one of that name."""
        return not self.digest or self.digest != self.before

    def result(self) -> dict[str, t.Any]:
        """Return what a playbook may want to know."""
        return {
            "name": str(self.wish.source),
            "target": str(self.wish.target),
            "digest": self.digest,
            "before": self.before,
            "missing": self.missing,
        }


def read_lock(text: str) -> dict[str, str]:
    """Read the lock: lines of name and digest; raises HostError for any other."""
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        if len(words) != 2 or not DIGEST.match(words[1]):
            raise HostError(f"line {number} of the lock is '{line[:100]}': it needs a name and a digest sha256:…")
        found[words[0]] = words[1]
    return found


def write_lock(entries: t.Mapping[str, str]) -> str:
    """Return the lock's text, sorted by name."""
    return LOCK_HEADER + "".join(f"{name} {digest}\n" for name, digest in sorted(entries.items()))


class Command(t.Protocol):
    """What runs skopeo; unit tests hand in their own."""

    def __call__(
        self, argv: t.Sequence[str], *, environment: t.Mapping[str, str], timeout: float
    ) -> tuple[int, bytes, str]: ...


def run_bytes(argv: t.Sequence[str], *, environment: t.Mapping[str, str], timeout: float) -> tuple[int, bytes, str]:
    """Run a command whose output is to be hashed; return status, output and what it said."""
    try:
        done = subprocess.run(list(argv), capture_output=True, timeout=timeout, env=dict(environment), check=False)
    except FileNotFoundError as exc:
        raise HostError(f"{argv[0]} is not installed on this host") from exc
    except subprocess.TimeoutExpired as exc:
        raise HostError(f"{' '.join(argv[:2])} of {argv[-1]} did not end within {timeout:g} seconds") from exc
    return done.returncode, done.stdout, done.stderr.decode(errors="replace")


def digest_of(data: bytes) -> str:
    """Return the digest of bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def reason(said: str) -> str:
    """Return what skopeo complains of, without its form of a log line and without credentials of a URL."""
    fatal = _FATAL.findall(said)
    text = fatal[-1].replace('\\"', '"') if fatal else " ".join(said.split()[-60:])
    text = re.sub(r'Error parsing image name "?[^"]*"?: ', "", text)
    return re.sub(r"://[^@/\s]*@", "://***@", text)[:600]


@dataclasses.dataclass(frozen=True)
class Skopeo:
    """Skopeo with the files of a directory that role registry_mirror writes; each may be missing.

    auth.json: logins (containers-auth.json(5)); environment.json: the proxy's variables; certs: CA of the private
    registry; .config/containers/registries.conf: its presence hides the host's own mirrors, which would lead a question
    for an upstream image to the private registry (containers-registries.conf(5)).
    """

    directory: str
    registry: str
    timeout: float = 3600
    command: Command = run_bytes

    def is_set_up(self, program: str | None) -> bool:
        """Tell whether there is skopeo and what it needs; in check mode on a bare host there is not."""
        return bool(program) and os.path.isdir(self.directory)

    def _call(self, verb: str, options: t.Sequence[str], names: t.Sequence[str]) -> tuple[int, bytes, str]:
        auth = os.path.join(self.directory, "auth.json")
        login = ["--authfile", auth] if os.path.exists(auth) else []
        return self.command(
            ["skopeo", verb, *login, *options, *names], environment=self._environment(), timeout=self.timeout
        )

    def _environment(self) -> dict[str, str]:
        path = os.path.join(self.directory, "environment.json")
        given: dict[str, str] = {}
        if os.path.exists(path):
            with open(path, encoding="utf-8") as handle:
                given = json.load(handle)
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        return {**kept, "LC_ALL": "C.UTF-8", "HOME": self.directory, **given}

    def _certificates(self, option: str) -> list[str]:
        path = os.path.join(self.directory, "certs")
        return [option, path] if os.path.isdir(path) else []

    def address(self, name: Name) -> str:
        """Return where a name of the private registry is, for skopeo. A tag wins: skopeo takes only one of both."""
        return f"docker://{self.registry}/{name.path}" + (f":{name.tag}" if name.tag else f"@{name.digest}")

    def upstream(self, name: Name) -> str:
        """Return the digest that a name has upstream; raises HostError when it cannot be had."""
        if name.digest:
            return name.digest
        options = ["--raw", "--retry-times", "2"]
        if name.host == self.registry:  # an image of one's own, which is to be carried
            options += self._certificates("--cert-dir")
        status, data, said = self._call("inspect", options, [f"docker://{name}"])
        if status:
            raise HostError(f"{name} cannot be looked up: {reason(said)}")
        return digest_of(data)

    def own(self, name: Name) -> str:
        """Return the digest that a name has in the private registry; empty when it has none."""
        options = ["--raw", "--retry-times", "2", *self._certificates("--cert-dir")]
        status, data, said = self._call("inspect", options, [self.address(name)])
        if not status:
            return digest_of(data)
        if _UNKNOWN.search(said):
            return ""
        raise HostError(f"{self.registry}/{name} cannot be looked up: {reason(said)}")

    def copy(self, source: str, target: str, *, options: t.Sequence[str], what: str) -> None:
        """Copy an image with all platforms and its very bytes; raises HostError with skopeo's reason."""
        every = ["--all", "--preserve-digests", "--quiet", "--retry-times", "3"]
        status, _, said = self._call("copy", [*every, *options], [source, target])
        if status:
            raise HostError(f"{what} was not copied: {reason(said)}")

    def mirror(self, found: Found) -> None:
        """Copy an image from upstream, and prove that the registry has it under its name."""
        wish = found.wish
        source = f"docker://{wish.source.repository}@{found.digest}"
        self.copy(
            source, self.address(wish.target), options=self._certificates("--dest-cert-dir"), what=str(wish.source)
        )
        self._prove(wish.target, found.digest)

    def push(self, directory: str, target: Name, digest: str) -> None:
        """Copy an image out of a directory of skopeo's, and prove that the registry has it under its name."""
        options = self._certificates("--dest-cert-dir")
        self.copy(f"dir:{directory}", self.address(target), options=options, what=str(target))
        self._prove(target, digest)

    def pull(self, name: Name, digest: str, directory: str) -> None:
        """Copy an image of the private registry into a directory of skopeo's."""
        source = f"docker://{self.registry}/{name.path}@{digest}"
        self.copy(source, f"dir:{directory}", options=self._certificates("--src-cert-dir"), what=str(name))

    def _prove(self, name: Name, digest: str) -> None:
        if (got := self.own(name)) != digest:
            raise HostError(f"{self.registry}/{name} is {got or 'not there'} after it was copied: it needs {digest}")


def check_targets(wishes: t.Sequence[Wish]) -> None:
    """Raise HostError where two different images would have one name in the private registry."""
    taken: dict[str, Name] = {}
    for wish in wishes:
        other = taken.setdefault(str(wish.target), wish.source)
        if other != wish.source:
            raise HostError(f"{other} and {wish.source} would both be {wish.target}: one of them needs another target")


def look_up(skopeo: Skopeo, wishes: t.Sequence[Wish], lock: t.Mapping[str, str]) -> tuple[list[Found], list[str]]:
    """Find the digest of each wish, in the lock or upstream, and in the private registry; and what went wrong."""
    check_targets(wishes)

    def one(wish: Wish) -> Found | str:
        try:
            digest = wish.source.digest or lock.get(str(wish.source)) or skopeo.upstream(wish.source)
            return Found(wish, digest, skopeo.own(wish.target))
        except HostError as exc:
            return str(exc)

    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        results = list(pool.map(one, wishes))
    return [item for item in results if isinstance(item, Found)], [item for item in results if isinstance(item, str)]
