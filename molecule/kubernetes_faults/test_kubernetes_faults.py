# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever dies while a machine becomes a node, the same command ends with a node that is ready and runs pods."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from tests.lab import lab as machines_of_lab
from tests.lab import machines
from tests.lab.plan import Machine
from tests.testinfra.cluster import Cluster, pids, pod, wait_for
from tests.testinfra.lab import Lab
from tests.testinfra.play import REPOSITORY, Play, run_play

CONTROL, NODE = "kube-f-control", "kube-f-node"
REGISTRY = "kube-f-control.corp.lab:6001"
ONBOARD = REPOSITORY / "playbooks" / "onboard.yml"
INGEST = "/var/lib/containerd/io.containerd.content.v1.content/ingest"
# Which ten moments: the same number gives the same ones, and stands in the names of the tests.
SEED = int(os.environ.get("SLIPWAY_SEED") or random.randrange(10**6))
KILLS = 10
OUTAGE_SECONDS = 120
DEVICE = "eth0"


@dataclasses.dataclass
class Moment:
    """A task of the run, the how-manieth of them, and how far into it, in seconds."""

    task: int
    seconds: float


class Controller:
    """ansible-playbook in a session of its own, so that all of it can be killed at once."""

    def __init__(self, log: Path) -> None:
        self.log = log
        environment = {**os.environ, "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        inventory = str(Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent)
        with log.open("w", encoding="utf-8") as stream:
            self.process = subprocess.Popen(
                ["ansible-playbook", "-i", inventory, "-l", NODE, str(ONBOARD)],
                cwd=REPOSITORY, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def tasks(self) -> int:
        """How many tasks have begun."""
        return self.log.read_text(encoding="utf-8", errors="replace").count("\nTASK [")

    def ended(self) -> bool:
        return self.process.poll() is not None

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait(self) -> int:
        return self.process.wait(timeout=900)

    def reach(self, moment: Moment) -> bool:
        """Wait until the run is there, or further; tell whether it still goes on."""
        deadline = time.monotonic() + 900
        while self.tasks() < moment.task and not self.ended():
            assert time.monotonic() < deadline, self.log.read_text(encoding="utf-8")[-3000:]
            time.sleep(0.05)
        end = time.monotonic() + moment.seconds
        while time.monotonic() < end and self.tasks() == moment.task and not self.ended():
            time.sleep(0.05)
        return not self.ended()


def onboard() -> Play:
    return run_play(ONBOARD, arguments=["-l", NODE])


def bare(cluster: Cluster) -> None:
    """Put a machine that was never used in the node's place."""
    cluster.ask(f"delete node {NODE} --ignore-not-found")
    address, image = IPv4Address(machines.address(NODE)), os.environ.get("MOLECULE_IMAGE", "trixie")
    machines.stop(NODE)  # its SSH connections end, and nobody speaks to a dead one later
    machines.destroy(NODE)
    machines_of_lab.up([Machine(name=NODE, image=image, address=address, owner="molecule/kubernetes_faults")])


def prove(cluster: Cluster, again: Play) -> None:
    """The command ended with a node that is ready, a pod runs there, and there is nothing left to do."""
    again.succeeded()
    assert cluster.ready(NODE)
    cluster.create(pod("proof", "hello:1", "cat /etc/lab-image", NODE))
    cluster.phase("proof", "Succeeded")
    cluster.remove("pod proof")
    settled = onboard().succeeded()
    assert settled.changed == 0, settled.output[-6000:]


@pytest.fixture(scope="module")
def control(hosts: dict[str, Any]) -> Any:
    return hosts[CONTROL]


@pytest.fixture(scope="module")
def cluster(control: Any) -> Cluster:
    return Cluster(control)


@pytest.fixture
def node(hosts: dict[str, Any], cluster: Cluster) -> Any:
    """The machine, as bare as on its first day."""
    bare(cluster)
    return hosts[NODE]


@pytest.fixture(scope="module")
def moments(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> list[Moment]:
    """Measure a run that nobody disturbs, and draw one moment from each tenth of it."""
    bare(cluster)
    run = Controller(tmp_path_factory.mktemp("onboard") / "whole.log")
    begun, start = [0.0], time.monotonic()
    while not run.ended():
        begun += [time.monotonic() - start] * (run.tasks() + 1 - len(begun))
        time.sleep(0.05)
    assert run.wait() == 0, run.log.read_text(encoding="utf-8")[-6000:]
    length, dice = time.monotonic() - start, random.Random(SEED)
    points = [length * 0.98 * (number + dice.random()) / KILLS for number in range(KILLS)]
    tasks = [max(task for task, when in enumerate(begun) if when <= point) for point in points]
    found = [Moment(task, point - begun[task]) for task, point in zip(tasks, points, strict=True)]
    print(f"seed {SEED}: onboarding took {length:.0f} s, {len(begun) - 1} tasks; kills at {found}")
    return found


@pytest.mark.parametrize("number", range(KILLS), ids=lambda number: f"seed{SEED}-{number}")
def test_a_killed_controller(number: int, moments: list[Moment], cluster: Cluster, node: Any, tmp_path: Path) -> None:
    """What it had started on the machine goes on, and the same command meets it there."""
    run = Controller(tmp_path / "killed.log")
    going = run.reach(moments[number])
    run.kill()
    print(f"{moments[number]}: killed {'in' if going else 'after'} task {run.tasks()}")
    assert going or run.process.returncode == 0, run.log.read_text(encoding="utf-8")[-6000:]
    prove(cluster, onboard())


def mid_join(node: Any) -> None:
    """Wait until kubeadm works on the node."""
    done = node.run("timeout 600 sh -c 'until pgrep -x kubeadm >/dev/null; do sleep 0.1; done'")
    assert done.rc == 0, "kubeadm was never seen"


def test_a_power_cut_in_mid_join(cluster: Cluster, node: Any, lab: Lab, tmp_path: Path) -> None:
    run = Controller(tmp_path / "cut.log")
    mid_join(node)
    lab.kill(NODE)
    run.wait()
    lab.start(NODE)
    prove(cluster, onboard())


def test_an_api_server_that_restarts_in_mid_join(cluster: Cluster, control: Any, node: Any, tmp_path: Path) -> None:
    run = Controller(tmp_path / "restarted.log")
    mid_join(node)
    before = control.check_output("pgrep -x kube-apiserver")
    control.check_output("pkill -KILL -x kube-apiserver")
    print(f"the run that saw the API server restart ended with {run.wait()}")
    wait_for(lambda: cluster.run("get --raw=/readyz").rc == 0, lambda: "the API server does not come back")
    assert control.check_output("pgrep -x kube-apiserver") != before
    prove(cluster, onboard())


def test_a_reboot(cluster: Cluster, hosts: dict[str, Any], lab: Lab) -> None:
    before = pids(hosts[NODE])
    lab.reboot(NODE)
    assert not set(before) & set(pids(hosts[NODE]))
    prove(cluster, onboard())


@pytest.fixture
def large(control: Any) -> Iterator[str]:
    """An image that takes a while to pull; nothing of it can be compressed."""
    image = f"{REGISTRY}/large:1"
    make = (
        "docker pull -q hello:1 && dd if=/dev/urandom of=/root/large bs=1M count=300 status=none"
        " && made=$(docker create hello:1) && docker cp -q /root/large $made:/large && docker commit $made %s"
        " && docker rm $made && rm /root/large && docker push -q %s"
    )
    control.check_output("printf lab-registry-admin | docker login -u admin --password-stdin %s", REGISTRY)
    control.check_output(make, image, image)
    yield image
    control.run("docker logout %s; docker image rm -f %s", REGISTRY, image)


def test_a_registry_that_is_away_for_two_minutes_during_a_pull(
    cluster: Cluster, control: Any, hosts: dict[str, Any], large: str
) -> None:
    """With the kubelet's own patience, and nobody's help."""
    containers = "slipway-registry-proxy slipway-registry"
    node = hosts[NODE]
    assert node.run(f"rm -rf {INGEST}/*").rc == 0
    # The pull takes half a minute, and is not over before the registry is away.
    control.check_output(f"tc qdisc add dev {DEVICE} root tbf rate 80mbit burst 256kb latency 400ms")
    cluster.create(pod("large", "large:1", "stat -c %s /large", NODE))
    pulling = f"until [ $(du -sm {INGEST} | cut -f1) -gt 10 ]; do sleep 0.02; done"
    try:
        assert node.run("timeout 120 sh -c %s", pulling).rc == 0, cluster.says("large")
        control.check_output(f"docker kill {containers}")
        control.check_output("systemctl stop slipway-registry-health.timer")  # it would bring the registry back
        control.run(f"docker kill {containers}")
        control.check_output(f"tc qdisc del dev {DEVICE} root")
        end = time.monotonic() + OUTAGE_SECONDS
        while time.monotonic() < end:
            assert cluster.pod("large")["status"]["phase"] == "Pending", (
                "the pull was over before the registry was away"
            )
            time.sleep(5)
        said = cluster.says("large")
        assert "Failed to pull image" in said or "ErrImagePull" in said or "ImagePullBackOff" in said, said
    finally:
        control.run(f"tc qdisc del dev {DEVICE} root")
        control.check_output(f"docker start {containers}; systemctl start slipway-registry-health.timer")
    # The kubelet's back-off goes up to five minutes.
    cluster.phase("large", "Succeeded", seconds=420)
    assert cluster.ask("logs large").strip() == str(300 * 2**20)
    cluster.remove("pod large")
    assert wait_for(lambda: cluster.ready(NODE), lambda: cluster.ask(f"describe node {NODE}"))
