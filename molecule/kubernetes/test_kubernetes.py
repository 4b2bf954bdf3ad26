# SPDX-License-Identifier: GPL-3.0-or-later
"""A real cluster: pods run images of the private registry by their bare names, machines leave and come back."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import cri, paths
from tests.testinfra.cluster import Cluster, pids, pod, pull_secret, untouched, wait_for
from tests.testinfra.lab import Lab, put_program
from tests.testinfra.oci import Registry
from tests.testinfra.play import REPOSITORY, Play, run_play
from tests.testinfra.secrets import Secret, leaks_in, leaks_on

CONTROL, NODE = "kube-control", "kube-node"
REGISTRY = "kube-control.corp.lab:6001"
POISON = Secret("p0is0n-Pa55", "poison")
TOKEN = re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b")
# Who has a proxy, or asks one, on its way to the API server.
PROXY = re.compile(r"\b(https?|all)_proxy=", re.IGNORECASE)
# What a proxy has no business with.
INTERNAL = re.compile(r"corp\.lab|cluster\.local|\.svc\b|^(\w+://)?(172\.29\.64|10\.96|10\.244|127\.0)\.")
CRI = "/usr/local/bin/test-cri"
SHUFFLED = "/var/lib/spark-shuffle"
PULLER, OLD, NEW = "puller", "s3\"cr:e t%41'", "r0t@ted,\\ t%{oo}"
ADMIN = {"name": "admin", "password": "lab-registry-admin"}


def play(name: str, *arguments: str, **variables: Any) -> Play:
    """Run one of the site's playbooks."""
    return run_play(REPOSITORY / "playbooks" / name, variables, arguments=["-vvv", "--diff", *arguments])


def closed(password: str, *, fallback: bool = True) -> dict[str, Any]:
    """Return variables of a site whose registry asks everybody for a password."""
    authority = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "pki", "ca.crt").read_text(encoding="utf-8")
    registry = {"host": f"{CONTROL}.corp.lab", "port": 6001, "mirrors": ["docker.io", "registry.k8s.io"]}
    login = {"user": PULLER, "password": password}
    return {
        "registry_pull": "authenticated",
        "registry_users": [ADMIN, {"name": PULLER, "password": password, "role": "reader"}],
        "site_registry": {**registry, **login, "fallback": fallback, "ca_certificate": authority},
        # Docker can't log in to a mirror, so there it has the image by the registry's own name only.
        "registry_trust_docker_mirror": False,
        "site_verify": {"private": f"{REGISTRY}/hello:1", "upstream": "world:1"},
    }


def auths(host: str, user: str, password: str) -> dict[str, Any]:
    return {"auths": {host: {"username": user, "password": password}}}


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
    cluster.create(pod("shell", "hello:1", "sleep infinity", NODE))
    cluster.phase("shell", "Running")
    yield lambda command: cluster.ask("exec shell -- bash -c %s", command)
    cluster.remove("pod shell")


# --- What converge has made -------------------------------------------------------------------------------------


def test_the_node_is_ready_and_has_its_labels(cluster: Cluster) -> None:
    assert cluster.ready(NODE)
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


def test_check_mode_finds_nothing_to_do(control: Any, node: Any) -> None:
    """Molecule's idempotence is the real second run."""
    before = [pids(control), pids(node)]
    assert play("kubernetes.yml", "--check").succeeded().changed == 0
    assert [pids(control), pids(node)] == before


def test_labels_and_taints_come(cluster: Cluster) -> None:
    """They go with the next run, which test_docker_after_the_join makes."""
    taint = {"key": "gpu", "value": "", "effect": "PreferNoSchedule"}
    play("kubernetes.yml", "-l", NODE, kubernetes_node_labels={"a": "1"}, kubernetes_node_taints=[taint]).succeeded()
    found = cluster.get(f"node {NODE}")
    assert found["metadata"]["labels"]["a"] == "1"
    assert "gpu" in [one["key"] for one in found["spec"]["taints"]]
    assert "example.com/rack" not in found["metadata"]["labels"]


def test_input_that_cannot_work_is_refused_in_a_sentence(node: Any) -> None:
    before = pids(node)
    failed = play("kubernetes.yml", "-l", NODE, kubernetes_node_labels={"team": "x y"}, kubernetes_node_version="1.*")
    assert failed.rc != 0
    said = failed.output.replace("''", "'")
    assert "kubernetes_node_labels.team is 'x y': it needs a text of at most 63" in said
    assert "kubernetes_node_version is '1.*': it needs a version or pattern of one minor release" in said
    assert pids(node) == before


# --- Pods -------------------------------------------------------------------------------------------------------

# A pull secret by what is in it; "" for none. "original" is for the registry whose name the image has: what it says
# goes to the private registry, too, and must not take the place of the node's login (pain 27).
SECRETS = ("", "matching", "original", "unrelated")


def run_pods(cluster: Cluster, password: str, namespace: str = "default") -> None:
    """Run pods of a bare name and of the registry's own, with each pull secret and with none."""
    contents = {
        "matching": auths(REGISTRY, PULLER, password),
        "original": auths("https://index.docker.io/v1/", "somebody", "else's"),
        "unrelated": auths("elsewhere.corp.lab", "somebody", "else's"),
    }
    wanted = []
    for name in SECRETS:
        for kind, image in {"bare": "hello:1", "full": f"{REGISTRY}/hello:1"}.items():
            spec = {"imagePullSecrets": [{"name": name}]} if name else {}
            wanted.append(pod(f"{kind}-{name or 'none'}", image, "cat /etc/lab-image", NODE, **spec))
    objects = [*(pull_secret(*item) for item in contents.items()), *wanted]
    for one in objects:
        one["metadata"]["namespace"] = namespace
    cluster.create(*objects)
    names = " ".join(f"pod/{one['metadata']['name']}" for one in wanted)
    waited = cluster.run(f"wait -n {namespace} --timeout=180s --for=jsonpath='{{.status.phase}}'=Succeeded {names}")
    assert waited.rc == 0, waited.stderr + cluster.ask(f"get events -n {namespace}")[-3000:]
    assert cluster.ask(f"logs -n {namespace} bare-none").strip() == "hello"
    cluster.ask(f"delete -n {namespace} --wait=false {names}")
    cluster.ask(f"wait -n {namespace} --timeout=60s --for=delete {names}")


def empty(node: Any) -> list[str]:
    """Take every image off a node; return what is left."""
    for line in node.check_output(f"{CRI} images").splitlines():
        node.check_output(f"{CRI} remove {line.split()[0]}")
    return list(node.check_output(f"{CRI} images").splitlines())


def test_bare_names_run_whatever_secret_a_pod_has(cluster: Cluster, lab: Lab) -> None:
    run_pods(cluster, OLD)
    assert [request for request in lab.squid_log(NODE) if INTERNAL.search(request.url)] == []


def test_what_only_the_upstream_has_runs_too(cluster: Cluster) -> None:
    """By default containerd goes on to Docker Hub, through the proxy, for what the private registry lacks."""
    cluster.create(pod("world", "world:1", "cat /etc/lab-image", NODE))
    cluster.phase("world", "Succeeded")
    assert cluster.ask("logs world").strip() == "world"
    cluster.remove("pod world")


def test_names_resolve_in_pods(shell: Callable[[str], str]) -> None:
    assert "10.96.0.1 " in shell("getent hosts kubernetes.default.svc.cluster.local")
    assert "172.29.64." in shell("getent hosts kube-control.corp.lab")


@pytest.fixture
def far(cluster: Cluster) -> Iterator[str]:
    """A pod on the other machine that answers on port 8080; its address."""
    listen = "$s = IO::Socket::INET->new(LocalPort => 8080, Listen => 5) or die; while ($c = $s->accept) { close $c }"
    cluster.create(pod("far", "hello:1", f"perl -MIO::Socket::INET -e '{listen}'", CONTROL))
    cluster.phase("far", "Running")
    yield cluster.pod("far")["status"]["podIP"]
    cluster.remove("pod far")


def probe(shell: Callable[[str], str], far: str) -> None:
    """Reach a pod on the other machine, a service, and the API server's service, from a pod."""
    for address in (f"{far}/8080", "10.96.0.10/53", "10.96.0.1/443"):
        reach = f"for try in 1 2 3; do timeout 20 bash -c '</dev/tcp/{address}' && echo reached && break; done"
        assert shell(reach).strip() == "reached", address


def test_docker_after_the_join(cluster: Cluster, node: Any, shell: Callable[[str], str], far: str) -> None:
    """Pain 51: Docker's own idea of FORWARD is DROP, if it is Docker that switches forwarding on.

    The same run closes the registry, which restarts nothing of the cluster.
    """
    probe(shell, far)
    node.check_output("systemctl stop docker.socket docker; rm -rf /etc/docker/daemon.json")
    node.check_output("DEBIAN_FRONTEND=noninteractive apt-get -q -y --allow-change-held-packages purge docker.io")
    node.check_output("iptables -F FORWARD && iptables -P FORWARD ACCEPT && systemctl restart kubelet")
    assert not node.exists("dockerd")
    before = pids(node)[:2]
    output = play("site.yml", **closed(OLD)).succeeded().output
    assert leaks_in(output, [Secret(OLD, PULLER)]) == []
    assert pids(node)[:2] == before, "neither kubelet nor containerd restarts for a login"
    assert node.service("docker").is_running
    found = cluster.get(f"node {NODE}")
    assert "a" not in found["metadata"]["labels"], "what a run gave, a run takes"
    assert "gpu" not in [one["key"] for one in found["spec"].get("taints", [])]
    assert found["metadata"]["labels"]["example.com/rack"] == "r1"
    probe(shell, far)
    node.check_output("systemctl restart docker")
    probe(shell, far)


def statuses(node: Any, *logins: str) -> list[int]:
    """What the registry answers to logins, asked from the node."""
    registry = Registry(node, f"{CONTROL}.corp.lab", 6001, "/etc/docker/certs.d/kube-control.corp.lab:6001/ca.crt")
    return registry.ask(*(("GET", "/v2/hello/tags/list", login) for login in logins))


def test_bare_names_run_when_the_registry_asks_for_a_password(cluster: Cluster, node: Any) -> None:
    """In a namespace that nobody has done anything for, on a node without any image: the sandbox's comes first."""
    assert statuses(node, "", f"{PULLER}:{OLD}") == [401, 200]
    put_program(NODE, cri.build(), CRI)
    assert empty(node) == []
    cluster.ask("create namespace later")
    run_pods(cluster, OLD, "later")
    assert f"{REGISTRY}/pause:3.10.1" in node.check_output(f"{CRI} images")
    cluster.remove("namespace later")


def test_a_new_password_restarts_nothing_and_upstream_is_asked_no_more(cluster: Cluster, node: Any) -> None:
    """Rotation, and in the same run the end of the fallback: neither is a matter of daemons."""
    before = pids(node)
    play("site.yml", **closed(NEW, fallback=False)).succeeded()
    assert pids(node) == before
    assert statuses(node, f"{PULLER}:{OLD}", f"{PULLER}:{NEW}") == [401, 200]
    assert empty(node) == []
    cluster.create(pod("world", "world:1", "true", NODE))
    try:
        run_pods(cluster, NEW)
        cluster.waits("world", "docker.io/library/world:1: not found")
    finally:
        cluster.remove("pod world")  # or no drain gets past it


# --- What happens to nodes --------------------------------------------------------------------------------------


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


def test_a_machine_leaves(cluster: Cluster, node: Any) -> None:
    docker = pids(node)[2]
    # As Spark's shuffle service leaves it (spark_shuffle: external).
    node.check_output(f"mkdir -p {SHUFFLED}/spark-{'0' * 32}/1")
    play("offboard.yml", "-l", NODE).succeeded()
    assert node.check_output(f"ls {SHUFFLED}") == ""
    assert cluster.run(f"get node {NODE}").rc != 0
    assert not node.exists("kubelet")
    left = "/etc/kubernetes/kubelet.conf /etc/slipway/kubernetes_node /run/flannel/subnet.env /var/lib/cni/networks"
    assert node.check_output(f"ls -d {left} 2>/dev/null || true") == ""
    rules = node.check_output("iptables-save")
    assert not re.search(r"KUBE-|FLANNEL|CNI-", rules)
    assert "DOCKER" in rules
    assert pids(node)[2] == docker
    assert play("offboard.yml", "-l", NODE).succeeded().changed == 0


def test_what_would_stop_it_half_way_is_found_before_anything_changes(node: Any) -> None:
    unknown = play("onboard.yml", "-l", NODE, **closed("not it"))
    assert f"site_registry: {REGISTRY} refuses the user '{PULLER}': it needs the right user" in unknown.output
    node.check_output("mkdir -p /etc/kubernetes/manifests && touch /etc/kubernetes/manifests/other.yaml")
    refused = play("onboard.yml", "-l", NODE, **closed(NEW))
    node.check_output("rm /etc/kubernetes/manifests/other.yaml")
    assert "this machine has leftovers of another cluster (/etc/kubernetes/manifests/other.yaml)" in refused.output
    assert (unknown.rc, refused.rc, unknown.changed, refused.changed) == (2, 2, 0, 0)
    assert not node.exists("kubelet")


def test_a_machine_comes_back_and_no_other_one_is_touched(cluster: Cluster, control: Any, node: Any, lab: Lab) -> None:
    before = untouched(control, cluster)
    joined = play("onboard.yml", "-l", NODE, **closed(NEW)).succeeded()
    print(f"onboarding took {joined.seconds:.0f} seconds")
    assert cluster.ready(NODE)
    assert play("onboard.yml", "-l", NODE, **closed(NEW)).succeeded().changed == 0
    assert untouched(control, cluster) == before
    asked = lab.squid_log(NODE) + lab.squid_log(CONTROL)
    assert [request for request in asked if INTERNAL.search(request.url)] == []
    assert not TOKEN.findall(joined.output), "the token is in the output"
    account = json.loads((paths.state() / "proxy.json").read_text(encoding="utf-8"))
    secrets = [POISON, Secret(account["password"], account["user"]), Secret(ADMIN["password"]), Secret(NEW, PULLER)]
    assert leaks_in(joined.output, secrets) == []
    # The poison is in every login's environment, also in that of who looks; the registry's users are the registry's.
    assert leaks_on(node, [secrets[1], secrets[3]]) == []
    assert leaks_on(control, [secrets[1], secrets[3]]) == []
    assert cluster.get("secrets -n kube-system --field-selector=type=bootstrap.kubernetes.io/token")["items"] == []
