# SPDX-License-Identifier: GPL-3.0-or-later
"""The pull-through caches: whether machines trust them, and whether each gets at its upstream."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.testinfra.verify.machine import Machine, missing, need, need_running

PROGRAM = "/usr/local/lib/slipway/registry-cache"
STATE = "/run/slipway-registry-cache/state.json"
MAX_LOOK_AGE = 600  # seconds; the timer starts every 30, and deleting a lot takes a while
MIN_DAYS_LEFT = 14
# Runs on the machine with its own Python and its own trust store. Prints JSON. Arguments: host and ports.
ASK = """
import http.client, json, ssl, sys
found = {}
for port in sys.argv[2:]:
    try:
        link = http.client.HTTPSConnection(sys.argv[1], int(port), context=ssl.create_default_context(), timeout=10)
        link.request("GET", "/v2/")
        end = ssl.cert_time_to_seconds(link.sock.getpeercert()["notAfter"])
        found[port] = {"status": link.getresponse().status, "end": end}
    except Exception as error:
        found[port] = {"error": f"{type(error).__name__}: {error}"}
print(json.dumps(found))
"""


def runs_here(host: Any) -> None:
    """Skip the check where no cache runs."""
    if not host.file(PROGRAM).exists:
        missing("no pull-through cache runs here")


def test_reached(machine: Machine, host: Any) -> None:
    """the caches answer, and the system trusts their certificate"""
    caches = machine.fact("registry_caches")
    names = {str(item["port"]): item["name"] for item in caches.get("upstreams") or []}
    if not names:
        missing("the site has no pull-through caches (site_registry_caches.upstreams)")
    found = json.loads(
        host.check_output("python3 -c %s " + " ".join(["%s"] * (len(names) + 1)), ASK, caches["host"], *names)
    )
    for port, answer in found.items():
        where = f"the cache of {names[port]} at {caches['host']}:{port}"
        need("error" not in answer, f"{where}: {answer.get('error')}")
        need(answer["status"] == 200, f"{where} answers {answer['status']}")
        days = (answer["end"] - time.time()) / 86400
        need(days >= MIN_DAYS_LEFT, f"the certificate of {where} ends in {days:.0f} days: run site.yml to renew it")


def test_upstreams(machine: Machine, host: Any) -> None:
    """each cache gets at its upstream, through its proxy, with its login"""
    runs_here(host)
    problems = json.loads(host.check_output(f"{PROGRAM} --check"))
    need(not problems, "; ".join(problems))


def test_containers(machine: Machine, host: Any) -> None:
    """the caches' containers run, restart by themselves and have no privileges"""
    runs_here(host)
    names = host.run("docker ps --all --quiet --filter label=slipway.stack=registry-cache").stdout.split()
    need(names, "no container of a cache is there")
    for container in json.loads(host.run(f"docker inspect {' '.join(names)}").stdout):
        name, settings = container["Name"].lstrip("/"), container["HostConfig"]
        need(container["State"]["Running"], f"{name} is {container['State']['Status']}")
        need(settings["RestartPolicy"]["Name"] == "always", f"{name} does not restart by itself")
        need(not settings["Privileged"], f"{name} is privileged")
        need(settings["ReadonlyRootfs"], f"{name} can write to its root file system")


def test_watched(machine: Machine, host: Any) -> None:
    """the caches are looked after: stopped containers, space"""
    runs_here(host)
    need_running(host, "slipway-registry-cache.timer")
    need(host.file(STATE).exists, "nobody has looked yet; see journalctl -u slipway-registry-cache")
    old = time.time() - float(host.check_output(f"stat -c %Y {STATE}"))
    need(old < MAX_LOOK_AGE, f"nobody has looked for {old:.0f} seconds; see journalctl -u slipway-registry-cache")
