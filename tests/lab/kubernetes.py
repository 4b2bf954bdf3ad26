"""Kubernetes: its packages, which `internet` serves on request, and its images, which the private registry gets.

All is built from Go modules, once, in about 20 minutes on two cores. A lab without Kubernetes never builds it.
"""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.lab import images, internet, paths, plan, seed
from tests.lab.progress import step
from tests.lab.recipes import KUBERNETES_IMAGES, KUBERNETES_ROOT, RECIPES

MADE_OF = (*KUBERNETES_IMAGES.values(), "apt-kubernetes")


def directory() -> Path:
    """Directory with packages and images; named by what it is made of."""
    made_of = sorted({**KUBERNETES_IMAGES, KUBERNETES_ROOT: "apt-kubernetes"}.items())
    key = paths.digest(*(f"{reference} {RECIPES[name].key()}" for reference, name in made_of))
    return paths.artefacts() / f"kubernetes-{key}"


def content() -> Path:
    """The same directory, filled if it is not in the cache."""
    target = directory()
    with paths.locked("kubernetes"):
        if not target.exists():
            # One after the other: the programs are made of the same packages, which Go then compiles once.
            for name in MADE_OF:
                images.ensure(name)
            with step("Kubernetes' packages and images"):
                _fill(target)
    return target


def _fill(target: Path) -> None:
    temporary = target.with_suffix(".part")
    shutil.rmtree(temporary, ignore_errors=True)
    sources = {reference: images.tag(name) for reference, name in KUBERNETES_IMAGES.items()}
    internet.fill_store(temporary / "registry", sources)
    images.extract("apt-kubernetes", KUBERNETES_ROOT, temporary / "apt")
    temporary.rename(target)


def publish() -> None:
    """Let `internet` serve the packages, and note who signs them."""
    source = content() / "apt"
    served = internet.directory() / "kubernetes"
    with paths.locked("kubernetes"):
        for name in ("Release.key", "fingerprint"):
            text = (source / name).read_text(encoding="ascii")
            paths.write(paths.state() / f"kubernetes-apt-key.{'asc' if name == 'Release.key' else name}", text)
        if _text(served / "fingerprint") == _text(source / "fingerprint"):
            return
        temporary = served.with_name(f".kubernetes.{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source, temporary)
        shutil.rmtree(served, ignore_errors=True)
        temporary.rename(served)


def hosts_file() -> Path:
    """What inventory/lab/kubernetes shows while the lab has the machines."""
    return paths.state() / "kubernetes-hosts.json"


def write_hosts() -> None:
    """Put the machines into the lab's inventory: node1 and node2 are nodes then, too."""
    own = {machine.name: {"ansible_host": str(machine.address)} for machine in plan.KUBERNETES}
    groups = {
        "machines": {"hosts": list(own)},
        "nodes": {"hosts": ["node3"]},
        "kubernetes_control_planes": {"hosts": ["control"]},
        "kubernetes_nodes": {"hosts": ["node1", "node2", "node3"]},
        "kubernetes": {"children": ["kubernetes_control_planes", "kubernetes_nodes"]},
    }
    paths.write(hosts_file(), json.dumps({**groups, "_meta": {"hostvars": own}}, indent=1) + "\n")


def _text(path: Path) -> str:
    return path.read_text(encoding="ascii") if path.exists() else ""


def push(registry: seed.Registry) -> list[str]:
    """Push the images to the private registry, under the names that they have upstream.

    Returns:
        The references there.
    """
    store = seed.Store(content() / "registry")
    references = [reference.rpartition(":")[::2] for reference in KUBERNETES_IMAGES]
    with ThreadPoolExecutor(max_workers=4) as pool:
        for done in [pool.submit(partial(seed.push, store, one, registry, one)) for one in references]:
            done.result()
    return list(KUBERNETES_IMAGES)
