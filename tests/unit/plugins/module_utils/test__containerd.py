# SPDX-License-Identifier: GPL-3.0-or-later
"""config.toml for each containerd, and what becomes of the one that was there before."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import (
    _containerd,
    _daemon_json,
    _engines,
    _files,
)
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError

from tests.unit.fakes import FakeHost, FakePackage, FakeUnit

SETTINGS = _containerd.Settings(version="1.7.*", sandbox_image="reg/pause:3.10")
HOSTILE = 'a "b" \\ # % $ {{ x }} é\x7f'


@pytest.mark.parametrize(
    ("pattern", "installed", "version"),
    [
        ("1.6.*", "", 2),
        ("1.7.*", "2.1.0", 2),
        ("2.1.*", "1.7.1", 3),
        ("*", "2.0.3-1", 3),
        ("*", "1.7.24~ds1", 2),
        ("*", "", 2),
        ("1:2.*", "", 3),
    ],
)
def test_the_format_follows_the_version(pattern: str, installed: str, version: int) -> None:
    assert _containerd.config_version(pattern, installed) == version


def settings(**values: Any) -> _containerd.Settings:
    return _containerd.Settings(**{"version": "1.7.*", "sandbox_image": "reg/pause:3.10", **values})


def text_of(given: _containerd.Settings, *, version: int, **fragments: dict[str, Any]) -> str:
    return _containerd.render(_containerd.compose(_containerd.build(given, version=version), fragments, given.options))


@pytest.mark.parametrize(
    "given",
    [
        settings(),
        settings(systemd_cgroup=False, restrict_oom_score_adj=True, cni_bin_dir="/usr/lib/cni"),
        settings(
            sandbox_image=HOSTILE, cni_bin_dir=f"/{HOSTILE}", options={HOSTILE: {HOSTILE: [HOSTILE, {"x": HOSTILE}]}}
        ),
    ],
    ids=["minimal", "full", "hostile"],
)
@pytest.mark.parametrize("version", [2, 3])
def test_what_is_written_is_what_is_meant(given: _containerd.Settings, version: int) -> None:
    text = text_of(given, version=version)
    assert text.startswith("# Managed by slipway.platform.containerd. Edits are undone by the next run.\n")
    own = _containerd.build(given, version=version)
    assert tomllib.loads(text) == _daemon_json.overlay(own, given.options)


def test_version_2() -> None:
    config = tomllib.loads(text_of(SETTINGS, version=2))
    cri = config["plugins"]["io.containerd.grpc.v1.cri"]
    assert config["version"] == 2
    assert config["imports"] == ["/etc/containerd/conf.d/*.toml"]
    assert cri["sandbox_image"] == "reg/pause:3.10"
    assert cri["registry"] == {"config_path": "/etc/containerd/certs.d"}
    assert cri["containerd"]["runtimes"]["runc"]["options"] == {"SystemdCgroup": True}
    assert cri["restrict_oom_score_adj"] is False


def test_version_3() -> None:
    config = tomllib.loads(text_of(SETTINGS, version=3))
    images, runtime = (config["plugins"][f"io.containerd.cri.v1.{name}"] for name in ("images", "runtime"))
    assert config["version"] == 3
    assert images["pinned_images"] == {"sandbox": "reg/pause:3.10"}
    assert images["registry"] == {"config_path": "/etc/containerd/certs.d"}
    assert runtime["containerd"]["runtimes"]["runc"]["options"] == {"SystemdCgroup": True}
    assert "io.containerd.grpc.v1.cri" not in config["plugins"]


def test_options_win() -> None:
    options = {"debug": {"level": "debug"}, "plugins": {"io.containerd.grpc.v1.cri": {"max_concurrent_downloads": 9}}}
    config = tomllib.loads(text_of(settings(options=options), version=2))
    assert config["debug"] == {"level": "debug"}
    assert config["plugins"]["io.containerd.grpc.v1.cri"]["max_concurrent_downloads"] == 9
    assert config["plugins"]["io.containerd.grpc.v1.cri"]["sandbox_image"] == "reg/pause:3.10"


def test_options_that_toml_cannot_say() -> None:
    with pytest.raises(HostError, match="containerd_options cannot be written as TOML"):
        text_of(settings(options={"x": None}), version=2)


NVIDIA = {"enable_cdi": True, "containerd": {"runtimes": {"nvidia": {"options": {"BinaryName": "/usr/bin/nvidia"}}}}}


@pytest.mark.parametrize(("version", "table"), [(2, "io.containerd.grpc.v1.cri"), (3, "io.containerd.cri.v1.runtime")])
def test_a_runtime_of_another_role_starts_from_runcs_settings(version: int, table: str) -> None:
    runc = {"privileged_without_host_devices": True, "options": {"SystemdCgroup": False}}
    options = {"plugins": {table: {"containerd": {"runtimes": {"runc": runc}}}}}
    config = tomllib.loads(text_of(settings(options=options), version=version, nvidia=NVIDIA))
    runtimes = config["plugins"][table]["containerd"]["runtimes"]
    assert runtimes["runc"] == {"runtime_type": "io.containerd.runc.v2", **runc}
    assert runtimes["nvidia"] == {
        **runtimes["runc"],
        "options": {"SystemdCgroup": False, "BinaryName": "/usr/bin/nvidia"},
    }
    assert config["plugins"][table]["enable_cdi"] is True


def test_the_sites_options_win_over_a_fragment() -> None:
    options = {"plugins": {"io.containerd.grpc.v1.cri": {"enable_cdi": False}}}
    config = tomllib.loads(text_of(settings(options=options), version=2, nvidia=NVIDIA))
    assert config["plugins"]["io.containerd.grpc.v1.cri"]["enable_cdi"] is False


def test_fragments_that_contradict_each_other_are_named() -> None:
    with pytest.raises(HostError, match="'nvidia' and 'other' contradict each other: enable_cdi"):
        text_of(SETTINGS, version=2, nvidia=NVIDIA, other={"enable_cdi": False})


LEGACY = """
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
oom_score = -999
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "old/pause:1"
[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]
  endpoint = ["https://reg.lab:6001", "http://second/v2"]
[plugins."io.containerd.grpc.v1.cri".registry.mirrors."*"]
  endpoint = ["https://all.lab"]
[plugins."io.containerd.grpc.v1.cri".registry.configs."reg.lab:6001".tls]
  ca_file = "/etc/ca.pem"
  cert_file = "/etc/c.pem"
  key_file = "/etc/k.pem"
[plugins."io.containerd.grpc.v1.cri".registry.configs."reg.lab:6001".auth]
  username = "u"
  password = "p"
[plugins."io.containerd.grpc.v1.cri".registry.configs."second".tls]
  insecure_skip_verify = true
[plugins."io.containerd.grpc.v1.cri".registry.configs."second".auth]
  auth = "dTpw"
"""


def test_an_older_configuration_moves_to_certs_d() -> None:
    legacy = _containerd.read_legacy(LEGACY, _containerd.build(SETTINGS, version=2))
    assert sorted(legacy.hosts) == ["_default", "docker.io"]
    host = tomllib.loads(legacy.hosts["docker.io"])["host"]
    assert list(host) == ["https://reg.lab:6001", "http://second/v2"]
    assert host["https://reg.lab:6001"] == {
        "capabilities": ["pull", "resolve"],
        "ca": "/etc/ca.pem",
        "client": [["/etc/c.pem", "/etc/k.pem"]],
        "header": {"authorization": "Basic dTpw"},
    }
    assert host["http://second/v2"]["skip_verify"] is True
    assert host["http://second/v2"]["header"] == {"authorization": "Basic dTpw"}
    assert legacy.dropped == ["oom_score"]


def test_the_first_format_of_all() -> None:
    text = '[plugins.cri.registry.mirrors."docker.io"]\nendpoint = ["https://m"]\n'
    assert list(_containerd.read_legacy(text, {}).hosts) == ["docker.io"]


class Lab:
    """A host with containerd's files below a directory of the test's own."""

    def __init__(self, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host = host
        etc = host.root / "containerd"
        etc.mkdir()
        self.config, self.certs = etc / "config.toml", etc / "certs.d"
        host.available = {"containerd": ["1.7.24"], "containerd.io": ["1.7.27"]}
        host.units = {"containerd.service": FakeUnit(active="active", file_state="enabled", started=4e9, generation=1)}
        self.applied = _engines.Applied()
        self.must_run: bool | None = None
        monkeypatch.setattr(_containerd, "CONFIG", str(self.config))
        monkeypatch.setattr(_containerd, "CERTS_DIR", str(self.certs))
        monkeypatch.setattr(_containerd, "CONF_DIR", str(etc / "conf.d"))
        self.fragments = host.root / "config.toml.d"
        self.fragments.mkdir()
        monkeypatch.setattr(_containerd, "FRAGMENTS", str(self.fragments))
        monkeypatch.setattr(_engines, "apply", self._apply)

    def _apply(self, runner: object, name: str, *, check: bool, must_run: bool) -> _engines.Applied:
        del runner, check
        assert name == "containerd"
        self.must_run = must_run
        return self.applied

    def run(self, *, check: bool = False) -> _containerd.ContainerdHost:
        return _containerd.ContainerdHost(check=check, runner=self.host, state_dir=self.host.state_dir)


@pytest.fixture
def lab(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(host, monkeypatch)


def test_from_nothing_and_again(lab: Lab) -> None:
    outcome = lab.run().present(SETTINGS)
    assert outcome.packages == ["install containerd 1.7.*", "hold containerd"]
    assert lab.config.read_text().startswith("# Managed by")
    assert lab.certs.is_dir()
    assert lab.must_run is True
    assert not lab.run().present(SETTINGS).changed


def test_dockers_package_is_taken_over(lab: Lab) -> None:
    lab.host.packages["containerd.io"] = FakePackage("1.7.27")
    assert lab.run().present(SETTINGS).packages == ["hold containerd.io"]


def test_the_reason_of_a_restart_is_told(lab: Lab) -> None:
    lab.applied = _engines.Applied(restarted=True, reason="x changed")
    assert "restarted containerd: x changed" in lab.run().present(SETTINGS).actions
    lab.applied = _engines.Applied(started=True, reason="it was failed")
    assert "started containerd: it was failed" in lab.run().present(SETTINGS).actions


def test_check_mode_predicts_the_restart(lab: Lab) -> None:
    assert f"restarted containerd: {lab.config} changed" in lab.run(check=True).present(SETTINGS).actions
    lab.host.units["containerd.service"].active = "inactive"
    assert [a for a in lab.run(check=True).present(SETTINGS).actions if "containerd:" in a] == []
    assert not lab.config.exists()


def test_a_foreign_configuration_is_moved_once(lab: Lab) -> None:
    lab.config.write_text(LEGACY)
    (lab.certs / "_default").mkdir(parents=True)
    (lab.certs / "_default/hosts.toml").write_text("mine")
    check = lab.run(check=True).present(SETTINGS)
    outcome = lab.run().present(SETTINGS)
    assert outcome.warnings == check.warnings
    moved = lab.certs / "docker.io/hosts.toml"
    assert "reg.lab:6001" in moved.read_text()
    assert moved.stat().st_mode & 0o777 == 0o600
    assert (lab.certs / "_default/hosts.toml").read_text() == "mine"
    assert [part for part in ("are now in", "give way to", "oom_score") if part not in " ".join(outcome.warnings)] == []
    assert lab.run().present(SETTINGS).warnings == []


def test_a_mirror_without_credentials_may_be_read(lab: Lab) -> None:
    lab.config.write_text('[plugins.cri.registry.mirrors."docker.io"]\nendpoint = ["https://m"]\n')
    lab.run().present(SETTINGS)
    assert (lab.certs / "docker.io/hosts.toml").stat().st_mode & 0o777 == 0o644


def test_a_broken_file_that_was_never_ours_stops_the_run(lab: Lab) -> None:
    lab.config.write_text("x = = 1")
    with pytest.raises(HostError, match=r"not valid TOML .*repair it or move it away"):
        lab.run().present(SETTINGS)
    assert lab.config.read_text() == "x = = 1"


def test_a_broken_file_of_ours_is_written_again(lab: Lab) -> None:
    lab.run().present(SETTINGS)
    lab.config.write_text("x = = 1")
    assert lab.run().present(SETTINGS).changed_paths == [str(lab.config)]


def test_removal(lab: Lab) -> None:
    lab.config.write_text("version = 2\n")
    lab.run().present(SETTINGS)
    outcome = lab.run().absent()
    assert lab.config.read_text() == "version = 2\n"
    assert outcome.packages == ["remove containerd"]
    assert lab.must_run is False
    assert not lab.run().absent().changed


def test_removal_where_docker_needs_the_package(lab: Lab) -> None:
    lab.host.packages["docker.io"] = FakePackage("26.1")
    lab.run().present(SETTINGS)
    assert lab.run().absent().packages == ["unhold containerd"]
    assert lab.host.packages["containerd"].selection == "install"


def test_removal_leaves_the_hold_of_docker_engine(lab: Lab) -> None:
    lab.host.packages["docker.io"] = FakePackage("26.1")
    ledger = _files.Ledger(owner="docker_engine", state_dir=lab.host.state_dir)
    ledger.set("held", ["containerd"])
    ledger.save()
    lab.run().present(SETTINGS)
    lab.run().absent()
    assert lab.host.packages["containerd"].selection == "hold"


def test_check_of_removal_changes_nothing(lab: Lab) -> None:
    lab.run().present(SETTINGS)
    assert lab.run(check=True).absent().changed
    assert lab.config.exists()


def test_credentials_of_an_older_configuration_are_not_shown(lab: Lab) -> None:
    lab.config.write_text(LEGACY.replace('"p"', '"s3cret"'))
    outcome = lab.run().present(SETTINGS)
    assert "sandbox_image" in str(outcome.diffs)
    assert [secret for secret in ("s3cret", "dTpw") if secret in str(outcome.diffs)] == []
    assert [secret for secret in ("s3cret", "dTpw") if secret in str(lab.run().absent().diffs)] == []


def test_fragments_of_other_roles_are_merged_in_whatever_order(lab: Lab) -> None:
    fragment = write_fragment(lab, "nvidia", NVIDIA)
    assert not lab.run().merge({"nvidia": NVIDIA}).changed, "without the role containerd there is nothing to write"
    lab.run().present(SETTINGS)
    first = lab.config.read_text()
    assert "BinaryName" in first
    assert not lab.run().merge({"nvidia": NVIDIA}).changed
    fragment.unlink()
    assert lab.run().merge({"nvidia": {}}).changed_paths == [str(lab.config)]
    assert "BinaryName" not in lab.config.read_text()
    write_fragment(lab, "nvidia", NVIDIA)
    lab.run().merge({"nvidia": NVIDIA})
    assert lab.config.read_text() == first
    assert not lab.run().present(SETTINGS).changed


def write_fragment(lab: Lab, name: str, config: dict[str, Any]) -> Path:
    path = Path(_containerd.fragment_path(name))
    path.write_text(json.dumps(config))
    assert path.parent == lab.fragments
    return path


def test_check_mode_merges_a_fragment_that_is_not_written_yet(lab: Lab) -> None:
    lab.run().present(SETTINGS)
    before = lab.config.read_text()
    outcome = lab.run(check=True).merge({"nvidia": NVIDIA})
    assert outcome.changed_paths == [str(lab.config)]
    assert "BinaryName" in outcome.diffs[0]["after"]
    assert lab.config.read_text() == before


def test_a_broken_fragment_is_named(lab: Lab) -> None:
    (lab.fragments / "50-x.json").write_text("[")
    with pytest.raises(HostError, match=r"50-x.json is not valid JSON .*remove it and run its role again"):
        lab.run().present(SETTINGS)


def test_removal_forgets_what_was_merged(lab: Lab) -> None:
    lab.run().present(SETTINGS)
    lab.run().absent()
    assert not lab.run().merge({"nvidia": NVIDIA}).changed
