"""The internet as the company sees it: registries and the packages of Docker and NVIDIA under their real names."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import docker.errors

from tests.lab import golang, images, paths, pki, plan
from tests.lab.engine import client
from tests.lab.errors import LabError
from tests.lab.paths import FILES
from tests.lab.progress import step
from tests.lab.recipes import APT_ROOT, HUB, HUB_INDEXES, NVIDIA_ROOT, RECIPES, SEED

REGISTRY = """\
version: 0.1
log:
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: {root}
  maintenance:
    readonly:
      enabled: {readonly}
http:
  addr: 127.0.0.1:{port}
"""

# Docker's formats (distribution, manifest-v2-2.md).
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

# Recipes of all that is served.
MADE_OF = (*HUB.values(), *SEED.values(), "apt", "apt-nvidia")


def directory() -> Path:
    """Its configuration, bound into its container at /srv/lab."""
    return paths.state() / "internet"


def write_configuration() -> bool:
    """Write its files and certificate.

    Returns:
        Whether nginx has to read them again.
    """
    tls = pki.Files(directory() / "tls.crt", directory() / "tls.key")
    changed = pki.ensure(plan.PLAYED_NAMES, tls)
    # Who signs Docker's packages; handed to docker_engine as text.
    key = content() / "apt" / "linux" / "debian" / "gpg"
    paths.write(paths.state() / "docker-apt-key.asc", key.read_text(encoding="ascii"))
    # Who signs NVIDIA's; handed to nvidia_container_toolkit as text, with the fingerprint that it pins.
    nvidia = content() / "nvidia"
    key = nvidia / "www" / "libnvidia-container" / "gpgkey"
    paths.write(paths.state() / "nvidia-apt-key.asc", key.read_text(encoding="ascii"))
    fingerprint = (nvidia / "fingerprint").read_text(encoding="ascii")
    paths.write(paths.state() / "nvidia-apt-key.fingerprint", fingerprint)
    changed = (
        paths.write(directory() / "nginx.conf", (FILES / "internet" / "nginx.conf").read_text(encoding="utf-8"))
        or changed
    )
    registry = REGISTRY.format(root="/srv/hub/registry", readonly="true", port=5000)
    return paths.write(directory() / "registry.yml", registry) or changed


def content_directory() -> Path:
    """Directory with all that `internet` serves, bound at /srv/hub; named by what it is made of."""
    served = sorted({**HUB, **SEED, APT_ROOT: "apt", NVIDIA_ROOT: "apt-nvidia"}.items())
    key = paths.digest(*(f"{reference} {RECIPES[name].key()}" for reference, name in served))
    return paths.artefacts() / f"hub-{key}"


def content() -> Path:
    """The same directory, filled if it is not in the cache."""
    target = content_directory()
    with paths.locked("hub"):
        if not target.exists():
            for name in MADE_OF:
                images.ensure(name)
            with step("what the internet serves"):
                _fill(target)
        _add_indexes(target / "registry")
    return target


def seed_store() -> Path:
    """Directory of a registry's files that hold `hello:1`."""
    return content() / "seed"


def _fill(target: Path) -> None:
    temporary = target.with_suffix(".part")
    shutil.rmtree(temporary, ignore_errors=True)
    fill_store(temporary / "registry", {reference: images.tag(name) for reference, name in HUB.items()})
    fill_store(temporary / "seed", {reference: images.tag(name) for reference, name in SEED.items()})
    images.extract("apt", APT_ROOT, temporary / "apt")
    images.extract("apt-nvidia", NVIDIA_ROOT, temporary / "nvidia")
    temporary.rename(target)


def fill_store(root: Path, references: Mapping[str, str]) -> None:
    """Run a registry on this host for as long as it takes to push images of its engine into it.

    Args:
        root: Directory of the registry's files; it is made.
        references: Repository and tag there to the tag in the engine.
    """
    root.mkdir(parents=True)
    with _serving(root) as port:
        for reference, source in references.items():
            push(source, f"127.0.0.1:{port}/{reference}")


def _add_indexes(root: Path) -> None:
    """Have the images for several platforms in Docker Hub's store; they are made of what is there."""
    missing = []
    for index in HUB_INDEXES:
        repository, _, tag = index.partition(":")
        link = root / "docker/registry/v2/repositories" / repository / "_manifests/tags" / tag / "current/link"
        missing += [] if link.exists() else [index]
    if missing:
        with _serving(root) as port:
            for index in missing:
                _push_index(port, index, HUB_INDEXES[index])


@contextlib.contextmanager
def _serving(root: Path) -> Iterator[int]:
    """Run a registry on this host for as long as it takes to push images into it; yield its port."""
    port = _free_port()
    configuration = root.with_suffix(".yml")
    paths.write(configuration, REGISTRY.format(root=root, readonly="false", port=port))
    server = subprocess.Popen(
        [str(golang.program("registry")), "serve", str(configuration)],
        env={"OTEL_TRACES_EXPORTER": "none"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(port)
        yield port
    finally:
        server.terminate()
        server.wait(timeout=10)
    configuration.unlink()


def push(source: str, reference: str) -> None:
    """Push an image from this host's engine.

    Args:
        source: Tag that the engine has.
        reference: Where to; the temporary tag is removed afterwards.

    Raises:
        LabError: The registry refused.
    """
    repository, _, version = reference.rpartition(":")
    try:
        client().images.get(source).tag(repository, version)
        answer: Any = client().api.push(repository, version, stream=True, decode=True)
        errors = [line["error"] for line in answer if "error" in line]
    except docker.errors.APIError as error:
        errors = [str(error.explanation)]
    client().images.remove(reference, noprune=True)
    if errors:
        raise LabError(f"Pushing {reference} failed: {errors[0]}")


def _push_index(port: int, reference: str, image: str) -> None:
    """Push an image for amd64 and, with the same layers, for arm64, in Docker's format: as most of Docker Hub is.

    Args:
        port: The registry's.
        reference: Repository and tag of the index.
        image: Repository and tag of an image that is there.
    """
    (repository, _, tag), (source, _, version) = reference.partition(":"), image.partition(":")
    manifest = json.loads(_ask(port, f"{source}/manifests/{version}"))
    kind, children = manifest["mediaType"], []
    for architecture in ("amd64", "arm64"):
        config = json.loads(_ask(port, f"{source}/blobs/{manifest['config']['digest']}"))
        data = json.dumps({**config, "architecture": architecture}).encode()
        _push_blob(port, repository, data)
        for layer in manifest["layers"]:
            _ask(port, f"{repository}/blobs/uploads/?mount={layer['digest']}&from={source}", "POST", b"")
        described = {**manifest["config"], "digest": _digest(data), "size": len(data)}
        child = json.dumps({**manifest, "config": described}).encode()
        _ask(port, f"{repository}/manifests/{_digest(child)}", "PUT", child, kind)
        platform = {"os": "linux", "architecture": architecture}
        children.append({"mediaType": kind, "digest": _digest(child), "size": len(child), "platform": platform})
    index = {"schemaVersion": 2, "mediaType": LIST, "manifests": children}
    _ask(port, f"{repository}/manifests/{tag}", "PUT", json.dumps(index).encode(), LIST)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _push_blob(port: int, repository: str, data: bytes) -> None:
    base = f"http://127.0.0.1:{port}/v2/{repository}/blobs/uploads/"
    with urllib.request.urlopen(urllib.request.Request(base, b"", method="POST"), timeout=60) as answer:
        where = f"{answer.headers['Location']}&digest={_digest(data)}"
    headers = {"Content-Type": "application/octet-stream"}
    urllib.request.urlopen(urllib.request.Request(where, data, headers, method="PUT"), timeout=60).close()


def _ask(port: int, path: str, method: str = "GET", data: bytes | None = None, kind: str = "") -> bytes:
    headers = {"Accept": MANIFEST, **({"Content-Type": kind} if kind else {})}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v2/{path}", data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise LabError("The registry that is to be filled does not answer.")
