# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of images, the lock, and what skopeo is asked for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _images
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError

from tests.unit.plugins.skopeo import OWN, FakeSkopeo

SHA = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full", "own"),
    [
        ("debian:13", "docker.io/library/debian:13", "debian:13"),
        ("docker.io/debian:13", "docker.io/library/debian:13", "debian:13"),
        ("docker.io/library/debian:13", "docker.io/library/debian:13", "debian:13"),
        ("team/app:1", "docker.io/team/app:1", "team/app:1"),
        ("quay.io/team/app:1", "quay.io/team/app:1", "team/app:1"),
        ("quay.io/library/app:1", "quay.io/library/app:1", "app:1"),
        ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10", "pause:3.10"),
        ("localhost/app:1", "localhost/app:1", "app:1"),
        ("127.0.0.1:5000/a/b:1", "127.0.0.1:5000/a/b:1", "a/b:1"),
        (f"quay.io/team/app@{SHA}", f"quay.io/team/app@{SHA}", f"team/app@{SHA}"),
        (f"quay.io/team/app:1@{SHA}", f"quay.io/team/app:1@{SHA}", "team/app:1"),
    ],
)
def test_a_name_is_read(text: str, full: str, own: str) -> None:
    assert (str(_images.parse(text)), _images.parse(text).own) == (full, own)


@pytest.mark.parametrize(
    "text", ["debian", "quay.io/a", "Debian:13", "Team/app:1", "a/../b:1", "a:1 b", "", "-a:1", "a@sha256:1"]
)
def test_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a name|a tag or a digest"):
        _images.parse(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [("a/b:1", "a/b:1"), ("library/a:1", "a:1"), (f"a@{SHA}", f"a@{SHA}"), ("team/a/b:1", "team/a/b:1")],
)
def test_a_name_in_the_registry_is_read(text: str, name: str) -> None:
    assert str(_images.parse_target(text)) == name


@pytest.mark.parametrize("text", ["quay.io/a:1", "a", "localhost/a:1", "/a:1", "A:1"])
def test_a_target_is_no_other_registry(text: str) -> None:
    with pytest.raises(ValueError, match="without a host"):
        _images.parse_target(text)


def test_what_cannot_be_mirrored_is_one_sentence() -> None:
    with pytest.raises(HostError, match="image 'debian' cannot be mirrored: it needs a tag or a digest"):
        _images.Wish.make(name="debian")
    with pytest.raises(HostError, match=r"image 'a:1' cannot be mirrored to 'quay.io/a:1': that needs a repository"):
        _images.Wish.make(name="a:1", target="quay.io/a:1")


def test_the_lock_is_read_as_it_was_written() -> None:
    entries = {"docker.io/library/b:1": SHA, "docker.io/library/a:1": SHA}
    text = _images.write_lock(entries)
    assert _images.read_lock(text) == entries
    assert text.splitlines()[1:] == [f"docker.io/library/a:1 {SHA}", f"docker.io/library/b:1 {SHA}"]
    with pytest.raises(HostError, match="line 2 of the lock is 'a:1 sha256:1': it needs a name and a digest"):
        _images.read_lock("\na:1 sha256:1\n")


@pytest.fixture
def fake() -> FakeSkopeo:
    return FakeSkopeo()


@pytest.fixture
def skopeo(fake: FakeSkopeo, tmp_path: Path) -> _images.Skopeo:
    return _images.Skopeo(str(tmp_path), OWN, command=fake)


def test_two_upstreams_of_one_name(skopeo: _images.Skopeo) -> None:
    wishes = [_images.Wish.make(name=name) for name in ("quay.io/a:1", "ghcr.io/a:1")]
    with pytest.raises(HostError, match=r"quay.io/a:1 and ghcr.io/a:1 would both be a:1"):
        _images.look_up(skopeo, wishes, {})
    _images.check_targets([wishes[0], wishes[0]])


def test_the_lock_wins_over_upstream(skopeo: _images.Skopeo, fake: FakeSkopeo) -> None:
    new = fake.image("docker.io/library/a:1")
    wish = _images.Wish.make(name="a:1")
    (found,), _ = _images.look_up(skopeo, [wish], {"docker.io/library/a:1": SHA})
    assert found.digest == SHA
    assert not any("docker.io" in call for call in fake.calls)
    (found,), _ = _images.look_up(skopeo, [wish], {})
    assert found.digest == new
    assert found.missing
    (found,), _ = _images.look_up(skopeo, [_images.Wish.make(name=f"a@{SHA}")], {})
    assert found.digest == SHA


def test_a_copy_is_by_digest_with_all_platforms_and_proved(
    skopeo: _images.Skopeo, fake: FakeSkopeo, tmp_path: Path
) -> None:
    (tmp_path / "auth.json").touch()
    (tmp_path / "certs").mkdir()
    wanted = fake.image("docker.io/library/a:1")
    (found,), faults = _images.look_up(skopeo, [_images.Wish.make(name="a:1", target="base/a:1")], {})
    assert faults == []
    skopeo.mirror(found)
    assert fake.tags[f"{OWN}/base/a:1"] == wanted
    (copy,) = fake.did("copy")
    assert copy.startswith(f"skopeo copy --authfile {tmp_path}/auth.json --all --preserve-digests ")
    assert copy.endswith(
        f"--dest-cert-dir {tmp_path}/certs docker://docker.io/library/a@{wanted} docker://{OWN}/base/a:1"
    )
    (again,), _ = _images.look_up(skopeo, [found.wish], {})
    assert not again.missing


def test_only_the_proxy_of_the_role_counts(
    skopeo: _images.Skopeo, fake: FakeSkopeo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://elsewhere:1")
    skopeo.own(_images.parse_target("a:1"))
    (tmp_path / "environment.json").write_text(json.dumps({"HTTPS_PROXY": "http://u:p@proxy:1"}), encoding="utf-8")
    skopeo.own(_images.parse_target("a:1"))
    without, given = fake.environments
    assert "https_proxy" not in without
    assert given["HTTPS_PROXY"] == "http://u:p@proxy:1"
    assert given["HOME"] == str(tmp_path)
    assert not any("u:p" in call for call in fake.calls)


def test_ones_own_image_is_asked_for_with_the_registrys_authority(
    skopeo: _images.Skopeo, fake: FakeSkopeo, tmp_path: Path
) -> None:
    (tmp_path / "certs").mkdir()
    fake.image(f"{OWN}/hello:1")
    (found,), _ = _images.look_up(skopeo, [_images.Wish.make(name=f"{OWN}/hello:1")], {})
    assert not found.missing
    assert all("--cert-dir" in call for call in fake.calls)


def test_what_goes_wrong_is_told_without_credentials(skopeo: _images.Skopeo, fake: FakeSkopeo) -> None:
    fake.fails = {"docker.io": "proxyconnect http://user:secret@proxy:1: refused"}
    found, faults = _images.look_up(skopeo, [_images.Wish.make(name="a:1")], {})
    assert found == []
    assert faults == ["docker.io/library/a:1 cannot be looked up: proxyconnect http://***@proxy:1: refused"]
    fake.fails = {OWN: "authentication required"}
    with pytest.raises(HostError, match=f"{OWN}/a:1 cannot be looked up: authentication required"):
        skopeo.own(_images.parse_target("a:1"))
    fake.fails = {"copy": "no space"}
    with pytest.raises(HostError, match=r"docker\.io/library/a:1 was not copied: no space"):
        skopeo.mirror(_images.Found(_images.Wish.make(name="a:1"), SHA))
    assert _images.reason("no log line\nat all\n") == "no log line at all"


def test_a_registry_that_lost_it_again_is_not_believed(skopeo: _images.Skopeo, fake: FakeSkopeo) -> None:
    wanted = fake.image("docker.io/library/a:1")
    fake.fails = {"inspect": "manifest unknown"}
    with pytest.raises(HostError, match=f"a:1 is not there after it was copied: it needs {wanted}"):
        skopeo.mirror(_images.Found(_images.Wish.make(name="a:1"), wanted))


def test_a_command_is_run_as_it_is() -> None:
    code = "import sys; sys.stdout.buffer.write(b'a\\r\\n'); sys.stderr.write('said'); sys.exit(3)"
    assert _images.run_bytes([sys.executable, "-c", code], environment={}, timeout=60) == (3, b"a\r\n", "said")
    with pytest.raises(HostError, match="is not installed"):
        _images.run_bytes(["/nonexistent/skopeo"], environment={}, timeout=5)
    with pytest.raises(HostError, match="did not end within"):
        _images.run_bytes([sys.executable, "-c", "import time; time.sleep(60)"], environment={}, timeout=0.1)
