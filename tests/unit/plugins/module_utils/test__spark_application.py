# SPDX-License-Identifier: GPL-3.0-or-later
"""An application by its name: submitted once, followed, given up, and what is told of it."""

from __future__ import annotations

import io
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _spark_application, _spark_client, _spark_shuffle
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Result

NOW = 1_700_000_100.0
STAGES = [
    {"stageId": 0, "status": "COMPLETE", "name": "map at x.py:1"},
    {"stageId": 1, "status": "ACTIVE", "name": "reduce at x.py:2", "numTasks": 8, "numCompleteTasks": 3},
    {"stageId": 2, "status": "ACTIVE", "name": "sum", "numTasks": 4, "numCompleteTasks": 0, "numFailedTasks": 2},
]
EXECUTORS = [
    {"id": "driver", "isActive": True},
    {"id": "1", "isActive": True, "hostPort": "10.244.1.3:4000", "totalTasks": 5},
    {"id": "2", "isActive": False, "hostPort": "10.244.2.3:4000", "totalTasks": 1},
]


def pod(phase: str, *, digest: str = "d", **container: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "annotations": {_spark_application.DIGEST: digest},
            "labels": {"spark-app-selector": "spark-1"},
        },
        "spec": {"nodeName": "node1", "containers": [{"image": "registry/driver:1"}]},
        "status": {
            "phase": phase,
            "startTime": "2023-11-14T22:13:20Z",
            "containerStatuses": [{"state": container}],
        },
    }


class Server:
    """An API server with the pod of one driver."""

    namespace = "jobs"

    def __init__(self) -> None:
        self.pod: dict[str, Any] | None = None
        self.calls: list[str] = []
        self.lingers = 1
        self.ui = True
        self.service: dict[str, Any] = {}

    def ask(self, path: str, *, method: str = "GET") -> str | None:
        self.calls.append(f"{method} {path}")
        if path.endswith("/stages"):
            if not self.ui:
                raise HostError("the API server answers 503: no endpoints")
            return json.dumps(STAGES)
        if path.endswith("/allexecutors"):
            return json.dumps(EXECUTORS)
        if path.startswith("/"):
            return json.dumps(self.service[path.split("?")[0]]) if path.split("?")[0] in self.service else None
        if "/log?" in path:
            return "a\nb\n"
        if method == "DELETE":
            self.deleted = True
            return "{}"
        if self.pod and getattr(self, "deleted", False):
            self.lingers -= 1
            if self.lingers < 0:
                self.pod = None
        return json.dumps(self.pod) if self.pod else None


class Submits:
    """spark-submit: keeps its command and its properties, and lets the pod appear."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.result = Result(0, "", "")
        self.calls: list[list[str]] = []
        self.properties: dict[str, str] = {}

    def __call__(self, argv: Sequence[str], *, timeout: float = 60, stdin: str | None = None) -> Result:
        del timeout, stdin
        self.calls.append(list(argv))
        path = Path(argv[1].removeprefix("--properties-file="))
        assert path.stat().st_mode & 0o777 == 0o600
        self.properties = _spark_client.read_properties(path.read_text())
        self.path = path
        if self.result.rc == 0:
            digest = self.properties[f"spark.kubernetes.driver.annotation.{_spark_application.DIGEST}"]
            self.server.pod, self.server.deleted = pod("Pending", digest=digest), False
        return self.result


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def submits(server: Server) -> Submits:
    return Submits(server)


@pytest.fixture
def properties(tmp_path: Path) -> str:
    path = tmp_path / "spark-defaults.conf"
    path.write_text("# header\nspark.master k8s://https://control:6443\nspark.executor.memory 1g\n")
    return str(path)


def application(submits: Submits, properties: str, *, check: bool = False) -> _spark_application.Application:
    return _spark_application.Application(
        "words", check=check, api=submits.server, runner=submits, properties=properties, pause=lambda _: None
    )


def spec(**values: Any) -> _spark_application.Spec:
    return _spark_application.Spec(**{"name": "words", "application": "local:///x.py", **values})


def test_submitted_once(submits: Submits, properties: str) -> None:
    wanted = spec(arguments=("in", "out"), conf={"spark.executor.memory": "2g", "spark.hadoop.secret": "s3cret"})
    outcome = application(submits, properties).present(wanted, rerun="never")
    assert outcome.changed and outcome.status.state == "pending"
    (command,) = submits.calls
    assert command[0] == "/usr/local/bin/spark-submit" and command[-3:] == ["local:///x.py", "in", "out"]
    assert "s3cret" not in " ".join(command) and not submits.path.exists()
    assert submits.properties["spark.executor.memory"] == "2g"
    assert submits.properties["spark.master"] == "k8s://https://control:6443"
    assert submits.properties["spark.kubernetes.driver.pod.name"] == "words-driver"
    for phase in ("Pending", "Running", "Succeeded"):
        submits.server.pod = pod(phase, digest=wanted.digest())
        assert not application(submits, properties).present(wanted, rerun="never").changed
    assert len(submits.calls) == 1


def test_all_kinds_of_files() -> None:
    wanted = spec(main_class="a.B", jars=("local:///a.jar", "hdfs://n/b.jar"), py_files=("c.zip",), files=("d",))
    assert _spark_application.words(wanted, "/p")[3:] == [
        "--class=a.B",
        "--jars=local:///a.jar,hdfs://n/b.jar",
        "--py-files=c.zip",
        "--files=d",
        "local:///x.py",
    ]


def test_the_content_of_a_file_is_part_of_the_work(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("1")
    first = spec(application=str(path)).digest()
    assert spec(application=str(path)).digest() == first
    path.write_text("2")
    assert spec(application=str(path)).digest() != first
    with pytest.raises(HostError, match=r"gone\.py cannot be read on this machine: No such file"):
        spec(py_files=(str(tmp_path / "gone.py"),)).digest()


@pytest.mark.parametrize(
    ("phase", "same", "rerun", "due"),
    [
        ("Succeeded", True, "failed", False),
        ("Succeeded", True, "always", True),
        ("Succeeded", False, "never", True),
        ("Failed", True, "never", False),
        ("Failed", True, "failed", True),
        ("Failed", True, "always", True),
        ("Failed", False, "never", True),
        ("Running", True, "always", False),
    ],
)
def test_when_it_runs_again(submits: Submits, properties: str, phase: str, same: bool, rerun: str, due: bool) -> None:
    submits.server.pod = pod(phase, digest=spec().digest() if same else "other")
    assert application(submits, properties, check=True).present(spec(), rerun=rerun).changed == due
    assert submits.calls == [] and "DELETE pods/words-driver" not in submits.server.calls
    assert application(submits, properties).present(spec(), rerun=rerun).changed == due
    assert len(submits.calls) == due and ("DELETE pods/words-driver" in submits.server.calls) == due


@pytest.mark.parametrize("phase", ["Pending", "Running"])
def test_a_name_that_other_work_has(submits: Submits, properties: str, phase: str) -> None:
    submits.server.pod = pod(phase, digest="other")
    with pytest.raises(HostError, match=f"words is {phase.lower()} with other work than this: it needs to end first"):
        application(submits, properties).present(spec(), rerun="always")


def test_what_the_role_decides_is_refused(submits: Submits, properties: str) -> None:
    wanted = spec(conf={"spark.shuffle.service.enabled": "true", "spark.executor.cores": "2"})
    with pytest.raises(HostError, match=r"conf has spark.shuffle.service.enabled: that needs to be left to the role"):
        application(submits, properties, check=True).present(wanted, rerun="never")


def test_a_submission_that_fails(submits: Submits, properties: str) -> None:
    submits.result = Result(1, "", "INFO x\nException in thread main: pods is forbidden\nat a.b\nCaused by: 403\n")
    with pytest.raises(HostError, match="spark-submit failed: Exception in thread main: pods is forbidden; Caused by"):
        application(submits, properties).present(spec(), rerun="never")
    assert not submits.path.exists()
    assert _spark_application.why("") == "it says nothing"
    assert _spark_application.why("no clue\n") == "no clue"


def test_killed(submits: Submits, properties: str) -> None:
    assert not application(submits, properties).absent().changed
    submits.server.pod = pod("Running")
    assert application(submits, properties, check=True).absent().changed and submits.server.pod
    outcome = application(submits, properties).absent()
    assert outcome.changed and outcome.status.state == "absent" and submits.server.pod is None


def test_a_pod_that_stays(submits: Submits, properties: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_spark_application, "GONE_SECONDS", 0.0)
    submits.server.pod, submits.server.lingers = pod("Running"), 9
    with pytest.raises(HostError, match="words-driver is not gone after 0 seconds"):
        application(submits, properties).absent()


def test_progress(submits: Submits, properties: str) -> None:
    submits.server.pod = pod("Running", running={})
    found = application(submits, properties).look()
    assert found.progress == "1 stages done, stage 1 reduce 3/8 tasks, stage 2 sum 0/4 tasks, 2 failed, 1 executors"
    assert found.executors == [
        {"id": "1", "host": "10.244.1.3", "tasks": 5},
        {"id": "2", "host": "10.244.2.3", "tasks": 1},
    ]
    assert "GET pods/words-driver:4040/proxy/api/v1/applications/spark-1/stages" in submits.server.calls
    submits.server.ui = False
    assert application(submits, properties).look().progress == ""


def test_log(submits: Submits, properties: str) -> None:
    assert application(submits, properties).log(2) == ["a", "b"]
    assert submits.server.calls == ["GET pods/words-driver/log?tailLines=2"]
    assert application(submits, properties).log(0) == []


def test_what_a_pod_tells() -> None:
    ended = {"exitCode": 0, "finishedAt": "2023-11-14T22:14:00Z", "reason": "Completed"}
    found = _spark_application.status(pod("Succeeded", terminated=ended), now=NOW)
    assert (found.state, found.exit_code, found.seconds, found.reason) == ("succeeded", 0, 40.0, "")
    assert (found.node, found.image, found.identifier, found.digest) == ("node1", "registry/driver:1", "spark-1", "d")
    found = _spark_application.status(pod("Failed", terminated={"exitCode": 137, "reason": "OOMKilled"}), now=NOW)
    assert (found.exit_code, found.reason, found.finished) == (137, "OOMKilled", True)
    waits = {"reason": "ImagePullBackOff", "message": "no such image"}
    assert _spark_application.status(pod("Pending", waiting=waits), now=NOW).reason == "ImagePullBackOff: no such image"
    unscheduled = pod("Pending")
    unscheduled["status"] = {
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}],
    }
    assert _spark_application.status(unscheduled, now=NOW).reason == "0/3 nodes are available"
    evicted = pod("Failed")
    evicted["status"] = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory"}
    assert _spark_application.status(evicted, now=NOW).reason == "The node was low on memory"
    assert _spark_application.status(None, now=NOW) == _spark_application.Status()


# --- The API server ---------------------------------------------------------------------------------------------


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = tmp_path / "kubeconfig"
    values = {"namespace": "jobs", "endpoint": "control:6443", "driver_image": "d:1", "executor_image": "e:1"}
    settings = _spark_client.Settings(home="/opt/spark", java="j", **values)
    path.write_text(_spark_client.kubeconfig(settings, _spark_client.Login(token="t0ken", authority="PEM")))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # "PEM" is no certificate
    monkeypatch.setattr(_spark_application.ssl, "create_default_context", lambda cadata: context)
    return str(path)


def answers(api: _spark_application.Api, monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[urllib.request.Request]:
    asked: list[urllib.request.Request] = []

    def open_(request: urllib.request.Request, timeout: float) -> Any:
        del timeout
        asked.append(request)
        if isinstance(answer, Exception):
            raise answer
        return io.BytesIO(answer)

    monkeypatch.setattr(api._opener, "open", open_)
    return asked


def problem(code: int, body: bytes) -> urllib.error.HTTPError:
    return urllib.error.HTTPError("https://control", code, "x", Message(), io.BytesIO(body))


def test_the_server_is_asked_with_the_login_and_without_a_proxy(login: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:8080")
    api = _spark_application.Api(login)
    asked = answers(api, monkeypatch, b"{}")
    assert api.ask("pods/x", method="DELETE") == "{}"
    assert asked[0].full_url == "https://control:6443/api/v1/namespaces/jobs/pods/x"
    assert (asked[0].get_method(), asked[0].headers["Authorization"]) == ("DELETE", "Bearer t0ken")
    assert not [one for one in api._opener.handlers if getattr(one, "proxies", None)]


def test_what_the_server_refuses(login: str, monkeypatch: pytest.MonkeyPatch) -> None:
    api = _spark_application.Api(login)
    answers(api, monkeypatch, problem(404, b"{}"))
    assert api.ask("pods/x") is None
    answers(api, monkeypatch, problem(403, b'{"message": "pods is forbidden"}'))
    with pytest.raises(HostError, match="answers 403: pods is forbidden"):
        api.ask("pods/x")
    answers(api, monkeypatch, problem(502, b"bad gateway"))
    with pytest.raises(HostError, match="answers 502: bad gateway"):
        api.ask("pods/x")
    answers(api, monkeypatch, urllib.error.URLError("refused"))
    with pytest.raises(HostError, match=r"https://control:6443 does not answer: .*refused"):
        api.ask("pods/x")


def test_a_machine_without_a_login(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="is not a login for this user: it needs the role spark on this machine"):
        _spark_application.Api(str(tmp_path / "none"))


def test_nothing_is_submitted_where_executors_would_find_no_shuffle_service(
    server: Server, submits: Submits, tmp_path: Path
) -> None:
    site = tmp_path / "external.conf"
    site.write_text("spark.shuffle.service.enabled true\n")

    def submit(**conf: str) -> _spark_application.Outcome:
        application = _spark_application.Application(
            "words", check=False, api=server, runner=submits, properties=str(site), pause=lambda _: None
        )
        return application.present(spec(conf=conf), rerun="never")

    with pytest.raises(HostError, match=r"conf has spark.local.dir: that needs to be left to the role spark"):
        submit(**{"spark.local.dir": "/tmp"})
    with pytest.raises(HostError, match=r"nothing was submitted, because .* there is no shuffle service"):
        submit()
    service = _spark_shuffle.service(_spark_shuffle.Settings(image="e:1", janitor=""), "jobs")[1]
    service["status"] = {"desiredNumberScheduled": 1}
    annotations = service["spec"]["template"]["metadata"]["annotations"]
    there = {"metadata": {"annotations": annotations}, "status": {"containerStatuses": [{"ready": True}]}}
    server.service = {
        "/apis/apps/v1/namespaces/jobs-shuffle/daemonsets/spark-shuffle": service,
        "/api/v1/namespaces/jobs-shuffle/pods": {"items": [there]},
    }
    assert submit().changed
    assert "labelSelector=app.kubernetes.io/name%3Dspark-shuffle" in "".join(server.calls)
