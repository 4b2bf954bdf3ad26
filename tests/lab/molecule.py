"""Molecule's machines: the same code that boots the lab, told by molecule's environment what to boot."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.lab import lab, machines, paths, plan, ssh
from tests.lab.errors import LabError
from tests.lab.plan import Machine

PLATFORM_KEYS = {"name", "image", "groups", "gpus"}


def create(environment: Mapping[str, str]) -> None:
    """Boot the platforms of a scenario and write down for molecule how to reach them.

    Args:
        environment: Molecule's variables; MOLECULE_FILE is the scenario with everything merged in.
    """
    wanted = platforms(_scenario(environment), environment["MOLECULE_SCENARIO_NAME"])
    lab.up(wanted)
    text = yaml.safe_dump([instance(machine) for machine in wanted], explicit_start=True)
    paths.write(Path(environment["MOLECULE_INSTANCE_CONFIG"]), text)


def destroy(environment: Mapping[str, str]) -> list[str]:
    """Throw the platforms of a scenario away.

    Returns:
        Names of those that existed.
    """
    wanted = platforms(_scenario(environment), environment["MOLECULE_SCENARIO_NAME"])
    Path(environment["MOLECULE_INSTANCE_CONFIG"]).unlink(missing_ok=True)
    return lab.destroy(machine.name for machine in wanted)


def platforms(scenario: Mapping[str, Any], name: str) -> list[Machine]:
    """Machines that a scenario asks for.

    Args:
        scenario: Content of its molecule.yml.
        name: The scenario's name; owns the machines.

    Raises:
        LabError: A platform has a key or a value that means nothing here, or the lab's own machine's name.
    """
    found = []
    for platform in scenario.get("platforms", []):
        unknown = set(platform) - PLATFORM_KEYS
        if unknown:
            needed = ", ".join(sorted(PLATFORM_KEYS))
            raise LabError(f"Scenario {name}: platform key '{min(unknown)}' is unknown: it needs one of {needed}.")
        if platform["name"] in {machine.name for profile in plan.PROFILES.values() for machine in profile}:
            raise LabError(f"Scenario {name}: platform '{platform['name']}' is a machine of the lab: it needs another.")
        image = _image(platform.get("image", "trixie"), os.environ.get("MOLECULE_IMAGE", ""))
        gpus = platform.get("gpus", 0)
        if not isinstance(gpus, int):
            raise LabError(f"Scenario {name}: platform {platform['name']} has '{gpus}' gpus: it needs a number.")
        found.append(Machine(name=platform["name"], image=image, owner=f"molecule/{name}", gpus=gpus))
    return found


def _image(asked: str, suite: str) -> str:
    """Image of a platform, on another Debian where MOLECULE_IMAGE names one for the whole run."""
    if not suite:
        return asked
    return suite + ("-docker" if asked.endswith("-docker") else "")


def instance(machine: Machine) -> dict[str, Any]:
    """An entry of molecule's instance configuration: how to reach a machine."""
    return {
        "instance": machine.name,
        "address": machines.address(machine.name),
        "user": plan.USER,
        "port": 22,
        "identity_file": str(ssh.key_file()),
    }


def _scenario(environment: Mapping[str, str]) -> dict[str, Any]:
    text = Path(environment["MOLECULE_FILE"]).read_text(encoding="utf-8")
    scenario: dict[str, Any] = yaml.safe_load(text)
    return scenario
