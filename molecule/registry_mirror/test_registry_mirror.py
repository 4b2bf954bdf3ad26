# SPDX-License-Identifier: GPL-3.0-or-later
"""Upstream images are mirrored with every byte and every platform, once; and carried to where there is no network."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import internet
from tests.lab.seed import Store
from tests.testinfra.lab import Lab
from tests.testinfra.play import REPOSITORY, Play, run_play
from tests.testinfra.secrets import Secret, leaks_in, leaks_on

HERE = Path(__file__).resolve().parent
NAME = "registry-mirror.corp.lab:6001"
MACHINE = "registry-mirror"
ROOT = "/srv/registry/docker/registry/v2"
PROXY = "slipway-registry-proxy"
PUSH, UPSTREAM = Secret("s33d:{{ pa ss }}/%$", "seeder"), Secret("up%str:eam {{", "reader")
KINDS = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in ("docker.distribution.manifest.list.v2", "docker.distribution.manifest.v2", "oci.image.manifest.v1")
)
# Requests that send something.
WRITE = re.compile(r'"(POST|PUT|PATCH) (/v2/\S+)')
IMAGES = {"library/worlds:1": "worlds:1", "pause:3.10": "kubernetes/pause:3.10"}


def lock_file() -> Path:
    return Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "registry_mirror.lock.txt"


def playbook(name: str, arguments: tuple[str, ...] = (), **variables: Any) -> Play:
    """Run one of the site's playbooks with the scenario's variables."""
    files = [REPOSITORY / "inventory/lab/group_vars/all/site.yml", HERE / "vars.yml"]
    given = [word for file in files for word in ("-e", f"@{file}")]
    given += ["-e", json.dumps(variables)]
    return run_play(REPOSITORY / f"playbooks/{name}.yml", arguments=("-vvv", "--diff", *given, *arguments))


def writes(host: Any, since: int) -> list[str]:
    """Return what was sent to the registry since a line of nginx's log."""
    return [f"{verb} {path}" for verb, path in WRITE.findall("\n".join(log(host)[since:]))]


def log(host: Any) -> list[str]:
    return str(host.check_output(f"docker logs {PROXY} 2>/dev/null")).splitlines()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def upstream(reference: str) -> bytes:
    """Return a manifest as the lab's internet has it on its disk: nothing of what is tested takes part."""
    repository, _, tag = reference.partition(":")
    return Store(internet.content() / "registry").manifest(repository, tag)


def served(host: Any, repository: str, reference: str) -> str:
    """Return the digest of what the registry sends for a tag or a digest."""
    ca = shlex.quote((Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "pki/ca.crt").read_text(encoding="utf-8"))
    host.check_output(f"printf %s {ca} > /root/ca.crt")
    url = f"https://{NAME}/v2/{repository}/manifests/{reference}"
    done = host.run(f"curl -sf --noproxy '*' --cacert /root/ca.crt -H 'Accept: {KINDS}' {url} | sha256sum")
    return "sha256:" + str(done.stdout).split()[0]


def is_whole(host: Any) -> bool:
    """Tell whether both images are there with the upstream's digests: tag, index, each platform, each blob."""
    for source, target in IMAGES.items():
        manifest = upstream(source)
        repository, _, tag = target.partition(":")
        wanted = [digest(manifest)] + [item["digest"] for item in json.loads(manifest).get("manifests", [])]
        found = [served(host, repository, name) for name in (tag, *wanted[1:])]
        if found != wanted:
            return False
        for name in wanted:
            content = json.loads(host.file(f"{ROOT}/blobs/sha256/{name[7:9]}/{name[7:]}/data").content)
            for part in [*content.get("layers", []), *([content["config"]] if "config" in content else [])]:
                link = f"{ROOT}/repositories/{repository}/_layers/sha256/{part['digest'][7:]}/link"
                assert host.file(link).exists, f"{name} of {target} lacks {part['digest']}"
    return True


def empty(host: Any) -> None:
    """Lose all images; the registry remembers none."""
    host.check_output(f"rm -rf {ROOT}/repositories {ROOT}/blobs")


def wait(check: Callable[[], Any], within: float = 60) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.3)
    return False


@pytest.fixture(scope="module", autouse=True)
def _fresh() -> Iterator[None]:
    lock_file().unlink(missing_ok=True)
    yield
    lock_file().unlink(missing_ok=True)


def test_check_mode_lists_what_would_be_copied(host: Any) -> None:
    before = len(log(host))
    play = playbook("mirror", ("--check",)).succeeded()
    assert "2 images in registry-mirror.corp.lab:6001: 2 would be copied, 0 were there" in play.output
    assert "1/2 docker.io/library/worlds:1 to worlds:1" in play.output
    assert writes(host, before) == []
    assert not lock_file().exists()


def test_every_platform_comes_with_its_digest(host: Any) -> None:
    play = playbook("mirror").succeeded()
    assert "2/2 registry.k8s.io/pause:3.10 to kubernetes/pause:3.10" in play.output
    assert "2 images in registry-mirror.corp.lab:6001: 2 copied, 0 were there" in play.output
    assert is_whole(host)
    lines = [line for line in lock_file().read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert lines == [
        f"docker.io/library/worlds:1 {digest(upstream('library/worlds:1'))}",
        f"registry.k8s.io/pause:3.10 {digest(upstream('pause:3.10'))}",
    ]
    secrets = [PUSH, UPSTREAM]
    assert leaks_in(play.output, secrets) == []
    assert leaks_on(host, secrets) == []
    assert host.file("/etc/slipway/registry-mirror/auth.json").mode == 0o600
    assert host.file("/etc/slipway/registry-mirror/environment.json").mode == 0o600


def test_again_copies_nothing_and_asks_nobody_upstream(host: Any, lab: Lab) -> None:
    before = len(log(host))
    play = playbook("mirror").succeeded()
    assert play.changed == 0
    assert "0 copied, 2 were there" in play.output
    assert writes(host, before) == []
    assert [request.url for request in lab.squid_log(MACHINE)] == []


def test_a_name_means_the_upstream_also_where_mirrors_are_set(host: Any, lab: Lab) -> None:
    """As on every machine with role registry_trust, where bare names lead to the private registry."""
    path = "/etc/containers/registries.conf.d/50-slipway.conf"
    text = '[[registry]]\nprefix = "docker.io"\nlocation = "docker.io"\nblocked = true\n'
    text += f'[[registry.mirror]]\nlocation = "{NAME}"\n'
    host.check_output(f"mkdir -p {os.path.dirname(path)} && printf %s {shlex.quote(text)} > {path}")
    try:
        play = playbook("mirror", registry_mirror_update=True).succeeded()
    finally:
        host.check_output(f"rm {path}")
    assert play.changed == 0
    # Squid notes a tunnel when it is closed.
    assert wait(lambda: any(request.url.startswith("registry-1.docker.io") for request in lab.squid_log(MACHINE)), 90)


def test_a_tag_that_somebody_moved_is_put_back(host: Any) -> None:
    """The lock says what a name is, not who pushed last."""
    tags = f"{ROOT}/repositories/worlds/_manifests/tags/1/current/link"
    child = json.loads(upstream("library/worlds:1"))["manifests"][0]["digest"]
    host.check_output(f"printf %s {child} > {tags}")
    assert not is_whole(host)
    assert "1 copied, 1 were there" in playbook("mirror").succeeded().output
    assert is_whole(host)


def test_killed_in_the_middle_and_run_again(host: Any) -> None:
    """The layers have come, the manifests have not. The same command sends these and nothing twice."""
    host.check_output(f"rm -r {ROOT}/repositories/worlds/_manifests")
    flag = "/run/slipway-registry/collecting"
    hold = f"touch {flag}; sleep 600"
    host.check_output(f"systemd-run --quiet --unit hold flock /run/slipway-registry/gc.lock sh -c '{hold}'")
    try:
        assert wait(lambda: host.file(flag).exists)
        plays: list[Play] = []
        runner = threading.Thread(target=lambda: plays.append(playbook("mirror")))
        runner.start()
        assert wait(lambda: any(" 503 " in line for line in log(host)[-50:]), 120), "nothing was pushed"
        while runner.is_alive():
            host.run("pkill -9 -x skopeo")
            time.sleep(0.3)
    finally:
        host.check_output(f"systemctl stop hold; rm -f {flag}")
    assert plays[0].rc != 0
    assert "docker.io/library/worlds:1 was not copied" in plays[0].output
    assert not is_whole(host)
    before = len(log(host))
    assert "1 copied, 1 were there" in playbook("mirror").succeeded().output
    assert is_whole(host)
    assert [path for path in writes(host, before) if "/blobs/uploads/" in path] == []


def carry(verb: str, archive: str, **variables: Any) -> Play:
    return playbook(f"mirror_{verb}", registry_mirror_archive=archive, **variables)


def said(play: Play) -> str:
    """Return what a play has printed, with its line breaks as spaces."""
    return " ".join(play.output.split())


@pytest.mark.parametrize("archive", ["/srv/carry/images", "/srv/carry/images.tar"])
def test_images_are_carried_to_a_site_without_a_proxy(host: Any, lab: Lab, archive: str) -> None:
    host.check_output(f"mkdir -p /srv/carry && rm -rf {archive}")
    assert f"2 images in {archive} on {MACHINE}: 2 copied, 0 were there" in said(carry("export", archive).succeeded())
    assert carry("export", archive).succeeded().changed == 0
    empty(host)
    play = carry("import", archive, site_proxy={}, registry_mirror_upstreams=[]).succeeded()
    assert "2 pushed, 0 were there" in said(play)
    assert is_whole(host)
    assert leaks_in(play.output, [PUSH]) == []
    before = len(log(host))
    again = carry("import", archive, site_proxy={}, registry_mirror_upstreams=[]).succeeded()
    assert again.changed == 0
    assert writes(host, before) == []
    assert [request.url for request in lab.squid_log(MACHINE)] == []


def test_an_export_takes_only_what_is_new(host: Any) -> None:
    archive = "/srv/carry/images"
    blobs = f"find {archive} -path '*/blobs/*' -printf '%f %i\\n' | sort"
    before = set(host.check_output(blobs).splitlines())
    play = carry("export", archive, registry_mirror_images=["worlds:1"]).succeeded()
    assert f"1 images in {archive} on {MACHINE}: 0 copied, 1 were there" in said(play)
    fewer = set(host.check_output(blobs).splitlines())
    assert fewer < before
    play = carry("export", archive).succeeded()
    assert "1 copied, 1 were there" in said(play)
    assert fewer < set(host.check_output(blobs).splitlines()), "what was there was not written again"


def test_a_damaged_archive_is_refused_before_anything_is_pushed(host: Any) -> None:
    """One byte of a layer. Other damage is in tests/unit/plugins/module_utils/test__image_archive.py."""
    host.check_output("rm -rf /srv/carry/bad && cp -r /srv/carry/images /srv/carry/bad")
    big = host.check_output("find /srv/carry/bad/blobs -type f -printf '%s %p\\n' | sort -n | tail -1 | cut -d' ' -f2")
    host.check_output(f"dd if=/dev/zero of={big} bs=1 seek=5000 count=1 conv=notrunc status=none")
    empty(host)
    before = len(log(host))
    play = carry("import", "/srv/carry/bad", site_proxy={})
    assert play.rc != 0
    name = f"blobs/sha256/{big.rpartition('/')[2]}"
    assert f"/srv/carry/bad is damaged, and nothing was pushed: {name} has other bytes than its name says" in said(play)
    assert writes(host, before) == []


def test_a_tar_file_that_was_cut_off_is_refused(host: Any) -> None:
    host.check_output("cp /srv/carry/images.tar /srv/carry/cut.tar && truncate -s -1M /srv/carry/cut.tar")
    before = len(log(host))
    play = carry("import", "/srv/carry/cut.tar", site_proxy={})
    assert play.rc != 0
    assert "/srv/carry/cut.tar is damaged" in said(play)
    assert writes(host, before) == []


def test_input_that_cannot_be_meant(host: Any) -> None:
    play = playbook("mirror", registry_mirror_images=["debian", "quay.io/a:1", "docker.io/a/../b:1", "ghcr.io/a:1"])
    assert play.rc != 0
    for sentence in (
        "registry_mirror_images[0] is 'debian': it needs a tag or a digest",
        "registry_mirror_images[2] is 'docker.io/a/../b:1': it needs a name such as",
        "registry_mirror_images[3] is ghcr.io/a:1: it needs another target, because a:1 is quay.io/a:1 already",
    ):
        assert sentence in said(play)


def test_removal_leaves_no_login(host: Any) -> None:
    run_play(HERE / "remove.yml").succeeded()
    assert not host.file("/etc/slipway/registry-mirror").exists
    assert host.run("command -v skopeo").rc != 0
    run_play(HERE / "converge.yml").succeeded()
