"""Spark: the distribution that `internet` serves in place of Apache's archive, and images for the private registry.

The distribution has the layout of Apache's and is made of PyPI's package of the same version, which holds the same jars
and programs. A lab without Spark makes none of it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import docker.errors

from tests.lab import downloads, images, internet, paths, seed
from tests.lab.engine import client
from tests.lab.errors import LabError
from tests.lab.progress import step
from tests.lab.recipes import RECIPES, SPARK_IMAGES, SPARK_MODEL, SPARK_SMALL

VERSION = "3.5.9"
VERSIONS = (VERSION, "4.1.4")
JAVA = "17"
# Where Apache's archive has it, below what `internet` serves.
NAME = "spark-{version}-bin-hadoop3"
ARCHIVE = "dist/spark/spark-{version}"
# Directories of PyPI's source package, and where they are in a distribution.
LAYOUT = {
    "deps/bin": "bin",
    "deps/sbin": "sbin",
    "deps/jars": "jars",
    "deps/data": "data",
    "deps/licenses": "licenses",
    "deps/examples": "examples/src/main/python",
    "lib": "python/lib",
    "pyspark": "python/pyspark",
}
# Who submits in a lab that has Spark; for inventory/lab.
GROUPS = {"spark_clients": {"hosts": ["control"]}}
SOURCE = paths.REPOSITORY / "images" / "spark"
ROLES = ("driver", "executor")
# What can be pushed: a base with a model, the same with driver and executor built on it, or the base with small models.
SETS = {"model": SPARK_IMAGES, "built": SPARK_IMAGES, "small": SPARK_SMALL}


def requirements(version: str) -> Path:
    """File that pins PyPI's package of a version.

    Raises:
        LabError: The lab has none of that version.
    """
    if version not in VERSIONS:
        raise LabError(f"Spark's version is '{version}': it needs one of {', '.join(VERSIONS)}.")
    return paths.FILES / "spark" / f"pyspark-{version}.txt"


def file_of(version: str) -> Path:
    """Where a distribution is in the cache, once it has been made."""
    key = paths.digest(requirements(version).read_text(encoding="utf-8"), repr(LAYOUT))
    return paths.artefacts() / f"spark-{version}-{key}.tgz"


def files() -> set[Path]:
    """All that this module keeps in the cache."""
    wheels = downloads.directory(paths.FILES / "spark" / "wheels.txt")
    return {wheels, *map(directory, SETS), *map(file_of, VERSIONS)}


def distribution(version: str) -> Path:
    """A distribution's file, made where the cache has none."""
    pinned, target = requirements(version), file_of(version)
    with paths.locked("spark"):
        if not target.exists():
            with step(f"Spark {version}'s distribution"):
                _repack(pinned, target, NAME.format(version=version))
    return target


def _repack(pinned: Path, target: Path, name: str) -> None:
    download = target.with_suffix(".download")
    shutil.rmtree(download, ignore_errors=True)
    temporary = target.with_suffix(".part")
    with (
        tarfile.open(downloads.source(pinned, download)) as package,
        # Jars are compressed already. No time in it: the same content is the same file.
        gzip.GzipFile(temporary, "wb", compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as made,
    ):
        made.addfile(_plain(tarfile.TarInfo(f"{name}/RELEASE")))
        for entry in package:
            inside = _place(entry.name.partition("/")[2])
            if inside and entry.isfile():
                plain = _plain(tarfile.TarInfo(f"{name}/{inside}"), entry)
                made.addfile(plain, package.extractfile(entry))
    shutil.rmtree(download)
    temporary.rename(target)


def _plain(wanted: tarfile.TarInfo, entry: tarfile.TarInfo | None = None) -> tarfile.TarInfo:
    wanted.size = entry.size if entry else 0
    wanted.mode = 0o755 if entry and entry.mode & 0o100 else 0o644
    return wanted


def _place(path: str) -> str:
    """Where a file of PyPI's package is in a distribution; "" for what is in none."""
    for source, target in LAYOUT.items():
        if path.startswith(f"{source}/"):
            return f"{target}/{path.removeprefix(f'{source}/')}"
    return ""


def publish(version: str = VERSION) -> None:
    """Let `internet` serve a distribution, and note its checksum as Apache publishes it beside the file."""
    file = distribution(version)
    name = f"{NAME.format(version=version)}.tgz"
    served = internet.directory() / "apache" / ARCHIVE.format(version=version) / name
    with paths.locked("spark"):
        if not served.exists() or not served.samefile(file):
            served.parent.mkdir(parents=True, exist_ok=True)
            temporary = served.with_name(f".{name}.{os.getpid()}")
            temporary.unlink(missing_ok=True)
            temporary.hardlink_to(file)
            temporary.replace(served)
        noted = paths.state() / f"spark-{version}.sha512"
        if not noted.exists() or noted.stat().st_mtime < file.stat().st_mtime:
            with file.open("rb") as stream:
                checksum = hashlib.file_digest(stream, "sha512").hexdigest()
            paths.write(noted, f"{checksum}\n")
            noted.touch()
        paths.write(served.with_name(f"{name}.sha512"), f"{noted.read_text(encoding='ascii').strip()}  {name}\n")


def tag() -> str:
    """Tag of the lab's own driver and executor images: like the role's, with another hash."""
    made_of = [file.read_text(encoding="utf-8") for file in sorted(SOURCE.iterdir()) if file.is_file()]
    keys = [RECIPES[name].key() for name in SPARK_IMAGES.values()]
    key = paths.digest(requirements(VERSION).read_text(encoding="utf-8"), JAVA, *keys, *made_of)
    return f"{VERSION}-{SPARK_MODEL.replace(':', '-')}-{key}"


def references() -> dict[str, str]:
    """Repository and tag of driver and executor, by role."""
    return {role: f"nvidia-spark-{role}:{tag()}" for role in ROLES}


def directory(which: str) -> Path:
    """Directory of a registry's files with one of SETS."""
    keys = [f"{reference} {RECIPES[name].key()}" for reference, name in sorted(SETS[which].items())]
    return paths.artefacts() / f"spark-images-{paths.digest(*keys, tag() if which == 'built' else '')}"


def content(which: str) -> Path:
    """The same directory, filled if it is not in the cache."""
    target = directory(which)
    with paths.locked("spark-images"):
        if not target.exists():
            for name in SETS[which].values():
                images.ensure(name)
            with step(f"the images of Spark: {which}"), _merged(which == "built") as merged:
                temporary = target.with_suffix(".part")
                shutil.rmtree(temporary, ignore_errors=True)
                sources = {reference: images.tag(name) for reference, name in SETS[which].items()}
                internet.fill_store(temporary, {**sources, **merged})
                temporary.rename(target)
    return target


@contextmanager
def _merged(wanted: bool) -> Iterator[dict[str, str]]:
    """Driver and executor in the engine, by reference, for as long as it takes."""
    base, model = (images.tag(name) for name in SPARK_IMAGES.values())
    arguments = {"BASE": base, "MODEL": model, "JAVA": JAVA, "SPARK": NAME.format(version=VERSION)}
    tags = {stage: f"{images.PREFIX}spark-{stage}:{tag()}" for stage in ("base", *ROLES)} if wanted else {}
    try:
        for stage, name in tags.items():
            # Each stage of the builder's reads the context anew.
            with _context() as context:
                client().images.build(
                    fileobj=context, custom_context=True, target=stage, tag=name, buildargs=arguments, rm=True
                )
        yield {reference: tags[role] for role, reference in references().items() if wanted}
    except (docker.errors.BuildError, docker.errors.APIError) as error:
        log = "".join(str(line.get("stream", "")) for line in getattr(error, "build_log", []))
        raise LabError(f"Spark's images could not be built: {error}\n{log[-3000:]}") from error
    finally:
        for name in tags.values():
            if images.present(name):
                client().images.remove(name, force=True)


@contextmanager
def _context() -> Iterator[io.BufferedRandom]:
    """What images/spark is built from, the distribution included, as a tar file."""
    file = distribution(VERSION)
    temporary = paths.artefacts() / f".spark-context.{os.getpid()}"
    try:
        with temporary.open("w+b") as stream:
            with tarfile.open(fileobj=stream, mode="w") as archive:
                archive.add(file, "spark.tgz")
                for path in sorted(SOURCE.iterdir()):
                    archive.add(path, path.name)
            stream.seek(0)
            yield stream
    finally:
        temporary.unlink(missing_ok=True)


def push(registry: seed.Registry, which: str) -> list[str]:
    """Push one of SETS, as a site has them, to the private registry.

    Returns:
        The references there.
    """
    # What is built holds the model too: who has that needs no second copy.
    store = seed.Store(content("built" if which == "model" and directory("built").exists() else which))
    wanted = [*SETS[which], *(references().values() if which == "built" else ())]
    pairs = [reference.rpartition(":")[::2] for reference in wanted]
    with ThreadPoolExecutor(max_workers=4) as pool:
        for done in [pool.submit(partial(seed.push, store, one, registry, one)) for one in pairs]:
            done.result()
    return wanted
