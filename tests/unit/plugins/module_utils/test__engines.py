# SPDX-License-Identifier: GPL-3.0-or-later
"""An engine is reloaded or restarted only for a reason, and never stays on a configuration that it refuses."""

from __future__ import annotations

import dataclasses
import glob
import json
import os
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _engines
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Result

from tests.unit.fakes import FakeHost, FakeUnit

GOOD = '{"live-restore": true}\n'
RELOADED: dict[str, object] = {"MESSAGE": 'level=info msg="Reloaded configuration: {}"', "_PID": "9"}


class Lab:
    """A fake engine on a fake host: what it refuses is a word in its configuration."""

    def __init__(self, host: FakeHost, *, reloads: bool = True) -> None:
        self.host = host
        self.etc = host.root / "etc"
        (self.etc / "drop.d").mkdir(parents=True)
        self.config = self.etc / "daemon.json"
        self.config.write_text(GOOD)
        self.host.units = {"docker.service": FakeUnit(active="active", started=time.time() + 5, generation=1)}
        self.preflight = ""  # a word that the engine refuses before a start
        self.refuses = ""  # a word with which it does not answer after a start
        self.engine = _engines.Engine(
            name="docker",
            unit="docker.service",
            config=str(self.config),
            inputs=(str(self.config), str(self.etc / "drop.d/*.conf")),
            preflight=lambda _run, path: self._judge(path, self.preflight, "preflight"),
            prove=lambda _run, path: self._judge(path, self.refuses, "no log driver"),
            ping=lambda _run, path: self._judge(path, self.refuses, "no log driver"),
            reloads=reloads,
            also_reset=("docker.socket",),
        )

    @staticmethod
    def _judge(path: str, word: str, why: str) -> str:
        text = Path(path).read_text() if os.path.exists(path) else ""
        return f"{why}: {word}" if word and word in text else ""

    def apply(self, *, must_run: bool = False, check: bool = False) -> _engines.Applied:
        keeper = _engines.Keeper(
            engine=self.engine, runner=self.host, check=check, state_dir=self.host.state_dir, run_dir=self.host.run_dir
        )
        return keeper.apply(must_run=must_run)

    def private(self, name: str) -> Path:
        return self.host.root / "state/docker" / name

    def drop_in(self) -> None:
        path = self.etc / "drop.d/a.conf"
        path.write_text("x")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(_engines, "RELOAD_SECONDS", 0.05)
    monkeypatch.setattr(_engines, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(_engines, "POLL_SECONDS", 0.01)
    return Lab(FakeHost(tmp_path))


def test_an_engine_that_is_not_there_is_left_alone(lab: Lab) -> None:
    lab.host.units = {}
    assert not lab.apply(must_run=True).changed


def test_a_stopped_engine_is_left_alone_unless_it_has_to_run(lab: Lab) -> None:
    lab.host.units["docker.service"].active = "failed"
    assert not lab.apply().changed
    assert lab.apply(must_run=True) == _engines.Applied(started=True, reason="it was failed")
    assert lab.host.units["docker.service"].active == "active"


def test_a_first_look_records_what_a_fresh_process_runs_with(lab: Lab) -> None:
    assert not lab.apply().changed
    record = json.loads((lab.host.root / "run/engine-docker.json").read_text())
    assert record["invocation"] == "docker.service-1"
    assert record["config"] == {"live-restore": True}
    assert lab.private("daemon.json.good").read_text() == GOOD
    assert lab.host.acts() == []


def test_an_input_younger_than_the_process_restarts_it_once(lab: Lab) -> None:
    lab.host.units["docker.service"].started = time.time() - 60
    assert lab.apply().restarted
    assert not lab.apply().changed
    assert len(lab.host.did("systemctl restart *")) == 1


def test_a_drop_in_restarts_after_a_daemon_reload(lab: Lab) -> None:
    lab.apply()
    lab.drop_in()
    lab.host.units["docker.service"].needs_reload = True
    applied = lab.apply()
    assert applied.restarted
    assert applied.reason == f"{lab.etc}/drop.d/a.conf changed"
    assert lab.host.acts()[:1] == ["systemctl daemon-reload"]


def test_a_removed_drop_in_restarts(lab: Lab) -> None:
    lab.drop_in()
    lab.apply()
    (lab.etc / "drop.d/a.conf").unlink()
    assert lab.apply().restarted


def test_a_reloadable_key_reloads(lab: Lab) -> None:
    lab.apply()
    lab.config.write_text('{"live-restore": true, "debug": true}')
    lab.host.journal = [RELOADED]
    assert lab.apply() == _engines.Applied(reloaded=True, reason=f"debug changed in {lab.config}")
    assert lab.host.acts() == ["systemctl reload docker.service"]
    assert not lab.apply().changed


def test_another_key_restarts(lab: Lab) -> None:
    lab.apply()
    lab.config.write_text('{"live-restore": true, "mtu": 9}')
    assert lab.apply() == _engines.Applied(restarted=True, reason=f"mtu changed in {lab.config}")


def test_layout_changes_nothing(lab: Lab) -> None:
    lab.apply()
    lab.config.write_text('{ "live-restore" :true}')
    assert not lab.apply().changed


def test_a_removed_file_counts_as_empty(lab: Lab) -> None:
    lab.apply()
    lab.config.unlink()
    assert lab.apply().restarted


def test_check_mode_only_tells(lab: Lab) -> None:
    lab.apply()
    lab.config.write_text('{"mtu": 9}')
    assert lab.apply(check=True).restarted
    assert lab.host.acts() == []


def test_an_engine_without_reload_restarts_for_its_file(tmp_path: Path) -> None:
    lab = Lab(FakeHost(tmp_path), reloads=False)
    lab.apply()
    lab.config.write_text("other")
    assert lab.apply().reason == f"{lab.config} changed"


def test_an_engine_that_does_not_answer_is_restarted_where_it_has_to_run(lab: Lab) -> None:
    lab.apply()
    lab.engine = dataclasses.replace(lab.engine, ping=lambda _run, _path: "silence")
    assert not lab.apply().changed
    assert lab.apply(must_run=True) == _engines.Applied(restarted=True, reason="silence")


def test_what_preflight_refuses_touches_no_process(lab: Lab) -> None:
    lab.apply()
    lab.preflight = "bad"
    lab.config.write_text('{"bad": 1}')
    with pytest.raises(HostError, match=r"refuses .*: preflight: bad; it runs on with the last good file"):
        lab.apply()
    assert lab.config.read_text() == GOOD
    assert lab.private("daemon.json.refused").read_text() == '{"bad": 1}'
    assert lab.host.acts() == []
    assert not lab.apply().changed


def test_what_preflight_refuses_does_not_keep_a_stopped_engine_down(lab: Lab) -> None:
    lab.apply()
    lab.preflight = "bad"
    lab.config.write_text('{"bad": 1}')
    lab.host.units["docker.service"].active = "failed"
    with pytest.raises(HostError, match="it was started with the last good file"):
        lab.apply(must_run=True)
    assert lab.host.units["docker.service"].active == "active"


def test_a_refused_restart_brings_the_last_good_file_back(lab: Lab) -> None:
    lab.apply()
    lab.refuses = "bad"
    lab.config.write_text('{"bad": 1}')
    with pytest.raises(HostError, match=r"refuses .*: no log driver: bad; it was restarted with the last good file"):
        lab.apply()
    assert lab.config.read_text() == GOOD
    assert len(lab.host.did("systemctl restart *")) == 2
    assert not lab.apply().changed


def test_without_a_good_file_the_engine_gets_its_defaults(lab: Lab) -> None:
    lab.refuses = "live"
    lab.host.units["docker.service"].active = "failed"
    with pytest.raises(HostError, match="it was restarted with its defaults, as there is no last good file"):
        lab.apply(must_run=True)
    assert not lab.config.exists()


def test_a_fault_elsewhere_is_not_blamed_on_the_file(lab: Lab) -> None:
    lab.apply()
    lab.refuses = "live"
    lab.drop_in()
    with pytest.raises(HostError, match=r"docker does not work: no log driver: live \(.*a.conf changed\)"):
        lab.apply()
    assert lab.config.read_text() == GOOD


def test_neither_file_works(lab: Lab) -> None:
    lab.apply()
    lab.host.answers["systemctl restart"] = Result(1, "", "")
    lab.host.journal = [{"MESSAGE": "failed to start daemon: no disk", "_PID": "9"}]
    lab.config.write_text('{"mtu": 9}')
    with pytest.raises(HostError, match=r"failed to start daemon: no disk.*nor with the last good file"):
        lab.apply()


def test_a_silent_engine_is_waited_for_and_its_journal_quoted(lab: Lab) -> None:
    lab.apply()
    lab.engine = dataclasses.replace(lab.engine, prove=lambda _run, path: lab._judge(path, "mtu", "silence"))
    lab.host.journal = [{"MESSAGE": 'level=error msg="proxy http://u:p@h:1 is down"', "_PID": "9"}]
    lab.config.write_text('{"mtu": 9}')
    with pytest.raises(HostError, match=r"proxy http://\*\*\*@h:1 is down; it was restarted"):
        lab.apply()


def test_a_restart_that_never_ends(lab: Lab) -> None:
    lab.apply()
    real = lab.host

    def slow(argv: Sequence[str], *, timeout: float = 60, stdin: str | None = None) -> Result:
        if argv[1] == "restart" and "mtu" in lab.config.read_text():
            raise HostError("systemctl restart docker.service did not end within 180 seconds")
        return real(argv, timeout=timeout, stdin=stdin)

    lab.config.write_text('{"mtu": 9}')
    keeper = _engines.Keeper(
        engine=lab.engine, runner=slow, check=False, state_dir=real.state_dir, run_dir=real.run_dir
    )
    with pytest.raises(HostError, match="did not end within 180 seconds; it was restarted"):
        keeper.apply(must_run=False)


def test_a_refused_reload_brings_the_last_good_file_back(lab: Lab) -> None:
    lab.apply()
    lab.config.write_text('{"live-restore": true, "registry-mirrors": ["x"]}')
    lab.host.journal = [{"MESSAGE": 'level=error msg="Error reconfiguring the daemon: invalid mirror"', "_PID": "9"}]
    with pytest.raises(HostError, match="Error reconfiguring the daemon: invalid mirror; it runs on with"):
        lab.apply()
    assert lab.config.read_text() == GOOD
    assert len(lab.host.did("systemctl reload *")) == 2


def test_a_reload_that_says_nothing_is_proven_by_an_answer(lab: Lab) -> None:
    lab.apply()
    lab.config.write_text('{"live-restore": true, "debug": true}')
    assert lab.apply().reloaded


def test_a_broken_record_is_no_record(lab: Lab) -> None:
    lab.apply()
    (lab.host.root / "run/engine-docker.json").write_text("[")
    assert not lab.apply().changed
    (lab.host.root / "run/engine-docker.json").write_text("[]")
    assert not lab.apply().changed


def test_a_broken_file_asks_for_a_restart_which_preflight_stops(lab: Lab) -> None:
    lab.apply()
    lab.config.write_text("{")
    assert lab.apply(check=True).restarted


@pytest.mark.parametrize("name", ["docker", "containerd"])
def test_both_engines_can_be_applied_by_name(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    assert not _engines.apply(host, name, check=False).changed


def test_read_config_of_an_engine_without_reload() -> None:
    assert _engines.read_config(_engines.ENGINES["containerd"]) is None


# --- Docker's own answers ---------------------------------------------------------------------------------------


class _Api(socketserver.ThreadingUnixStreamServer):
    """An HTTP server on a unix socket with canned answers."""

    answers: dict[str, tuple[int, str]]


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answer from the table."""
        assert isinstance(self.server, _Api)
        status, text = self.server.answers.get(self.path, (404, ""))
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def address_string(self) -> str:
        """A unix socket has no peer address."""
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def api(tmp_path: Path) -> Iterator[_Api]:
    server = _Api(str(tmp_path / "docker.sock"), _Handler)
    server.answers = {"/_ping": (200, "OK")}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "daemon.json"
    path.write_text(json.dumps({"hosts": ["tcp://x", f"unix://{tmp_path}/docker.sock"]}))
    return str(path)


def info(driver: str) -> tuple[int, str]:
    return 200, json.dumps({"LoggingDriver": driver, "Plugins": {"Log": ["json-file"]}})


@pytest.mark.parametrize(
    ("driver", "plugins", "fault"),
    [
        ("json-file", "[]", ""),
        ("none", "[]", ""),
        ("loki", '[{"Name": "loki:latest"}]', ""),
        ("loki:1", '[{"Name": "loki:1"}]', ""),
        ("nonsense", "null", "no log driver named 'nonsense'"),
        ("nonsense", '[{"Name": "loki:latest"}]', "no log driver named 'nonsense'"),
    ],
)
def test_docker_is_proven_by_its_answers(api: _Api, config: str, driver: str, plugins: str, fault: str) -> None:
    api.answers |= {"/info": info(driver), "/plugins": (200, plugins)}
    why = _engines.prove_docker(FakeHost(Path()), config)
    assert (fault in why) if fault else why == ""


def test_docker_that_does_not_answer(api: _Api, config: str) -> None:
    assert "GET /info answered 404" in _engines.prove_docker(FakeHost(Path()), config)
    api.answers["/_ping"] = (200, "no")
    assert "does not answer OK" in _engines.prove_docker(FakeHost(Path()), config)
    api.answers["/_ping"] = (500, "")
    assert "answered 500" in _engines.ping_docker(FakeHost(Path()), config)


def test_docker_without_a_socket(tmp_path: Path) -> None:
    (tmp_path / "daemon.json").write_text(json.dumps({"hosts": [f"unix://{tmp_path}/none"]}))
    assert "does not answer" in _engines.ping_docker(FakeHost(Path()), str(tmp_path / "daemon.json"))


def test_a_server_that_speaks_no_http(tmp_path: Path) -> None:
    class Noise(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(100)
            self.request.sendall(b"noise\r\n\r\n")

    with socketserver.ThreadingUnixStreamServer(str(tmp_path / "s"), Noise) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(OSError, match="no proper answer"):
            _engines.ask_docker("/_ping", path=str(tmp_path / "s"))
        thread.join()


def test_the_socket_is_systemds_unless_the_file_names_one(tmp_path: Path) -> None:
    assert _engines.docker_socket(str(tmp_path / "none")) == _engines.DOCKER_SOCKET
    (tmp_path / "broken").write_text("{")
    assert _engines.docker_socket(str(tmp_path / "broken")) == _engines.DOCKER_SOCKET


def test_an_old_kind_of_plugin_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glob, "glob", lambda *_args, **_more: ["/run/docker/plugins/x.sock"])
    assert _engines._legacy_plugin("x")


def answering(*results: Result) -> Callable[..., Result]:
    """Return a runner that gives these results in turn."""
    queue = list(results)
    return lambda _argv, **_more: queue.pop(0)


@pytest.mark.parametrize(
    ("text", "result", "why"),
    [
        (None, Result(1, "", "never asked"), ""),
        ("{", Result(0, "", ""), "not valid JSON"),
        ("{}", Result(0, "configuration OK", ""), ""),
        ("{}", Result(1, "", "Status: unknown flag: --validate\n"), ""),
        (
            "{}",
            Result(1, "", "unable to configure with file PATH: no\n"),
            "unable to configure with file daemon.json: no",
        ),
        ("{}", Result(2, "", ""), "dockerd --validate exits 2"),
    ],
)
def test_preflight_of_docker(tmp_path: Path, text: str | None, result: Result, why: str) -> None:
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text)
    said = Result(result.rc, result.stdout, result.stderr.replace("PATH", str(path)))
    found = _engines.preflight_docker(answering(said), str(path))
    assert (why in found) if why else found == ""


# --- containerd's own answers -----------------------------------------------------------------------------------

TABLE = """TYPE                     ID      PLATFORMS      STATUS
io.containerd.grpc.v1    cri     linux/amd64    {}
io.containerd.grpc.v1    leases  -              ok
"""
TABLE_2 = "io.containerd.cri.v1  images  -  ok\nio.containerd.cri.v1  runtime  linux/amd64  error\n"
MANAGED = _engines.MANAGED.decode() + '\nconfig_path = "/etc/containerd/certs.d"\n'


@pytest.mark.parametrize(
    ("text", "results", "why"),
    [
        ("", [Result(0, TABLE.format("ok"), "")], ""),
        ("", [Result(0, "", "")], ""),
        ("", [Result(1, "", "ctr: cannot dial\n")], "cannot dial"),
        ("", [Result(1, "", "")], "does not answer"),
        (MANAGED, [Result(0, "", "")], "CRI plugin is not loaded"),
        (MANAGED, [Result(0, TABLE.format("ok"), "")], ""),
        (MANAGED, [Result(0, TABLE.format("error"), ""), Result(0, "  Message:  mirrors cannot be set\n", "")],
         "did not load: mirrors cannot be set"),
        (MANAGED, [Result(0, TABLE_2, ""), Result(0, "", "")], "did not load"),
    ],
)  # fmt: skip
def test_containerd_is_proven_by_its_plugins(tmp_path: Path, text: str, results: list[Result], why: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    found = _engines.prove_containerd(answering(*results), str(path))
    assert (why in found) if why else found == ""


@pytest.mark.parametrize(
    ("dump", "lost"), [('x = "/etc/containerd/certs.d"', False), ("x = '/etc/containerd/certs.d'", False), ("", True)]
)
def test_a_drop_in_that_takes_the_registries_away_is_named(tmp_path: Path, dump: str, lost: bool) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/99-x.toml").write_text("x")
    (tmp_path / "config.toml").write_text(MANAGED)
    runner = answering(Result(0, TABLE.format("ok"), ""), Result(0, dump, ""))
    assert ("99-x.toml" in _engines.prove_containerd(runner, str(tmp_path / "config.toml"))) is lost


@pytest.mark.parametrize(
    ("exists", "result", "why"),
    [
        (False, Result(1, "", "never asked"), ""),
        (True, Result(0, "", ""), ""),
        (True, Result(1, "", "containerd: bad\n"), "containerd: bad"),
        (True, Result(1, "", ""), "containerd config dump exits 1"),
    ],
)
def test_preflight_of_containerd(tmp_path: Path, exists: bool, result: Result, why: str) -> None:
    path = tmp_path / "config.toml"
    if exists:
        path.write_text("")
    assert _engines.preflight_containerd(answering(result), str(path)) == why


# --- Words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], ""),
        (["level=info msg=x"], ""),
        (["plain end", "level=info msg=x"], ""),
        (['level=warning msg="w"', 'level=error msg="e \\"q\\"" error="because"'], 'e "q": because'),
        (['level=fatal msg="f"', "failed to start daemon: http://u:p@h"], "failed to start daemon: http://***@h"),
    ],
)
def test_the_telling_line_of_a_journal(lines: list[str], said: str) -> None:
    assert _engines.journal_message(lines) == said


def test_the_last_line_that_is_more_than_a_note() -> None:
    assert _engines.last_line(["level=warning msg=w", "plain end", "level=info msg=x", ""]) == "plain end"
    assert _engines.last_line(["level=info msg=x"]) == ""


def test_a_socket_that_is_gone_is_made_again(lab: Lab) -> None:
    lab.apply()
    lab.engine = dataclasses.replace(
        lab.engine, socket=str(lab.etc / "none.sock"), ping=lambda _run, _path: "silence", also_reset=("docker.socket",)
    )
    lab.host.units["docker.socket"] = FakeUnit(active="active")
    lab.apply(must_run=True)
    assert lab.host.did("systemctl restart *") == ["systemctl restart docker.socket docker.service"]


def test_a_file_with_credentials_is_for_root_only() -> None:
    assert _engines.config_mode(b'{"x": "http://u:p@h"}') == 0o600
    assert _engines.config_mode(b'{"x": "http://h"}') == 0o644
