"""The distribution that stands in for Apache's: its layout, and how it is served."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from tests.lab import downloads, paths, recipes, seed, spark
from tests.lab.errors import LabError

PACKAGE = {
    "deps/bin/spark-submit": 0o755,
    "deps/jars/spark-core.jar": 0o644,
    "deps/examples/pi.py": 0o644,
    "lib/py4j-0.10-src.zip": 0o644,
    "pyspark/__init__.py": 0o644,
    "pyspark/sql/a.py": 0o644,
    "setup.py": 0o644,
    "PKG-INFO": 0o644,
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and PyPI's package without PyPI."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def source(_: Path, target: Path) -> Path:
        target.mkdir()
        with tarfile.open(target / "pyspark.tar.gz", "w:gz") as archive:
            for name, mode in PACKAGE.items():
                entry = tarfile.TarInfo(f"pyspark-3.5.9/{name}")
                entry.size, entry.mode, entry.mtime, entry.uid = len(name), mode, 1_700_000_000, 501
                archive.addfile(entry, io.BytesIO(name.encode()))
        return target / "pyspark.tar.gz"

    monkeypatch.setattr(downloads, "source", source)
    return tmp_path / "slipway"


def test_it_has_the_layout_of_apaches(cache: Path) -> None:
    with tarfile.open(spark.distribution("3.5.9")) as archive:
        found = {entry.name.removeprefix("spark-3.5.9-bin-hadoop3/"): entry for entry in archive}
        content = archive.extractfile(found["bin/spark-submit"])
        assert content and content.read() == b"deps/bin/spark-submit"
    assert {name: entry.mode for name, entry in found.items()} == {
        "RELEASE": 0o644,
        "bin/spark-submit": 0o755,
        "jars/spark-core.jar": 0o644,
        "examples/src/main/python/pi.py": 0o644,
        "python/lib/py4j-0.10-src.zip": 0o644,
        "python/pyspark/__init__.py": 0o644,
        "python/pyspark/sql/a.py": 0o644,
    }
    assert {entry.uid for entry in found.values()} == {0}


def test_the_same_package_makes_the_same_file(cache: Path) -> None:
    first = spark.distribution("3.5.9").read_bytes()
    spark.file_of("3.5.9").unlink()
    assert spark.distribution("3.5.9").read_bytes() == first
    assert list(paths.artefacts().glob("*.download")) == []


def test_it_is_served_with_its_checksum(cache: Path) -> None:
    spark.publish("3.5.9")
    served = cache / "lab/internet/apache/dist/spark/spark-3.5.9/spark-3.5.9-bin-hadoop3.tgz"
    checksum = hashlib.sha512(served.read_bytes()).hexdigest()
    assert (cache / "lab/spark-3.5.9.sha512").read_text() == f"{checksum}\n"
    assert Path(f"{served}.sha512").read_text() == f"{checksum}  {served.name}\n"
    before = served.stat()
    spark.publish("3.5.9")
    assert served.stat() == before
    spark.file_of("3.5.9").write_bytes(b"another")
    served.unlink()
    spark.publish("3.5.9")
    assert served.read_bytes() == b"another"


def test_a_version_that_the_lab_has_not_is_named() -> None:
    with pytest.raises(LabError, match=r"Spark's version is '2\.2\.0': it needs one of 3\.5\.9"):
        spark.publish("2.2.0")


def test_every_version_is_pinned_by_hash() -> None:
    for version in spark.VERSIONS:
        assert f"pyspark=={version} \\\n    --hash=sha256:" in spark.requirements(version).read_text()


def test_what_can_be_pushed_has_recipes() -> None:
    for wanted in spark.SETS.values():
        assert set(wanted.values()) <= set(recipes.RECIPES)
    assert len({spark.directory(which) for which in spark.SETS}) == 3
    assert spark.references()["driver"].startswith("nvidia-spark-driver:3.5.9-torch-1.13.1-")


@pytest.mark.parametrize("there", [True, False])
def test_what_is_built_has_the_model_too(there: bool, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: list[tuple[Path, str]] = []
    monkeypatch.setattr(spark, "content", spark.directory)
    monkeypatch.setattr(seed, "push", lambda store, source, registry, target: pushed.append((store.root, source[0])))
    if there:
        spark.directory("built").mkdir(parents=True)
    registry = seed.Registry(host="r", port=1, address="a", ca=cache, user="u", password="p")
    assert spark.push(registry, "model") == ["debian:12", "torch:1.13.1"]
    store = spark.directory("built" if there else "model")
    assert sorted(pushed) == [(store, "debian"), (store, "torch")]


def test_another_entry_point_makes_another_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = spark.tag()
    (tmp_path / "entrypoint.sh").write_text("another")
    monkeypatch.setattr(spark, "SOURCE", tmp_path)
    assert spark.tag() != before


def test_wheels_are_part_of_a_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch = recipes.RECIPES["spark-torch"]
    before = torch.key()
    (tmp_path / "spark").mkdir()
    (tmp_path / "spark/wheels.txt").write_text("another")
    monkeypatch.setattr(recipes, "FILES", tmp_path)
    assert torch.key() != before
