# SPDX-License-Identifier: GPL-3.0-or-later
"""A real cluster: pods run images of the private registry by their bare names, machines leave and come back."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab import paths
from tests.testinfra.lab import Lab
from tests.testinfra.play import REPOSITORY, Play, run_play
from tests.testinfra.secrets import Secret, leaks_in, leaks_on

HERE = Path(__file__).resolve().parent
CONTROL, NODE = "kube-control", "kube-node"
POISON = Secret("p0is0n-Pa55", "poison")
TOKEN = re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b")
# Who has a proxy, or asks one, on its way to the API server.
PROXY = re.compile(r"\b(https?|all)_proxy=", re.IGNORECASE)
# The tests' own login is poisoned, too.
KUBECTL = "env -i PATH=/usr/bin:/bin HOME=/root kubectl --kubeconfig=/etc/kubernetes/admin.conf"
PULLER = {"name": "puller", "password": "s3\"cr:e t%41'", "role": "reader"}
ADMIN = {"name": "admin", "password": "lab-registry-admin"}
UNRELATED = {"auths": {"elsewhere.corp.lab": {"auth": "c29tZWJvZHk6ZWxzZQ=="}}}


def play(name: str, *arguments: str, **variables: Any) -> Play:
    """Run one of the site's playbooks, or the scenario's own."""
    path = HERE / name if (HERE / name).exists() else REPOSITORY / "playbooks" / name
    return run_play(path, variables, arguments=["-vvv", "--diff", *arguments])


def wait_for(what: Callable[[], Any], why: Callable[[], str], seconds: float = 180) -> Any:
    """Ask again until the answer is true; say why it is not when the time is up."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, why()
        time.sleep(1)
    return answer


class Cluster:
    """kubectl on the control plane's machine."""

    def __init__(self, control: Any) -> None:
        self.control = control

    def run(self, words: str, *arguments: str) -> Any:
        return self.control.run(f"{KUBECTL} {words}", *arguments)

    def ask(self, words: str, *arguments: str) -> str:
        done = self.run(words, *arguments)
        assert done.rc == 0, f"kubectl {words}: {done.stdout}{done.stderr}"
        return str(done.stdout)

    def get(self, words: str) -> Any:
        return json.loads(self.ask(f"get {words} --output=json"))

    def create(self, *objects: dict[str, Any]) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.ask("apply --filename=/dev/stdin <<'END'\n" + text.replace("%", "%%") + "\nEND")

    def ready(self, node: str = NODE) -> bool:
        done = self.run(f"get node {node} --output=json")
        conditions = json.loads(done.stdout)["status"]["conditions"] if done.rc == 0 else []
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def pod(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"pod {name}")
        return found

    def says(self, name: str) -> str:
        return self.run(f"describe pod {name}").stdout[-2500:] + self.run(f"logs {name}").stdout[-500:]

    def phase(self, name: str, wanted: str) -> None:
        wait_for(lambda: self.pod(name)["status"]["phase"] == wanted, lambda: self.says(name))

    def remove(self, *names: str) -> None:
        for name in names:
            self.ask(f"delete {name} --ignore-not-found --grace-period=0 --force --wait=true")


def pod(name: str, image: str, command: str, node: str = NODE, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": image, "imagePullPolicy": "Always", "command": ["/bin/bash", "-c", command]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
            **spec,
        },
    }


def secret(name: str, content: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": json.dumps(content)},
    }


@pytest.fixture(scope="module")
def control(hosts: dict[str, Any]) -> Any:
    return hosts[CONTROL]


@pytest.fixture(scope="module")
def node(hosts: dict[str, Any]) -> Any:
    return hosts[NODE]


@pytest.fixture(scope="module")
def cluster(control: Any) -> Cluster:
    return Cluster(control)


@pytest.fixture
def shell(cluster: Cluster) -> Iterator[Callable[[str], str]]:
    """Runs commands in a pod on the node."""
    cluster.create(pod("shell", "hello:1", "sleep infinity"))
    cluster.phase("shell", "Running")
    yield lambda command: cluster.ask("exec shell -- bash -c %s", command)
    cluster.remove("pod shell")


def pids(host: Any) -> list[str]:
    return str(host.check_output("systemctl show --property=MainPID --value kubelet containerd docker")).split()


# --- What converge has made -------------------------------------------------------------------------------------


def test_the_node_is_ready_and_has_its_labels(cluster: Cluster) -> None:
    assert cluster.ready()
    assert cluster.ready(CONTROL)
    assert cluster.get(f"node {NODE}")["metadata"]["labels"]["example.com/rack"] == "r1"


def test_everything_that_the_cluster_is_made_of_runs(cluster: Cluster) -> None:
    """The images exist in the private registry only: what runs came from there."""

    def waiting() -> list[str]:
        pods = cluster.get("pods --all-namespaces")["items"]
        return [
            one["metadata"]["name"]
            for one in pods
            if one["metadata"]["namespace"] in ("kube-system", "kube-flannel")
            and not all(each["ready"] for each in one["status"].get("containerStatuses", [{"ready": False}]))
        ]

    wait_for(lambda: not waiting(), lambda: f"not ready: {waiting()}")
    images = {
        container["image"]
        for one in cluster.get("pods --all-namespaces")["items"]
        for container in one["spec"]["containers"]
    }
    assert {image.split("/")[0] for image in images} <= {"registry.k8s.io", "docker.io"}, "their upstream names"


def test_packages_are_pinned_and_held(node: Any) -> None:
    assert set(node.check_output("apt-mark showhold").split()) >= {"kubeadm", "kubectl", "kubelet"}
    assert node.check_output("dpkg-query -W -f '${Version}' kubelet").startswith("1.34.")


def test_no_token_is_left(cluster: Cluster) -> None:
    assert cluster.get("secrets -n kube-system --field-selector=type=bootstrap.kubernetes.io/token")["items"] == []


def test_nothing_of_the_cluster_has_a_proxy(control: Any, node: Any) -> None:
    """Every login has one, with a password, in its environment (pains 11 and 12)."""
    login = "python3 -c 'import os; print(os.environ[\"https_proxy\"])'"
    assert POISON.password in control.check_output(login), "the poison works"
    for manifest in control.check_output("cat /etc/kubernetes/manifests/*.yaml").split("---"):
        assert "_proxy" not in manifest.lower()
    names = "kubelet|kube-apiserver|kube-controller-manager|kube-scheduler|etcd|kube-proxy|flanneld|coredns"
    for host, least in ((control, 7), (node, 3)):
        found = host.check_output("pgrep -x %s || true", names).split()
        # The names that the kernel keeps have at most 15 characters.
        found += host.check_output("pgrep -x 'kube-controller|kube-control-ma' || true").split()
        assert len(found) >= least
        for process in found:
            environment = host.check_output(f"tr '\\0' '\\n' </proc/{process}/environ")
            assert not PROXY.search(environment), environment
            assert POISON.password not in environment


def test_a_token_is_not_on_the_machines(control: Any, node: Any) -> None:
    for host in (control, node):
        files = "find /etc /run/slipway /var/lib/slipway /var/lib/kubelet/*.* /tmp -type f -size -200k -print0"
        text = host.check_output(
            f"{files} | xargs -0 grep -lE '\\b[a-z0-9]{{6}}\\.[a-z0-9]{{16}}\\b' | grep -v /fonts/ || true"
        )
        assert [path for path in text.split() if "kube" in path] == []


def test_a_run_changes_nothing(control: Any, node: Any) -> None:
    before = [pids(control), pids(node)]
    assert play("kubernetes.yml").succeeded().changed == 0
    assert play("kubernetes.yml", "--check").succeeded().changed == 0
    assert [pids(control), pids(node)] == before


def test_labels_and_taints_come_and_go(cluster: Cluster) -> None:
    taint = {"key": "gpu", "value": "", "effect": "PreferNoSchedule"}
    play("kubernetes.yml", "-l", NODE, kubernetes_node_labels={"a": "1"}, kubernetes_node_taints=[taint]).succeeded()
    found = cluster.get(f"node {NODE}")
    assert (found["metadata"]["labels"]["a"], found["spec"]["taints"][0]["key"]) == ("1", "gpu")
    assert "example.com/rack" not in found["metadata"]["labels"]
    play("kubernetes.yml", "-l", NODE).succeeded()
    found = cluster.get(f"node {NODE}")
    assert "a" not in found["metadata"]["labels"]
    assert "taints" not in found["spec"]


def test_input_that_cannot_work_is_refused_in_a_sentence(node: Any) -> None:
    before = pids(node)
    failed = play("kubernetes.yml", "-l", NODE, kubernetes_node_labels={"team": "x y"}, kubernetes_node_version="1.*")
    assert failed.rc != 0
    said = failed.output.replace("''", "'")
    assert "kubernetes_node_labels.team is 'x y': it needs a text of at most 63" in said
    assert "kubernetes_node_version is '1.*': it needs a version or pattern of one minor release" in said
    assert pids(node) == before


# --- Pods -------------------------------------------------------------------------------------------------------


def run_pods(cluster: Cluster, *names: str) -> None:
    """Run a pod of a bare name for each pull secret; "" for none."""
    pods = {name: f"hello-{name or 'none'}" for name in names}
    for name, title in pods.items():
        spec = {"imagePullSecrets": [{"name": name}]} if name else {}
        cluster.create(pod(title, "hello:1", "cat /etc/lab-image", **spec))
    for title in pods.values():
        cluster.phase(title, "Succeeded")
        assert cluster.ask(f"logs {title}").strip() == "hello"
    cluster.remove(*(f"pod {title}" for title in pods.values()))


def test_bare_names_run_with_and_without_an_unrelated_secret(cluster: Cluster) -> None:
    cluster.create(secret("unrelated", UNRELATED))
    run_pods(cluster, "", "unrelated")


def test_a_namespace_made_later_needs_nothing(cluster: Cluster) -> None:
    cluster.ask("create namespace later")
    cluster.create({**pod("hello", "hello:1", "true"), "metadata": {"name": "hello", "namespace": "later"}})
    wait_for(
        lambda: cluster.get("pod hello -n later")["status"]["phase"] == "Succeeded",
        lambda: cluster.ask("describe pod hello -n later"),
    )
    cluster.remove("namespace later")


def test_names_resolve_in_pods(shell: Callable[[str], str]) -> None:
    assert "10.96.0.1 " in shell("getent hosts kubernetes.default.svc.cluster.local")
    assert "172.29.64." in shell("getent hosts kube-control.corp.lab")


def test_bare_names_run_when_the_registry_asks_for_a_password(cluster: Cluster, node: Any) -> None:
    """Pain 27: the kubelet's word, a pod's secret, does not take the node's login away. Nothing restarts for it."""
    site = yaml.safe_load((HERE / "group_vars/all/site.yml").read_text(encoding="utf-8"))["site_registry"]
    authority = node.check_output("cat /etc/containerd/certs.d/docker.io/*.crt 2>/dev/null || true")
    ca = authority or node.check_output("cat /etc/docker/certs.d/kube-control.corp.lab:6001/ca.crt")
    login = {**site, "ca_certificate": ca, "user": PULLER["name"], "password": PULLER["password"]}
    both = {"registry_users": [ADMIN, PULLER], "registry_trust_docker_mirror": False}
    matching = {"auths": {"kube-control.corp.lab:6001": {"username": PULLER["name"], "password": PULLER["password"]}}}
    cluster.create(secret("unrelated", UNRELATED), secret("matching", matching))
    before = pids(node)[:2]
    output = play("converge.yml", registry_pull="authenticated", site_registry=login, **both).succeeded().output
    assert leaks_in(output, [Secret(PULLER["password"], PULLER["name"])]) == []
    try:
        address = "https://kube-control.corp.lab:6001/v2/hello/tags/list"
        refused = node.run(f"curl -sk --noproxy '*' -o /dev/null -w '%{{http_code}}' {address}")
        assert refused.stdout == "401"
        run_pods(cluster, "", "unrelated", "matching")
        assert pids(node)[:2] == before, "neither kubelet nor containerd restarts for a login"
    finally:
        play("converge.yml").succeeded()
    run_pods(cluster, "")


# --- What happens to nodes --------------------------------------------------------------------------------------


def probe(cluster: Cluster, shell: Callable[[str], str]) -> None:
    """Reach a pod on the other machine, a service, and the API server's service, from a pod."""
    pods = cluster.get("pods -n kube-system -l k8s-app=kube-dns")["items"]
    other = next(one["status"]["podIP"] for one in pods if one["spec"]["nodeName"] == CONTROL)
    for address in (f"{other}/8080", "10.96.0.10/53", "10.96.0.1/443"):
        assert shell(f"timeout 20 bash -c '</dev/tcp/{address}' && echo reached").strip() == "reached", address


def test_pods_reach_each_other_with_docker_installed_after_the_join(
    cluster: Cluster, node: Any, shell: Callable[[str], str]
) -> None:
    """Pain 51: Docker's own idea of FORWARD is DROP, if it is Docker that switches forwarding on."""
    probe(cluster, shell)
    node.check_output("systemctl stop docker.socket docker; rm -rf /etc/docker/daemon.json")
    node.check_output("DEBIAN_FRONTEND=noninteractive apt-get -q -y --allow-change-held-packages purge docker.io")
    node.check_output("iptables -F FORWARD && iptables -P FORWARD ACCEPT && systemctl restart kubelet")
    assert not node.exists("dockerd")
    play("converge.yml", "-l", f"{NODE},{CONTROL},localhost").succeeded()
    assert node.service("docker").is_running
    assert cluster.ready()
    probe(cluster, shell)
    node.check_output("systemctl restart docker")
    probe(cluster, shell)


def test_a_node_that_reboots_comes_back(cluster: Cluster, lab: Lab) -> None:
    lab.reboot(NODE)
    boot = cluster.get(f"node {NODE}")["status"]["nodeInfo"]["bootID"]
    assert boot
    wait_for(cluster.ready, lambda: cluster.ask(f"describe node {NODE}")[-3000:])
    cluster.create(pod("after-boot", "hello:1", "true"))
    cluster.phase("after-boot", "Succeeded")
    cluster.remove("pod after-boot")


def test_another_clusters_node_and_a_clone_are_refused(node: Any) -> None:
    conf = "/etc/kubernetes/kubelet.conf"
    before = pids(node)
    clone = play("kubernetes.yml", "-l", NODE, kubernetes_node_name="kube-clone")
    assert f"says to be the node {NODE}, but kubernetes_node_name is kube-clone: a clone" in clone.output
    node.check_output(f"cp -p {conf} /root/kept && sed -i 's/authority-data: L/authority-data: M/' {conf}")
    try:
        foreign = play("onboard.yml", "-l", NODE)
    finally:
        node.check_output(f"mv /root/kept {conf}")
    assert "this machine belongs to another cluster (https://kube-control.corp.lab:6443)" in foreign.output
    assert (clone.rc, foreign.rc, clone.changed, foreign.changed) == (2, 2, 0, 0)
    assert pids(node) == before


@pytest.fixture
def guarded(cluster: Cluster) -> Iterator[None]:
    """A deployment on the node whose disruption budget allows nothing."""
    labels = {"app": "guarded"}
    template = {
        "metadata": {"labels": labels},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": NODE},
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "hello:1", "command": ["sleep", "infinity"]}],
        },
    }
    selector = {"matchLabels": labels}
    cluster.create(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "guarded"},
            "spec": {"replicas": 1, "selector": selector, "template": template},
        },
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "guarded"},
            "spec": {"minAvailable": 1, "selector": selector},
        },
    )
    cluster.ask("rollout status deployment guarded --timeout=180s")
    yield
    cluster.remove("pdb guarded", "deployment guarded")


@pytest.mark.usefixtures("guarded")
def test_a_disruption_budget_holds_offboarding_up(cluster: Cluster, node: Any) -> None:
    before = pids(node)
    failed = play("offboard.yml", "-l", NODE, kubernetes_node_drain_seconds=15)
    assert failed.rc != 0
    assert f"node {NODE} could not be drained within 15 seconds" in failed.output
    assert "disruption budget" in failed.output
    assert cluster.get(f"node {NODE}")["spec"]["unschedulable"] is True
    assert pids(node) == before, "nothing else was done"


def test_offboarding_needs_a_limit() -> None:
    failed = play("offboard.yml")
    assert failed.rc != 0
    assert "offboard.yml names no machine: it needs --limit" in failed.output


def test_a_machine_leaves_and_comes_back(cluster: Cluster, control: Any, node: Any) -> None:
    before = pids(control)
    docker = pids(node)[2]
    play("offboard.yml", "-l", NODE).succeeded()
    assert cluster.run(f"get node {NODE}").rc != 0
    assert not node.exists("kubelet")
    left = "/etc/kubernetes/kubelet.conf /etc/slipway/kubernetes_node /run/flannel/subnet.env /var/lib/cni/networks"
    assert node.check_output(f"ls -d {left} 2>/dev/null || true") == ""
    rules = node.check_output("iptables-save")
    assert not re.search(r"KUBE-|FLANNEL|CNI-", rules)
    assert "DOCKER" in rules
    assert pids(node)[2] == docker
    assert play("offboard.yml", "-l", NODE).succeeded().changed == 0

    node.check_output("mkdir -p /etc/kubernetes/manifests && touch /etc/kubernetes/manifests/other.yaml")
    refused = play("onboard.yml", "-l", NODE)
    node.check_output("rm /etc/kubernetes/manifests/other.yaml")
    assert refused.rc != 0
    assert "this machine has leftovers of another cluster (/etc/kubernetes/manifests/other.yaml)" in refused.output
    assert refused.changed == 0
    assert not node.exists("kubelet")

    joined = play("onboard.yml", "-l", NODE).succeeded()
    print(f"onboarding took {joined.seconds:.0f} seconds")
    assert cluster.ready()
    assert not TOKEN.findall(joined.output), "the token is in the output"
    account = json.loads((paths.state() / "proxy.json").read_text(encoding="utf-8"))
    secrets = [POISON, Secret(account["password"], account["user"]), Secret(ADMIN["password"])]
    assert leaks_in(joined.output, secrets) == []
    # The poison is in every login's environment, also in that of who looks.
    assert leaks_on(node, secrets[1:2]) == []
    assert leaks_on(control, secrets[1:2]) == []
    assert cluster.get("secrets -n kube-system --field-selector=type=bootstrap.kubernetes.io/token")["items"] == []
    assert pids(control) == before, "no other machine's daemon restarts"
    assert play("onboard.yml", "-l", NODE).succeeded().changed == 0
