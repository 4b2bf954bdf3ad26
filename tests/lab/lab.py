"""The lab as a whole: up, down, and the parts that every machine needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from typing import TypeVar

from tests.lab import build, engine, gateway, gpu, internet, machines, paths, plan, smoke
from tests.lab.machines import Form
from tests.lab.plan import Machine
from tests.lab.progress import say, step

T = TypeVar("T")
R = TypeVar("R")

GATEWAY = Machine(name="gateway", image="gateway", address=plan.GATEWAY)
INTERNET = Machine(name="internet", image="internet")


def gateway_form() -> Form:
    """The gateway stands on both networks; its default route leads outside."""
    return Form(
        networks={plan.OUTSIDE_NAME: IPv4Address("172.29.65.2"), plan.CORP_NAME: plan.GATEWAY},
        binds={gateway.directory(): "/srv/lab", gateway.cache_directory(): "/var/spool/squid"},
        nameserver=IPv4Address("127.0.0.1"),
        ssh=False,
    )


def internet_form() -> Form:
    """The internet stands outside only."""
    return Form(
        networks={plan.OUTSIDE_NAME: plan.INTERNET},
        binds={internet.directory(): "/srv/lab", internet.content(): "/srv/hub"},
        ssh=False,
    )


def up(wanted: Iterable[Machine], *, keep_account: bool = True) -> None:
    """Bring up networks, gateway, internet and machines; quick when all is there.

    Args:
        wanted: The machines.
        keep_account: Whether the proxy keeps its account when the environment names none.

    Raises:
        LabError: A step failed; the message says which.
    """
    wanted = list(wanted)
    build.prepare(machine.image for machine in wanted)
    base(keep_account=keep_account)
    if not wanted:
        return
    with step("machines " + " ".join(machine.name for machine in wanted)):
        made = dict(zip(wanted, _together(machines.create, wanted), strict=True))
        gateway.publish_names()
        _together(lambda machine: machines.wait(machine.name, healthy=made[machine]), wanted)
        _together(lambda machine: smoke.check(machine.name), [machine for machine in wanted if made[machine]])
        _together(gpu.ensure, wanted)


def base(*, keep_account: bool = True) -> None:
    """Bring up what every machine needs: networks, gateway, internet."""
    with paths.locked("base"):
        for name in engine.clear_leftovers():
            say(f"lab: removed what was left of {name}")
        engine.ensure_networks()
        restart = {
            GATEWAY: gateway.write_configuration(keep_account=keep_account)
            and ["squid", "lab-dns@corp", "lab-dns@outside"],
            INTERNET: internet.write_configuration() and ["nginx", "lab-registry"],
        }
        gateway.publish_names()
        forms = {GATEWAY: gateway_form(), INTERNET: internet_form()}
        running = {machine for machine in forms if _runs(machine)}
        with step("gateway and internet"):
            _together(lambda machine: machines.create(machine, forms[machine]), forms)
            _together(lambda machine: machines.wait(machine.name, with_ssh=False), forms)
        for machine, units in restart.items():
            if units and machine in running:
                machines.existing(machine.name).exec_run(["systemctl", "restart", *units])


def _runs(machine: Machine) -> bool:
    container = engine.find(machine.container)
    return container is not None and container.status == "running"


def check_packages(wanted: Iterable[Machine]) -> None:
    """See that machines get Debian's packages through the proxy.

    Raises:
        LabError: One does not.
    """
    with step("packages through the proxy"):
        _together(lambda machine: smoke.check_packages(machine.name), wanted)


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


def _together(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Do the same for all at once; the first failure is raised when all have ended."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        return [future.result() for future in [pool.submit(function, item) for item in items]]
