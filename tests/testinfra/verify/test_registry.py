# SPDX-License-Identifier: GPL-3.0-or-later
"""The private registry as each machine sees it: its certificate, its doors, and pulls by bare name."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.testinfra.verify.cri import client_program
from tests.testinfra.verify.machine import Machine, borrowed_image, missing, need, need_running

MAX_LOOK_AGE = 120  # seconds; the health unit looks every 15
MAX_RENEWAL_AGE = 3  # days; it looks every day
MIN_DAYS_LEFT = 14  # the registry renews its own certificate well before that
# Runs on the machine with its own Python and its own trust store. Prints JSON. Arguments: host, port, CA file or "".
ASK = """
import base64, http.client, json, ssl, sys
host, port, ca = sys.argv[1], int(sys.argv[2]), sys.argv[3] or None
def ask(method, path, login=None):
    context = ssl.create_default_context(cafile=ca)
    connection = http.client.HTTPSConnection(host, port, context=context, timeout=10)
    headers = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()} if login else {}
    connection.request(method, path, headers=headers)
    end = connection.sock.getpeercert()["notAfter"]
    return connection.getresponse().status, ssl.cert_time_to_seconds(end)
try:
    alive, end = ask("GET", "/v2/")
    push = "/v2/slipway-verify/blobs/uploads/"
    print(json.dumps({"alive": alive, "end": end, "anonymous_push": ask("POST", push)[0],
                      "wrong_password": ask("POST", push, "nobody:wrong")[0], "pages": ask("GET", "/ui/")[0]}))
except Exception as error:
    print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
"""
_answers: dict[tuple[str, str], dict[str, Any]] = {}


def ask(machine: Machine, host: Any, ca_file: str = "") -> dict[str, Any]:
    """Return what the registry answers this machine, asked once; fails the check when it does not answer."""
    name, port = machine.registry()
    key = (machine.name, ca_file)
    if key not in _answers:
        done = host.run("python3 -c %s %s %s %s", ASK, name, str(port), ca_file)
        _answers[key] = json.loads(done.stdout) if done.rc == 0 else {"error": done.stderr.strip().splitlines()[-1]}
    answer = _answers[key]
    need("error" not in answer, f"{name}:{port}: {answer.get('error')}")
    return answer


def test_trusted_by_the_system(machine: Machine, host: Any) -> None:
    """the registry answers and the system trusts its certificate"""
    answer = ask(machine, host)
    need(answer["alive"] in (200, 401), f"GET /v2/ gives {answer['alive']}")


def test_trusted_by_docker(machine: Machine, host: Any) -> None:
    """docker's own CA file fits the registry's certificate"""
    name, port = machine.registry()
    path = f"/etc/docker/certs.d/{name}:{port}/ca.crt"
    if not host.file(path).exists:
        missing(f"{path} is not there: docker uses the system's trust")
    ask(machine, host, path)


def test_certificate_lasts(machine: Machine, host: Any) -> None:
    """the registry's certificate lasts"""
    days = (ask(machine, host)["end"] - time.time()) / 86400
    need(days >= MIN_DAYS_LEFT, f"the registry's certificate ends in {days:.0f} days")


def test_anonymous_push(machine: Machine, host: Any) -> None:
    """the registry refuses an anonymous push"""
    status = ask(machine, host)["anonymous_push"]
    need(status in (401, 403), f"an anonymous push is answered with {status}")


def test_wrong_password(machine: Machine, host: Any) -> None:
    """the registry refuses a wrong password"""
    status = ask(machine, host)["wrong_password"]
    need(status in (401, 403), f"a push with a wrong password is answered with {status}")


def test_pages(machine: Machine, host: Any) -> None:
    """the registry's pages answer a browser"""
    if not machine.fact("registry").get("ui"):
        missing("the site has no pages for its registry (site_registry.ui)")
    status = ask(machine, host)["pages"]
    need(status in (200, 401), f"GET /ui/ gives {status}; on the registry: docker logs slipway-registry-ui")


def test_containers(machine: Machine, host: Any) -> None:
    """the registry's containers run, restart by themselves and have no privileges"""
    if "registries" not in machine.groups:
        missing("the registry does not run here")
    names = host.run("docker ps --all --quiet --filter name=^slipway-registry").stdout.split()
    need(names, "no container of the registry is there")
    for container in json.loads(host.run(f"docker inspect {' '.join(names)}").stdout):
        name, settings = container["Name"].lstrip("/"), container["HostConfig"]
        need(container["State"]["Running"], f"{name} is {container['State']['Status']}")
        need(settings["RestartPolicy"]["Name"] == "always", f"{name} does not restart by itself")
        need(not settings["Privileged"], f"{name} is privileged")
        need(settings["ReadonlyRootfs"], f"{name} can write to its root file system")


def test_health(machine: Machine, host: Any) -> None:
    """the registry's health unit looks, and sees no trouble: disk, certificate, containers"""
    if "registries" not in machine.groups:
        missing("the registry does not run here")
    need_running(host, "slipway-registry-health.timer")
    state = host.file("/run/slipway-registry/health.json")
    need(state.exists, "the health unit has not looked yet; see journalctl -u slipway-registry-health")
    old = time.time() - float(host.check_output("stat -c %Y /run/slipway-registry/health.json"))
    need(old < MAX_LOOK_AGE, f"the health unit has not looked for {old:.0f} seconds")
    problems = [text for text, _since in json.loads(state.content_string)["problems"].values()]
    need(not problems, "; ".join(problems))


def test_renewal(machine: Machine, host: Any) -> None:
    """the registry renews its certificate itself, and lately looked whether that is due"""
    if "registries" not in machine.groups:
        missing("the registry does not run here")
    if not host.file("/etc/systemd/system/slipway-registry-renew.timer").exists:
        missing("the certificate is the site's own, registry_renewal is off, or the CA may have no issuer below it")
    need_running(host, "slipway-registry-renew.timer")
    state = host.file("/var/lib/slipway/registry/renewal.json")
    need(state.exists, "no renewal has looked yet; see journalctl -u slipway-registry-renew")
    last = json.loads(state.content_string)
    need(last["ok"], f"the certificate cannot be renewed: {last.get('error')}")
    days = {name: (last[name] - time.time()) / 86400 for name in ("not_after", "issuer_not_after", "looked")}
    need(days["looked"] > -MAX_RENEWAL_AGE, f"nobody looks after the certificate for {-days['looked']:.0f} days")
    need(days["not_after"] >= MIN_DAYS_LEFT, f"the certificate on the disk ends in {days['not_after']:.0f} days")
    need(days["issuer_not_after"] >= 2 * MIN_DAYS_LEFT, f"its issuer ends in {days['issuer_not_after']:.0f} days")


def test_garbage_collection(machine: Machine, host: Any) -> None:
    """the registry's garbage collection is planned, ended well and holds nobody off"""
    if "registries" not in machine.groups:
        missing("the registry does not run here")
    state = host.file("/var/lib/slipway/registry/gc.json")
    if state.exists:
        last = json.loads(state.content_string)
        need(last["ok"], f"the last garbage collection failed: {last['error']}")
    held = host.file("/run/slipway-registry/collecting").exists
    running = host.run("systemctl is-active slipway-registry-gc.service").stdout.strip() == "activating"
    need(running or not held, "a garbage collection that is no more holds pushes off")
    if host.file("/etc/systemd/system/slipway-registry-gc.timer").exists:
        need_running(host, "slipway-registry-gc.timer")
    elif not state.exists:
        missing("the site has no registry_gc_schedule, and no collection was made by hand")


def test_backup(machine: Machine, host: Any) -> None:
    """the registry was backed up, and lately"""
    state = host.file("/var/lib/slipway/registry/backup.json")
    if "registries" not in machine.groups:
        missing("the registry does not run here")
    if not state.exists:
        missing("no backup was made yet (registry_backup_host)")
    last = json.loads(state.content_string)
    need(last["ok"], f"the last backup failed: {'; '.join(last['problems'])}")
    hours = (time.time() - last["last_good"]) / 3600
    need(hours * 3600 <= last["max_age"], f"the last good backup is {hours:.0f} hours old")


@pytest.mark.parametrize("probe", ["private", "upstream"])
def test_docker_pull(probe: str, machine: Machine, host: Any) -> None:
    """docker pulls the {probe} image by its bare name"""
    image = machine.probe(probe)
    with borrowed_image(host, image):
        done = host.run("docker pull --quiet %s", image)  # asks the registry even where the image is there
    need(done.rc == 0, f"docker pull {image}: {done.stderr.strip()}")


@pytest.mark.parametrize("probe", ["private", "upstream"])
def test_cri_pull(probe: str, machine: Machine, host: Any) -> None:
    """a pod gets the {probe} image by its bare name (CRI)"""
    image = machine.probe(probe)
    with client_program(machine, host) as client:
        known = image in host.run(f"{client} images").stdout
        done = host.run(f"{client} pull %s", image)
        if not known:
            host.run(f"{client} remove %s", image)
    need(done.rc == 0, f"CRI pull of {image}: {(done.stderr or done.stdout).strip()}")
