"""Fixtures of every test that looks at a machine: `host`, `hosts` and `lab`.

They take the machines from an Ansible inventory: molecule's, or the one given by --inventory (and --limit), so that the
same tests run in a scenario and against a site. Machines are reached by one SSH connection each, that all tests share.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

from tests.testinfra.lab import Lab

REPOSITORY = Path(__file__).resolve().parents[2]

# Variables that say how a machine is reached.
CONNECTION = (
    "ansible_connection",
    "ansible_host",
    "ansible_port",
    "ansible_private_key_file",
    "ansible_ssh_common_args",
    "ansible_ssh_extra_args",
    "ansible_ssh_private_key_file",
    "ansible_user",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose the machines."""
    group = parser.getgroup("slipway")
    group.addoption("--inventory", action="append", default=[], help="Ansible inventory; molecule's by default.")
    group.addoption("--limit", default="", help="Pattern of hosts, as ansible-playbook's --limit.")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `host` once per machine; a module's `testinfra_hosts` may name groups or hosts."""
    if "_machine" not in metafunc.fixturenames:
        return
    inventory = read_inventory(metafunc.config)
    wanted = getattr(metafunc.module, "testinfra_hosts", ["all"])
    metafunc.parametrize("_machine", members(inventory, wanted), scope="session")


@pytest.fixture(scope="session")
def _machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def hosts(pytestconfig: pytest.Config) -> dict[str, Host]:
    """Every machine of the inventory, by inventory name."""
    inventory = read_inventory(pytestconfig)
    return {name: connect(variables(inventory, name)) for name in members(inventory, ["all"])}


@pytest.fixture(scope="session")
def host(_machine: str, hosts: dict[str, Host]) -> Host:
    """One machine after the other."""
    return hosts[_machine]


@pytest.fixture(scope="session")
def host_vars(_machine: str, pytestconfig: pytest.Config) -> dict[str, Any]:
    """Inventory variables of `host`; templates in them are not resolved."""
    return variables(read_inventory(pytestconfig), _machine)


@pytest.fixture
def lab() -> Iterator[Lab]:
    """The lab around the machines; skips where the inventory is not the lab's or molecule's."""
    with Lab.attach() as attached:
        yield attached


def read_inventory(config: pytest.Config) -> dict[str, Any]:
    """The inventory as `ansible-inventory --list` prints it; read once."""
    known: dict[str, Any] | None = getattr(config, "_slipway_inventory", None)
    if known is not None:
        return known
    sources = config.getoption("--inventory") or _default_inventory()
    command = ["ansible-inventory", "--list"]
    for source in sources:
        command += ["--inventory", source]
    if config.getoption("--limit"):
        command += ["--limit", config.getoption("--limit")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    if result.returncode:
        pytest.exit(f"The inventory {' '.join(sources)} can't be read: {result.stderr.strip()}", returncode=2)
    inventory: dict[str, Any] = json.loads(result.stdout)
    if "{{" in result.stdout:
        resolve(inventory, command[2:])
    config._slipway_inventory = inventory  # type: ignore[attr-defined]
    return inventory


def resolve(inventory: dict[str, Any], arguments: list[str]) -> None:
    """Put values in place of templates in what a connection needs; `ansible-inventory` prints them as they stand.

    Args:
        inventory: What it printed; changed in place.
        arguments: The same --inventory and --limit.
    """
    wanted = ", ".join(f"'{name}': {name} | default('')" for name in CONNECTION)
    command = ["ansible", "all", *arguments, "-m", "ansible.builtin.debug", "-a", f"msg={{{{ {{{wanted}}} }}}}"]
    environment = {
        **os.environ,
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
    }
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    if result.returncode:
        pytest.exit(
            f"The inventory's connection variables can't be resolved: {(result.stderr or result.stdout)[-1000:]}",
            returncode=2,
        )
    # Other callbacks may print before and after.
    answer, _ = json.JSONDecoder().raw_decode(result.stdout, result.stdout.index("{"))
    answers = answer["plays"][0]["tasks"][0]["hosts"]
    for name, found in answers.items():
        known = {key: value for key, value in found["msg"].items() if value != ""}
        inventory["_meta"]["hostvars"].setdefault(name, {}).update(known)


def _default_inventory() -> list[str]:
    molecule = os.environ.get("MOLECULE_INVENTORY_FILE")
    return [str(Path(molecule).parent)] if molecule else [str(REPOSITORY / "inventory" / "lab")]


def members(inventory: Mapping[str, Any], wanted: list[str]) -> list[str]:
    """Hosts of groups or by name, sorted."""
    found: set[str] = set()
    everyone = set(inventory["_meta"]["hostvars"]) | _below(inventory, "all")
    for name in wanted:
        found |= everyone if name == "all" else ({name} & everyone) | _below(inventory, name)
    return sorted(found & everyone - {"localhost"})


def _below(inventory: Mapping[str, Any], group: str) -> set[str]:
    entry = inventory.get(group, {})
    found = set(entry.get("hosts", []))
    for child in entry.get("children", []):
        found |= _below(inventory, child)
    return found


def variables(inventory: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A host's variables."""
    return dict(inventory["_meta"]["hostvars"].get(name, {}))


def connect(values: Mapping[str, Any]) -> Host:
    """A connection to a machine with sudo.

    Args:
        values: Its variables from the inventory: ansible_host, ansible_user, ansible_port, the key file and ssh
            arguments; `connection: local` is understood too.
    """
    if values.get("ansible_connection") == "local":
        return testinfra.get_host("local://", sudo=True)
    user = values.get("ansible_user")
    target = f"{user}@{values['ansible_host']}" if user else str(values["ansible_host"])
    key = values.get("ansible_ssh_private_key_file") or values.get("ansible_private_key_file")
    extra = [str(values[name]) for name in ("ansible_ssh_common_args", "ansible_ssh_extra_args") if values.get(name)]
    return testinfra.get_host(
        f"ssh://{target}:{values.get('ansible_port') or 22}",
        ssh_identity_file=os.path.expanduser(str(key)) if key else None,
        ssh_extra_args=" ".join([*extra, "-o", f"ControlPath={shlex.quote(_control_path())}"]),
        controlpersist=60,
        sudo=True,
    )


def _control_path() -> str:
    directory = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/slipway-{os.getuid()}")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return f"{directory}/ssh-%C"
