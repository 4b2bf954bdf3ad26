"""Fixtures for tests of the whole site: fresh machines of the lab, and site.yml run on them as a user would."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
from collections.abc import Iterator

import pytest
import yaml

from tests.lab.paths import REPOSITORY, state
from tests.testinfra.secrets import Secret

MACHINES = ("registry", "node1", "node2")
LOGS = REPOSITORY / ".slipway" / "logs"


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished ansible-playbook run."""

    rc: int
    output: str
    seconds: float

    @property
    def changed(self) -> dict[str, int]:
        """How many tasks changed something, by machine, from the recap."""
        return {name: int(count) for name, count in re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", self.output, re.M)}

    @property
    def errors(self) -> str:
        """What the run said of its failures, without the play's frame."""
        return "\n".join(re.findall(r"^\[ERROR\]: (?:.+\n)+?(?=Origin|\n)", self.output, re.M)) or self.output[-3000:]


def playbook(name: str, *arguments: str, log: str, timeout: float = 900, env: dict[str, str] | None = None) -> Run:
    """Run ansible-playbook from the checkout; the output is kept in .slipway/logs/<log>.log.

    timeout is in seconds; a run that takes longer fails the test.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    path = LOGS / f"{log}.log"
    environment = {**os.environ, "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"), "NO_COLOR": "1", **(env or {})}
    start = os.times().elapsed
    with path.open("w", encoding="utf-8") as stream:
        done = subprocess.run(
            ["ansible-playbook", name, *arguments],
            cwd=REPOSITORY, env=environment, stdout=stream, stderr=subprocess.STDOUT, timeout=timeout, check=False,
        )  # fmt: skip
    return Run(done.returncode, path.read_text(encoding="utf-8"), os.times().elapsed - start)


def lab(*words: str, check: bool = True) -> str:
    """Run a command of the lab and return what it printed."""
    done = subprocess.run(
        ["python", "-m", "tests.lab", *words], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def on(machine: str, command: str, *, check: bool = True) -> str:
    """Run a shell command on a machine as root, from outside of Ansible, and return its output."""
    done = subprocess.run(
        ["docker", "exec", f"slipway-{machine}", "bash", "-c", command], capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, f"{machine}: {command}\n{done.stdout}{done.stderr}"
    return done.stdout.strip() if check else (done.stdout + done.stderr).strip()


@dataclasses.dataclass(frozen=True)
class Footprint:
    """What a run that changes nothing must leave alone on a machine."""

    daemons: str
    containers: str
    files: str


def footprint(machine: str) -> Footprint:
    """Return process ids of the daemons, start times of the containers, and times of the files that are ours."""
    return Footprint(
        daemons=on(machine, "systemctl show -p MainPID,InvocationID docker containerd"),
        containers=on(machine, "docker ps -aq | xargs -r docker inspect -f '{{.Id}} {{.State.StartedAt}}' | sort"),
        files=on(
            machine,
            "find /etc/slipway /etc/docker /etc/containerd /etc/systemd/system /etc/apt/apt.conf.d /usr/local"
            " -type f -printf '%p %T@\\n' 2>/dev/null | sort",
        ),
    )


@pytest.fixture(scope="session")
def fresh_lab() -> Iterator[None]:
    """Machines that nothing has touched yet. They stay up afterwards, converged, for a person to look at."""
    lab("destroy", *MACHINES)
    lab("up")
    yield


def verdict() -> dict[str, object]:
    """Return the JSON that playbooks/verify.yml wrote last."""
    return dict(json.loads((REPOSITORY / ".slipway" / "verify.json").read_text(encoding="utf-8")))


def squid_log() -> list[str]:
    """Return the lines of the proxy's log."""
    return on("gateway", "cat /var/log/squid/access.log").splitlines()


def the_secrets() -> list[Secret]:
    """Return the passwords of the lab: the proxy's and the registry's."""
    account = json.loads((state() / "proxy.json").read_text(encoding="utf-8"))
    registry = yaml.safe_load((REPOSITORY / "inventory/lab/group_vars/registries.yml").read_text(encoding="utf-8"))
    users = [Secret(user["password"], user["name"]) for user in registry["registry_users"]]
    return [Secret(account["password"], account["user"]), *users]
