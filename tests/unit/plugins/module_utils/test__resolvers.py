# SPDX-License-Identifier: GPL-3.0-or-later
"""What containers ask is what dockerd makes of the machine's resolv.conf."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _resolvers
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError


def root(tmp_path: Path, resolv: str | None, resolved: str | None = None) -> str:
    for path, content in ((_resolvers.RESOLV_CONF, resolv), (_resolvers.RESOLVED_CONF, resolved)):
        if content is not None:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(content)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("resolv", "resolved", "servers", "source"),
    [
        ("nameserver 10.0.0.1\nnameserver 10.0.0.2\n", None, ["10.0.0.1", "10.0.0.2"], "/etc/resolv.conf"),
        ("nameserver 127.0.0.53\n", "nameserver 10.0.0.1\n", ["10.0.0.1"], "/run/systemd/resolve/resolv.conf"),
        ("nameserver 127.0.0.1\nnameserver 10.0.0.1\n", None, ["10.0.0.1"], "/etc/resolv.conf"),
        (
            "# nameserver 1.1.1.1\n; x\nsearch a\nnameserver fd00::1%eth0 # x\n",
            None,
            ["fd00::1%eth0"],
            "/etc/resolv.conf",
        ),
        ("nameserver dns.example\nnameserver\n", None, ["dns.example"], "/etc/resolv.conf"),
    ],
)
def test_servers_that_a_container_reaches(
    tmp_path: Path, resolv: str, resolved: str | None, servers: list[str], source: str
) -> None:
    assert _resolvers.find(root=root(tmp_path, resolv, resolved)) == _resolvers.Resolvers(servers, source)


@pytest.mark.parametrize(
    ("resolv", "resolved", "words"),
    [
        (None, None, "/etc/resolv.conf names no server"),
        ("nameserver 127.0.0.11\n", None, "/etc/resolv.conf names 127.0.0.11"),
        ("nameserver ::1\nnameserver 127.0.0.53\n", "nameserver 10.0.0.1\n", "/etc/resolv.conf names ::1, 127.0.0.53"),
        ("nameserver 127.0.0.53\n", "nameserver 127.0.0.1\n", "/run/systemd/resolve/resolv.conf names 127.0.0.1"),
        ("nameserver 127.0.0.53\n", None, "/run/systemd/resolve/resolv.conf names no server"),
    ],
)
def test_no_server_is_one_sentence(tmp_path: Path, resolv: str | None, resolved: str | None, words: str) -> None:
    with pytest.raises(HostError) as caught:
        _resolvers.find(root=root(tmp_path, resolv, resolved))
    assert words in str(caught.value)
    assert "container_network_dns_servers is empty" in str(caught.value)
