"""What each image is made of. A recipe's key changes when anything it is made of changes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.paths import FILES

MACHINE_PACKAGES = (
    "ca-certificates",
    "curl",
    "dbus",
    "gpg",
    "iproute2",
    "iptables",
    "kmod",
    "openssh-server",
    "procps",
    "python3",
    "python3-apt",
    "sudo",
    "systemd",
    "systemd-sysv",
)


@dataclass(frozen=True, kw_only=True)
class Base:
    """A root directory from Debian packages.

    Attributes:
        name: Image name, without the lab's prefix.
        suite: Debian's code name.
        packages: What is installed besides the required ones.
        files: Path in the image to file below tests/lab/files.
        hook: File below tests/lab/files that mmdebstrap runs at the end.
    """

    name: str
    suite: str
    packages: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)
    hook: str = ""

    def key(self) -> str:
        """Hash of everything that decides what comes out."""
        return digest(self.suite, *self.packages, *_contents(self.files), *_contents({"": self.hook} if self.hook else {}))


@dataclass(frozen=True, kw_only=True)
class Layer:
    """An image on top of another one.

    Attributes:
        name: Image name, without the lab's prefix.
        parent: Recipe below.
        dockerfile: Text after the FROM line.
        files: Name in the build context to file below tests/lab/files.
        programs: Name in the build context to Go program (see `tests.lab.golang`).
    """

    name: str
    parent: str
    dockerfile: str
    files: dict[str, str] = field(default_factory=dict)
    programs: tuple[str, ...] = ()

    def key(self) -> str:
        """Hash of everything that decides what comes out."""
        parent = RECIPES[self.parent].key() if self.parent in RECIPES else self.parent
        return digest(parent, self.dockerfile, *_contents(self.files), *self.programs)


Recipe = Base | Layer


def digest(*parts: str) -> str:
    """Twelve hexadecimal digits that stand for the parts."""
    text = "\0".join(parts).encode()
    return hashlib.sha256(text).hexdigest()[:12]


def _contents(files: dict[str, str]) -> list[str]:
    found = []
    for target, source in sorted(files.items()):
        path: Path = FILES / source
        found += [target, oct(path.stat().st_mode & 0o777), path.read_text(encoding="utf-8")]
    return found


def _machine(suite: str) -> Base:
    return Base(
        name=suite,
        suite=suite,
        packages=MACHINE_PACKAGES,
        files={
            "/usr/local/sbin/slipway-lab-boot": "machine/slipway-lab-boot",
            "/etc/systemd/system/slipway-lab-boot.service": "machine/slipway-lab-boot.service",
        },
        hook="machine/customize",
    )


def _install(*packages: str) -> str:
    return (
        "RUN apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends "
        + " ".join(packages)
        + " && apt-get clean && rm -rf /var/lib/apt/lists/*\n"
    )


def _docker(suite: str) -> Layer:
    return Layer(name=f"{suite}-docker", parent=suite, dockerfile=_install("docker.io"))


_GATEWAY = Layer(
    name="gateway",
    parent="trixie",
    dockerfile=_install("squid", "dnsmasq-base")
    + "COPY squid-accounts /usr/local/libexec/squid-accounts\n"
    + "COPY tmpfiles.conf /etc/tmpfiles.d/lab.conf\n"
    + "COPY lab-dns@.service /etc/systemd/system/\n"
    + "RUN chmod 0755 /usr/local/libexec/squid-accounts && ln -sf /srv/lab/squid.conf /etc/squid/squid.conf"
    + " && systemctl mask ssh.service ssh.socket && systemctl enable squid lab-dns@corp lab-dns@outside\n",
    files={
        "squid-accounts": "gateway/squid-accounts",
        "tmpfiles.conf": "gateway/tmpfiles.conf",
        "lab-dns@.service": "gateway/lab-dns@.service",
    },
)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (_machine("trixie"), _machine("bookworm"), _docker("trixie"), _docker("bookworm"), _GATEWAY)
}
