# SPDX-License-Identifier: GPL-3.0-or-later
"""Each historic way of adding Docker's or NVIDIA's repository ends as one definition."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _apt_sources as apt

from tests.unit.openpgp_keys import ED25519, RSA, binary

URL = "https://download.docker.com/linux/debian"
REPOSITORY = apt.Repository(
    name="docker", role="docker_engine", url=URL, suite="trixie", component="stable", key="KEY\n"
)
NVIDIA = apt.Repository(
    name="nvidia",
    role="nvidia_container_toolkit",
    url="https://nvidia.github.io/libnvidia-container/stable/deb/amd64",
    suite="/",
    key=RSA,
    also=(
        "nvidia.github.io/libnvidia-container",
        "nvidia.github.io/nvidia-container-runtime",
        "nvidia.github.io/nvidia-docker",
    ),
)
# What NVIDIA's instructions of different years put there; the last column is what apt is told of the key.
NVIDIA_LISTS = {
    "nvidia-container-toolkit.list": (
        "deb [signed-by={key}] https://nvidia.github.io/libnvidia-container/stable/deb/$(ARCH) /\n"
        "#deb [signed-by={key}] https://nvidia.github.io/libnvidia-container/experimental/deb/$(ARCH) /\n"
    ),
    "libnvidia-container.list": (
        "deb [signed-by={key}] https://nvidia.github.io/libnvidia-container/stable/debian11/$(arch) /\n"
    ),
    "nvidia-docker.list": (
        "deb [arch=amd64 signed-by={key}] https://nvidia.github.io/libnvidia-container/ubuntu18.04/amd64 /\n"
        "deb [ signed-by={key} ] https://nvidia.github.io/nvidia-container-runtime/stable/ubuntu18.04/$(ARCH) /\n"
        "deb [signed-by={key}] https://nvidia.github.io/nvidia-docker/ubuntu18.04/$(ARCH) /\n"
    ),
    "nvidia-container-toolkit.sources": (
        "Types: deb\nURIs: https://nvidia.github.io/libnvidia-container/stable/deb/amd64/\nSuites: ./\n"
        "Signed-By: {key}\n"
    ),
}


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    for name in ("sources.list.d", "keyrings", "trusted.gpg.d", "share", "dpkg"):
        (tmp_path / name).mkdir()
    (tmp_path / "sources.list").write_text("deb http://mirror/debian trixie main\n")
    return tmp_path


def places(etc: Path) -> apt.Places:
    return apt.Places(apt=str(etc), shared_keys=str(etc / "share"), dpkg_info=str(etc / "dpkg"))


def wanted(etc: Path, known: tuple[str, ...] = (), repository: apt.Repository = REPOSITORY) -> dict[str, str | None]:
    """Return what files() asks for: content by path, None for absent."""
    items = apt.files(repository, known=known, places=places(etc))
    return {
        str(Path(item.path).relative_to(etc)): item.content.decode() if item.kind == "file" else None for item in items
    }


def test_a_fresh_host_gets_a_source_and_its_key(etc: Path) -> None:
    result = wanted(etc)
    assert list(result) == ["keyrings/slipway-docker.asc", "sources.list.d/slipway-docker.sources"]
    assert result["keyrings/slipway-docker.asc"] == "KEY\n"
    assert f"URIs: {URL}\nSuites: trixie\nComponents: stable\nSigned-By: {etc}/keyrings/slipway-docker.asc\n" in str(
        result["sources.list.d/slipway-docker.sources"]
    )


@pytest.mark.parametrize("key", ["docker.gpg", "docker.asc"])
def test_docker_list_with_its_keyring_is_adopted(etc: Path, key: str) -> None:
    (etc / "keyrings" / key).write_text("old")
    (etc / "sources.list.d/docker.list").write_text(
        f"deb [arch=amd64 signed-by={etc}/keyrings/{key}] {URL} trixie stable\n"
    )
    result = wanted(etc)
    assert result["sources.list.d/docker.list"] is None
    assert result[f"keyrings/{key}"] is None


def test_docker_sources_is_adopted(etc: Path) -> None:
    (etc / "sources.list.d/docker.sources").write_text(
        f"Types: deb\nURIs: {URL}/\nSuites: trixie\nComponents: stable\nSigned-By: {etc}/keyrings/docker.asc\n"
    )
    result = wanted(etc)
    assert result["sources.list.d/docker.sources"] is None
    assert result["keyrings/docker.asc"] is None


def test_only_the_matching_entries_of_a_shared_file_go(etc: Path) -> None:
    other = "Types: deb\nURIs: http://mirror/x\nSuites: a\nComponents: b\nSigned-By: /usr/share/keyrings/x.gpg\n"
    (etc / "sources.list.d/all.sources").write_text(
        f"{other}\nTypes: deb\nURIs: {URL}\nSuites: trixie\nComponents: stable\n"
    )
    (etc / "sources.list").write_text(f"deb http://mirror/debian trixie main\ndeb {URL} trixie stable # by hand\n")
    result = wanted(etc)
    assert result["sources.list"] == "deb http://mirror/debian trixie main\n"
    assert str(result["sources.list.d/all.sources"]).strip() == other.strip()


def test_a_key_that_another_source_uses_stays(etc: Path) -> None:
    key = f"{etc}/keyrings/shared.gpg"
    (etc / "sources.list.d/a.list").write_text(f"deb [signed-by={key}] {URL} trixie stable\n")
    (etc / "sources.list.d/b.list").write_text(f"deb [signed-by={key}] http://other/ trixie stable\n")
    result = wanted(etc)
    assert "keyrings/shared.gpg" not in result
    assert "sources.list.d/b.list" not in result


@pytest.mark.parametrize("folder", ["share", "keyrings", "trusted.gpg.d"])
def test_a_key_of_a_package_stays(etc: Path, folder: str) -> None:
    for name in ("docker", "hand"):
        line = f"deb [signed-by={etc}/{folder}/{name}.gpg] {URL} trixie stable\n"
        (etc / f"sources.list.d/{name}.list").write_text(line)
    (etc / "dpkg/docker-keys.list").write_text(f"/.\n{etc}/{folder}\n{etc}/{folder}/docker.gpg\n")
    result = wanted(etc)
    assert [path for path in result if path.startswith(folder) and "slipway" not in path] == [f"{folder}/hand.gpg"]


def test_a_key_elsewhere_stays(etc: Path) -> None:
    (etc / "sources.list.d/a.list").write_text(f"deb [signed-by=/root/docker.gpg] {URL} trixie stable\n")
    assert len(wanted(etc)) == 3


def test_what_was_adopted_stays_listed(etc: Path) -> None:
    """Otherwise the next run would give it back."""
    (etc / "sources.list.d/rest.list").write_text("deb http://mirror/x trixie main\n")
    known = tuple(
        str(etc / name) for name in ("sources.list.d/docker.list", "sources.list.d/rest.list", "keyrings/docker.gpg")
    )
    result = wanted(etc, known)
    assert result["sources.list.d/docker.list"] is None
    assert result["keyrings/docker.gpg"] is None
    assert result["sources.list.d/rest.list"] == "deb http://mirror/x trixie main\n"


def test_what_else_the_role_changed_is_no_business_of_apt(etc: Path) -> None:
    assert len(wanted(etc, ("/etc/systemd/system/x.service.d/50-slipway.conf", "/etc/apt/apt.conf.d/50slipway"))) == 2


@pytest.mark.parametrize("folder", ["share", "keyrings", "trusted.gpg.d"])
@pytest.mark.parametrize("name", NVIDIA_LISTS)
def test_each_layout_of_nvidia_is_adopted(etc: Path, name: str, folder: str) -> None:
    key = f"{etc}/{folder}/nvidia-container-toolkit-keyring.gpg"
    (etc / "sources.list.d" / name).write_text(NVIDIA_LISTS[name].format(key=key))
    result = wanted(etc, repository=NVIDIA)
    assert result.pop(f"sources.list.d/{name}") is None
    assert result.pop(f"{folder}/nvidia-container-toolkit-keyring.gpg") is None
    assert list(result) == ["keyrings/slipway-nvidia.asc", "sources.list.d/slipway-nvidia.sources"]


def test_a_flat_repository_has_no_components(etc: Path) -> None:
    source = wanted(etc, repository=NVIDIA)["sources.list.d/slipway-nvidia.sources"]
    assert str(source).splitlines()[1:] == [
        "Types: deb",
        "URIs: https://nvidia.github.io/libnvidia-container/stable/deb/amd64",
        "Suites: /",
        f"Signed-By: {etc}/keyrings/slipway-nvidia.asc",
    ]


def test_keys_that_apt_took_for_everything_go_with_the_entry_that_needed_them(etc: Path) -> None:
    """Before signed-by, a key was laid where apt trusts it for every repository."""
    for name, content in (
        ("nvidia.gpg", binary(RSA)),
        ("nvidia.asc", RSA.encode()),
        ("packaged.asc", RSA.encode()),
        ("other.gpg", binary(ED25519)),
        ("two.gpg", binary(RSA) + binary(ED25519)),
        ("empty.gpg", b""),
    ):
        (etc / "trusted.gpg.d" / name).write_bytes(content)
    (etc / "trusted.gpg.d/folder").mkdir()
    (etc / "dpkg/nvidia-keys.list").write_text(f"{etc}/trusted.gpg.d/packaged.asc\n")
    assert len(wanted(etc, repository=NVIDIA)) == 2
    (etc / "sources.list.d/nvidia-docker.list").write_text(
        "deb https://nvidia.github.io/nvidia-docker/debian10/$(ARCH) /\n"
    )
    result = wanted(etc, repository=NVIDIA)
    assert sorted(path for path, content in result.items() if content is None) == [
        "sources.list.d/nvidia-docker.list",
        "trusted.gpg.d/nvidia.asc",
        "trusted.gpg.d/nvidia.gpg",
    ]


def test_other_sources_of_nvidia_stay(etc: Path) -> None:
    lines = (
        "deb https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64 /\n"
        "deb https://nvidia.github.io/nvidia-docker-fork/amd64 /\n"
        "deb https://nvidia.github.io/ stable main\n"
    )
    (etc / "sources.list.d/cuda.list").write_text(lines)
    assert len(wanted(etc, repository=NVIDIA)) == 2


def test_the_other_addresses_of_a_stanza_stay(etc: Path) -> None:
    (etc / "sources.list.d/both.sources").write_text(
        f"# Both mirrors\nTypes: deb\nURIs: {URL}\n http://mirror/docker\nSuites: trixie\nComponents: stable\n"
    )
    assert wanted(etc)["sources.list.d/both.sources"] == (
        "# Both mirrors\nTypes: deb\nURIs: http://mirror/docker\nSuites: trixie\nComponents: stable\n"
    )


def test_an_inline_key_is_no_file(etc: Path) -> None:
    (etc / "trusted.gpg.d/nvidia.gpg").write_bytes(binary(RSA))
    (etc / "sources.list.d/nvidia.sources").write_text(
        "Types: deb\nURIs: https://nvidia.github.io/libnvidia-container/stable/deb/$(ARCH)\nSuites: /\n"
        "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ/x/y\n"
    )
    result = wanted(etc, repository=NVIDIA)
    assert [path for path, content in result.items() if content is None] == ["sources.list.d/nvidia.sources"]


def test_other_files_are_left_alone(etc: Path) -> None:
    (etc / "sources.list.d/debian.sources").write_text(
        "Types: deb\nURIs: http://mirror/debian\n\n\nTypes: deb-src\nURIs: x\n"
    )
    (etc / "sources.list.d/folder").mkdir()
    assert len(wanted(etc)) == 2


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("https://a/b", "http://a/b/", True),
        ("https://a/b", "https://a/b/c", False),
        ("HTTPS://A/b", "https://a/b", True),
        ("https://a/b/$(ARCH)", "https://a/b/amd64", True),
        ("https://a/b/$(ARCH)/c", "https://a/b/arm64/d", False),
    ],
)
def test_addresses(left: str, right: str, same: bool) -> None:
    assert apt.same_address(left, right) is same
