"""What the lab serves of Kubernetes, and how its inventory learns of the machines."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.lab import golang, kubernetes, paths, recipes

REPOSITORY = paths.REPOSITORY


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "slipway" / "lab"


def made(root: Path, release: kubernetes.Release, fingerprint: str) -> Path:
    apt = root / "made" / "apt"
    (apt / release.repository).mkdir(parents=True, exist_ok=True)
    (apt / release.repository / "Release").write_text(fingerprint)
    (apt / "Release.key").write_text("the key\n")
    (apt / "fingerprint").write_text(fingerprint)
    return apt.parent


def test_packages_are_served_and_their_signer_noted(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "content", lambda release: made(tmp_path / release.version, release, "AB\n"))
    kubernetes.publish()
    served = cache / "internet" / "kubernetes" / kubernetes.CURRENT.repository
    assert (served / "Release").read_text() == "AB\n"
    assert (cache / "kubernetes-apt-key.asc").read_text() == "the key\n"
    assert (cache / "kubernetes-apt-key.fingerprint").read_text() == "AB\n"
    (served / "touched").touch()
    kubernetes.publish()
    assert (served / "touched").exists(), "what is served already is left alone"
    monkeypatch.setattr(kubernetes, "content", lambda release: made(tmp_path / release.version, release, "CD\n"))
    kubernetes.publish(kubernetes.BEFORE)
    assert (served / "touched").exists(), "and so is the other release"
    assert (served.parent / kubernetes.BEFORE.repository.name / "Release").read_text() == "CD\n"
    assert (cache / "kubernetes-apt-key-before.fingerprint").read_text() == "CD\n"
    kubernetes.publish()
    assert not (served / "touched").exists()
    assert (served.parent / kubernetes.BEFORE.repository.name).is_dir()


def test_the_inventory_has_the_machines_only_while_the_lab_has_them(cache: Path) -> None:
    script = [str(REPOSITORY / "inventory" / "lab" / "kubernetes"), "--list"]
    assert "kubernetes_nodes" not in json.loads(subprocess.check_output(script))
    kubernetes.write_hosts()
    found = json.loads(subprocess.check_output(script))
    assert found["kubernetes_nodes"]["hosts"] == ["node1", "node2", "node3"]
    assert found["_meta"]["hostvars"]["control"] == {"ansible_host": "172.29.64.12"}
    assert "spark_clients" not in found
    kubernetes.write_hosts({"spark_clients": {"hosts": ["control"]}})
    assert json.loads(subprocess.check_output(script)) == {**found, "spark_clients": {"hosts": ["control"]}}


def test_the_release_before_is_one_minor_version_older_and_complete() -> None:
    now, before = (list(map(int, release.version.split(".")[:2])) for release in kubernetes.RELEASES)
    assert before == [now[0], now[1] - 1]
    names = [{image.partition(":")[0] for image in release.images} for release in kubernetes.RELEASES]
    same = {"flannel/flannel", "flannel/flannel-cni-plugin", "nvidia/k8s-device-plugin"}
    assert names[0] - names[1] == same, "what both have in common"
    assert {*kubernetes.BEFORE.images.values(), kubernetes.BEFORE.packages} <= set(recipes.RECIPES)
    assert kubernetes.directory() != kubernetes.directory(kubernetes.BEFORE)


def test_images_have_their_upstream_names() -> None:
    assert f"kube-apiserver:v{golang.KUBERNETES}" in recipes.KUBERNETES_IMAGES
    assert set(recipes.KUBERNETES_IMAGES.values()) <= set(recipes.RECIPES)
    assert not set(recipes.KUBERNETES_IMAGES.values()) & {*recipes.HUB.values()} - {"hub-pause"}, (
        "the internet has none"
    )


def test_a_program_of_the_labs_own_changes_with_its_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = golang.PROGRAMS["flannel-stand-in"]
    before = program.key()
    (tmp_path / "flannel-stand-in").mkdir()
    (tmp_path / "flannel-stand-in" / "main.go").write_text("package main\n")
    monkeypatch.setattr(paths, "FILES", tmp_path)
    assert program.key() != before
