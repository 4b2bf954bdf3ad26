"""Keys and known hosts."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from tests.lab import ssh


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_keys_are_openssh_and_differ() -> None:
    first, second = ssh.new_key(), ssh.new_key()
    load_ssh_private_key(first.private.encode(), None)
    assert first.public.startswith("ssh-ed25519 ")
    assert first.public != second.public


def test_a_new_host_key_replaces_the_old_one_of_the_address_or_the_name() -> None:
    ssh.remember(["10.0.0.1", "a"], "key-1\n")
    ssh.remember(["10.0.0.2", "b"], "key-2\n")
    ssh.remember(["10.0.0.1", "c"], "key-3\n")
    assert ssh.known_hosts_file().read_text() == "10.0.0.2,b key-2\n10.0.0.1,c key-3\n"
    ssh.forget(["b"])
    assert ssh.known_hosts_file().read_text() == "10.0.0.1,c key-3\n"


def test_the_key_of_the_user_is_made_once_and_private() -> None:
    ssh.user_public_key.cache_clear()
    first = ssh.user_public_key()
    ssh.user_public_key.cache_clear()
    assert ssh.user_public_key() == first
    ssh.user_public_key.cache_clear()
    assert ssh.key_file().stat().st_mode & 0o777 == 0o600
    assert str(ssh.key_file()) in ssh.command("10.0.0.1", ["true"])
