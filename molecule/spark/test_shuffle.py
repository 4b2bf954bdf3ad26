# SPDX-License-Identifier: GPL-3.0-or-later
"""Shuffle data after its executors, with a service on the node and without; what the janitor takes and leaves."""

from __future__ import annotations

import base64
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testinfra import cluster as cluster_tests
from tests.testinfra.cluster import wait_for
from tests.testinfra.lab import Lab
from tests.testinfra.spark import PI, Cluster, flat, play, result, submit

pytestmark = pytest.mark.skipif(
    not os.environ.get("SLIPWAY_LONG"), reason="part of make test-long: a quarter of an hour"
)

HERE = Path(__file__).resolve().parent
DIRECTORY = "/var/lib/spark-shuffle"
SPACE = "spark-shuffle"
JOB = "local:///jobs/job.py"
MINUTES = 60
CONF = {
    # The job's program, without HDFS in this scenario.
    "spark.kubernetes.driver.secrets.jobs": "/jobs",
    # The driver stays when the executors' node goes.
    "spark.kubernetes.driver.node.selector.kubernetes.io/hostname": "spark-control",
    "spark.dynamicAllocation.executorIdleTimeout": "3s",
    # No task begins before both executors are there, so that both have a part of the shuffle data.
    "spark.dynamicAllocation.initialExecutors": "2",
    "spark.scheduler.maxRegisteredResourcesWaitingTime": "5m",
}
ON_ONE_NODE = {"spark.kubernetes.executor.node.selector.kubernetes.io/hostname": "spark-node"}
TRACKING = {**ON_ONE_NODE, "spark.dynamicAllocation.shuffleTracking.timeout": "6s"}
MODE: dict[str, Any] = {
    "spark_tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}],
    "spark_nodes": ["spark-node", "spark-control"],
    "spark_shuffle_janitor_seconds": 3,
    "spark_conf": {
        "spark.driver.memory": "512m",
        "spark.executor.memory": "512m",
        "spark.kubernetes.driver.request.cores": "100m",
        "spark.kubernetes.executor.request.cores": "100m",
    },
}
EXTERNAL = {**MODE, "spark_shuffle": "external"}


@pytest.fixture(scope="module")
def cluster(hosts: dict[str, Any]) -> Cluster:
    return Cluster(hosts["spark-control"])


@pytest.fixture(scope="module")
def node(hosts: dict[str, Any]) -> Any:
    return hosts["spark-node"]


class Job:
    """The program of job.py under a name."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name, self.pod = cluster, name, f"{name}-driver"

    def begin(self, *, seconds: float = 0, conf: dict[str, str] = ON_ONE_NODE) -> Job:
        """Submit it, and wait for nothing."""
        own = {
            "spark.kubernetes.submission.waitAppCompletion": "false",
            "spark.kubernetes.driver.pod.name": self.pod,
        }
        options = " ".join(f"--conf {name}={value}" for name, value in {**CONF, **conf, **own}.items())
        done = self.cluster.control.run(f"su - ops -c 'spark-submit --name {self.name} {options} {JOB} {seconds}'")
        assert done.rc == 0, done.stdout[-1500:] + done.stderr[-1500:]
        return self

    def log(self) -> str:
        return str(self.cluster.run(f"logs {self.pod}").stdout)

    def why(self) -> str:
        told = self.cluster.run(f"describe pod {self.pod}").stdout[-1500:]
        return str(told + self.log()[-3000:] + self.cluster.run("get pods --output=wide").stdout)

    def says(self, text: str, seconds: float = 10 * MINUTES) -> Job:
        """Wait until its log has a text."""
        wait_for(lambda: text in self.log() or self.over(), self.why, seconds)
        assert text in self.log(), self.why()
        return self

    def over(self) -> bool:
        found = self.cluster.run(f"get pod {self.pod} --output=json")
        return found.rc != 0 or json.loads(found.stdout)["status"]["phase"] in ("Succeeded", "Failed")

    def idle(self) -> Job:
        """Wait until the first action is done and all executors are gone."""
        self.says("first: right, 8 maps").says("go: 0 executors")
        wait_for(lambda: not self.executors(), self.why, 5 * MINUTES)
        return self

    def go(self) -> Job:
        self.inside("touch /tmp/go")
        return self

    def inside(self, command: str) -> None:
        self.cluster.ask(f"exec {self.pod} -- bash -c '{command}'")

    def fails(self) -> Job:
        """Wait for its end, which is an error."""
        wait_for(self.over, self.why, 10 * MINUTES)
        assert self.cluster.pod(self.pod)["status"]["phase"] == "Failed", self.why()
        return self

    def end(self) -> str:
        """Wait for its end, and return what it says of its second action."""
        wait_for(self.over, self.why, 10 * MINUTES)
        assert self.cluster.pod(self.pod)["status"]["phase"] == "Succeeded", self.why()
        return "".join(re.findall(r"^second: (.*)$", self.log(), re.M))

    def executors(self) -> list[str]:
        return self.cluster.names("pods", f"spark-role=executor,spark-app-selector={self.identifier()}")

    def holds(self) -> dict[str, int]:
        """Return for each executor of how many map tasks it has the output in its own pod."""
        count = "find ${SPARK_LOCAL_DIRS//,/ } -name shuffle_*.data | wc -l"
        executors = self.executors()
        return {name: int(self.cluster.ask(f"exec {name} -- bash -c '{count}'")) for name in executors}

    def identifier(self) -> str:
        return str(self.cluster.pod(self.pod)["metadata"]["labels"]["spark-app-selector"])

    def files(self, node: Any) -> list[str]:
        """Return the paths of its shuffle data."""
        return str(node.run(f"find {DIRECTORY}/{self.identifier()} -name 'shuffle_*'").stdout).split()


@pytest.fixture
def job(cluster: Cluster) -> Iterator[Callable[[str], Job]]:
    """Name a job that is taken away at the end, however the test ends."""
    data = {"job.py": base64.b64encode((HERE / "job.py").read_bytes()).decode()}
    cluster.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "jobs"}, "data": data})
    names: list[str] = []

    def add(name: str) -> Job:
        names.append(name)
        return Job(cluster, name)

    yield add
    for name in names:
        cluster.run(f"delete pod {name}-driver --ignore-not-found --grace-period=0 --force")
    cluster.run("delete pods --selector=spark-role=executor --grace-period=0 --force")
    cluster.run("delete secret jobs --ignore-not-found")


def service(cluster: Cluster, words: str) -> Any:
    """Run kubectl in the namespace of the service."""
    return cluster.control.run(f"{cluster_tests.KUBECTL} --namespace={SPACE} {words}")


def pod_on(cluster: Cluster, name: str = "spark-node") -> dict[str, Any]:
    """Return the service's pod on a node."""
    found = json.loads(service(cluster, f"get pods --field-selector=spec.nodeName={name} --output=json").stdout)
    (pod,) = [one for one in found["items"] if not one["metadata"].get("deletionTimestamp")] or [{}]
    return dict(pod)


def serves(cluster: Cluster, but: str = "") -> bool:
    """Tell whether the service on the node is ready, by another pod than one that was deleted."""
    pod = pod_on(cluster)
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return bool(statuses) and pod["metadata"]["uid"] != but and all(one["ready"] for one in statuses)


def janitor(cluster: Cluster) -> str:
    name = pod_on(cluster).get("metadata", {}).get("name", "none")
    return str(service(cluster, f"logs {name} --container=janitor").stdout)


def litter(node: Any, digit: str) -> str:
    """Leave files on the node of an application that has never been: what the janitor has to take."""
    path = f"{DIRECTORY}/spark-{digit * 32}"
    node.check_output(f"mkdir -p {path}/blockmgr-1/0c && touch {path}/blockmgr-1/0c/x && chown -R 185:0 {path}")
    return path


def is_gone(node: Any, path: str) -> bool:
    return not node.file(path).exists


def test_without_a_service_the_work_is_done_again(cluster: Cluster, job: Callable[[str], Job]) -> None:
    """The control: executors that held shuffle data took it along."""
    play("spark.yml", **MODE).succeeded()
    assert job("track").begin(conf=TRACKING).idle().go().end() == "right, 8 maps"


@pytest.mark.parametrize("mode", ["none", "tracking"])
def test_an_executor_dies_in_mid_stage_and_takes_its_output_along(
    mode: str, cluster: Cluster, job: Callable[[str], Job]
) -> None:
    play("spark.yml", **MODE, spark_shuffle=mode).succeeded()
    run = job(f"struck-{mode}").begin(seconds=20, conf=ON_ONE_NODE).says("first: right, 8 maps")
    held = run.holds()
    assert len(held) == 2 and sum(held.values()) == 8 and all(held.values()), held
    # Idle for longer than executors may be; but these are not taken away, for what they hold.
    time.sleep(10)
    assert run.holds() == held
    run.go().says("second begins")
    (victim, *_) = held
    cluster.ask(f"delete pod {victim} --grace-period=0 --force")
    assert run.end() == f"right, {held[victim]} maps"


@pytest.mark.parametrize("mode", ["none", "tracking"])
def test_a_node_reboots_and_takes_output_along(
    mode: str, cluster: Cluster, lab: Lab, job: Callable[[str], Job]
) -> None:
    play("spark.yml", **MODE, spark_shuffle=mode).succeeded()
    run = job(f"reboot-{mode}").begin(conf={}).says("first: right, 8 maps")
    held = run.holds()
    (lost,) = [name for name in held if cluster.pod(name)["spec"]["nodeName"] == "spark-node"]
    assert len(held) == 2 and held[lost] > 0, held
    lab.reboot("spark-node")
    assert run.go().end() == f"right, {held[lost]} maps"
    wait_for(lambda: cluster.ready("spark-node"), lambda: cluster.run("describe node spark-node").stdout, 5 * MINUTES)


def test_a_service_is_made(cluster: Cluster, node: Any) -> None:
    foreseen = play("spark.yml", "--check", **EXTERNAL).succeeded()
    assert foreseen.changed and not node.file(DIRECTORY).exists
    play("spark.yml", **EXTERNAL).succeeded()
    assert play("spark.yml", **EXTERNAL).succeeded().changed == 0
    assert serves(cluster)
    found = node.file(DIRECTORY)
    assert (found.uid, found.mode) == (185, 0o700)
    pod = pod_on(cluster)["spec"]
    assert [one["securityContext"]["capabilities"] for one in pod["containers"]] == [{"drop": ["ALL"]}] * 2
    mounts = {one["name"]: [mount["name"] for mount in one["volumeMounts"]] for one in pod["containers"]}
    assert "account" in mounts["janitor"] and "account" not in mounts["shuffle"]


def test_rights_beside_a_service(cluster: Cluster) -> None:
    who = "system:serviceaccount:spark-shuffle:spark-janitor"
    assert cluster.may(who, "list pods")
    for words in ("delete pods", "get secrets", "list pods --namespace=default", "list pods --namespace=spark-shuffle"):
        assert not cluster.may(who, words), words
    submitter = "system:serviceaccount:spark:spark-submit"
    assert cluster.may(submitter, "get daemonset/spark-shuffle --namespace=spark-shuffle")
    for words in ("create pods", "delete daemonsets", "get secrets", "create pods --subresource=exec"):
        assert not cluster.may(submitter, f"{words} --namespace=spark-shuffle"), words


def test_executors_get_no_more_than_they_need(cluster: Cluster) -> None:
    """What Pod Security's level restricted refused before is refused still, but for executors' one directory."""
    safe = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    context = {"runAsNonRoot": True, "runAsUser": 185, "seccompProfile": {"type": "RuntimeDefault"}}

    def pod(container: dict[str, Any], labels: dict[str, str], own: bool, **spec: Any) -> Any:
        metadata: dict[str, Any] = {"name": "probe", "labels": labels}
        if own:
            metadata["ownerReferences"] = [{"apiVersion": "v1", "kind": "Pod", "name": "d", "uid": "1-2-3"}]
        main = {"name": "main", "image": "hello:1", "securityContext": {**safe, **container}}
        made = {"securityContext": context, **spec, "containers": [main]}
        text = json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": made})
        return cluster.run("create --dry-run=server --filename=/dev/stdin <<'END'\n" + text + "\nEND")

    executor = {"spark-role": "executor"}
    mount = lambda path: [{"name": "v", "hostPath": {"path": path}}]  # noqa: E731
    fine = [({}, {}, False, {}), ({}, executor, True, {"hostNetwork": True, "volumes": mount(DIRECTORY)})]
    for container, labels, own, spec in fine:
        done = pod(container, labels, own, **spec)
        assert done.rc == 0, done.stderr
    refused = {
        "host's network": ({}, {}, False, {"hostNetwork": True}),
        "can be mounted": ({}, executor, True, {"volumes": mount("/")}),
        "by executors of a driver": ({}, {}, True, {"volumes": mount(DIRECTORY)}),
        "needs a driver in the cluster": ({}, executor, False, {}),
        "hostPID": ({}, executor, True, {"hostPID": True}),
        "runAsUser 0": ({"runAsUser": 0}, executor, True, {}),
        "runAsNonRoot": ({"runAsNonRoot": False}, executor, True, {}),
        "privileged is refused": ({"privileged": True, "allowPrivilegeEscalation": None}, executor, True, {}),
        "allowPrivilegeEscalation": ({"allowPrivilegeEscalation": True}, executor, True, {}),
        "none added": ({"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}, executor, True, {}),
        "need to be dropped": ({"capabilities": {}}, executor, True, {}),
        "seccompProfile": ({"seccompProfile": {"type": "Unconfined"}}, executor, True, {}),
        "procMount": ({"appArmorProfile": {"type": "Unconfined"}}, executor, True, {}),
    }
    for words, (container, labels, own, spec) in refused.items():
        done = pod(container, labels, own, **spec)
        assert done.rc != 0 and words in done.stderr, (words, done.stdout, done.stderr)


def test_what_breaks_it_is_refused() -> None:
    done = play("spark.yml", **{**EXTERNAL, "spark_nodes": []})
    assert done.rc != 0 and "spark_nodes is empty: it needs the machines that may run executors" in flat(done.output)
    done = play("spark.yml", **{**EXTERNAL, "spark_conf": {"spark.blockManager.port": "7079"}})
    assert done.rc != 0 and "spark_conf is given spark.blockManager.port: it needs to leave that" in flat(done.output)
    done = submit("wrong", application=JOB, conf={"spark.local.dir": "/tmp"})
    assert done.rc != 0 and "conf has spark.local.dir: that needs to be left to the role" in flat(done.output)


def test_shuffle_data_outlives_executors_and_a_paused_application_keeps_it(
    cluster: Cluster, node: Any, job: Callable[[str], Job]
) -> None:
    run = job("outlive").begin().idle()
    files = run.files(node)
    assert len([path for path in files if path.endswith(".data")]) == 8
    # Paused, for as long as the janitor needs to find and take what is nobody's.
    run.inside("kill -STOP -1")
    other = litter(node, "a")
    wait_for(lambda: is_gone(node, other), lambda: janitor(cluster), 5 * MINUTES)
    # The API server refuses to tell it: nothing goes, not even that.
    role = cluster.ask("get rolebinding spark-janitor --output=json")
    cluster.ask("delete rolebinding spark-janitor")
    other = litter(node, "b")
    wait_for(lambda: "nothing is removed" in janitor(cluster), lambda: janitor(cluster), 5 * MINUTES)
    assert "403" in janitor(cluster) and not is_gone(node, other)
    cluster.create(json.loads(role))
    wait_for(lambda: is_gone(node, other), lambda: janitor(cluster), 5 * MINUTES)
    assert run.files(node) == files
    # The service is started again: it knows the executors that are gone.
    pod = pod_on(cluster)["metadata"]
    service(cluster, f"delete pod {pod['name']} --wait=false")
    wait_for(lambda: serves(cluster, but=pod["uid"]), lambda: service(cluster, "describe pods").stdout[-3000:], 600)
    # While it runs, the mode stays.
    done = play("spark.yml", **MODE)
    assert done.rc != 0 and "the application of outlive-driver uses the shuffle service" in flat(done.output)
    run.inside("kill -CONT -1")
    assert run.go().end() == "right, 0 maps"
    wait_for(lambda: is_gone(node, f"{DIRECTORY}/{run.identifier()}"), lambda: janitor(cluster), 5 * MINUTES)


def test_the_files_of_a_killed_application_go(cluster: Cluster, node: Any, job: Callable[[str], Job]) -> None:
    run = job("killed").begin().idle()
    path = f"{DIRECTORY}/{run.identifier()}"
    assert not is_gone(node, path)
    assert submit("killed", state="absent").succeeded().changed == 1
    wait_for(lambda: is_gone(node, path), lambda: janitor(cluster), 5 * MINUTES)


def test_the_files_of_an_application_go_whose_driver_was_killed(
    cluster: Cluster, node: Any, job: Callable[[str], Job]
) -> None:
    run = job("headless").begin().idle()
    path = f"{DIRECTORY}/{run.identifier()}"
    assert not is_gone(node, path)
    # The shell that asks for it goes as well, so there is no exit code to look at.
    cluster.run(f"exec {run.pod} -- bash -c 'kill -KILL -1'")
    run.fails()
    wait_for(lambda: is_gone(node, path), lambda: janitor(cluster), 5 * MINUTES)


def test_a_full_disk_ends_the_application_with_an_error(cluster: Cluster, node: Any, job: Callable[[str], Job]) -> None:
    node.check_output(f"mount -t tmpfs -o size=8k,mode=0700,uid=185 tmpfs {DIRECTORY}")
    try:
        run = job("full").begin().fails()
    finally:
        cluster.run("delete pods --selector=spark-role=executor --grace-period=0 --force")
        node.check_output(f"umount --lazy {DIRECTORY}")
    assert "No space left on device" in run.log() and "first:" not in run.log()


def test_the_service_of_one_of_two_nodes(
    cluster: Cluster, hosts: dict[str, Any], node: Any, job: Callable[[str], Job]
) -> None:
    """Executors on two nodes leave their output to two services; what one takes along is made again."""

    def outputs(run: Job) -> tuple[int, int]:
        both = [[path for path in run.files(one) if path.endswith(".data")] for one in (node, hosts["spark-control"])]
        return len(both[0]), len(both[1])

    run = job("spread").begin(conf={}).idle()
    here, there = outputs(run)
    assert here + there == 8 and here and there, (here, there)
    assert run.go().end() == "right, 0 maps"
    run = job("parted").begin(conf={}).idle()
    here, there = outputs(run)
    assert here + there == 8 and here and there, (here, there)
    # As a drain does that spares nobody: neither the service nor an executor may stay or come.
    service(cluster, "taint node spark-node away=long:NoExecute")
    try:
        wait_for(lambda: not pod_on(cluster), lambda: service(cluster, "get pods").stdout, 5 * MINUTES)
        assert run.go().end() == f"right, {here} maps"
    finally:
        service(cluster, "taint node spark-node away-")
        wait_for(lambda: serves(cluster), lambda: service(cluster, "describe pods").stdout[-3000:], 5 * MINUTES)


def test_an_executor_and_the_service_die_in_mid_stage(cluster: Cluster, node: Any, job: Callable[[str], Job]) -> None:
    run = job("struck").begin(seconds=20).idle().go().says("second begins")
    (victim, *_) = wait_for(run.executors, run.why, 300)
    wait_for(lambda: cluster.pod(victim)["status"]["phase"] == "Running", run.why, 300)
    cluster.ask(f"delete pod {victim} --grace-period=0 --force")
    pod = pod_on(cluster)["metadata"]
    service(cluster, f"delete pod {pod['name']} --grace-period=0 --force")
    assert run.end() == "right, 0 maps"


def test_nothing_is_submitted_without_the_service(cluster: Cluster, node: Any) -> None:
    pod = pod_on(cluster)["metadata"]
    node.check_output(f"mv {DIRECTORY} {DIRECTORY}.away")
    try:
        service(cluster, f"delete pod {pod['name']}")
        done = submit("early", application=JOB)
        assert done.rc != 0 and "nothing was submitted, because executors need the shuffle service" in flat(done.output)
        assert cluster.run("get pod early-driver").rc != 0
    finally:
        node.check_output(f"rm -rf {DIRECTORY}; mv {DIRECTORY}.away {DIRECTORY}")
    # The run waits for the service.
    play("spark.yml", **EXTERNAL).succeeded()
    assert serves(cluster)


def test_a_node_reboots(cluster: Cluster, lab: Lab, job: Callable[[str], Job]) -> None:
    run, uid = job("reboot").begin().idle(), pod_on(cluster)["metadata"]["uid"]
    restarts = sum(one["restartCount"] for one in pod_on(cluster)["status"]["containerStatuses"])
    lab.reboot("spark-node")

    def back() -> bool:
        pod = pod_on(cluster)
        now = sum(one["restartCount"] for one in pod.get("status", {}).get("containerStatuses", []))
        return cluster.ready("spark-node") and serves(cluster) and (pod["metadata"]["uid"] != uid or now > restarts)

    wait_for(back, lambda: str(service(cluster, "describe pods").stdout[-3000:]), 10 * MINUTES)
    assert run.go().end() == "right, 0 maps"


def test_back_to_tracking_leaves_nothing(cluster: Cluster, node: Any) -> None:
    litter(node, "c")
    play("spark.yml").succeeded()
    assert play("spark.yml").succeeded().changed == 0
    assert not node.file(DIRECTORY).exists
    assert cluster.run("get namespace spark-shuffle").rc != 0
    for kind in ("validatingadmissionpolicies", "validatingadmissionpolicybindings"):
        assert "slipway" not in cluster.ask(f"get {kind} --output=name")
    assert "spark-janitor" not in cluster.names("roles") + cluster.names("rolebindings")
    labels = cluster.get("namespace spark")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    done = submit("after", arguments=["2"], application=PI).succeeded()
    assert result(done)["exit_code"] == "0"
    cluster.run("delete pod after-driver")
