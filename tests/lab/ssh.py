"""Keys and known hosts: machines are reached over SSH as an ordinary user who may sudo."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.lab import paths, plan


@dataclass(frozen=True)
class KeyPair:
    """An SSH key: OpenSSH private text and one line of public text."""

    private: str
    public: str


def new_key() -> KeyPair:
    """Make an ed25519 key."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return KeyPair(private.decode(), public.decode() + "\n")


def key_file() -> Path:
    """Private key of the user of this host; its public half is on every machine."""
    return paths.state() / "id_ed25519"


def known_hosts_file() -> Path:
    """Host keys of the machines that exist."""
    return paths.state() / "known_hosts"


@functools.cache
def user_public_key() -> str:
    """Public half of the user's key; made on first use."""
    with paths.locked("key"):
        public = key_file().with_suffix(".pub")
        if not (key_file().exists() and public.exists()):
            pair = new_key()
            paths.write(key_file(), pair.private, 0o600)
            paths.write(public, pair.public)
        return public.read_text(encoding="utf-8")


def remember(names: list[str], public_key: str) -> None:
    """Note a machine's host key under its address and names, instead of any older one."""
    _rewrite(names, f"{','.join(names)} {public_key}")


def forget(names: list[str]) -> None:
    """Drop a machine's host key."""
    _rewrite(names, "")


def _rewrite(names: list[str], line: str) -> None:
    with paths.locked("known_hosts"):
        file = known_hosts_file()
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
        paths.write(file, "".join(without(lines, names)) + line, 0o600)


def without(lines: list[str], names: list[str]) -> list[str]:
    """Lines of a known_hosts file that name none of the given hosts."""
    return [line for line in lines if not set(line.split(" ", 1)[0].split(",")) & set(names)]


def options() -> list[str]:
    """Arguments for ssh, besides user and host."""
    return [
        "-i",
        str(key_file()),
        "-o",
        f"UserKnownHostsFile={known_hosts_file()}",
        "-o",
        "StrictHostKeyChecking=accept-new",
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "LogLevel=ERROR",
    ]


def command(address: str, words: list[str]) -> list[str]:
    """The whole ssh command line for a machine."""
    return ["ssh", *options(), f"{plan.USER}@{address}", *words]
