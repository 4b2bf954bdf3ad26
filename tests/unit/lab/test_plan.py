"""Names and addresses."""

from __future__ import annotations

import re
from ipaddress import IPv4Address

import pytest

from tests.lab import paths, plan
from tests.lab.errors import LabError
from tests.lab.plan import Machine


def test_a_machine_has_the_names_that_others_rely_on() -> None:
    machine = Machine(name="node1", image="trixie")
    assert (machine.container, machine.full_name) == ("slipway-node1", "node1.corp.lab")


def test_the_internet_has_a_server_for_every_name_it_plays() -> None:
    text = (paths.FILES / "internet" / "nginx.conf").read_text(encoding="utf-8")
    served = [name for line in re.findall(r"server_name (.*);", text) for name in line.split()]
    assert sorted(served) == sorted(plan.PLAYED_NAMES)


def test_every_planned_address_is_in_the_corporate_network_and_outside_the_pool() -> None:
    addresses = [machine.address for machine in plan.MACHINES]
    assert len(set(addresses)) == len(addresses)
    for address in addresses:
        assert address is not None
        assert address in plan.CORP
        assert int(address) - int(plan.CORP.network_address) < plan.POOL_FIRST


def test_the_lowest_free_address_is_taken() -> None:
    first = plan.CORP.network_address + plan.POOL_FIRST
    assert plan.free_address(set()) == first
    assert plan.free_address({first, first + 1, first + 3}) == first + 2


def test_a_full_pool_is_an_error_that_says_what_to_do() -> None:
    taken = {plan.CORP.network_address + number for number in range(256)}
    with pytest.raises(LabError, match="destroy machines"):
        plan.free_address(taken)


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    assert plan.machines("core") == plan.MACHINES
    with pytest.raises(LabError, match=r"PROFILE is 'big': it needs one of core"):
        plan.machines("big")


def test_the_zone_holds_the_gateway_under_both_names_and_each_machine() -> None:
    text = plan.hosts_file({"node1": IPv4Address("172.29.64.21")})
    assert text.splitlines() == [
        "172.29.64.2 gateway.corp.lab",
        "172.29.64.21 node1.corp.lab",
        "172.29.64.2 proxy.corp.lab",
    ]
