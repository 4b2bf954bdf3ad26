"""The lab as a whole: up, down, and the parts that every machine needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from typing import TypeVar

from tests.lab import engine, gateway, images, machines, paths, plan
from tests.lab.machines import Form
from tests.lab.plan import Machine
from tests.lab.progress import say, step

T = TypeVar("T")

GATEWAY = Machine(name="gateway", image="gateway", address=plan.GATEWAY)


def gateway_form() -> Form:
    """The gateway stands on both networks; its default route leads outside."""
    return Form(
        networks={plan.OUTSIDE_NAME: IPv4Address("172.29.65.2"), plan.CORP_NAME: plan.GATEWAY},
        binds={gateway.directory(): "/srv/lab", gateway.cache_directory(): "/var/spool/squid"},
        nameserver=IPv4Address("127.0.0.1"),
        ssh=False,
    )


def up(wanted: Iterable[Machine]) -> None:
    """Bring up networks, gateway, internet and machines; quick when all is there.

    Raises:
        LabError: A step failed; the message says which.
    """
    wanted = list(wanted)
    base()
    with step("machines " + " ".join(machine.name for machine in wanted)):
        _together(machines.create, wanted)
        gateway.publish_names()
        _together(lambda machine: machines.wait(machine.name), wanted)


def base() -> None:
    """Bring up what every machine needs: networks and gateway."""
    with paths.locked("base"):
        for name in engine.clear_leftovers():
            say(f"lab: removed what was left of {name}")
        engine.ensure_networks()
        _gateway_up()


def _gateway_up() -> None:
    changed = gateway.write_configuration()
    gateway.publish_names()
    container = engine.find(GATEWAY.container)
    running = container is not None and container.status == "running"
    with step("gateway"):
        machines.create(GATEWAY, gateway_form())
        machines.wait(GATEWAY.name, with_ssh=False)
    if changed and running:
        machines.existing(GATEWAY.name).exec_run(["systemctl", "restart", "squid", "lab-dns@corp", "lab-dns@outside"])


def down() -> list[str]:
    """Remove everything of the lab, molecule's machines included; caches stay.

    Returns:
        Names of the machines that are gone.
    """
    names = [container.labels[plan.LABEL_MACHINE] for container in engine.own_containers()]
    _together(machines.destroy, names)
    engine.remove_networks()
    return sorted(names)


def destroy(names: Iterable[str]) -> list[str]:
    """Throw machines away and take their names out of the zone.

    Returns:
        Names of those that existed.
    """
    gone = [name for name in names if machines.destroy(name)]
    gateway.publish_names()
    return gone


def make_images() -> None:
    """Make every image of the lab."""
    for name in images.RECIPES:
        images.ensure(name)


def _together(function: Callable[[T], object], items: Iterable[T]) -> None:
    with ThreadPoolExecutor(max_workers=8) as pool:
        for future in [pool.submit(function, item) for item in items]:
            future.result()
