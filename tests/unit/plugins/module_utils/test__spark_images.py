# SPDX-License-Identifier: GPL-3.0-or-later
"""When images are built, what is refused, and what is said; with an engine and a registry that are played."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import http.server
import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _images, _spark_images
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Result
from ansible_collections.slipway.platform.plugins.module_utils._spark_images import ENTRY_POINT, LABEL, Images, Wanted

OWN = "registry.corp.lab:6001"
DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n'
SPARK = b"a distribution"
WANTED = Wanted(
    version="3.5.9",
    checksum=hashlib.sha512(SPARK).hexdigest(),
    source="https://archive.example/dist/spark",
    base=f"{OWN}/debian:12",
    model=f"{OWN}/team/torch:1.13",
    model_name="torch-1.13",
    java=17,
    registry=OWN,
    user="ci",
    password="s3cret pass",
    files=(("Dockerfile", "FROM"), ("entrypoint.sh", "#!/bin/bash")),
)


@dataclasses.dataclass
class Fake:
    """An engine and a private registry."""

    stored: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    local: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    calls: list[list[str]] = dataclasses.field(default_factory=list)
    release: str = DEBIAN
    entry_point: Any = dataclasses.field(default_factory=lambda: list(ENTRY_POINT))
    model_says: Result = dataclasses.field(default_factory=lambda: Result(0, "torch\n", ""))
    driver_says: Result = dataclasses.field(default_factory=lambda: Result(0, "spark\ntorch\n", ""))
    fails: str = ""
    stale: list[str] = dataclasses.field(default_factory=list)
    logins: list[str] = dataclasses.field(default_factory=list)

    def __call__(self, argv: Sequence[str], *, timeout: float = 60, stdin: str | None = None) -> Result:
        words = [str(word) for word in argv]
        if words[1] == "--config":
            self.logins.append(Path(words[2], "config.json").read_text())
            del words[1:3]
        self.calls.append(words)
        verb = " ".join(words[:3])
        if self.fails and " ".join(words).startswith(self.fails):
            return Result(1, "", "Step 3/9\nprepare: it went wrong\nexit status 1")
        for start, answer in (
            ("docker image inspect", self._inspect),
            ("docker image ls", self._list),
            ("docker build", self._build),
            ("docker push", self._push),
            ("docker create", lambda _: Result(0, "c0ffee\n", "")),
            ("docker cp", self._copy),
            ("docker run", self._run),
        ):
            if verb.startswith(start):
                return answer(words)
        if verb.startswith("docker pull"):
            self.local.setdefault(words[-1], {"Id": "sha256:pulled", "RepoDigests": []})
        return Result(0, "", "")

    def _inspect(self, words: list[str]) -> Result:
        found = self.local.get(words[-1])
        return Result(0, json.dumps([found]), "") if found else Result(1, "", "No such image")

    def _list(self, _: list[str]) -> Result:
        lines = [f"{name} 0" for name in [*self.built(), *self.stale]]
        return Result(0, "\n".join([*lines, "x:<none> c0ffee"]), "")

    def _build(self, words: list[str]) -> Result:
        options = dict(itertools.pairwise(words))
        name, _, digest = options["--label"].partition("=")
        self.local[options["--tag"]] = {
            "Id": "sha256:built",
            "Config": {"Labels": {name: digest}, "Entrypoint": self.entry_point},
            "RootFS": {"Layers": ["a", "b"]},
        }
        assert Path(words[-1], "spark.tgz").read_bytes() == SPARK
        assert sorted(path.name for path in Path(words[-1]).iterdir()) == ["Dockerfile", "entrypoint.sh", "spark.tgz"]
        return Result(0, "", "")

    def _push(self, words: list[str]) -> Result:
        self.stored[words[-1].removeprefix(f"{OWN}/")] = self.local[words[-1]]["Config"]
        return Result(0, "", "")

    def _copy(self, words: list[str]) -> Result:
        Path(words[-1]).write_text(self.release)
        return Result(0, "", "") if self.release else Result(1, "", "no such file")

    def _run(self, words: list[str]) -> Result:
        return self.model_says if "--entrypoint" in words else self.driver_says

    def built(self) -> list[str]:
        """Return the images that have our label."""
        return [name for name, image in self.local.items() if "Config" in image]

    def did(self, verb: str) -> list[list[str]]:
        """Return the calls of a verb."""
        return [words for words in self.calls if words[1] == verb]


class FakeRegistry(_spark_images.Registry):
    """Answers from what was pushed."""

    def __init__(self, wanted: Wanted, fake: Fake) -> None:
        super().__init__(wanted)
        self.fake = fake
        self.digests: dict[str, str] = {}

    def digest(self, name: _images.Name) -> str:
        """Whatever the test says."""
        return name.digest or self.digests.get(name.path, f"sha256:{name.path}")

    def configuration(self, repository: str, tag: str) -> dict[str, Any]:
        """What was pushed."""
        return dict(self.fake.stored.get(f"{repository}:{tag}", {}))


@pytest.fixture
def fake() -> Fake:
    return Fake()


def images(fake: Fake, tmp_path: Path, *, check: bool = False, wanted: Wanted = WANTED) -> Images:
    (tmp_path / "cache").mkdir(exist_ok=True)
    (tmp_path / "cache" / f"{wanted.distribution}.tgz").write_bytes(SPARK)
    registry = FakeRegistry(wanted, fake)
    return Images(wanted, check=check, runner=fake, registry=registry, directory=str(tmp_path / "cache"))


def test_built_once(fake: Fake, tmp_path: Path) -> None:
    predicted = images(fake, tmp_path, check=True).present()
    assert fake.calls == [] and len(predicted.actions) == 2
    done = images(fake, tmp_path).present()
    assert done == predicted
    assert done.images["driver"].startswith(f"{OWN}/nvidia-spark-driver:3.5.9-torch-1.13-")
    assert [words[-1] for words in fake.did("push")] == [done.images["executor"], done.images["driver"]]
    fake.calls.clear()
    again = images(fake, tmp_path).present()
    assert (again.images, again.actions, fake.calls) == (done.images, [], [])


@pytest.mark.parametrize(
    "changed",
    [
        {"version": "3.5.8"},
        {"checksum": "0"},
        {"java": 21},
        {"files": (("Dockerfile", "FROM"), ("entrypoint.sh", "#!/bin/sh"))},
        {"base": f"{OWN}/debian@sha256:{'a' * 64}"},
        {"model": f"{OWN}/team/other:1"},
    ],
)
def test_whatever_changed_makes_another_tag(fake: Fake, tmp_path: Path, changed: dict[str, Any]) -> None:
    before = images(fake, tmp_path, check=True).present().images
    wanted = dataclasses.replace(WANTED, **changed)
    after = images(fake, tmp_path, check=True, wanted=wanted).present().images
    assert not set(before.values()) & set(after.values())


def test_a_model_that_moved_makes_another_tag(fake: Fake, tmp_path: Path) -> None:
    one = images(fake, tmp_path, check=True)
    before = one.present().images
    one.registry.digests["team/torch"] = "sha256:another"  # type: ignore[attr-defined]
    assert not set(one.present().images.values()) & set(before.values())


@pytest.mark.parametrize(
    "lost", [{"Entrypoint": None}, {"Entrypoint": ["/bin/sh"]}, {"Labels": None}, {"Labels": {LABEL: "another"}}]
)
def test_what_was_lost_is_made_again(fake: Fake, tmp_path: Path, lost: dict[str, Any]) -> None:
    done = images(fake, tmp_path).present()
    name = done.images["driver"].removeprefix(f"{OWN}/")
    fake.stored[name] = {**fake.stored[name], **lost}
    assert images(fake, tmp_path).present().actions == [f"push {name} again: it is not as it was pushed"]
    assert images(fake, tmp_path).present().actions == []


def test_the_login_is_in_no_command_and_gone_afterwards(fake: Fake, tmp_path: Path) -> None:
    one = images(fake, tmp_path)
    one.present()
    assert not any("s3cret" in word for words in fake.calls for word in words)
    expected = base64.b64encode(b"ci:s3cret pass").decode()
    assert fake.logins and all(json.loads(text)["auths"][OWN]["auth"] == expected for text in fake.logins)
    assert not Path(one.login).exists()
    assert "s3cret" not in repr(WANTED)


def test_without_a_login_none_is_written(fake: Fake, tmp_path: Path) -> None:
    images(fake, tmp_path, wanted=dataclasses.replace(WANTED, user="", password="")).present()
    assert set(fake.logins) == {'{"auths": {}}'}


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ('ID=alpine\nPRETTY_NAME="Alpine Linux v3.20"\n', "Alpine Linux v3.20"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\nPRETTY_NAME="Rocky Linux 9"\n', "Rocky Linux 9"),
        ("", "a system without a name"),
    ],
)
def test_a_model_of_another_system_is_refused(fake: Fake, tmp_path: Path, release: str, name: str) -> None:
    fake.release = release
    with pytest.raises(HostError, match=f"torch:1.13, which is {name}: it needs an image of Debian or Ubuntu"):
        images(fake, tmp_path).present()
    assert fake.did("build") == [] and fake.did("run") == [], "nothing of it was run"
    assert fake.did("rm") == [["docker", "rm", "--force", "c0ffee"]]


@pytest.mark.parametrize("release", [DEBIAN, "ID=ubuntu\nID_LIKE=debian\n", 'ID=mint\nID_LIKE="ubuntu debian"\n'])
def test_debian_and_its_children_will_do(release: str) -> None:
    assert _spark_images.system(release) == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"entry_point": ["/bin/sh"]}, "was built without its entry point"),
        ({"model_says": Result(127, "", "python3: not found")}, "has no python3 that runs: python3: not found"),
        ({"driver_says": Result(0, "spark\nFalse\n", "")}, "runs no Java, no Python, or not what its model runs"),
        ({"driver_says": Result(1, "", "no such file")}, "runs no Java, .*: no such file"),
        ({"fails": "docker build"}, "cannot be built: prepare: it went wrong"),
        ({"fails": "docker push"}, "docker push .* failed: exit status 1"),
    ],
)
def test_what_is_not_proven_is_not_pushed(fake: Fake, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    for name, value in change.items():
        setattr(fake, name, value)
    with pytest.raises(HostError, match=message):
        images(fake, tmp_path).present()
    assert fake.stored == {}
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{WANTED.distribution}.tgz"], "no context stays"


def test_images_that_share_no_layers_are_refused(fake: Fake, tmp_path: Path) -> None:
    one = images(fake, tmp_path)
    outcome = one._planned("d" * 64)
    for number, name in enumerate(outcome.images.values()):
        config = {"Labels": {LABEL: "d" * 64}, "Entrypoint": ENTRY_POINT}
        fake.local[name] = {"Id": "x", "Config": config, "RootFS": {"Layers": [number]}}
    with one._logged_in(), pytest.raises(HostError, match="do not share their layers"):
        one._prove(outcome)


def test_images_from_elsewhere_are_what_the_engine_has(fake: Fake, tmp_path: Path) -> None:
    wanted = dataclasses.replace(WANTED, base="docker.io/library/debian:12", model="nvcr.io/nvidia/pytorch:24")
    assert images(fake, tmp_path, check=True, wanted=wanted).present().actions == ["build the images"]
    assert fake.did("pull") == []
    first = images(fake, tmp_path, wanted=wanted).present()
    assert [words[-1] for words in fake.did("pull")] == [wanted.base, wanted.model]
    fake.local[wanted.model]["RepoDigests"] = ["nvcr.io/nvidia/pytorch@sha256:moved"]
    assert images(fake, tmp_path, check=True, wanted=wanted).present().images != first.images


def test_a_digest_needs_nobody_to_be_asked(fake: Fake, tmp_path: Path) -> None:
    wanted = dataclasses.replace(WANTED, base=f"debian@sha256:{'a' * 64}", model=f"torch@sha256:{'b' * 64}")
    images(fake, tmp_path, check=True, wanted=wanted).present()
    assert fake.calls == []


def test_what_earlier_builds_left_goes(fake: Fake, tmp_path: Path) -> None:
    fake.stale = [f"{OWN}/nvidia-spark-driver:old"]
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "spark-3.5.8-bin-hadoop3.tgz").touch()
    images(fake, tmp_path).present()
    removed = [words[-1] for words in fake.calls if words[1:3] == ["image", "rm"]]
    assert removed == [f"{OWN}/nvidia-spark-driver:old", "c0ffee"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{WANTED.distribution}.tgz"]


def test_removed(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_spark_images.shutil, "which", lambda _name: "/usr/bin/docker")
    done = images(fake, tmp_path).present()
    predicted = images(fake, tmp_path, check=True).absent().actions
    assert (tmp_path / "cache").exists()
    assert images(fake, tmp_path).absent().actions == predicted == [
        *(f"remove image {name}" for name in [*fake.built(), "c0ffee"]),
        f"remove {tmp_path / 'cache'}",
    ]  # fmt: skip
    assert not (tmp_path / "cache").exists() and done.images["driver"] in fake.local
    monkeypatch.setattr(_spark_images.shutil, "which", lambda _name: None)
    gone = Images(WANTED, runner=fake, directory=str(tmp_path / "cache"))
    assert gone.absent().actions == []


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("torch:2.6.0", "torch-2.6.0"),
        ("nvcr.io/nvidia/pytorch:24.10-py3", "pytorch-24.10-py3"),
        (f"team/torch@sha256:{'a' * 64}", "torch-aaaaaaaaaaaa"),
    ],
)
def test_what_a_tag_says_of_the_model(reference: str, name: str) -> None:
    assert _spark_images.model_name(reference) == name


@pytest.fixture
def archive() -> Iterator[tuple[str, dict[str, bytes]]]:
    """An archive on this host: its address, and its files by path."""
    files: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = files.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/spark/", files
        server.shutdown()


def test_the_distribution_is_what_its_checksum_says(archive: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    address, files = archive
    wanted, target = dataclasses.replace(WANTED, source=address), tmp_path / "spark.tgz"
    path = "/spark/spark-3.5.9/spark-3.5.9-bin-hadoop3.tgz"
    with pytest.raises(HostError, match=r"spark-3.5.9-bin-hadoop3.tgz cannot be downloaded: HTTP status 404"):
        _spark_images.download(wanted, str(target))
    files[path] = b"something else"
    with pytest.raises(HostError, match=f"has the SHA-512 [0-9a-f]{{128}}: it needs to be {WANTED.checksum}"):
        _spark_images.download(wanted, str(target))
    assert list(tmp_path.iterdir()) == []
    files[path] = SPARK
    _spark_images.download(wanted, str(target))
    assert target.read_bytes() == SPARK
    files.clear()
    _spark_images.download(wanted, str(target))


def test_the_proxys_password_is_in_no_message(tmp_path: Path) -> None:
    wanted = dataclasses.replace(WANTED, proxies=(("https", "http://svc:s3cret@127.0.0.1:9"),))
    with pytest.raises(HostError, match="cannot be downloaded") as caught:
        _spark_images.download(wanted, str(tmp_path / "spark.tgz"))
    assert "s3cret" not in str(caught.value)


class Answers(_spark_images.Registry):
    """A registry whose answers are given by path."""

    def __init__(self, answers: dict[str, tuple[int, bytes]], wanted: Wanted = WANTED) -> None:
        super().__init__(wanted)
        self.answers = answers

    def _ask(self, path: str, accept: str) -> tuple[int, bytes]:
        return self.answers.get(path, (404, b""))


MANIFEST = json.dumps({"config": {"digest": "sha256:c"}}).encode()


def test_what_the_registry_says_of_an_image() -> None:
    answers = {"/v2/a/manifests/1": (200, MANIFEST), "/v2/a/blobs/sha256:c": (200, b'{"config": {"User": "185"}}')}
    registry = Answers(answers)
    assert registry.configuration("a", "1") == {"User": "185"}
    assert registry.configuration("a", "2") == {}
    assert registry.digest(_images.parse(f"{OWN}/a:1")) == _images.digest_of(MANIFEST)
    assert registry.digest(_images.parse(f"{OWN}/a@sha256:{'a' * 64}")) == f"sha256:{'a' * 64}"
    with pytest.raises(HostError, match=f"{OWN} has no image a:2"):
        registry.digest(_images.parse(f"{OWN}/a:2"))
    answers["/v2/a/blobs/sha256:c"] = (404, b"")
    assert registry.configuration("a", "1") == {}


@pytest.mark.parametrize(("user", "who"), [("ci", "user 'ci'"), ("", "nobody in particular")])
def test_a_registry_that_refuses_is_named(user: str, who: str) -> None:
    registry = Answers({"/v2/a/manifests/1": (401, b"")}, dataclasses.replace(WANTED, user=user))
    with pytest.raises(HostError, match=f"{OWN} answered {who} 401 to a:1"):
        registry.configuration("a", "1")


def test_a_registry_that_is_away_is_named(tmp_path: Path) -> None:
    wanted = dataclasses.replace(WANTED, registry="127.0.0.1:9")
    (tmp_path / "127.0.0.1:9").mkdir()
    (tmp_path / "127.0.0.1:9" / "ca.crt").write_text("no certificate")
    with pytest.raises(HostError, match=r"the authority of the private registry 127\.0\.0\.1:9 is no certificate"):
        _spark_images.Registry(wanted, str(tmp_path)).configuration("a", "1")
    with pytest.raises(HostError, match=r"the registry 127\.0\.0\.1:9 cannot be asked"):
        _spark_images.Registry(wanted, "/nowhere").configuration("a", "1")
