"""Choosing machines and reading squid's log."""

from __future__ import annotations

import pytest

from tests.testinfra import fixtures
from tests.testinfra.lab import Request

INVENTORY = {
    "_meta": {"hostvars": {"node1": {"ansible_host": "10.0.0.1"}, "node2": {}}},
    "all": {"children": ["machines"]},
    "machines": {"children": ["registries", "nodes"]},
    "nodes": {"hosts": ["node2", "node1"]},
    "registries": {"hosts": ["registry"]},
}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (["all"], ["node1", "node2", "registry"]),
        (["nodes"], ["node1", "node2"]),
        (["machines"], ["node1", "node2", "registry"]),
        (["node2", "registries"], ["node2", "registry"]),
        (["nobody"], []),
    ],
)
def test_hosts_are_chosen_by_group_or_name(wanted: list[str], expected: list[str]) -> None:
    assert fixtures.members(INVENTORY, wanted) == expected


@pytest.mark.parametrize(
    ("logged", "user"),
    [
        ("corp\\\\svc", "corp\\svc"),
        ("a b ", "a b "),
        ("%c3%bcn%c3%afcode", "ünïcode"),
        ("per%2541", "per%41"),
        ("-", "-"),
    ],
)
def test_a_line_of_squids_log_gives_the_user_as_he_is(logged: str, user: str) -> None:
    start = "1795335628.980     11 172.29.64.21 TCP_TUNNEL/200 39 CONNECT auth.docker.io:443"
    line = f"{start} {logged} HIER_DIRECT/172.29.65.20 -"
    request = Request.parse(line)
    assert request == Request("172.29.64.21", "TCP_TUNNEL/200", "CONNECT", "auth.docker.io:443", user)


def test_what_is_no_line_of_squids_log_is_an_error() -> None:
    with pytest.raises(ValueError, match="access log"):
        Request.parse("half a li")


def test_a_machine_is_reached_as_the_inventory_says() -> None:
    host = fixtures.connect(
        {
            "ansible_host": "10.0.0.1",
            "ansible_user": "ops",
            "ansible_port": 2222,
            "ansible_ssh_private_key_file": "~/key",
            "ansible_ssh_common_args": "-o UserKnownHostsFile=/k",
        }
    )
    backend = host.backend
    assert (backend.host.name, backend.host.user, backend.host.port) == ("10.0.0.1", "ops", "2222")
    assert backend.ssh_identity_file.endswith("/key")
    assert backend.ssh_extra_args.startswith("-o UserKnownHostsFile=/k ")
    assert backend.sudo
