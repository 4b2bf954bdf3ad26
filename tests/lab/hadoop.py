"""Hadoop: a tarball in the layout of Apache's own, made of the jars that Maven has, which `internet` serves on request.

The jars are Hadoop's own. Its scripts, native libraries and web pages are in no registry: their places are empty, and
bin/hdfs says so.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from tests.lab import internet, paths
from tests.lab.errors import LabError
from tests.lab.paths import FILES
from tests.lab.progress import step

VERSION = "3.4.2"
PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
NAME = f"hadoop-{VERSION}"
# Where Apache's archive has it.
PLACE = Path("dist/hadoop/common") / NAME / f"{NAME}.tar.gz"
# Jars of Hadoop itself, by directory below share/hadoop; all others are libraries.
OWN = {"hadoop-hdfs": "hdfs", "hadoop-hdfs-client": "hdfs", "hadoop-common": "common"}
# Who does what in a lab that has a file system; for inventory/lab.
GROUPS = {
    "hdfs_namenodes": {"hosts": ["control"]},
    "hdfs_secondaries": {"hosts": ["node1"]},
    "hdfs_datanodes": {"hosts": ["node1", "node2"]},
    "hdfs_clients": {"hosts": ["control"]},
}
WEB_PAGES = ("datanode", "hdfs", "journal", "secondary", "static")


def directory() -> Path:
    """Directory with the tarball and its checksum; named by what it is made of."""
    sources = [path.read_text(encoding="utf-8") for path in sorted((FILES / "hadoop").iterdir())]
    return paths.artefacts() / f"hadoop-{paths.digest(VERSION, PLUGIN, *WEB_PAGES, *sources)}"


def content() -> Path:
    """The same directory, filled if it is not in the cache."""
    target = directory()
    with paths.locked("hadoop"):
        if not target.exists():
            with step(f"Hadoop {VERSION}"):
                _fill(target)
    return target


def _fill(target: Path) -> None:
    temporary = target.with_suffix(".part")
    shutil.rmtree(temporary, ignore_errors=True)
    jars = temporary / "jars"
    jars.mkdir(parents=True)
    shutil.copy(FILES / "hadoop" / "pom.xml", temporary / "pom.xml")
    words = [f"-Dhadoop.version={VERSION}", f"-DoutputDirectory={jars}", "-DincludeScope=runtime"]
    command = ["mvn", "-q", "-B", f"{PLUGIN}:copy-dependencies", *words]
    try:
        done = subprocess.run(command, cwd=temporary, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise LabError("mvn is not installed: Hadoop's jars come from Maven (apt install maven)") from None
    if done.returncode:
        raise LabError(f"{' '.join(command)} failed: {(done.stdout + done.stderr)[-3000:]}")
    archive = temporary / PLACE.name
    write_tarball(archive, sorted(jars.glob("*.jar")))
    paths.write(temporary / "sha512", hashlib.sha512(archive.read_bytes()).hexdigest() + "\n")
    shutil.rmtree(jars)
    temporary.rename(target)


def write_tarball(archive: Path, jars: list[Path]) -> None:
    """Write the tarball: the same jars give the same bytes."""
    with (
        archive.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name in (f"share/hadoop/hdfs/webapps/{page}" for page in WEB_PAGES):
            tar.addfile(_member(name, tarfile.DIRTYPE))
        _add(tar, "bin/hdfs", (FILES / "hadoop" / "hdfs").read_bytes(), 0o755)
        _add(tar, "etc/hadoop/core-site.xml", b"<configuration/>\n", 0o644)
        for jar in jars:
            part = OWN.get(jar.stem.removesuffix(f"-{VERSION}"))
            _add(tar, f"share/hadoop/{part or 'common/lib'}/{jar.name}", jar.read_bytes(), 0o644)


def _member(name: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o755) -> tarfile.TarInfo:
    member = tarfile.TarInfo(f"{NAME}/{name}")
    member.type, member.mode = kind, mode
    return member


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    member = _member(name, mode=mode)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def publish() -> None:
    """Let `internet` serve the tarball under the name of Apache's archive, and note its checksum."""
    source = content()
    served = internet.directory() / "apache" / PLACE
    with paths.locked("hadoop"):
        paths.write(paths.state() / "hadoop.sha512", (source / "sha512").read_text(encoding="ascii"))
        original = source / PLACE.name
        if served.exists() and served.samefile(original):
            return
        served.parent.mkdir(parents=True, exist_ok=True)
        temporary = served.with_name(f".{served.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        os.link(original, temporary)
        temporary.replace(served)
