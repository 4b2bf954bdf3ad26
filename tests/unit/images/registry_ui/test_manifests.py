# SPDX-License-Identifier: GPL-3.0-or-later
"""Manifests of every kind are read; what a stranger wrote into one never breaks a page."""

from __future__ import annotations

import json
from typing import Any

import pytest
from registry_ui import manifests
from registry_ui.manifests import DOCKER_IMAGE, OCI_IMAGE, OCI_INDEX, UnreadableError

A, B = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
CONFIG = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": A, "size": 7}


def encode(value: Any) -> bytes:
    return json.dumps(value).encode()


def test_an_image() -> None:
    content = encode(
        {"config": CONFIG, "layers": [{"digest": B, "size": 9, "mediaType": "x"}], "annotations": {"k": 1}}
    )
    found = manifests.parse(content, DOCKER_IMAGE)
    assert found.kind == "image" and found.config and found.config.digest == A
    assert [layer.size for layer in found.layers] == [9] and found.children == ()
    assert found.annotations == (("k", "1"),)


def test_an_index_and_its_attestation() -> None:
    attestation = {"digest": B, "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
    unknown = {"os": "unknown", "architecture": "unknown"}
    content = {"manifests": [{"digest": A, "platform": {"os": "linux", "architecture": "arm", "variant": "v7"}}]}
    content["manifests"].append(attestation | {"platform": unknown})  # type: ignore[dict-item]
    found = manifests.parse(encode(content), OCI_INDEX)
    assert [(child.kind, child.platform) for child in found.children] == [
        ("manifest", "linux/arm/v7"),
        ("attestation", ""),
    ]
    assert manifests.platform({"os": "windows", "architecture": "amd64", "os.version": "10.0"}) == "windows/amd64 10.0"


@pytest.mark.parametrize(
    ("said", "artifact_type"),
    [
        ({"artifactType": "application/spdx+json"}, "application/spdx+json"),
        ({"config": {**CONFIG, "mediaType": "x/y"}}, "x/y"),
    ],
)
def test_an_artifact(said: dict[str, Any], artifact_type: str) -> None:
    found = manifests.parse(encode({"config": CONFIG, "subject": {"digest": B}} | said), OCI_IMAGE)
    assert (found.kind, found.artifact_type, found.subject) == ("artifact", artifact_type, B)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"7",
        b"[" * 100_000,
        encode({"config": {"digest": "../../etc/passwd"}}),
        encode({"manifests": [{"digest": 7}]}),
        encode({"layers": [{"digest": A}] * 5000}),
    ],
)
def test_nonsense_is_unreadable(content: bytes) -> None:
    with pytest.raises(UnreadableError):
        manifests.parse(content, OCI_IMAGE)


@pytest.mark.parametrize("size", ["9", -1, True, None, 2**70, 1.5])
def test_a_size_that_is_none_counts_nothing(size: object) -> None:
    assert manifests.parse(encode({"layers": [{"digest": A, "size": size}]}), OCI_IMAGE).layers[0].size == 0


def test_a_subject_that_is_no_digest_is_none() -> None:
    assert manifests.parse(encode({"subject": {"digest": "x"}}), OCI_IMAGE).subject == ""
    assert manifests.parse(encode({"subject": "x"}), OCI_IMAGE).subject == ""


def test_a_configuration() -> None:
    config = {
        "created": "2026-01-02T03:04:05Z",
        "os": "linux",
        "architecture": "amd64",
        "config": {
            "Env": ["A=b=c", "EMPTY"],
            "Labels": {"z": "1", "a": "2"},
            "ExposedPorts": {"80/tcp": {}},
            "Cmd": "run",
        },
        "history": [{"created_by": "ADD x", "comment": "c"}, {"created_by": "ENV y", "empty_layer": True}, "no step"],
    }
    found = manifests.parse_config(encode(config))
    assert found.environment == (("A", "b=c"), ("EMPTY", ""))
    assert found.labels == (("a", "2"), ("z", "1")) and found.ports == ("80/tcp",) and found.command == ("run",)
    assert [step.empty for step in found.history] == [False, True]
    assert manifests.commands(found.history, 1) == ["ADD x"]
    assert manifests.commands(found.history, 2) == ["", ""]


@pytest.mark.parametrize("wrong", [None, 7, "text", [], [1, None], {"a": {"b": []}}, True])
def test_every_field_may_be_of_any_type(wrong: object) -> None:
    keys = ("Env", "Labels", "Entrypoint", "Cmd", "User", "WorkingDir", "ExposedPorts", "Volumes", "StopSignal")
    for inner in (dict.fromkeys(keys, wrong), wrong):
        config = dict.fromkeys(("created", "os", "architecture", "author", "history"), wrong) | {"config": inner}
        found = manifests.parse_config(encode(config))
        assert all(isinstance(item, str) for item in (*found.entrypoint, *found.command, found.user, found.author))
        assert all(isinstance(item, str) for pair in (*found.environment, *found.labels) for item in pair)
    said = dict.fromkeys(("config", "layers", "manifests", "subject", "annotations", "artifactType"), wrong)
    for content in (said, dict.fromkeys(("config", "layers", "blobs"), wrong)):
        try:
            manifests.parse(encode(content), OCI_IMAGE)
        except UnreadableError:
            continue


@pytest.mark.parametrize(
    ("tag", "belongs"),
    [
        (f"sha256-{'a' * 64}", (A, "")),
        (f"sha256-{'a' * 64}.sig", (A, "sig")),
        (f"sha256-{'a' * 64}.txt", ("", "")),
        ("1.0", ("", "")),
    ],
)
def test_technical_tags(tag: str, belongs: tuple[str, str]) -> None:
    assert manifests.belongs_to(tag) == belongs
