# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine that submits: its files, its group, and Spark as it comes out of the image."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _host_state, _spark, _spark_client
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Result

LOGIN = _spark_client.Login(token="t0ken", authority="PEM")


def settings(**values: Any) -> _spark_client.Settings:
    base = {
        "namespace": "jobs",
        "endpoint": "control:6443",
        "driver_image": "registry/driver:1",
        "executor_image": "registry/executor:1",
        "home": "/opt/spark",
        "java": "default-jre-headless",
    }
    return _spark_client.Settings(**{**base, **values})


def test_what_every_application_is_configured_with() -> None:
    found = _spark_client.properties(settings(conf={"spark.executor.memory": "2g"}))
    assert found["spark.master"] == "k8s://https://control:6443"
    assert found["spark.submit.deployMode"] == "cluster"
    assert found["spark.kubernetes.executor.container.image"] == "registry/executor:1"
    assert found["spark.executor.memory"] == "2g"
    assert not [name for name in found if "pullSecrets" in name or "upload" in name]
    assert {*found} >= {*_spark.OWNED} - {"spark.shuffle.service.enabled"}


def test_where_pulls_need_a_secret_and_files_are_uploaded() -> None:
    found = _spark_client.properties(settings(pull_secret=True, upload_dir="hdfs://nn:8020/up"))
    assert found["spark.kubernetes.container.image.pullSecrets"] == "spark-pull"
    assert found["spark.kubernetes.file.upload.path"] == "hdfs://nn:8020/up"


def test_event_logs() -> None:
    found = _spark_client.properties(settings(event_log_dir="hdfs://nn:8020/logs"))
    assert (found["spark.eventLog.enabled"], found["spark.eventLog.dir"]) == ("true", "hdfs://nn:8020/logs")
    assert not [name for name in _spark_client.properties(settings()) if "eventLog" in name]


@pytest.mark.parametrize(
    ("shuffle", "dynamic", "other"),
    [
        ("tracking", "true", ("spark.dynamicAllocation.maxExecutors", "3")),
        ("none", "false", ("spark.executor.instances", "3")),
        ("external", "true", ("spark.dynamicAllocation.maxExecutors", "3")),
    ],
)
def test_shuffle(shuffle: str, dynamic: str, other: tuple[str, str]) -> None:
    found = _spark_client.properties(settings(shuffle=shuffle, executors=3))
    assert found["spark.dynamicAllocation.enabled"] == dynamic
    assert found[other[0]] == other[1]
    tracks = str(shuffle == "tracking").lower()
    assert found.get("spark.dynamicAllocation.shuffleTracking.enabled", "false") == tracks
    assert found.get("spark.shuffle.service.enabled", "false") == str(shuffle == "external").lower()


def test_executors_beside_a_shuffle_service() -> None:
    wanted = settings(shuffle="external", shuffle_dir="/data/s", shuffle_port=7400, shuffle_user=1234)
    found = _spark_client.properties(wanted)
    assert found["spark.shuffle.service.port"] == "7400"
    assert (found["spark.blockManager.port"], found["spark.driver.blockManager.port"]) == ("0", "7079")
    spec = _spark_client.template(wanted, "executor")["spec"]
    assert (spec["hostNetwork"], spec["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    assert spec["securityContext"]["runAsUser"] == 1234 and spec["securityContext"]["runAsNonRoot"]
    (container,) = spec["containers"]
    # The same path on the host, in the executor and in the service; below it, one directory for each application.
    assert [one["hostPath"]["path"] for one in spec["volumes"]] == ["/data/s"]
    assert [one["mountPath"] for one in container["volumeMounts"]] == ["/data/s"]
    assert container["env"][1] == {"name": "SPARK_EXECUTOR_DIRS", "value": "/data/s/$(SLIPWAY_APPLICATION)"}
    (term,) = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["namespaces"] == ["jobs-shuffle"]
    # A driver is what it was.
    assert _spark_client.template(wanted, "driver") == _spark_client.template(settings(), "driver")


@pytest.mark.parametrize("role", ["driver", "executor"])
def test_pods_are_what_pod_security_calls_restricted(role: str) -> None:
    """Kubernetes' "Pod Security Standards", level restricted."""
    toleration = {"key": "gpu", "operator": "Exists"}
    spec = _spark_client.template(settings(node_selector={"a": "b"}, tolerations=(toleration,)), role)["spec"]
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    (container,) = spec["containers"]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert (spec["nodeSelector"], spec["tolerations"]) == ({"a": "b"}, [toleration])
    # Only a driver asks the API server.
    assert spec.get("automountServiceAccountToken", True) == (role == "driver")
    # Whoever asks for no GPU leaves the nodes that have one to others, if there is room elsewhere.
    (preferred,) = spec["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    (expression,) = preferred["preference"]["matchExpressions"]
    assert expression == {"key": "nvidia.com/gpu.present", "operator": "DoesNotExist"}


@pytest.mark.parametrize(
    "value", ["", "plain", "a=b:c #!", " first", "back\\slash \\n", "two\nlines\r\tand", "ü", "=x"]
)
def test_properties_come_back_as_they_were(value: str) -> None:
    found = {"spark.a": value, "spark.b": "x"}
    assert _spark_client.read_properties("# header\n\n" + _spark_client.property_lines(found)) == found


@pytest.mark.parametrize(("value", "shown"), [(True, "true"), (False, "false"), (2, "2"), ("2g", "2g")])
def test_values(value: Any, shown: str) -> None:
    assert _spark_client.text(value) == shown


def test_the_login_is_a_secret_and_not_where_spark_hands_it_on() -> None:
    wanted = {item.path: item for item in _spark_client.files(settings(), LOGIN)}
    login = wanted[_spark_client.KUBECONFIG]
    assert (login.mode, login.group, login.secret) == (0o640, "spark-submit", True)
    assert json.loads(login.content)["users"][0]["user"] == {"token": "t0ken"}
    others = [item for path, item in wanted.items() if path != _spark_client.KUBECONFIG]
    assert not [item.path for item in others if b"t0ken" in item.content]
    assert not _spark_client.KUBECONFIG.startswith(os.path.dirname(_spark_client.PROPERTIES))
    assert "t0ken" not in repr(LOGIN)
    assert _spark_client.KUBECONFIG not in {item.path for item in _spark_client.files(settings(), None)}


def test_the_command_knows_no_proxy(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    told = tmp_path / "bin/spark-submit"
    told.write_text('#!/bin/sh\necho "$@"\nenv\n')
    told.chmod(0o755)
    script = _spark_client.command(settings(home=str(tmp_path), hadoop={"core-site.xml": "<x/>"}))
    environment = {"PATH": os.environ["PATH"], "https_proxy": "http://u:p@x", "HTTP_PROXY": "y", "NO_PROXY": "z"}
    done = subprocess.run(
        ["sh", "-c", script, "sh", "a b"], env=environment, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "a b"
    assert "HADOOP_CONF_DIR=/etc/spark/hadoop" in lines and "KUBECONFIG=/etc/spark/kubeconfig" in lines
    assert not [line for line in lines if "proxy" in line.lower()]


class Machine:
    """A machine with Docker, on which docker cp brings what an image has."""

    def __init__(self, root: Path) -> None:
        self.root, self.home = root, root / "spark"
        self.members: list[str] | None = None
        self.calls: list[str] = []
        self.known = False
        self.fails = ""

    def __call__(self, argv: Sequence[str], *, timeout: float = 60, stdin: str | None = None) -> Result:
        del timeout, stdin
        line = " ".join(argv)
        self.calls.append(line)
        if self.fails and line.startswith(self.fails):
            return Result(1, "", "no such thing")
        if line.startswith("docker image inspect"):
            return Result(0 if self.known else 1, "", "")
        if line.startswith("docker cp"):
            target = Path(argv[-1], "bin")
            target.mkdir(parents=True)
            (target / "spark-submit").write_text("x")
            (target / "spark-submit").chmod(0o700)
            (target / "link").symlink_to("/nowhere")
        if line.startswith("groupadd"):
            self.members = []
        return Result(0, "c0ffee\n" if "create" in line else "", "")

    def at(self, monkeypatch: pytest.MonkeyPatch, *, check: bool = False) -> _spark_client.SparkClient:
        monkeypatch.setattr(os, "chown", lambda *_: None)
        state = str(self.root / "state")
        client = _spark_client.SparkClient(check=check, runner=self, state_dir=state, members=lambda: self.members)

        def settle(wanted: _host_state.Wanted) -> _host_state.Outcome:
            self.wanted = wanted
            return client.outcome

        monkeypatch.setattr(client.state, "present", settle)
        monkeypatch.setattr(client.state, "absent", settle)
        return client


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_from_nothing_and_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = settings(home=str(machine.home), users=("ops",))
    predicted = machine.at(monkeypatch, check=True).present(wanted, LOGIN).actions
    assert not machine.home.exists() and machine.calls == []
    outcome = machine.at(monkeypatch).present(wanted, LOGIN)
    assert outcome.actions == predicted
    assert predicted[:2] == ["groupadd --system spark-submit", "gpasswd --add ops spark-submit"]
    assert [package.name for package in machine.wanted.packages] == ["default-jre-headless"]
    program = machine.home / "bin/spark-submit"
    assert stat.S_IMODE(program.stat().st_mode) == 0o755
    assert "docker rmi registry/driver:1" in machine.calls and "docker rm --volumes c0ffee" in machine.calls
    machine.calls, machine.members = [], ["ops"]
    assert not machine.at(monkeypatch).present(wanted, LOGIN).changed
    assert machine.calls == []


def test_another_image_is_another_spark(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.at(monkeypatch).present(settings(home=str(machine.home)), LOGIN)
    (machine.home / "old").write_text("")
    machine.known = True
    machine.at(monkeypatch).present(settings(home=str(machine.home), driver_image="registry/driver:2"), LOGIN)
    assert not (machine.home / "old").exists()
    assert (machine.home / _spark_client.MARKER).read_text() == "registry/driver:2"
    # The image was there before, so it stays.
    assert "docker rmi registry/driver:2" not in machine.calls
    assert sorted(path.name for path in machine.root.iterdir()) == ["spark"]


def test_users_that_are_not_listed_go(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.at(monkeypatch).present(settings(home=str(machine.home)), LOGIN)
    machine.members = ["eve", "ops"]
    outcome = machine.at(monkeypatch).present(settings(home=str(machine.home), users=("ops",)), LOGIN)
    assert outcome.actions == ["gpasswd --delete eve spark-submit"]


def test_somebody_elses_directory_stays(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.home.mkdir()
    with pytest.raises(HostError, match="is there and is not ours: spark_home needs another directory"):
        machine.at(monkeypatch).present(settings(home=str(machine.home)), LOGIN)
    machine.at(monkeypatch).absent(str(machine.home))
    assert machine.home.exists()


@pytest.mark.parametrize("step", ["docker pull", "docker cp"])
def test_what_fails_leaves_the_old_one(machine: Machine, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    machine.at(monkeypatch).present(settings(home=str(machine.home)), LOGIN)
    machine.fails = step
    with pytest.raises(HostError, match=f"{step} .*failed: no such thing"):
        machine.at(monkeypatch).present(settings(home=str(machine.home), driver_image="registry/driver:2"), LOGIN)
    assert (machine.home / _spark_client.MARKER).read_text() == "registry/driver:1"
    assert sorted(path.name for path in machine.root.iterdir()) == ["spark"]


def test_removal(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.at(monkeypatch).present(settings(home=str(machine.home)), LOGIN)
    predicted = machine.at(monkeypatch, check=True).absent(str(machine.home)).actions
    assert machine.home.exists()
    assert machine.at(monkeypatch).absent(str(machine.home)).actions == predicted
    assert not machine.home.exists() and machine.calls[-1] == "groupdel spark-submit"


def test_the_group_of_this_machine() -> None:
    assert _spark_client._members() is None
