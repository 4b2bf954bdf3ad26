# SPDX-License-Identifier: GPL-3.0-or-later
"""Docker on a host: fragments in, one file out, packages, users, and a way back."""

from __future__ import annotations

import dataclasses
import grp
import json
import pwd
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import (
    _apt_sources,
    _docker_daemon,
    _engines,
    _files,
    _packages,
)
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Result

from tests.unit.fakes import FakeHost, FakePackage, FakeUnit

DOCKER = (_packages.WantedPackage(name="docker.io", version="26.*", hold=True),)
DEFAULTS = {"live-restore": True, "log-driver": "json-file", "log-opts": {"max-size": "10m"}}


class Lab:
    """A Debian host on which docker can be installed; `refuses` is a word that dockerd --validate refuses."""

    def __init__(self, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host = host
        self.root = host.root
        (self.root / "etc").mkdir()
        self.places = _docker_daemon.Places(
            config=str(self.root / "etc/docker/daemon.json"),
            fragments=str(self.root / "etc/slipway/daemon.json.d"),
            state_dir=host.state_dir,
            run_dir=host.run_dir,
        )
        self.config = Path(self.places.config)
        self.refuses = ""
        self.members: list[str] = []
        self.unproven = ""
        host.available = {"docker.io": ["26.1"], "docker-ce": ["5:28.1"]}
        self.units()
        monkeypatch.setattr(shutil, "which", lambda _name: "/usr/sbin/dockerd")
        monkeypatch.setattr(grp, "getgrnam", lambda _name: SimpleNamespace(gr_mem=self.members))
        monkeypatch.setattr(pwd, "getpwnam", self._user)
        monkeypatch.setattr(_docker_daemon, "in_swarm", lambda _config: False)
        engine = _engines.ENGINES["docker"]
        engines = {
            "docker": dataclasses.replace(
                engine,
                inputs=(str(self.config),),
                preflight=lambda _run, path: self._judge(path),
                prove=lambda _run, _path: self.unproven,
                ping=lambda _run, _path: "",
            )
        }
        monkeypatch.setattr(_engines, "ENGINES", engines)
        monkeypatch.setattr(_engines, "preflight_docker", lambda _run, path: self._judge(path))
        monkeypatch.setattr(_engines, "ANSWER_SECONDS", 0.0)
        monkeypatch.setattr(_engines, "RELOAD_SECONDS", 0.0)

    def _judge(self, path: str) -> str:
        text = Path(path).read_text() if Path(path).exists() else ""
        return f"no such option: {self.refuses}" if self.refuses and self.refuses in text else ""

    @staticmethod
    def _user(name: str) -> object:
        if name == "ghost":
            raise KeyError(name)
        return object()

    def units(self) -> None:
        """Give the host docker's units, freshly started after all that is on disk."""
        started = time.time() + 5
        self.host.units = {
            "docker.service": FakeUnit(active="active", file_state="enabled", started=started, generation=1),
            "docker.socket": FakeUnit(active="active", file_state="enabled", started=started, generation=1),
        }

    def run(self, *, check: bool = False) -> _docker_daemon.DockerHost:
        return _docker_daemon.DockerHost(check=check, runner=self.host, places=self.places)

    def present(self, *, check: bool = False, **wanted: Any) -> _docker_daemon.Outcome:
        values: dict[str, Any] = {"packages": DOCKER, "defaults": DEFAULTS, **wanted}
        return self.run(check=check).present(_docker_daemon.WantedEngine(**values))

    def json(self) -> Any:
        return json.loads(self.config.read_text())


@pytest.fixture
def lab(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(host, monkeypatch)


# --- Fragments --------------------------------------------------------------------------------------------------


def test_a_fragment_before_docker_is_there(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    outcome = lab.run().fragment("container_network", {"dns": ["192.0.2.1"]})
    assert outcome.changed_paths == [f"{lab.places.fragments}/50-container_network.json", str(lab.config)]
    assert lab.json() == {"dns": ["192.0.2.1"]}
    assert lab.host.acts() == []
    assert not lab.run().fragment("container_network", {"dns": ["192.0.2.1"]}).changed


def test_two_fragments_and_one_leaves(lab: Lab) -> None:
    lab.run().fragment("a", {"labels": ["1"]})
    lab.run().fragment("b", {"labels": ["2"], "debug": True})
    assert lab.json() == {"labels": ["1", "2"], "debug": True}
    lab.run().fragment("b", {})
    assert lab.json() == {"labels": ["1"]}
    lab.run().fragment("a", {})
    assert not lab.config.exists()
    assert not Path(lab.places.fragments).exists()


def test_contradicting_fragments_change_nothing(lab: Lab) -> None:
    lab.run().fragment("a", {"debug": True})
    with pytest.raises(HostError, match="'a' and 'b' contradict"):
        lab.run().fragment("b", {"debug": False})
    assert lab.json() == {"debug": True}


def test_a_fragment_that_dockerd_refuses_changes_nothing(lab: Lab) -> None:
    lab.refuses = "odd"
    with pytest.raises(HostError, match="docker refuses the fragment 'a': no such option: odd; nothing was changed"):
        lab.run().fragment("a", {"odd": 1})
    assert not lab.config.exists()


def test_a_fragment_is_not_blamed_for_another(lab: Lab) -> None:
    lab.run().fragment("a", {"odd": 1})
    lab.refuses = "odd"
    outcome = lab.run().fragment("b", {"debug": True})
    assert lab.json() == {"odd": 1, "debug": True}
    assert "for another fragment than 'b'" in outcome.warnings[0]


def test_check_mode_writes_nothing(lab: Lab) -> None:
    outcome = lab.run(check=True).fragment("a", {"debug": True})
    assert len(outcome.changed_paths) == 2
    assert "+" not in outcome.diffs[1]["before"]
    assert '"debug": true' in outcome.diffs[1]["after"]
    assert list((lab.root / "etc").iterdir()) == []


def test_foreign_keys_are_kept_and_reported(lab: Lab) -> None:
    lab.config.parent.mkdir(parents=True)
    lab.config.write_text('{"data-root": "/x", "debug": false}')
    outcome = lab.run().fragment("a", {"debug": True})
    assert outcome.unknown_keys == ("data-root",)
    assert lab.json() == {"data-root": "/x", "debug": True}


def test_the_last_fragment_gives_back_what_was_there(lab: Lab) -> None:
    lab.config.parent.mkdir(parents=True)
    lab.config.write_text('{"data-root":"/x","debug":false}')
    lab.run().fragment("a", {"debug": True})
    lab.run().fragment("a", {})
    assert lab.config.read_text() == '{"data-root":"/x","debug":false}'


def test_what_was_added_since_stays_when_the_last_fragment_goes(lab: Lab) -> None:
    lab.config.parent.mkdir(parents=True)
    lab.config.write_text('{"debug": false}')
    lab.run().fragment("a", {"debug": True})
    lab.config.write_text('{"debug": true, "mtu": 1400}')
    lab.run().fragment("a", {})
    assert lab.json() == {"debug": False, "mtu": 1400}
    lab.run().fragment("a", {})
    assert lab.json() == {"debug": False, "mtu": 1400}


def test_a_broken_file_that_was_never_ours_stops_the_run(lab: Lab) -> None:
    lab.config.parent.mkdir(parents=True)
    lab.config.write_text("{broken")
    with pytest.raises(HostError, match=r"not valid JSON \(line 1, column 2.*nothing was changed"):
        lab.run().fragment("a", {"debug": True})
    assert lab.config.read_text() == "{broken"


def test_a_broken_file_of_ours_is_made_again(lab: Lab) -> None:
    lab.present()
    lab.config.write_text("{broken")
    outcome = lab.present()
    assert lab.json() == DEFAULTS
    assert "daemon.json.broken" in outcome.warnings[0]
    assert (lab.root / "state/docker/daemon.json.broken").read_text() == "{broken"
    assert lab.host.did("systemctl restart *") == []


def test_a_broken_fragment_is_named(lab: Lab) -> None:
    lab.run().fragment("a", {"debug": True})
    (Path(lab.places.fragments) / "50-a.json").write_text("{")
    with pytest.raises(HostError, match=r"50-a.json is not valid JSON .*remove it and run its role again"):
        lab.run().fragment("b", {"mtu": 1})


def test_a_lost_list_of_owned_keys_is_no_error(lab: Lab) -> None:
    lab.run().fragment("a", {"debug": True})
    (lab.root / "state/docker/owned.json").write_text("[")
    (lab.root / "state/docker/daemon.json.good").write_text("[")
    assert not lab.run().fragment("a", {"debug": True}).changed


def test_credentials_in_a_url_are_shown_to_nobody(lab: Lab) -> None:
    outcome = lab.run().fragment("a", {"proxies": {"http-proxy": "http://u:s3cret@proxy:1"}})
    assert "s3cret" not in str(outcome)
    assert lab.config.stat().st_mode & 0o777 == 0o600


# --- The whole engine -------------------------------------------------------------------------------------------


def test_from_nothing_to_everything_and_again(lab: Lab) -> None:
    first = lab.present(users=("ops",))
    assert first.packages == ["install docker.io 26.*", "hold docker.io"]
    assert lab.json() == DEFAULTS
    assert lab.host.did("usermod *") == ["usermod -aG docker ops"]
    assert lab.host.did("systemctl *start *") == []
    lab.members = ["ops"]
    second = lab.present(users=("ops",))
    assert (second.changed, second.warnings) == (False, [])


def test_the_site_wins_over_defaults(lab: Lab) -> None:
    lab.present(options={"live-restore": False, "log-driver": "journald"})
    assert lab.json() == {"live-restore": False, "log-driver": "journald"}
    lab.present(options={"log-driver": "local"})
    assert lab.json()["log-opts"] == {"max-size": "10m"}
    lab.present(options={"log-driver": "syslog", "log-opts": {"tag": "x"}})
    assert lab.json()["log-opts"] == {"max-size": "10m", "tag": "x"}


def test_a_changed_option_restarts_once(lab: Lab) -> None:
    lab.present()
    outcome = lab.present(options={"mtu": 1400})
    assert outcome.actions == [f"restarted docker: mtu changed in {lab.config}"]
    assert not lab.present(options={"mtu": 1400}).changed


def test_check_mode_predicts_reload_and_restart(lab: Lab) -> None:
    lab.present()
    assert lab.present(check=True, options={"debug": True}).actions == [
        f"reloaded docker: debug changed in {lab.config}"
    ]
    assert lab.present(check=True, options={"mtu": 1}).actions == [f"restarted docker: mtu changed in {lab.config}"]
    assert lab.host.did("systemctl re*") == []
    lab.host.units["docker.service"].active = "inactive"
    assert lab.present(check=True, options={"mtu": 1}).actions == ["started docker: it was inactive"]


def test_check_mode_on_a_bare_host(lab: Lab) -> None:
    lab.host.units = {}
    outcome = lab.present(check=True, users=("ghost",))
    assert outcome.packages == ["install docker.io 26.*", "hold docker.io"]
    assert outcome.actions == ["put ghost into the group docker"]
    assert lab.host.acts() == []


def test_a_refused_option_comes_off_again(lab: Lab) -> None:
    lab.present()
    lab.unproven = "no log driver named 'x'"
    real = lab.host

    with pytest.raises(HostError):
        lab.present(options={"mtu": 1})
    lab.unproven = ""
    assert lab.json() == DEFAULTS
    assert json.loads((Path(lab.places.fragments) / "50-docker_engine.json").read_text()) == DEFAULTS
    assert real.units["docker.service"].active == "active"
    assert lab.present().unknown_keys == ()


def test_a_refused_first_configuration_leaves_no_fragment(lab: Lab) -> None:
    lab.host.units["docker.service"].active = "failed"
    lab.unproven = "no log driver named 'x'"
    with pytest.raises(HostError):
        lab.present()
    assert not (Path(lab.places.fragments) / "50-docker_engine.json").exists()


def test_an_option_that_dockerd_refuses_touches_nothing(lab: Lab) -> None:
    lab.present()
    lab.refuses = "odd"
    with pytest.raises(
        HostError, match="docker refuses docker_engine_options: no such option: odd; nothing was changed"
    ):
        lab.present(options={"odd": 1})
    assert lab.json() == DEFAULTS
    assert lab.host.did("systemctl re*") == []


def test_a_failure_elsewhere_leaves_the_fragment_alone(lab: Lab) -> None:
    lab.present()
    lab.host.units["docker.service"].active = "failed"
    lab.unproven = "no log driver named 'x'"
    with pytest.raises(HostError, match="does not work"):
        lab.present()
    assert lab.json() == DEFAULTS


def test_disabled_units_are_enabled(lab: Lab) -> None:
    lab.present()
    lab.host.units["docker.socket"].file_state = "disabled"
    assert lab.present().actions == ["enable docker.socket"]


def test_a_masked_unit_is_named(lab: Lab) -> None:
    del lab.host.units["docker.service"]
    with pytest.raises(HostError, match=r"no usable docker.service: is it masked"):
        lab.present()


def test_users_come_and_go(lab: Lab) -> None:
    lab.members = ["alice"]
    lab.present(users=("ops", "alice"))
    lab.members = ["alice", "ops"]
    outcome = lab.present()
    assert outcome.actions == ["take ops out of the group docker"]
    assert lab.host.did("gpasswd *") == ["gpasswd -d ops docker"]
    lab.members = ["alice"]
    assert not lab.present().changed


def test_a_user_who_left_the_group_by_hand_is_forgotten(lab: Lab) -> None:
    lab.present(users=("ops",))
    assert lab.present().actions == []
    assert lab.host.did("gpasswd *") == []


def test_a_user_who_does_not_exist(lab: Lab) -> None:
    with pytest.raises(HostError, match="docker_engine_users has 'ghost'"):
        lab.present(users=("ghost",))


def test_a_user_tool_that_fails(lab: Lab) -> None:
    lab.host.answers["usermod"] = Result(1, "", "cannot lock /etc/passwd")
    with pytest.raises(HostError, match="usermod -aG docker ops failed: cannot lock"):
        lab.present(users=("ops",))


def test_without_a_group_there_are_no_members(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise KeyError(name)

    monkeypatch.setattr(grp, "getgrnam", missing)
    assert _docker_daemon._members("docker") == []
    assert pwd.getpwuid(0).pw_name == "root"


# --- Swarm ------------------------------------------------------------------------------------------------------


def test_live_restore_gives_way_to_a_swarm() -> None:
    config, warning = _docker_daemon.base_fragment(_docker_daemon.WantedEngine(defaults=DEFAULTS), in_swarm=True)
    assert "live-restore" not in config
    assert "in a swarm" in warning


def test_live_restore_by_the_site_and_a_swarm_do_not_go_together() -> None:
    wanted = _docker_daemon.WantedEngine(defaults=DEFAULTS, options={"live-restore": True})
    with pytest.raises(HostError, match="leave the key out"):
        _docker_daemon.base_fragment(wanted, in_swarm=True)


@pytest.mark.parametrize(
    ("text", "member"), [(None, False), ("", False), ("{}\n", False), ('{"LocalAddr": "x"}', True)]
)
def test_a_swarm_member_shows_in_its_data(tmp_path: Path, text: str | None, member: bool) -> None:
    if text is not None:
        (tmp_path / "swarm").mkdir()
        (tmp_path / "swarm/docker-state.json").write_text(text)
    assert _docker_daemon.in_swarm({"data-root": str(tmp_path)}) is member


def test_a_swarm_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_docker_daemon, "in_swarm", lambda _config: True)
    assert "live-restore is off" in lab.present().warnings[0]


# --- The other source -------------------------------------------------------------------------------------------


def test_from_debians_packages_to_dockers(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.present()
    script = lab.root / "nuke.sh"
    script.write_text("rm -rf")
    script.chmod(0o755)
    protected = _docker_daemon.protect_data
    monkeypatch.setattr(_docker_daemon, "protect_data", lambda check: protected(check=check, scripts=[str(script)]))
    files = [_files.WantedFile(path=str(lab.root / "etc/docker.sources"), content=b"x", owner="0", group="0")]
    monkeypatch.setattr(_apt_sources, "files", lambda _repository, known: files)
    repository = _apt_sources.Repository(name="docker", role="r", url="u", suite="s", component="c", key="k")
    packages = (
        _packages.WantedPackage(name="docker-ce", version="5:28.*", hold=True),
        _packages.WantedPackage(name="docker.io", present=False),
    )
    outcome = lab.present(packages=packages, repository=repository)
    assert "remove docker.io" in outcome.packages
    assert list(lab.host.packages) == ["docker-ce"]
    assert script.stat().st_mode & 0o777 == 0o644
    assert lab.host.did("dpkg --set-selections") != []


def test_a_hold_that_cannot_be_lifted(lab: Lab) -> None:
    lab.host.packages["docker-ce"] = FakePackage("5:28.1", "hold")
    lab.host.answers["dpkg"] = Result(2, "", "status database is locked")
    with pytest.raises(HostError, match="dpkg --set-selections failed: status database is locked"):
        lab.present(packages=(*DOCKER, _packages.WantedPackage(name="docker-ce", present=False)))


# --- And back ---------------------------------------------------------------------------------------------------


def test_removal_undoes_everything(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.present(users=("ops",))
    lab.members = ["ops"]
    monkeypatch.setattr(_engines, "ask_docker", lambda _path: [{"Id": "0123456789abcdef"}])
    outcome = lab.run(check=True).absent()
    assert "stop 1 container(s)" in outcome.actions
    assert lab.host.did("docker stop *") == []
    outcome = lab.run().absent()
    assert lab.host.did("docker stop *") == ["docker stop 0123456789ab"]
    assert "remove docker.io" in outcome.packages
    assert lab.host.packages == {}
    assert not lab.config.exists()
    assert not (lab.root / "state/docker").exists()
    assert not lab.run().absent().changed


def test_removal_with_a_daemon_that_does_not_answer(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def silence(_path: str) -> None:
        raise OSError

    lab.present()
    monkeypatch.setattr(_engines, "ask_docker", silence)
    assert "remove docker.io" in lab.run().absent().packages


def test_removal_keeps_a_docker_that_was_there_before(lab: Lab) -> None:
    lab.host.packages["docker.io"] = FakePackage("26.1")
    lab.present()
    outcome = lab.run().absent()
    assert list(lab.host.packages) == ["docker.io"]
    assert [action for action in outcome.actions if action.startswith("restarted docker")]
    assert lab.host.packages["docker.io"].selection == "install"


def test_removal_leaves_containerd_to_its_role(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_engines, "ask_docker", lambda _path: [])
    lab.host.available["containerd"] = ["1.7"]
    lab.present(packages=(*DOCKER, _packages.WantedPackage(name="containerd", hold=True)))
    ledger = _files.Ledger(owner="containerd", state_dir=lab.host.state_dir)
    ledger.set("paths", ["/etc/containerd/config.toml"])
    ledger.save()
    lab.run().absent()
    assert lab.host.packages["containerd"].selection == "hold"


def test_check_mode_leaves_the_script_alone(tmp_path: Path) -> None:
    script = tmp_path / "nuke.sh"
    script.write_text("")
    script.chmod(0o755)
    _docker_daemon.protect_data(check=True, scripts=[str(script)])
    assert script.stat().st_mode & 0o777 == 0o755
