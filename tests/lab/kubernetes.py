"""Kubernetes: its packages, which `internet` serves on request, and its images, which the private registry gets.

All is built from Go modules, once, in about 20 minutes on two cores. A lab without Kubernetes never builds it, and the
release before, from which clusters are upgraded, is built only for who asks for it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.lab import golang, images, internet, paths, plan, seed
from tests.lab.progress import step
from tests.lab.recipes import KUBERNETES_IMAGES, KUBERNETES_IMAGES_BEFORE, KUBERNETES_ROOT, RECIPES


@dataclass(frozen=True)
class Release:
    """A release of Kubernetes.

    Attributes:
        version: Such as 1.34.3.
        images: Reference in a registry to recipe.
        packages: Recipe of the package repository.
        suffix: What the names of its files end in; empty for the lab's default.
    """

    version: str
    images: Mapping[str, str]
    packages: str
    suffix: str = ""

    @property
    def repository(self) -> Path:
        """Where its packages are below pkgs.k8s.io: one repository for each minor version."""
        return Path("core:", "stable:", f"v{self.version.rpartition('.')[0]}")


CURRENT = Release(golang.KUBERNETES, KUBERNETES_IMAGES, "apt-kubernetes")
BEFORE = Release(
    golang.KUBERNETES_BEFORE, KUBERNETES_IMAGES_BEFORE, f"apt-kubernetes-{golang.KUBERNETES_BEFORE}", "-before"
)
RELEASES = (CURRENT, BEFORE)


def directory(release: Release = CURRENT) -> Path:
    """Directory with packages and images; named by what it is made of."""
    made_of = sorted({**release.images, KUBERNETES_ROOT: release.packages}.items())
    key = paths.digest(*(f"{reference} {RECIPES[name].key()}" for reference, name in made_of))
    return paths.artefacts() / f"kubernetes-{key}"


def content(release: Release = CURRENT) -> Path:
    """The same directory, filled if it is not in the cache."""
    target = directory(release)
    with paths.locked(f"kubernetes{release.suffix}"):
        if not target.exists():
            # One after the other: the programs are made of the same packages, which Go then compiles once.
            for name in (*release.images.values(), release.packages):
                images.ensure(name)
            with step(f"packages and images of Kubernetes {release.version}"):
                _fill(target, release)
    return target


def _fill(target: Path, release: Release) -> None:
    temporary = target.with_suffix(".part")
    shutil.rmtree(temporary, ignore_errors=True)
    sources = {reference: images.tag(name) for reference, name in release.images.items()}
    internet.fill_store(temporary / "registry", sources)
    images.extract(release.packages, KUBERNETES_ROOT, temporary / "apt")
    temporary.rename(target)


def publish(release: Release = CURRENT) -> None:
    """Let `internet` serve the packages, and note who signs them: each release has a key of its own."""
    source = content(release) / "apt"
    served = internet.directory() / "kubernetes"
    with paths.locked(f"kubernetes{release.suffix}"):
        for name in ("Release.key", "fingerprint"):
            text = (source / name).read_text(encoding="ascii")
            kind = "asc" if name == "Release.key" else name
            paths.write(paths.state() / f"kubernetes-apt-key{release.suffix}.{kind}", text)
        note = served / f"fingerprint{release.suffix}"
        repository = served / release.repository
        if _text(note) == _text(source / "fingerprint") and repository.exists():
            return
        temporary = served / f".kubernetes.{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source / release.repository, temporary)
        shutil.rmtree(repository, ignore_errors=True)
        repository.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(repository)
        paths.write(note, _text(source / "fingerprint"))


def hosts_file() -> Path:
    """What inventory/lab/kubernetes shows while the lab has the machines."""
    return paths.state() / "kubernetes-hosts.json"


def write_hosts(more: Mapping[str, Mapping[str, list[str]]] | None = None) -> None:
    """Put the machines into the lab's inventory: node1 and node2 are nodes then, too.

    Args:
        more: Further groups.
    """
    own = {machine.name: {"ansible_host": str(machine.address)} for machine in plan.KUBERNETES}
    groups = {
        "machines": {"hosts": list(own)},
        "nodes": {"hosts": ["node3"]},
        "kubernetes_control_planes": {"hosts": ["control"]},
        "kubernetes_nodes": {"hosts": ["node1", "node2", "node3"]},
        "kubernetes": {"children": ["kubernetes_control_planes", "kubernetes_nodes"]},
    }
    paths.write(hosts_file(), json.dumps({**groups, **(more or {}), "_meta": {"hostvars": own}}, indent=1) + "\n")


def _text(path: Path) -> str:
    return path.read_text(encoding="ascii") if path.exists() else ""


def push(registry: seed.Registry, release: Release = CURRENT) -> list[str]:
    """Push the images to the private registry, under the names that they have upstream.

    Returns:
        The references there.
    """
    store = seed.Store(content(release) / "registry")
    references = [reference.rpartition(":")[::2] for reference in release.images]
    with ThreadPoolExecutor(max_workers=4) as pool:
        for done in [pool.submit(partial(seed.push, store, one, registry, one)) for one in references]:
            done.result()
    return list(release.images)
