# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA's toolkit on a host: what is looked at, what is written for whom, and specs that are true."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import (
    _apt_sources,
    _containerd,
    _docker_daemon,
    _files,
    _gpus,
    _nvidia,
    _nvml,
)
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Result

from tests.unit.fakes import FakeHost, FakeUnit

KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nx\n-----END PGP PUBLIC KEY BLOCK-----"
GPU: _nvml.Gpu = {"index": 0, "uuid": "GPU-1", "name": "A GPU", "minor": 0}


def settings(**values: Any) -> _nvidia.Settings:
    return _nvidia.Settings(**{"version": "1.20.*", "url": "https://nvidia/deb", "key": KEY, **values})


class Lab:
    """A host with everything that the toolkit touches below a directory of the test's own."""

    def __init__(self, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host = host
        self.pci, self.spec, self.ctk = host.root / "pci", host.root / "run/cdi/nvidia.yaml", host.root / "nvidia-ctk"
        self.environment = host.root / "refresh.env"
        self.driver: _nvml.Found | None = {"driver": "580.1", "gpus": [GPU]}
        self.spec.parent.mkdir(parents=True)
        for name in ("sources.list.d", "keyrings"):
            (host.root / "apt" / name).mkdir(parents=True)
        host.available = {name: ["1.19.1-1", "1.20.1-1"] for name in _nvidia.PACKAGES}
        host.units = {f"nvidia-cdi-refresh.{kind}": FakeUnit(file_state="enabled") for kind in ("path", "service")}
        host.answers = {
            f"env {self.ctk} --quiet cdi generate": Result(0, "spec of 580.1\n", ""),
            f"{self.ctk} --quiet cdi list": Result(0, "nvidia.com/gpu=0\nvendor.com/other=0\n", ""),
        }
        self.places = _docker_daemon.Places(
            config=str(host.root / "daemon.json"),
            fragments=str(host.root / "daemon.json.d"),
            state_dir=host.state_dir,
            run_dir=host.run_dir,
        )
        places = _apt_sources.Places(apt=str(host.root / "apt"), dpkg_info=str(host.root / "info"))
        monkeypatch.setattr(_apt_sources, "PLACES", places)
        monkeypatch.setattr(_containerd, "FRAGMENTS", str(host.root / "config.toml.d"))
        monkeypatch.setattr(_gpus, "PCI_DEVICES", str(self.pci))
        monkeypatch.setattr(_nvidia, "SPEC", str(self.spec))
        monkeypatch.setattr(_nvidia, "CTK", str(self.ctk))
        monkeypatch.setattr(_nvidia, "REFRESH_ENVIRONMENT", str(self.environment))
        monkeypatch.setattr(_nvml, "read", self._read)
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")
        self.ctk.touch()
        self.device("0000:01:00.0", "0x10de", "0x030200")

    def _read(self) -> _nvml.Found:
        if self.driver is None:
            raise _nvml.NvmlError("libnvidia-ml.so.1 cannot be loaded")
        return self.driver

    def device(self, address: str, vendor: str, kind: str) -> None:
        (self.pci / address).mkdir(parents=True)
        (self.pci / address / "vendor").write_text(vendor + "\n")
        (self.pci / address / "class").write_text(kind + "\n")

    def run(self, *, check: bool = False) -> _nvidia.NvidiaHost:
        docker = _docker_daemon.DockerHost(check=check, runner=self.host, places=self.places)
        return _nvidia.NvidiaHost(check=check, runner=self.host, state_dir=self.host.state_dir, docker=docker)

    def daemon_json(self) -> dict[str, Any]:
        path = Path(self.places.config)
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def fragment(self) -> dict[str, Any]:
        path = Path(_containerd.fragment_path(_nvidia.OWNER))
        return dict(json.loads(path.read_text())) if path.exists() else {}


@pytest.fixture
def lab(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(host, monkeypatch)


def test_from_nothing_and_again(lab: Lab) -> None:
    lab.spec.write_text("spec of 580.1\n")
    outcome = lab.run().present(settings())
    assert {f"hold {name}" for name in _nvidia.PACKAGES} <= {*outcome.packages}
    source = (lab.host.root / "apt/sources.list.d/slipway-nvidia.sources").read_text()
    assert "URIs: https://nvidia/deb/amd64\nSuites: /\nSigned-By:" in source
    assert lab.daemon_json() == {
        "runtimes": {"nvidia": {"path": _nvidia.RUNTIME, "args": []}},
        "features": {"cdi": True},
    }
    assert lab.fragment()["containerd"]["runtimes"]["nvidia"]["options"]["BinaryName"] == f"/usr/bin/{_nvidia.RUNTIME}"
    drop_in = Path(lab.host.unit_dir, "nvidia-cdi-refresh.path.d/slipway.conf").read_text()
    assert "PathChanged=/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1\n" in drop_in
    assert outcome.found.facts() == {
        "driver": "580.1", "gpus": [GPU], "pci": ["0000:01:00.0"], "cdi_devices": ["nvidia.com/gpu=0"],
    }  # fmt: skip
    again = lab.run().present(settings())
    assert (again.changed, again.warnings) == (False, [])


def test_the_running_engines_are_left_alone(lab: Lab) -> None:
    lab.run().present(settings())
    assert lab.host.did("systemctl re*docker*") == lab.host.did("systemctl re*containerd*") == []


@pytest.mark.parametrize(("gpu", "default"), [("auto", True), ("present", True), ("absent", False)])
def test_the_default_runtime_needs_a_gpu(lab: Lab, gpu: str, default: bool) -> None:
    lab.run().present(settings(gpu=gpu, default_runtime=True))
    assert (lab.daemon_json().get("default-runtime") == "nvidia") is default
    assert (lab.fragment()["containerd"].get("default_runtime_name") == "nvidia") is default


def test_engines_that_are_not_wanted_any_more_lose_it(lab: Lab) -> None:
    lab.run().present(settings())
    lab.run().present(settings(engines=()))
    assert (lab.daemon_json(), lab.fragment()) == ({}, {})


def test_a_gpu_that_is_required_is_missed_before_anything_changes(lab: Lab) -> None:
    (lab.pci / "0000:01:00.0/vendor").write_text("0x8086\n")
    with pytest.raises(
        HostError, match=r"require_gpu is true, but .*: no PCI device here has vendor 10de and class 03"
    ):
        lab.run().present(settings(require_gpu=True))
    assert (lab.host.acts(), lab.daemon_json()) == ([], {})
    assert lab.run().present(settings()).warnings == [], "without being required it is no fault"


def test_a_required_gpu_needs_its_driver(lab: Lab) -> None:
    lab.driver = None
    with pytest.raises(HostError, match=r"the driver of the GPU at 0000:01:00.0 does not answer \(libnvidia-ml"):
        lab.run().present(settings(require_gpu=True))
    assert lab.host.did("apt-get*") == []
    assert "no GPU until one is installed" in lab.run().present(settings()).warnings[0]


def test_a_machine_that_nvidia_has_no_packages_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(HostError, match="this machine is riscv64, but NVIDIA has packages for x86_64, aarch64 only"):
        lab.run().present(settings())


def test_a_spec_that_is_not_true_is_written_anew(lab: Lab) -> None:
    lab.spec.write_text("spec of 570\n")
    outcome = lab.run().present(settings())
    assert f"start nvidia-cdi-refresh.service: {lab.spec} is not what the driver gives now" in outcome.actions
    assert "systemctl start nvidia-cdi-refresh.service" in lab.host.calls


def test_check_mode_predicts_and_writes_nothing(lab: Lab) -> None:
    lab.spec.write_text("spec of 570\n")
    outcome = lab.run(check=True).present(settings())
    assert f"start nvidia-cdi-refresh.service: {lab.spec} is not what the driver gives now" in outcome.actions
    assert len(outcome.changed_paths) >= 5
    assert (lab.daemon_json(), lab.fragment()) == ({}, {})
    assert lab.host.did("systemctl start*") == lab.host.did("apt-get*") == []


def test_check_mode_where_the_toolkit_is_not_installed_yet(lab: Lab) -> None:
    lab.ctk.unlink()
    assert lab.run(check=True).present(settings()).found.cdi_devices == []


def test_the_operators_settings_of_the_refresh_count(lab: Lab) -> None:
    other = lab.host.root / "other.yaml"
    lab.environment.write_text(f'# a note\nNVIDIA_CTK_CDI_OUTPUT_FILE_PATH={other}\nNVIDIA_CTK_DEV_ROOT="/x y"\n\n')
    other.write_text("spec with settings\n")
    command = f"env NVIDIA_CTK_DEV_ROOT=/x y {lab.ctk} --quiet cdi generate"
    lab.host.answers[command] = Result(0, "spec with settings\n", "")
    assert [action for action in lab.run().present(settings()).actions if "cdi" in action and "yaml" in action] == []


def test_a_spec_that_cannot_be_made_is_a_failure(lab: Lab) -> None:
    lab.host.answers[f"env {lab.ctk} --quiet cdi generate"] = Result(1, "", "no such thing")
    with pytest.raises(HostError, match="nvidia-ctk cdi generate failed: no such thing"):
        lab.run().present(settings())


@pytest.mark.parametrize("check", [True, False])
def test_the_spec_of_a_driver_that_is_gone_goes(lab: Lab, check: bool) -> None:
    lab.driver = None
    lab.spec.write_text("spec of 580.1\n")
    assert str(lab.spec) in lab.run(check=check).present(settings()).removed_paths
    assert lab.spec.exists() is check


def test_removal(lab: Lab) -> None:
    old = lab.host.root / "apt/sources.list.d/nvidia-docker.list"
    old.write_text("deb https://nvidia.github.io/nvidia-docker/ubuntu18.04/$(ARCH) /\n")
    lab.run().present(settings())
    assert not old.exists()
    lab.spec.write_text("spec of 580.1\n")
    outcome = lab.run().absent()
    assert {f"remove {name}" for name in _nvidia.PACKAGES} <= {*outcome.packages}
    assert (lab.daemon_json(), lab.fragment(), lab.spec.exists(), old.exists()) == ({}, {}, False, True)
    assert _files.Ledger(owner=_nvidia.OWNER, state_dir=lab.host.state_dir).get("paths") == []
    assert not lab.run().absent().changed


def test_where_it_never_was_nothing_is_removed(lab: Lab) -> None:
    lab.spec.write_text("somebody else's\n")
    assert not lab.run().absent().changed
    assert lab.spec.exists()
