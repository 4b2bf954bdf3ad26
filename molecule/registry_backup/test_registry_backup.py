# SPDX-License-Identifier: GPL-3.0-or-later
"""The restore drill: the registry is backed up while people push, loses its data, and gives back every image."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.testinfra.play import REPOSITORY, Play, run_play
from tests.testinfra.secrets import Secret, leaks_in, leaks_on

HERE = Path(__file__).resolve().parent
CLIENT = "python3 /root/client.py"
DATA = "/srv/registry/docker/registry/v2"
STORE = "/srv/registry-backup"
NAME = "registry-drill.corp.lab:6001"
STATE = "/var/lib/slipway/registry/backup.json"


@pytest.fixture(scope="module")
def drill(hosts: dict[str, Any]) -> Any:
    """The registry's machine."""
    host = hosts["registry-drill"]
    ca = (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "pki/ca.crt").read_text(encoding="utf-8")
    host.check_output(f"printf %s {shlex.quote(ca)} > /root/ca.crt")
    program = (HERE / "client.py").read_text(encoding="utf-8")
    host.check_output(f"printf %s {shlex.quote(program)} > /root/client.py")
    return host


@pytest.fixture(scope="module")
def vault(hosts: dict[str, Any]) -> Any:
    """The machine with the backups."""
    return hosts["registry-vault"]


@pytest.fixture(scope="module")
def images(drill: Any) -> dict[str, list[str]]:
    """Digests by repository: with a tag, without one, for two platforms, and of a tag that has moved on."""
    moved = client(drill, "push", "team/app", "1", "base", "old")
    first = client(drill, "push", "team/app", "1", "base", "new")
    amd64 = client(drill, "push", "team/multi", "-", "base", "amd64")
    arm64 = client(drill, "push", "team/multi", "-", "base", "arm64")
    both = client(drill, "index", "team/multi", "1", amd64, arm64)
    plain = client(drill, "push", "hello", "1.0", "hello")
    directory, image = f"/etc/docker/certs.d/{NAME}", f"{NAME}/team/docker:1"
    drill.check_output(f"mkdir -p {directory} && cp /root/ca.crt {directory}/ca.crt")
    drill.check_output(f"printf ci-may-push | docker login --username ci --password-stdin {NAME}")
    drill.check_output(f"tar -C /root -c client.py | docker import - {image} && docker push {image}")
    docker = drill.check_output(f"docker inspect -f '{{{{index .RepoDigests 0}}}}' {image}").partition("@")[2]
    return {"team/app": [moved, first], "team/multi": [both, amd64, arm64], "hello": [plain], "team/docker": [docker]}


def client(host: Any, *words: str) -> str:
    return str(host.check_output(f"{CLIENT} {' '.join(words)}"))


def playbook(name: str, arguments: tuple[str, ...] = (), **variables: Any) -> Play:
    """Run one of the site's playbooks with the scenario's variables."""
    files = [REPOSITORY / "inventory/lab/group_vars/all/site.yml", HERE / "vars.yml"]
    given = [word for file in files for word in ("-e", f"@{file}")]
    given += ["-e", json.dumps(variables)]
    return run_play(REPOSITORY / f"playbooks/{name}.yml", arguments=("-vvv", "--diff", *given, *arguments))


def back_up(host: Any, **variables: Any) -> dict[str, Any]:
    """Back up, expect it to go well, and return the result that it left."""
    playbook("backup", **variables).succeeded()
    return state(host)


def state(host: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.check_output(f"cat {STATE}"))
    return found


def eventually(check: Callable[[], bool], within: float = 60) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.5)
    return check()


def layer_of(host: Any, name: str, digest: str, number: int = 0) -> str:
    """Return the digest of a layer of an image."""
    manifest = host.check_output(f"cat {DATA}/blobs/sha256/{digest[7:9]}/{digest[7:]}/data")
    return str(json.loads(manifest)["layers"][number]["digest"])


def stored(digest: str) -> str:
    return f"{STORE}/blobs/{digest[7:9]}/{digest[7:]}"


def pull_everything(host: Any, images: dict[str, list[str]]) -> None:
    for name, digests in images.items():
        assert client(host, "pull", name, *digests) == "pulled"


def test_a_backup_while_somebody_pushes(drill: Any, vault: Any, images: dict[str, list[str]]) -> None:
    """What is half pushed is not in it; what is in it is whole; the push does not notice."""
    drill.check_output("rm -f /root/slow-*")
    drill.check_output(
        f"systemd-run --quiet --unit slow-push sh -c '{CLIENT} slow team/slow 1 slow > /root/slow-digest'"
    )
    assert eventually(lambda: bool(drill.file("/root/slow-begun").exists))
    result = back_up(drill)
    assert (result["ok"], result["tags"], result["repositories"]) == (True, 4, 4)
    assert result["new_blobs"] == result["blobs"] == result["verified"]
    snapshot = json.loads(vault.check_output(f"cat {STORE}/snapshots/{result['name']}.json"))
    assert "team/slow" not in snapshot["repositories"]
    drill.check_output("touch /root/slow-on")
    assert eventually(lambda: drill.file("/root/slow-digest").content_string.startswith("sha256:"))
    images["team/slow"] = [drill.file("/root/slow-digest").content_string.strip()]
    pull_everything(drill, images)


def test_a_second_backup_copies_only_what_is_new(drill: Any, images: dict[str, list[str]]) -> None:
    result = back_up(drill)
    assert (result["new"], result["new_blobs"]) == (True, 3), "of the slow push: layer, configuration, manifest"


def test_with_nothing_new_nothing_is_copied(drill: Any, vault: Any) -> None:
    before = vault.check_output(f"find {STORE} -type f ! -name lock -printf '%p %T@ %i\\n' | sort")
    play = playbook("backup").succeeded()
    assert play.changed == 0
    assert state(drill)["new_blobs"] == 0
    assert vault.check_output(f"find {STORE} -type f ! -name lock -printf '%p %T@ %i\\n' | sort") == before


def test_a_dry_run_backs_nothing_up(drill: Any) -> None:
    before = drill.check_output(f"cat {STATE}")
    playbook("backup", arguments=("--check",)).succeeded()
    assert drill.check_output(f"cat {STATE}") == before


def verified() -> tuple[str, str]:
    """Return outcome and reason of what verify says of the backup."""
    verdict = HERE.parents[1] / ".slipway" / "verify-registry-backup.json"
    playbook("verify", verify_verdict=str(verdict))
    results = json.loads(verdict.read_text(encoding="utf-8"))["results"]
    (found,) = [item for item in results if item["check"] == "the registry was backed up, and lately"]
    return str(found["outcome"]), str(found["reason"])


def test_verify_knows_of_it(drill: Any) -> None:
    """It fails with what is wrong, and when the last good backup is too old."""
    assert verified()[0] == "passed"
    good = drill.check_output(f"cat {STATE}")
    for changes, words in (
        ({"ok": False, "problems": ["no room"]}, "the last backup failed: no room"),
        ({"last_good": time.time() - 3 * 86400}, "the last good backup is 72 hours old"),
    ):
        drill.check_output(f"printf %s {shlex.quote(json.dumps(json.loads(good) | changes))} > {STATE}")
        outcome, reason = verified()
        assert outcome == "failed"
        assert words in reason
    drill.check_output(f"printf %s {shlex.quote(good)} > {STATE}")


def test_the_timer_is_set(drill: Any) -> None:
    timer = drill.check_output("systemctl list-timers --no-legend slipway-registry-backup.timer")
    assert "slipway-registry-backup.service" in timer


@pytest.mark.parametrize("damage", ["truncate --size=-1", "dd conv=notrunc bs=1 count=1 if=/dev/zero status=none"])
def test_a_damaged_blob_of_the_backup_is_found_named_and_repaired(
    damage: str, drill: Any, vault: Any, images: dict[str, list[str]]
) -> None:
    digest = layer_of(drill, "hello", images["hello"][0])
    path = stored(digest)
    vault.check_output(f"{damage} of={path}" if damage.startswith("dd") else f"{damage} {path}")
    result = back_up(drill)
    assert result["new_blobs"] == 1
    assert digest in result["notes"][0]
    assert vault.check_output(f"sha256sum {path}").split()[0] == digest[7:]


def test_the_key_opens_nothing_else(drill: Any, vault: Any) -> None:
    config = json.loads(drill.check_output("cat /etc/slipway/registry-backup/config.json"))
    ssh = shlex.join(config["command"])
    asked = drill.run(f'echo \'{{"do": "list"}}\' | {ssh} cat /etc/passwd')
    assert "root:" not in asked.stdout
    assert "snapshots" in json.loads(asked.stdout)
    forward = shlex.join([*config["command"][:-1], "-W", "127.0.0.1:22", config["command"][-1]])
    assert "forwarding failed" in drill.run(f"{forward} </dev/null 2>&1; true").stdout
    home = vault.file("/etc/slipway/registry-backup-store/.ssh/authorized_keys")
    assert (home.user, home.mode) == ("root", 0o644)
    assert vault.file(STORE).mode == 0o700
    assert drill.file("/etc/slipway/registry-backup/key").mode == 0o600


def test_nobody_else_learns_the_key(drill: Any, vault: Any) -> None:
    play = playbook("backup").succeeded()
    key = drill.check_output("cat /etc/slipway/registry-backup/key").splitlines()[2]
    secrets = [Secret(key), Secret("ci-may-push", "ci")]
    assert leaks_in(play.output, secrets) == []
    assert [leak for host in (drill, vault) for leak in leaks_on(host, secrets[:1])] == []


def test_a_restore_refuses_to_overwrite(drill: Any, images: dict[str, list[str]]) -> None:
    play = playbook("restore")
    assert play.rc != 0
    assert "holds images already: nothing was changed" in play.output
    pull_everything(drill, images)


def test_a_lost_data_directory_comes_back(drill: Any, images: dict[str, list[str]]) -> None:
    """The whole directory is gone, marker and all, under a registry that runs."""
    drill.check_output("rm -rf /srv/registry")
    assert drill.run(f"{CLIENT} pull hello {images['hello'][0]}").rc != 0
    playbook("restore").succeeded()
    pull_everything(drill, images)
    assert client(drill, "push", "team/after", "1", "after")
    docker = images["team/docker"][0]
    drill.check_output(f"docker image rm -f {NAME}/team/docker:1 && docker pull {NAME}/team/docker@{docker}")


def test_images_are_put_aside_when_told(drill: Any, images: dict[str, list[str]]) -> None:
    """And an older backup can be had."""
    after = client(drill, "push", "team/after", "2", "after")
    oldest = sorted(json.loads(line)["name"] for line in backups(drill))[0]
    playbook("restore", registry_backup_overwrite=True, registry_backup_snapshot=oldest).succeeded()
    assert drill.run(f"{CLIENT} pull team/after {after}").rc != 0
    assert drill.run(f"{CLIENT} pull team/slow {images['team/slow'][0]}").rc != 0, "it came after the oldest"
    assert client(drill, "pull", "team/multi", *images["team/multi"]) == "pulled"
    aside = drill.check_output("ls -d /srv/registry/docker.replaced-*").split()
    assert len(aside) == 1
    drill.check_output(f"rm -r {aside[0]}")


def backups(host: Any) -> list[str]:
    """Return a line of JSON for each backup."""
    config = json.loads(host.check_output("cat /etc/slipway/registry-backup/config.json"))
    answer = host.check_output(f'echo \'{{"do": "list"}}\' | {shlex.join(config["command"])}')
    return [json.dumps(item) for item in json.loads(answer)["snapshots"]]


def test_a_damaged_backup_is_not_restored(drill: Any, vault: Any, images: dict[str, list[str]]) -> None:
    """It is found before anything is served, and it is said which image needs the blob."""
    digest = layer_of(drill, "hello", images["hello"][0])
    vault.check_output(f"truncate --size=1000 {stored(digest)}")
    drill.check_output("rm -rf /srv/registry/docker")
    play = playbook("restore")
    assert play.rc != 0
    assert f"{digest} of hello:1.0" in play.output
    assert not drill.file("/srv/registry/docker/registry/v2/blobs").exists
    assert not drill.file("/srv/registry/.slipway-restore").exists


def test_a_machine_that_cannot_be_reached_is_said(drill: Any, vault: Any) -> None:
    before = state(drill)["last_good"]
    keys = "/etc/slipway/registry-backup-store/.ssh/authorized_keys"
    vault.check_output(f"mv {keys} {keys}.away")
    failed = drill.run("systemctl start slipway-registry-backup.service")
    vault.check_output(f"mv {keys}.away {keys}")
    assert failed.rc != 0
    assert state(drill)["ok"] is False
    assert "hung up" in state(drill)["problems"][0]
    assert state(drill)["last_good"] == before


def test_input_that_cannot_work() -> None:
    play = playbook("backup", registry_backup_host="nobody", registry_backup_schedule="daily\nOnBootSec=1")
    assert play.rc != 0
    assert "registry_backup_host is 'nobody': it needs the name of a machine of the inventory" in play.output
    assert "registry_backup_schedule is" in play.output


def test_a_registry_without_a_machine_for_backups_has_no_timer(drill: Any, vault: Any) -> None:
    playbook("registry", registry_backup_host="").succeeded()
    assert not drill.run("systemctl list-unit-files 'slipway-registry-backup*' --no-legend").stdout
    assert not drill.file(STATE).exists
    assert vault.file(f"{STORE}/snapshots").exists
    assert playbook("registry", registry_backup_host="").succeeded().changed == 0


def test_removal_keeps_the_backups(drill: Any, vault: Any) -> None:
    run_play(HERE / "remove.yml").succeeded()
    for path in ("/etc/slipway/registry-backup", "/usr/local/lib/slipway/registry-backup", STATE):
        assert not drill.file(path).exists
    assert not drill.run("systemctl list-unit-files 'slipway-registry-backup*' --no-legend").stdout
    assert vault.run("id slipway-backup").rc != 0
    for path in ("/etc/slipway/registry-backup-store", "/usr/local/lib/slipway/registry-backup"):
        assert not vault.file(path).exists
    assert vault.file(f"{STORE}/snapshots").exists
    assert run_play(HERE / "remove.yml").succeeded().changed == 0
