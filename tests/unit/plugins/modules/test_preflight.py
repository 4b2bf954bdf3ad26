# SPDX-License-Identifier: GPL-3.0-or-later
"""The module through its main(): facts, sentences, and no password in what it says."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.slipway.platform.plugins.module_utils import _preflight
from ansible_collections.slipway.platform.plugins.modules import preflight

PASSWORD = "p@ss%20#:/w0rd!"


def call(capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    with patch_module_args(arguments), pytest.raises(SystemExit):
        preflight.main()
    output = capsys.readouterr().out
    assert PASSWORD not in output
    result = json.loads(output)
    assert isinstance(result, dict)
    return result


def test_nothing_to_check_gives_the_facts(capsys: pytest.CaptureFixture[str]) -> None:
    result = call(capsys, proxies=[{"variable": "docker_proxy_http"}], names=[{"variable": "x", "name": ""}])
    facts = result["ansible_facts"]
    assert set(facts) == {
        "ansible_architecture",
        "ansible_distribution",
        "ansible_distribution_major_version",
        "ansible_distribution_release",
        "ansible_distribution_version",
        "ansible_os_family",
        "slipway_preflight",
    }
    assert facts["slipway_preflight"] == []
    assert result["changed"] is False


def test_check_mode_checks_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    result = call(capsys, names=[{"variable": "x", "name": "localhost"}], _ansible_check_mode=True)
    assert result["changed"] is False


def test_all_failures_come_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "daemon.json"
    config.write_text('{"proxies": {"http-proxy": "http://x"}}', encoding="utf-8")
    monkeypatch.setattr(preflight, "DOCKER_CONFIG", str(config))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    result = call(
        capsys,
        proxies=[
            {"variable": "docker_proxy_http", "url": url, "user": "u", "password": PASSWORD},
            {"variable": "docker_proxy_https", "url": url, "user": "u", "password": PASSWORD},
            {"variable": "host_proxy_http", "url": "proxy:8080"},
        ],
        refuse_docker_proxies=True,
    )
    assert result["failed"] is True
    assert result["msg"].splitlines() == result["failures"]
    assert [text.split(" ")[0] for text in result["failures"]] == [
        "host_proxy_http:",
        str(config),
        "docker_proxy_http,",
    ]
    assert "it needs a scheme" in result["failures"][0]
    assert "holds proxies (http-proxy)" in result["failures"][1]
    assert f"docker_proxy_https: the proxy 127.0.0.1:{port} refused the connection" in result["failures"][2]


def test_a_broken_daemon_json_is_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "daemon.json"
    config.write_text("{", encoding="utf-8")
    monkeypatch.setattr(preflight, "DOCKER_CONFIG", str(config))
    monkeypatch.setattr(_preflight, "check", lambda *_args, **_more: _preflight.Report())
    proxy = {"variable": "docker_proxy_http", "url": "http://p:1"}
    assert "is not JSON" in call(capsys, proxies=[proxy], refuse_docker_proxies=True)["msg"]
    assert "msg" not in call(capsys, refuse_docker_proxies=True), "a machine without a proxy of ours may have its own"


def test_what_was_checked_is_a_fact_without_the_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(preflight, "DOCKER_CONFIG", str(tmp_path / "missing"))
    report = _preflight.Report(warnings=["docker_proxy_http: the proxy answered 403"])
    monkeypatch.setattr(_preflight, "check", lambda *_args, **_more: report)
    said: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _self, text: said.append(text))
    proxy = {"variable": "docker_proxy_http", "url": "http://p:1", "user": "u", "password": PASSWORD}
    result = call(capsys, proxies=[proxy], refuse_docker_proxies=True)
    assert result["ansible_facts"]["slipway_preflight"] == ["http://p:1 u", "docker config"]
    assert said == report.warnings


@pytest.mark.parametrize("timeout", [0, 26])
def test_the_time_is_bounded(capsys: pytest.CaptureFixture[str], timeout: int) -> None:
    assert "1 to 25 seconds" in call(capsys, timeout=timeout)["msg"]


def test_servers_with_a_login(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def check(_probes: Any, _names: Any, servers: Any, **_more: Any) -> _preflight.Report:
        seen.extend(servers)
        return _preflight.Report()

    monkeypatch.setattr(_preflight, "check", check)
    known = {"variable": "site_registry", "address": "r:6001", "path": "/v2/", "ca": "PEM"}
    nobody, api = {"variable": "x", "address": ""}, {"variable": "api", "address": "c:6443"}
    call(capsys, servers=[{**known, "user": "u", "password": PASSWORD}, nobody, api])
    assert seen == [
        _preflight.Server("site_registry", "r", 6001, "/v2/", "PEM", f"u:{PASSWORD}"),
        _preflight.Server("api", "c", 6443),
    ]
