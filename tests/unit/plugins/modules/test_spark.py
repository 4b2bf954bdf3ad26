# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules spark_cluster, spark_client and spark_application through their main()."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.slipway.platform.plugins.module_utils import (
    _host_state,
    _spark,
    _spark_application,
    _spark_client,
    _spark_history,
    _spark_node,
    _spark_shuffle,
)
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.modules import (
    spark_application,
    spark_client,
    spark_cluster,
    spark_node,
)

CLIENT = {"namespace": "jobs", "endpoint": "c:6443", "driver_image": "d:1", "executor_image": "e:1", "home": "/opt/s"}


class Stand:
    """Stands for a cluster, a client or an application: keeps what it was asked, and answers with one outcome."""

    asked: tuple[Any, ...] = ()
    outcome: Any = None
    error = ""

    def __init__(self, *words: Any, check: bool, **named: Any) -> None:
        del words, named
        self.check = check

    def __getattr__(self, name: str) -> Any:
        def answer(*words: Any, **named: Any) -> Any:
            Stand.asked = (self.check, name, *words, *named.values())
            if Stand.error:
                raise HostError(Stand.error)
            return Stand.outcome

        return answer

    def log(self, lines: int) -> list[str]:
        return [f"{lines} lines"]


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    Stand.asked, Stand.error = (), ""
    monkeypatch.setattr(_spark, "SparkCluster", Stand)
    monkeypatch.setattr(_spark_client, "SparkClient", Stand)
    monkeypatch.setattr(_spark_node, "SparkNode", Stand)
    monkeypatch.setattr(_spark_application, "Application", Stand)
    monkeypatch.setattr(_spark_application, "Api", lambda path: path)


def run(module: ModuleType, capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    with patch_module_args(arguments), pytest.raises(SystemExit):
        module.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    Stand.outcome = _spark.Outcome(told={"token": "t"})
    result = run(spark_cluster, capsys, namespace="jobs", quota={"pods": 10}, limits=[{"type": "Pod"}])
    assert (result["changed"], result["told"]) == (False, {"token": "t"})
    wanted = _spark.Settings(namespace="jobs", quota={"pods": "10"}, limits=({"type": "Pod"},))
    assert Stand.asked == (False, "present", wanted)
    login = {"host": "r", "user": "u", "password": "p"}
    run(spark_cluster, capsys, namespace="jobs", registry=login, _ansible_check_mode=True)
    assert Stand.asked == (True, "present", _spark.Settings(namespace="jobs", registry=login))
    run(spark_cluster, capsys, namespace="jobs", state="absent")
    assert Stand.asked == (False, "absent", "jobs")
    run(spark_cluster, capsys, namespace="jobs", state="swept")
    assert Stand.asked == (False, "swept", "jobs")
    service = {"image": "e:1", "janitor": "print()", "directory": "/data/s", "node_selector": {"n": 1}}
    run(spark_cluster, capsys, namespace="jobs", registry=login, shuffle=service)
    assert Stand.asked[2].shuffle == _spark_shuffle.Settings(
        image="e:1", janitor="print()", directory="/data/s", pull_secret="spark-pull", node_selector={"n": "1"}
    )
    wanted_history = _spark_history.Settings(image="d:1", directory="hdfs://nn/logs", node_port=30080)
    history = {"image": "d:1", "directory": "hdfs://nn/logs", "node_port": 30080}
    run(spark_cluster, capsys, namespace="jobs", history=history)
    assert (Stand.asked[2].history, Stand.asked[2].shuffle) == (wanted_history, None)
    Stand.error = "no"
    assert run(spark_cluster, capsys, namespace="jobs")["msg"] == "no"


def test_node(capsys: pytest.CaptureFixture[str]) -> None:
    Stand.outcome = _host_state.Outcome(actions=["x"])
    assert run(spark_node, capsys, directory="/data/s")["changed"]
    assert Stand.asked == (False, "present", "/data/s", 185)
    run(spark_node, capsys, directory="/data/s", state="absent")
    assert Stand.asked == (False, "absent", "/data/s")
    Stand.error = "no"
    assert run(spark_node, capsys, directory="/data/s")["msg"] == "no"


def test_client(capsys: pytest.CaptureFixture[str]) -> None:
    Stand.outcome = _host_state.Outcome(actions=["x"])
    conf = {"spark.ui.enabled": True, "spark.executor.cores": 2}
    result = run(spark_client, capsys, **CLIENT, token="t", authority="PEM", conf=conf, node_selector={"n": 1})
    assert result["actions"] == ["x"] and result["changed"]
    _, name, settings, login = Stand.asked
    assert (name, settings.conf) == ("present", {"spark.ui.enabled": "true", "spark.executor.cores": "2"})
    assert settings.node_selector == {"n": "1"}
    assert login == _spark_client.Login(token="t", authority="PEM")
    run(spark_client, capsys, **CLIENT)
    assert Stand.asked[3] is None
    run(spark_client, capsys, state="absent", home="/opt/s")
    assert Stand.asked == (False, "absent", "/opt/s")
    assert "missing" in run(spark_client, capsys, home="/opt/s", namespace="x")["msg"]
    Stand.error = "no"
    assert run(spark_client, capsys, **CLIENT)["msg"] == "no"


def test_application(capsys: pytest.CaptureFixture[str]) -> None:
    status = _spark_application.Status(state="succeeded", exit_code=0)
    Stand.outcome = _spark_application.Outcome(True, status)
    result = run(spark_application, capsys, name="words", application="/x.py", conf={"spark.a": False}, log_lines=7)
    assert result["changed"] and result["application"]["exit_code"] == 0 and result["log"] == ["7 lines"]
    wanted = _spark_application.Spec(name="words", application="/x.py", conf={"spark.a": "false"})
    assert Stand.asked == (False, "present", wanted, "never")
    Stand.outcome = _spark_application.Outcome(True, _spark_application.Status())
    result = run(spark_application, capsys, name="words", state="absent", _ansible_check_mode=True)
    assert Stand.asked == (True, "absent") and result["log"] == []
    Stand.error = "no"
    assert run(spark_application, capsys, name="words", application="x")["msg"] == "no"


@pytest.mark.parametrize("name", ["Words", "1words", "words-", "a" * 57, "", "a_b"])
def test_names(capsys: pytest.CaptureFixture[str], name: str) -> None:
    result = run(spark_application, capsys, name=name, application="x")
    assert result["failed"] and result["msg"].startswith(f"name is '{name}': it needs at most 56 of a-z")
