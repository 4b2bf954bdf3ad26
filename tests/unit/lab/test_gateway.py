"""The gateway's configuration."""

from __future__ import annotations

from tests.lab import gateway, plan


def test_squid_lets_nobody_in_before_authentication_and_nobody_reach_private_networks() -> None:
    rules = [line for line in gateway.squid_configuration(["mirror.example"]).splitlines() if "http_access" in line]
    assert rules[:2] == ["http_access deny !clients", "http_access deny !account"]
    assert rules.index("http_access deny CONNECT !tls_port") < rules.index("http_access allow played")
    assert rules.index("http_access deny private") < rules.index("http_access allow all")


def test_a_host_without_archives_of_debian_is_no_open_door() -> None:
    assert "acl archives dstdomain none.invalid" in gateway.squid_configuration([])


def test_the_corporate_name_server_asks_nobody_and_squids_plays_the_internet() -> None:
    corp, outside = gateway.dns_configuration()
    assert "server=" not in corp
    for name in plan.PLAYED_NAMES:
        assert f"address=/{name}/{plan.INTERNET}" in outside
