# SPDX-License-Identifier: GPL-3.0-or-later
"""Applications of Spark on a real cluster: submitted once by name, followed, given up; Pod Security restricted."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testinfra import inference
from tests.testinfra.cluster import wait_for
from tests.testinfra.play import REPOSITORY, run_play
from tests.testinfra.secrets import Secret, leaks_in, leaks_on
from tests.testinfra.spark import KUBECTL, PI, Cluster, flat, play, result, submit

long = pytest.mark.skipif(not os.environ.get("SLIPWAY_LONG"), reason="part of make test-long")

HERE = Path(__file__).resolve().parent
CONTROL = "spark-control"
REGISTRY = "spark-control.corp.lab:6001/"
DRIVER = "system:serviceaccount:spark:spark-driver"
SUBMIT = "system:serviceaccount:spark:spark-submit"


@pytest.fixture(scope="module")
def control(hosts: dict[str, Any]) -> Any:
    return hosts[CONTROL]


@pytest.fixture(scope="module")
def cluster(control: Any) -> Cluster:
    return Cluster(control)


@pytest.fixture
def gone(cluster: Cluster) -> Iterator[Callable[[str], str]]:
    """Name an application that is taken away at the end, however the test ends."""
    names: list[str] = []

    def add(name: str) -> str:
        names.append(name)
        return name

    yield add
    for name in names:
        cluster.run(f"delete pod {name}-driver --ignore-not-found --grace-period=0 --force")


def test_submitted_once_by_its_name(cluster: Cluster, gone: Callable[[str], str]) -> None:
    name = gone("pi")
    done = submit(name, arguments=["6"]).succeeded()
    assert result(done) == {"exit_code": "0", "state": "succeeded"}
    assert "Pi is roughly 3." in done.output
    assert re.search(r"^pi: running: \d+ stages done, .*executors$", done.output, re.M), done.output[-3000:]
    driver = cluster.get("pod pi-driver")
    assert driver["spec"]["containers"][0]["image"].startswith(f"{REGISTRY}nvidia-spark-driver:3.5.9-")
    assert driver["spec"]["serviceAccountName"] == "spark-driver"
    again = submit(name, arguments=["6"]).succeeded()
    assert again.changed == 0 and cluster.get("pod pi-driver")["metadata"]["uid"] == driver["metadata"]["uid"]
    # What Spark leaves: the driver, as a record, and what belongs to it.
    assert cluster.names("pods", "spark-role") == ["pi-driver"]
    assert cluster.names("services") == ["spark-history"]
    assert cluster.names("configmaps", "spark-role=executor") == []


def test_executors_are_restricted_and_from_the_registry(cluster: Cluster, gone: Callable[[str], str]) -> None:
    name = gone("watched")
    submit_only(name, arguments=["2000"])
    pods = wait_for(
        lambda: cluster.get("pods --selector=spark-role=executor")["items"],
        lambda: cluster.run("describe pods").stdout[-3000:],
        300,
    )
    (container,) = pods[0]["spec"]["containers"]
    assert container["image"].startswith(f"{REGISTRY}nvidia-spark-executor:3.5.9-")
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pods[0]["spec"]["automountServiceAccountToken"] is False
    # The name is taken while it runs.
    other = submit(name, arguments=["1"])
    assert other.rc != 0 and "watched is running with other work than this" in other.output.replace("\n", " ")
    killed = submit(name, state="absent").succeeded()
    assert killed.changed == 1
    wait_for(lambda: cluster.names("pods", "spark-role") == [], lambda: cluster.ask("get pods"), 300)


def submit_only(name: str, **job: Any) -> None:
    """Submit an application and look no further than that it runs: interrupted, it is left to run."""
    job = {"name": name, "application": PI, "seconds": 30, **job}
    done = play("spark_submit.yml", spark_job=job)
    assert done.rc != 0 and f"{name} was given up: it has not ended within 30 seconds" in flat(done.output)


@long
def test_a_job_that_fails_is_an_error_until_it_is_run_again(cluster: Cluster, gone: Callable[[str], str]) -> None:
    name = gone("wrong")
    done = submit(name, arguments=["no-number"])
    assert done.rc != 0 and "wrong failed with exit code 1" in flat(done.output)
    assert "ValueError" in done.output
    uid = cluster.get("pod wrong-driver")["metadata"]["uid"]
    assert submit(name, arguments=["no-number"]).rc != 0
    assert cluster.get("pod wrong-driver")["metadata"]["uid"] == uid
    assert submit(name, arguments=["no-number"], rerun="failed").rc != 0
    assert cluster.get("pod wrong-driver")["metadata"]["uid"] != uid
    assert submit(name, arguments=["2"]).succeeded().changed == 1


@long
def test_an_interrupt_kills_it_if_asked_to(cluster: Cluster, gone: Callable[[str], str], tmp_path: Path) -> None:
    name = gone("cut")
    job = {"name": name, "application": PI, "arguments": ["5000"], "on_interrupt": "kill"}
    variables = tmp_path / "job.yml"
    variables.write_text(json.dumps({"spark_job": job}))
    code = (
        "import os, sys; from pathlib import Path; from tests.testinfra.play import REPOSITORY;"
        "inventory = str(Path(os.environ['MOLECULE_INVENTORY_FILE']).parent);"
        "os.environ['ANSIBLE_CONFIG'] = str(REPOSITORY / 'ansible.cfg'); os.chdir(REPOSITORY);"
        "os.execvp('ansible-playbook', ['ansible-playbook', '-i', inventory, '-e', '@' + sys.argv[1],"
        " 'playbooks/spark_submit.yml'])"
    )
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(variables)], stdout=log, stderr=log, start_new_session=True
        )
    said = lambda: (tmp_path / "log").read_text()  # noqa: E731
    wait_for(lambda: "cut: running" in said(), said, 300)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=120)
    wait_for(lambda: "cut-driver" not in cluster.names("pods"), said, 60)


def examples_pod(image: str, commands: str) -> dict[str, Any]:
    """Return a pod that runs commands with what the ConfigMap examples holds, in Spark's local mode."""
    container = {
        "name": "main",
        "image": image,
        "args": ["bash", "-euc", commands],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "examples", "mountPath": "/examples"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "examples"},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {"runAsNonRoot": True, "runAsUser": 185, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": "examples", "configMap": {"name": "examples"}}],
        },
    }


def test_examples(control: Any, cluster: Cluster) -> None:
    """In the image, with its torch: the scores are those of the same model without Spark and without torch."""
    job = inference.job()
    data = dict(job.files)
    data |= {path.name: path.read_text() for path in (REPOSITORY / "examples/spark").glob("*.py")}
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "examples"}, "data": data}
    defaults = str(control.file("/etc/spark/conf/spark-defaults.conf").content_string)
    image = re.findall(r"^spark.kubernetes.driver.container.image (\S+)$", defaults, re.M)[0]
    local = "spark-submit --master 'local[1]' --driver-memory 512m --conf spark.sql.shuffle.partitions=4"
    commands = (
        f"{local} /examples/inference.py file:///examples/rows.csv file:///examples/weights.json file:///tmp/out; "
        f"cat /tmp/out/*.csv; {local} /examples/shuffle.py 1000 7"
    )
    cluster.run("delete pod examples --ignore-not-found --grace-period=0 --force")
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": [config, examples_pod(image, commands)]})
    # Base64: neither the shell nor testinfra finds anything to replace in it.
    encoded = base64.b64encode(text.encode()).decode()
    done = control.run(f"echo {encoded} | base64 -d | {KUBECTL} apply --filename=-")
    assert done.rc == 0, done.stderr
    phase = lambda: cluster.get("pod examples")["status"]["phase"]  # noqa: E731
    wait_for(lambda: phase() in ("Succeeded", "Failed"), lambda: cluster.ask("describe pod examples"), 1200)
    log = cluster.ask("logs examples")
    assert phase() == "Succeeded" and "shuffle: ok" in log, log[-3000:]
    assert inference.read(log) == pytest.approx(job.scores)
    cluster.ask("delete pod/examples configmap/examples")


@long
def test_a_plain_spark_submit_of_a_user(control: Any, cluster: Cluster, gone: Callable[[str], str]) -> None:
    name = gone("plain")
    command = f"spark-submit --name plain --conf spark.kubernetes.driver.pod.name={name}-driver {PI} 2"
    # With the proxy of every login in the environment.
    done = control.run(f"su - ops -c '{command}'")
    assert done.rc == 0, done.stdout[-1500:] + done.stderr[-1500:]
    assert "Pi is roughly" in cluster.ask(f"logs {name}-driver")
    assert control.run("su - nobody -s /bin/sh -c 'cat /etc/spark/kubeconfig'").rc != 0


def test_the_least_rights(cluster: Cluster) -> None:
    for words in ("create pods", "get pods", "watch pods", "deletecollection pods", "create configmaps"):
        assert cluster.may(DRIVER, words), words
    for words in ("get pods/log", "get pods --subresource=proxy", "create services", "patch configmaps", "delete pods"):
        assert cluster.may(SUBMIT, words), words
    for who in (DRIVER, SUBMIT):
        for words in (
            "get secrets",
            "create pods --subresource=exec",
            "create serviceaccounts",
            "create rolebindings",
            "create pods --namespace=default",
            "get nodes",
            "patch namespaces",
        ):
            assert not cluster.may(who, words), (who, words)


def test_pod_security(cluster: Cluster) -> None:
    for privileged in ('"hostNetwork": true', '"hostPID": true'):
        refused = cluster.run(
            f"run bad --image=hello:1 --restart=Never --dry-run=server --overrides='{{\"spec\": {{{privileged}}}}}'"
        )
        assert refused.rc != 0 and 'violates PodSecurity "restricted' in refused.stderr


@long
def test_quota_comes_and_goes(cluster: Cluster) -> None:
    assert play("spark.yml", "--check", spark_quota={"pods": "3"}).succeeded().changed == 1
    assert cluster.names("resourcequotas") == []
    assert play("spark.yml", spark_quota={"pods": "3"}).succeeded().changed == 1
    assert cluster.names("resourcequotas") == ["spark"]
    assert play("spark.yml").succeeded().changed == 1
    assert cluster.names("resourcequotas") == []
    assert play("spark.yml").succeeded().changed == 0


def test_what_kills_executors_is_refused() -> None:
    done = play("spark.yml", spark_conf={"spark.shuffle.service.enabled": True})
    assert done.rc != 0 and done.changed == 0
    assert "spark_conf['spark.shuffle.service.enabled'] is True: it needs to be left to the role" in flat(done.output)


@long
def test_the_history_server_shows_what_has_ended(control: Any, cluster: Cluster, gone: Callable[[str], str]) -> None:
    name = gone("remembered")
    submit(name, arguments=["2"]).succeeded()
    identifier = cluster.get(f"pod {name}-driver")["metadata"]["labels"]["spark-app-selector"]
    (pod,) = cluster.get("pods --selector=app.kubernetes.io/name=spark-history")["items"]
    assert pod["spec"]["automountServiceAccountToken"] is False
    address = cluster.get("service spark-history")["spec"]["clusterIP"]
    ask = f"env -i PATH=/usr/bin:/bin curl -sS --max-time 10 http://{address}:18080/api/v1/applications/{identifier}"
    told = lambda: str(control.run(ask).stdout)  # noqa: E731
    # It reads its directory every ten seconds.
    wait_for(
        lambda: '"completed" : true' in told(), lambda: told() + cluster.ask(f"logs {pod['metadata']['name']}"), 300
    )
    assert json.loads(told())["name"] == "PythonPi"
    # Its driver is gone; its pages stay.
    cluster.ask(f"delete pod {name}-driver")
    assert json.loads(told())["id"] == identifier


@long
def test_the_history_server_comes_and_goes(cluster: Cluster) -> None:
    assert play("spark.yml", spark_history_node_port=30180).succeeded().changed
    assert cluster.get("service spark-history")["spec"]["ports"][0]["nodePort"] == 30180
    play("spark.yml", spark_event_log_dir="").succeeded()
    assert cluster.names("deployments") == [] and cluster.names("services") == []
    assert play("spark.yml").succeeded().changed and cluster.names("deployments") == ["spark-history"]


def test_no_login_in_logs_and_files(control: Any, cluster: Cluster) -> None:
    login = json.loads(control.file("/etc/spark/kubeconfig").content_string)
    token = Secret(login["users"][0]["user"]["token"])
    control.run("rm /etc/spark/kubeconfig")
    done = play("spark.yml").succeeded()
    assert done.changed == 1
    assert leaks_in(done.output, [token]) == []
    assert control.file("/etc/spark/kubeconfig").mode == 0o640
    for name in cluster.names("configmaps"):
        assert token.password not in cluster.ask(f"get configmap {name} --output=json")
    assert leaks_on(control, [token]) == []


@long
def test_removed(control: Any, cluster: Cluster) -> None:
    done = run_play(HERE / "remove.yml", {}).succeeded()
    assert done.changed
    assert cluster.run("get namespace spark").rc != 0
    for path in ("/etc/spark", "/opt/spark", "/usr/local/bin/spark-submit"):
        assert not control.file(path).exists, path
    assert not control.group("spark-submit").exists
    assert run_play(HERE / "remove.yml", {}).succeeded().changed == 0
    play("spark.yml").succeeded()
