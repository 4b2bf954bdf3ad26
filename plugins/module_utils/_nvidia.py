# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA's container toolkit on one host: what GPUs there are, the packages, the runtimes, and CDI specs that are true.

Sources: NVIDIA's "Installing the NVIDIA Container Toolkit" and "Support for Container Device Interface".
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import (
    _apt_sources,
    _containerd,
    _docker_daemon,
    _files,
    _gpus,
    _host_state,
    _nvml,
    _packages,
    _units,
)
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Runner, run

OWNER = "nvidia_container_toolkit"
HEADER = f"# Managed by slipway.platform.{OWNER}. Edits are undone by the next run.\n"
REFRESH = "nvidia-cdi-refresh"
REFRESH_ENVIRONMENT = "/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env"
SPEC_VARIABLE, SPEC = "NVIDIA_CTK_CDI_OUTPUT_FILE_PATH", "/var/run/cdi/nvidia.yaml"
CTK = "/usr/bin/nvidia-ctk"
RUNTIME = "nvidia-container-runtime"
# Debian's name of the library directory for what uname calls the machine.
ARCHITECTURES = {"x86_64": ("amd64", "x86_64-linux-gnu"), "aarch64": ("arm64", "aarch64-linux-gnu")}
PACKAGES = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
# Where NVIDIA has published the same packages over the years; what apt finds there now is one source.
HISTORIC = tuple(
    f"nvidia.github.io/{name}" for name in ("libnvidia-container", "nvidia-container-runtime", "nvidia-docker")
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the role's variables say; gpu is auto, present or absent, url the repository's without the architecture."""

    version: str
    url: str
    key: str
    engines: tuple[str, ...] = ("docker", "containerd")
    default_runtime: bool = False
    gpu: str = "auto"
    require_gpu: bool = False


def _architecture() -> tuple[str, str]:
    """Return Debian's architecture and library directory; HostError where NVIDIA has no packages for the machine."""
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise HostError(
            f"this machine is {machine}, but NVIDIA has packages for {', '.join(ARCHITECTURES)} only: "
            "leave nvidia_container_toolkit out there"
        )
    return ARCHITECTURES[machine]


def docker_fragment(settings: Settings, *, gpu: bool) -> dict[str, t.Any]:
    """Return this role's part of daemon.json; without docker among the engines it has none."""
    if "docker" not in settings.engines:
        return {}
    fragment: dict[str, t.Any] = {
        "runtimes": {"nvidia": {"path": RUNTIME, "args": []}},
        # What `--device nvidia.com/gpu=0` needs before docker 28.3, where it is the default.
        "features": {"cdi": True},
    }
    return {**fragment, "default-runtime": "nvidia"} if settings.default_runtime and gpu else fragment


def containerd_fragment(settings: Settings, *, gpu: bool) -> dict[str, t.Any]:
    """Return this role's part of CRI's runtime table; the runtime takes all else from runc (see _containerd)."""
    if "containerd" not in settings.engines:
        return {}
    runtimes: dict[str, t.Any] = {"runtimes": {"nvidia": {"options": {"BinaryName": f"/usr/bin/{RUNTIME}"}}}}
    if settings.default_runtime and gpu:
        runtimes["default_runtime_name"] = "nvidia"
    # enable_cdi is off by default in containerd 1.7, unknown and ignored in 1.6, on by default in 2.x.
    return {"enable_cdi": True, "containerd": runtimes}


def drop_ins(libraries: str) -> list[_files.WantedFile]:
    """Return what NVIDIA's refresh units lack: a look at the driver's libraries, and patience while they change."""
    path = (
        "[Path]\n"
        "# The libraries of a driver come before or after its kernel module, or without one.\n"
        f"PathChanged={libraries}/libnvidia-ml.so.1\n"
    )
    age = f"age=$$(($$(date +%%s) - $$(stat -L -c %%Y {libraries})))"
    service = (
        "[Unit]\n"
        "# Of a first driver the library may come before nvidia-smi, and no other event after it.\n"
        f"ConditionPathExists=|{libraries}/libnvidia-ml.so.1\n"
        "[Service]\n"
        "# A driver is unpacked file by file, and a change while this unit runs starts it no second time: so wait\n"
        "# until the directory of the libraries has been left alone for three seconds.\n"
        f"ExecStartPre=/bin/sh -c 'while {age}; [ $$age -ge 0 ] && [ $$age -lt 3 ]; do sleep 1; done'\n"
        "TimeoutStartSec=90s\n"
    )
    return [
        _files.WantedFile(
            path=f"{_host_state.UNIT_DIR}{REFRESH}.{kind}.d/slipway.conf", content=(HEADER + text).encode()
        )
        for kind, text in (("path", path), ("service", service))
    ]


@dataclasses.dataclass
class Found:
    """What a machine has. pci: addresses; driver: version, empty without one; why_no_driver: NVML's own words."""

    pci: list[str]
    driver: str = ""
    gpus: list[_nvml.Gpu] = dataclasses.field(default_factory=list)
    cdi_devices: list[str] = dataclasses.field(default_factory=list)
    why_no_driver: str = ""

    def facts(self) -> dict[str, t.Any]:
        """Return the fact slipway_nvidia."""
        return {"driver": self.driver, "gpus": self.gpus, "pci": self.pci, "cdi_devices": self.cdi_devices}


def look() -> Found:
    """Ask the PCI bus and the driver, if there is one, what GPUs this machine has."""
    found = Found(pci=_gpus.on_the_bus())
    try:
        answer = _nvml.read()
    except _nvml.NvmlError as exc:
        found.why_no_driver = str(exc)
        return found
    found.driver, found.gpus = answer["driver"], list(answer["gpus"])
    return found


@dataclasses.dataclass
class Outcome(_host_state.Outcome):
    """What was done, what the operator has to know, and what the machine has."""

    warnings: list[str] = dataclasses.field(default_factory=list)
    found: Found = dataclasses.field(default_factory=lambda: Found(pci=[]))


class NvidiaHost:
    """The toolkit on one host, whole: source, packages, engines' fragments, refresh units and CDI specs."""

    def __init__(
        self,
        *,
        check: bool,
        runner: Runner = run,
        state_dir: str = _files.STATE_DIR,
        docker: _docker_daemon.DockerHost | None = None,
    ) -> None:
        self.check = check
        self.runner = runner
        self.state = _host_state.HostState(owner=OWNER, check=check, runner=runner, state_dir=state_dir)
        self.docker = docker or _docker_daemon.DockerHost(check=check, runner=runner)
        self.containerd = _containerd.ContainerdHost(check=check, runner=runner, state_dir=state_dir)
        self.outcome = Outcome()

    def present(self, settings: Settings) -> Outcome:
        """Reach the wanted state; HostError before anything changes where a GPU is required and there is none."""
        self.outcome.found = found = look()
        gpu = bool(found.pci) if settings.gpu == "auto" else settings.gpu == "present"
        self._judge(settings, found, gpu=gpu)
        fragment = containerd_fragment(settings, gpu=gpu)
        self._docker(docker_fragment(settings, gpu=gpu))
        self._take(self.state.present(self._wanted(settings, fragment)))
        self._containerd(fragment)
        self._specs(found)
        return self.outcome

    def absent(self) -> Outcome:
        """Undo everything: the engines get their configuration back, then the packages and the source go."""
        self.state.ledger.load()
        ours = bool(self.state.ledger.get("paths"))
        self._docker({})
        self._take(self.state.absent(_host_state.Wanted(owner=OWNER)))
        self._containerd({})
        if ours:
            self._drop_spec(SPEC)
        return self.outcome

    def _judge(self, settings: Settings, found: Found, *, gpu: bool) -> None:
        why = ""
        if not gpu:
            why = f"no PCI device here has vendor {_gpus.VENDOR[2:]} and class {_gpus.DISPLAY[2:]}"
        elif not found.driver:
            where = ", ".join(found.pci) or "an unknown address"
            why = f"the driver of the GPU at {where} does not answer ({found.why_no_driver})"
        if why and settings.require_gpu:
            raise HostError(f"nvidia_container_toolkit_require_gpu is true, but this machine has no GPU to use: {why}")
        if gpu and why:
            self.outcome.warnings.append(
                f"{why}: containers get no GPU until one is installed, which is not this role's"
            )

    def _wanted(self, settings: Settings, fragment: dict[str, t.Any]) -> _host_state.Wanted:
        architecture, triplet = _architecture()
        self.state.ledger.load()
        source = _apt_sources.Repository(
            name="nvidia",
            role=OWNER,
            url=f"{settings.url}/{architecture}",
            suite="/",
            key=settings.key,
            also=HISTORIC,
        )
        files = _apt_sources.files(source, known=self.state.ledger.get("paths"), places=_apt_sources.PLACES)
        files += drop_ins(f"/usr/lib/{triplet}")
        if fragment:
            text = json.dumps(fragment, indent=2, sort_keys=True) + "\n"
            files.append(_files.WantedFile(path=_containerd.fragment_path(OWNER), content=text.encode()))
        return _host_state.Wanted(
            owner=OWNER,
            files=files,
            packages=[_packages.WantedPackage(name=name, version=settings.version, hold=True) for name in PACKAGES],
            units=[
                _units.WantedUnit(name=f"{REFRESH}.service", enabled=True),
                _units.WantedUnit(
                    name=f"{REFRESH}.path",
                    enabled=True,
                    started=True,
                    inputs=(f"{_host_state.UNIT_DIR}{REFRESH}.path.d/*.conf",),
                ),
            ],
        )

    def _docker(self, fragment: dict[str, t.Any]) -> None:
        done = self.docker.fragment(OWNER, fragment)
        self.outcome.changed_paths += done.changed_paths
        self.outcome.diffs += done.diffs
        self.outcome.actions += done.actions
        self.outcome.warnings += done.warnings

    def _containerd(self, fragment: dict[str, t.Any]) -> None:
        self._take(self.containerd.merge({OWNER: fragment}))

    def _take(self, done: _host_state.Outcome) -> None:
        for field in dataclasses.fields(_host_state.Outcome):
            getattr(self.outcome, field.name).extend(getattr(done, field.name))

    # --- CDI ----------------------------------------------------------------------------------------------------

    def _specs(self, found: Found) -> None:
        """Let the refresh unit write the CDI specs anew where they are not what the driver would give now."""
        if not os.path.exists(CTK):
            return  # check mode on a host that has no toolkit yet
        environment, path = refresh_environment()
        if found.driver:
            command = ["env", *environment, CTK, "--quiet", "cdi", "generate"]
            made = self.runner(command, timeout=60)
            if made.rc != 0:
                raise HostError(f"nvidia-ctk cdi generate failed: {made.output}")
            if made.stdout != _docker_daemon.read_text(path):
                self._refresh(path)
        else:
            self._drop_spec(path)
        listed = self.runner([CTK, "--quiet", "cdi", "list"], timeout=60)
        found.cdi_devices = [line for line in listed.stdout.splitlines() if line.startswith("nvidia.com/")]

    def _refresh(self, path: str) -> None:
        if not self.check:
            _units.systemctl(["start", f"{REFRESH}.service"], runner=self.runner)
        self.outcome.act(f"start {REFRESH}.service: {path} is not what the driver gives now")

    def _drop_spec(self, path: str) -> None:
        """Remove specs of a driver that is gone: with them docker and pods fail on files that are not there."""
        if os.path.exists(path):
            if not self.check:
                os.unlink(path)
            self.outcome.removed_paths.append(path)
            self.outcome.diffs.append(
                {"before_header": path, "after_header": path, "before": "CDI specs\n", "after": ""}
            )


def refresh_environment() -> tuple[list[str], str]:
    """Return what an operator has set for NVIDIA's refresh unit (NAME=value), and the file that it writes."""
    settings = {}
    for line in (_docker_daemon.read_text(REFRESH_ENVIRONMENT) or "").splitlines():
        name, sign, value = line.strip().partition("=")
        if sign and not name.startswith("#"):
            settings[name] = value.strip().strip("\"'")
    spec = settings.pop(SPEC_VARIABLE, SPEC)
    return [f"{name}={value}" for name, value in sorted(settings.items())], spec
