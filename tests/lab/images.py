"""Makes images: from the engine, else from the cache, else by building."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from pathlib import Path

import docker.errors

from tests.lab import downloads, golang, paths, sources
from tests.lab.engine import client
from tests.lab.errors import LabError
from tests.lab.paths import FILES
from tests.lab.progress import step
from tests.lab.recipes import MACHINE_IMAGES, PROGRAMS_ROOT, RECIPES, SOURCES_ROOT, Base, Compiled, Layer, mode

PREFIX = "slipway-lab/"

# Debian's client: another one first on PATH may not speak to Debian's dockerd.
DOCKER = "/usr/bin/docker"

COMPILE_SECONDS = 1800


def tag(name: str) -> str:
    """Full tag of an image; holds the hash of what it is made of."""
    return f"{PREFIX}{name}:{RECIPES[name].key()}"


def ensure(name: str) -> str:
    """Make sure that the engine has an image.

    Args:
        name: A recipe's name.

    Returns:
        Its tag.

    Raises:
        LabError: There is no such recipe, or building failed.
    """
    if name not in RECIPES:
        raise LabError(f"Image '{name}' is unknown: it needs one of {', '.join(RECIPES)}.")
    if present(tag(name)):
        return tag(name)
    with paths.locked(f"image-{name}"):
        if not present(tag(name)):
            _load_or_build(name)
    return tag(name)


def archive(name: str) -> Path:
    """File in the cache from which an image can be loaded, once it has been built."""
    return paths.artefacts() / f"image-{name}-{RECIPES[name].key()}.tar"


def present(full_tag: str) -> bool:
    """Whether the engine has the image."""
    try:
        client().images.get(full_tag)
    except docker.errors.ImageNotFound:
        return False
    return True


def extract(name: str, path: str, target: Path) -> None:
    """Copy a directory out of an image.

    Args:
        name: A recipe's name.
        path: The directory in the image.
        target: What it is called on this host; its parent exists.
    """
    container = client().containers.create(ensure(name))
    try:
        chunks, _ = container.get_archive(path)
        with tempfile.TemporaryFile() as file:
            for chunk in chunks:
                file.write(chunk)
            file.seek(0)
            with tarfile.open(fileobj=file) as archive, tempfile.TemporaryDirectory(dir=target.parent) as directory:
                archive.extractall(directory, filter="data")
                (Path(directory) / Path(path).name).rename(target)
    finally:
        container.remove(force=True)


def remove_all_but(tags: set[str]) -> list[str]:
    """Remove the lab's other images, but those of containers that exist.

    Returns:
        Tags that are gone.
    """
    gone = []
    for image in client().images.list():
        for found in image.tags:
            if found.startswith(PREFIX) and found not in tags:
                try:
                    client().images.remove(found)
                except docker.errors.APIError:
                    continue
                gone.append(found)
    return gone


def _load_or_build(name: str) -> None:
    kept = archive(name)
    if kept.exists():
        with step(f"image {name} from the cache"):
            _run([DOCKER, "load", "--quiet", "--input", str(kept)])
        return
    recipe = RECIPES[name]
    if isinstance(recipe, Base):
        with step(f"image {name} from Debian packages"):
            _bootstrap(recipe)
    elif isinstance(recipe, Compiled):
        ensure(recipe.parent)
        with step(f"image {name} from {recipe.module} {recipe.version}"):
            _compile(recipe)
    else:
        for below in (recipe.parent, *recipe.copies):
            if below in RECIPES:
                ensure(below)
        with step(f"image {name} on top of {recipe.parent}"):
            _layer(recipe)
    if name in MACHINE_IMAGES:
        temporary = kept.with_suffix(".part")
        _run([DOCKER, "save", "--output", str(temporary), tag(name)])
        temporary.rename(kept)


def _bootstrap(recipe: Base) -> None:
    """Build a root directory with mmdebstrap and import it."""
    with tempfile.TemporaryDirectory(prefix="slipway-") as directory:
        root = Path(directory, "root.tar")
        command = [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            *([f"--include={','.join(recipe.packages)}"] if recipe.packages else []),
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        ]
        command += [f"--customize-hook=copy-in {FILES / s} /tmp" for s in recipe.files.values()]
        for target, s in recipe.files.items():
            copied = f'"$1/tmp/{Path(s).name}"'
            command.append(f'--customize-hook=install -m {mode(FILES / s):o} {copied} "$1{target}" && rm {copied}')
        if recipe.hook:
            command.append(f"--customize-hook={FILES / recipe.hook}")
        command += [recipe.suite, str(root), *sources.lines(recipe.suite, sources.host_archives())]
        _run(command)
        _run([DOCKER, "import", "--change", 'CMD ["/bin/bash"]', str(root), tag(recipe.name)])


def _layer(recipe: Layer) -> None:
    """Build a layer with the engine's own builder: it needs no plugin and no network but the packages'."""
    text = f"FROM {tag(recipe.parent) if recipe.parent in RECIPES else recipe.parent}\n{recipe.dockerfile}"
    for name in recipe.copies:
        text = text.replace(f"@{name}@", tag(name))
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        _add(archive, "Dockerfile", text.encode())
        for target, source in recipe.files.items():
            _add(archive, target, (FILES / source).read_bytes(), mode(FILES / source))
        for name in recipe.programs:
            archive.add(golang.program(name), name)
        for wheel in downloads.wheels(FILES / recipe.wheels) if recipe.wheels else ():
            archive.add(wheel, wheel.name)
    context.seek(0)
    try:
        client().images.build(fileobj=context, custom_context=True, tag=tag(recipe.name), rm=True, forcerm=True)
    except (docker.errors.BuildError, docker.errors.APIError) as error:
        log = "".join(str(line.get("stream", "")) for line in getattr(error, "build_log", []))
        raise LabError(f"Image {recipe.name} could not be built: {error}\n{log[-3000:]}") from error


def _compile(recipe: Compiled) -> None:
    """Compile a Go module's programs in a container of the parent: Go, and what it has downloaded, are the host's."""
    module = golang.download(recipe.module, recipe.version, recipe.packages)
    commands = f"mkdir {PROGRAMS_ROOT} && {golang.binary()} build -trimpath -buildvcs=false -o {PROGRAMS_ROOT}/"
    commands += ' -ldflags "$LINK_FLAGS" ' + " ".join(f"./{package}" for package in recipe.packages)
    if recipe.sources:
        commands += f" && cp -r {module}/{recipe.sources} {SOURCES_ROOT}"
    container = client().containers.create(
        tag(recipe.parent),
        ["sh", "-c", commands],
        network_mode="none",
        working_dir=str(module),
        volumes=[f"{path}:{path}:ro" for path in (golang.root(), golang.module_cache())] + ["/tmp"],
        environment={
            "LINK_FLAGS": recipe.link_flags,
            "CGO_ENABLED": "1",
            "GOCACHE": "/tmp/go-build",
            "GOFLAGS": "-mod=readonly",
            "GOMODCACHE": str(golang.module_cache()),
            "GOPROXY": "off",
            "GOTOOLCHAIN": "local",
        },
    )
    try:
        container.start()
        if container.wait(timeout=COMPILE_SECONDS)["StatusCode"]:
            raise LabError(f"Compiling {recipe.name} failed: {container.logs(tail=40).decode(errors='replace')}")
        container.commit(repository=PREFIX + recipe.name, tag=recipe.key())
    finally:
        container.remove(v=True, force=True)


def _add(archive: tarfile.TarFile, name: str, content: bytes, bits: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), bits
    archive.addfile(entry, io.BytesIO(content))


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise LabError(f"{command[0]} failed ({result.returncode}): {(result.stderr or result.stdout)[-3000:]}")
