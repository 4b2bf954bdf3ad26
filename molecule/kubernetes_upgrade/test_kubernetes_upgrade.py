# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster goes from one release to the next while it works; what can't go well is refused first; kills do no harm.

The tests are one story, in this order: a cluster can't go back.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import golang, paths
from tests.testinfra.cluster import Cluster, wait_for
from tests.testinfra.play import REPOSITORY, Play, run_play
from tests.testinfra.secrets import Secret, leaks_in

CONTROL, NODE = "kube-up-control", "kube-up-node"
MACHINES = (CONTROL, NODE)
OLD, NEW = f"v{golang.KUBERNETES_BEFORE}", f"v{golang.KUBERNETES}"
TARGET = {"kubernetes_node_version": "1.34.*"}
PACKAGES = ("kubeadm", "kubectl", "kubelet")
MARK = "slipway.platform/upgrade"
POISON = Secret("p0is0n-Pa55", "poison")
# Answers each request, also after it has been told to end: it is asked less and less then.
SERVER = (
    "use IO::Socket::INET; $s = IO::Socket::INET->new(LocalPort => 8080, Listen => 50, ReuseAddr => 1) or die; "
    "while ($c = $s->accept) { while (<$c>) { last if /^\\r?\\n$/ } "
    "print $c qq(HTTP/1.0 200 OK\\r\\n\\r\\nok\\n); close $c }"
)
# The longest that nobody answered, with two busy cores: a request that waits for a rule of kube-proxy's to change.
MAX_GAP = 30.0


def upgrade(*arguments: str, **variables: Any) -> Play:
    """Run the playbook."""
    return run_play(
        REPOSITORY / "playbooks/upgrade.yml", {**TARGET, **variables}, arguments=["-vvv", "--diff", *arguments]
    )


def tells(play: Play, text: str) -> bool:
    """Tell whether a run printed a text, wherever Ansible has folded it."""
    return "".join(text.split()) in "".join(play.output.replace('\\"', '"').split())


def killed_at(task: str, seconds: float) -> None:
    """Run the playbook, and kill it (SIGKILL) so long after a task has begun; what it has started goes on or not."""
    log = REPOSITORY / ".slipway" / "logs" / "upgrade-killed.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    inventory = str(Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent)
    command = ["ansible-playbook", "-i", inventory, "-e", json.dumps(TARGET), "playbooks/upgrade.yml"]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    with log.open("w", encoding="utf-8") as stream:
        running = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=stream, stderr=stream, start_new_session=True
        )
        try:
            wait_for(
                lambda: task in log.read_text(encoding="utf-8"), lambda: log.read_text(encoding="utf-8")[-3000:], 900
            )
            time.sleep(seconds)
            assert running.poll() is None, f"it ended by itself: {log.read_text(encoding='utf-8')[-3000:]}"
        finally:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()


def versions(host: Any) -> set[str]:
    """Versions of the packages, and that they are held."""
    assert set(host.check_output("apt-mark showhold").split()) >= set(PACKAGES)
    return set(host.check_output("dpkg-query -W -f '${Version} ' kubeadm kubectl kubelet").split())


def engines(hosts: dict[str, Any]) -> list[str]:
    """The engines' processes, with which an upgrade of Kubernetes has nothing to do."""
    return [
        hosts[name].check_output("systemctl show --property=MainPID --value containerd docker") for name in MACHINES
    ]


@pytest.fixture(scope="module")
def cluster(hosts: dict[str, Any]) -> Cluster:
    return Cluster(hosts[CONTROL])


def deployment(name: str, replicas: int, least: int, command: list[str], **spec: Any) -> list[dict[str, Any]]:
    """A deployment and its disruption budget."""
    labels = {"app": name}
    container = {"name": "main", "image": "hello:1", "command": command, **spec.pop("container", {})}
    template = {"metadata": {"labels": labels}, "spec": {**spec, "containers": [container]}}
    selector = {"matchLabels": labels}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": selector, "template": template},
        },
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": name},
            "spec": {"minAvailable": least, "selector": selector},
        },
    ]


@pytest.fixture(scope="module")
def web(cluster: Cluster) -> Iterator[Any]:
    """Two replicas, one on each machine, of which one has to be there; asked twice a second from the control plane."""
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": "web"}},
    }
    container = {
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "8"]}}},
    }
    cluster.create(
        *deployment("web", 2, 1, ["perl", "-e", SERVER], container=container, topologySpreadConstraints=[spread]),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
        },
    )
    cluster.ask("rollout status deployment web --timeout=240s")
    address = cluster.get("service web")["spec"]["clusterIP"]
    ask = f"curl -sf -m 2 http://{address}/ >/dev/null && cat /proc/uptime >>/run/web-answered"
    loop = f"rm -f /run/web-answered; while :; do {ask}; sleep 0.5; done"
    cluster.control.check_output(f"systemd-run --quiet --unit=web-asked /bin/bash -c '{loop}'")
    yield cluster.control
    cluster.control.check_output("systemctl stop web-asked")


def unchanged(hosts: dict[str, Any], cluster: Cluster) -> None:
    """All is as it was before the upgrade."""
    for name in MACHINES:
        assert versions(hosts[name]) == {f"{OLD[1:]}-1.1"}
        node = cluster.node(name)
        assert (node["kubelet"], node["cordoned"], MARK in node["annotations"]) == (OLD, False, False)


# --- Before anything changes ------------------------------------------------------------------------------------


def test_a_version_raised_in_the_inventory_upgrades_nothing(hosts: dict[str, Any], cluster: Cluster) -> None:
    before = engines(hosts)
    playbook = REPOSITORY / "playbooks/kubernetes.yml"
    assert run_play(playbook, {}).succeeded().changed == 0
    raised = run_play(playbook, TARGET).succeeded()
    kept = f"keeps kubeadm {OLD[1:]}-1.1, kubectl {OLD[1:]}-1.1, kubelet {OLD[1:]}-1.1, although"
    assert tells(raised, f"{NODE} {kept}")
    assert tells(raised, "only playbooks/upgrade.yml changes the version of a node")
    unchanged(hosts, cluster)
    assert run_play(playbook, TARGET).succeeded().changed == 0
    assert engines(hosts) == before


@pytest.mark.parametrize(
    ("variables", "arguments", "says"),
    [
        (
            {"kubernetes_node_version": "1.35.*"},
            (),
            "kubeadm goes up one minor version at a time, it needs 1.34.* first",
        ),
        ({"kubernetes_node_version": "1.34.9-*"}, (), f"offers {NEW[1:]}-1.1: it needs a version that is there"),
        ({"kubernetes_node_version": "1.32.*"}, (), f"the API server runs {OLD}: there is no way back"),
        ({}, ("-l", NODE), "needs to be upgraded first, by the same command without a limit"),
    ],
    ids=["skip", "not in the repository", "down", "node before its API server"],
)
def test_what_cannot_go_well_is_refused(
    hosts: dict[str, Any], cluster: Cluster, variables: dict[str, Any], arguments: tuple[str, ...], says: str
) -> None:
    refused = upgrade(*arguments, **variables)
    assert refused.rc != 0
    assert refused.changed == 0
    assert tells(refused, says)
    assert tells(refused, "nothing was changed")
    unchanged(hosts, cluster)


def test_an_image_that_the_registry_lacks_is_found_first(hosts: dict[str, Any], cluster: Cluster) -> None:
    control = hosts[CONTROL]
    found = control.check_output(
        f"find / -xdev -path '*/kube-scheduler/_manifests/tags/{NEW}' -type d 2>/dev/null || true"
    )
    assert found.count("\n") == 0
    assert found
    control.check_output(f"mv {found} /root/kept-tag")
    try:
        refused = upgrade()
    finally:
        control.check_output(f"mv /root/kept-tag {found}")
    assert refused.rc != 0
    assert refused.changed == 0
    lacks = f"kube-up-control.corp.lab:6001 lacks registry.k8s.io/kube-scheduler:{NEW}, which {NEW} needs"
    assert tells(refused, lacks)
    unchanged(hosts, cluster)


def test_a_node_that_is_not_ready_is_found_first(hosts: dict[str, Any], cluster: Cluster) -> None:
    hosts[NODE].check_output("systemctl stop kubelet")
    try:
        wait_for(lambda: not cluster.node(NODE)["ready"], lambda: "it says to be ready without a kubelet")
        refused = upgrade()
    finally:
        hosts[NODE].check_output("systemctl start kubelet")
    assert refused.rc != 0
    assert refused.changed == 0
    assert tells(refused, f"node {NODE} is not ready: ")
    wait_for(lambda: cluster.node(NODE)["ready"], lambda: cluster.ask(f"describe node {NODE}")[-2000:])
    unchanged(hosts, cluster)


def test_check_mode_says_what_would_be_done(hosts: dict[str, Any], cluster: Cluster) -> None:
    predicted = upgrade("--check").succeeded()
    for text in (f"kubeadm upgrade apply {NEW}", "kubeadm upgrade node", f"install kubelet {NEW[1:]}-1.1"):
        assert text in predicted.output
    unchanged(hosts, cluster)


# --- The upgrade ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("web")
def test_killed_while_the_control_plane_is_upgraded(cluster: Cluster) -> None:
    cluster.create(*deployment("guarded", 1, 1, ["sleep", "infinity"], nodeSelector={"kubernetes.io/hostname": NODE}))
    cluster.ask("rollout status deployment guarded --timeout=240s")
    seconds = random.uniform(0, 20)
    print(f"killed after {seconds:.1f} s")
    killed_at("kubernetes_node : Upgrade the control plane", seconds)


def test_a_disruption_budget_stops_it_at_that_node(hosts: dict[str, Any], cluster: Cluster, web: Any) -> None:
    """The same command has gone on with the control plane, whatever the kill has left of it."""
    before = engines(hosts)
    # A replica of `web` on the control plane takes its 30 seconds of grace.
    stopped = upgrade(kubernetes_node_drain_seconds=120)
    assert stopped.rc != 0
    drain = "Drain the node as far as disruption budgets allow"
    stop = f'{NODE} is not upgraded to {NEW} yet. It stopped at "{drain}": node {NODE} could not be'
    assert tells(stopped, stop), "\n".join(line for line in stopped.output.splitlines() if "stopped at" in line)
    assert tells(stopped, "disruption budget"), stopped.output[-3000:]
    assert tells(stopped, "The same command goes on from here.")

    assert json.loads(cluster.ask("get --raw=/version"))["gitVersion"] == NEW
    assert versions(hosts[CONTROL]) == {f"{NEW[1:]}-1.1"}
    assert versions(hosts[NODE]) == {f"{OLD[1:]}-1.1"}, "it stopped before it changed anything on the machine"
    control, node = cluster.node(CONTROL), cluster.node(NODE)
    assert (control["kubelet"], control["ready"], control["cordoned"], MARK in control["annotations"]) == (
        NEW,
        True,
        False,
        False,
    )
    assert (node["kubelet"], node["ready"], node["cordoned"], MARK in node["annotations"]) == (OLD, True, True, True)
    assert cluster.get("deployment guarded")["status"]["availableReplicas"] == 1
    assert engines(hosts) == before


def test_killed_while_the_node_is_upgraded(cluster: Cluster) -> None:
    cluster.ask("delete pdb guarded")
    seconds = random.uniform(0, 6)
    print(f"killed after {seconds:.1f} s")
    killed_at("kubernetes_node : Renew the kubelet's configuration", seconds)
    assert MARK in cluster.node(NODE)["annotations"]


def test_the_same_command_finishes_it(hosts: dict[str, Any], cluster: Cluster) -> None:
    done = upgrade().succeeded()
    print(f"the rest took {done.seconds:.0f} seconds")
    account = json.loads((paths.state() / "proxy.json").read_text(encoding="utf-8"))
    assert leaks_in(done.output, [POISON, Secret(account["password"], account["user"])]) == []
    assert tells(done, f"The API server runs {NEW}.")
    assert tells(done, f"{NODE}: {NEW}, ready.")
    for name in MACHINES:
        node = cluster.node(name)
        assert (node["kubelet"], node["ready"], node["cordoned"], MARK in node["annotations"]) == (
            NEW,
            True,
            False,
            False,
        )
        assert versions(hosts[name]) == {f"{NEW[1:]}-1.1"}


def test_everything_that_runs_is_new(hosts: dict[str, Any], cluster: Cluster) -> None:
    def running() -> dict[str, str]:
        pods = cluster.get("pods --namespace=kube-system")["items"]
        return {
            one["metadata"]["name"]: status["image"]
            for one in pods
            for status in one["status"].get("containerStatuses", [])
            if status.get("ready")
        }

    def old() -> list[str]:
        images = [image for image in running().values() if image.rpartition("/")[2].startswith("kube-")]
        return [image for image in images if not image.endswith(f":{NEW}")] + ([] if len(images) == 5 else ["not five"])

    wait_for(lambda: not old(), lambda: f"{old()} of {running()}")
    assert any(image.endswith("etcd:3.6.5-0") for image in running().values())
    for name in MACHINES:
        process = hosts[name].check_output("systemctl show --property=MainPID --value kubelet")
        assert hosts[name].check_output(f"/proc/{process}/exe --version") == f"Kubernetes {NEW}"
    corefile = cluster.get("configmap coredns --namespace=kube-system")["data"]["Corefile"]
    assert "/etc/resolv.conf" not in corefile, "kubeadm's own, which does not ask the company's servers"
    manifests = hosts[CONTROL].check_output("cat /etc/kubernetes/manifests/*.yaml")
    assert set(re.findall(r"image: registry.k8s.io/kube-\S+:(\S+)", manifests)) == {NEW}
    assert "_proxy" not in manifests.lower(), "every login has one, with a password"


def test_the_workload_kept_answering(cluster: Cluster, web: Any) -> None:
    cluster.ask("rollout status deployment web --timeout=240s")
    answers = [float(line.split()[0]) for line in web.check_output("cat /run/web-answered").splitlines()]
    gaps = [later - earlier for earlier, later in itertools.pairwise(answers)]
    print(f"{len(answers)} answers; the longest without one: {max(gaps):.1f} s")
    assert max(gaps) < MAX_GAP


def test_a_second_run_changes_nothing(hosts: dict[str, Any]) -> None:
    kubelets = [hosts[name].check_output("systemctl show --property=MainPID --value kubelet") for name in MACHINES]
    again = upgrade().succeeded()
    print(f"a second run took {again.seconds:.0f} seconds")
    assert again.changed == 0
    assert upgrade("--check", "-l", NODE).succeeded().changed == 0
    assert run_play(REPOSITORY / "playbooks/kubernetes.yml", TARGET).succeeded().changed == 0
    assert [hosts[n].check_output("systemctl show --property=MainPID --value kubelet") for n in MACHINES] == kubelets
