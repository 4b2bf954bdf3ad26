# SPDX-License-Identifier: GPL-3.0-or-later
"""Spark's images in the private registry: what `docker commit` and a careless push take from them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.testinfra.verify.machine import Machine, missing, need

ENTRY_POINT = ["/opt/slipway/tini", "--", "/opt/slipway/entrypoint.sh"]
# Runs on the machine with its own Python and its own trust store. Prints JSON: configurations by tag, or a status.
ASK = """
import http.client, json, ssl, sys
host, port, repository = sys.argv[1:]
link = http.client.HTTPSConnection(host, int(port), context=ssl.create_default_context(), timeout=10)
kinds = ", ".join(f"application/vnd.{kind}.manifest.v{number}+json"
                  for kind, number in (("docker.distribution", 2), ("oci.image", 1)))
def ask(path):
    link.request("GET", f"/v2/{repository}/{path}", headers={"Accept": kinds})
    answer = link.getresponse()
    body = answer.read()
    return answer.status, json.loads(body) if answer.status == 200 else {}
status, found = ask("tags/list")
tags = {}
for tag in found.get("tags") or []:
    manifest = ask(f"manifests/{tag}")[1]
    tags[tag] = ask(f"blobs/{manifest['config']['digest']}")[1].get("config", {}) if "config" in manifest else {}
print(json.dumps({"status": status, "tags": tags}))
"""


@pytest.mark.parametrize("role", ["driver", "executor"])
def test_entry_point(machine: Machine, host: Any, role: str) -> None:
    """Spark's {role} images have their entry point, and no root"""
    if "registries" not in machine.groups:
        missing("the machine runs no registry")
    name, port = machine.registry()
    done = host.run("python3 -c %s %s %s %s", ASK, name, str(port), f"nvidia-spark-{role}")
    need(done.rc == 0, f"{name}:{port}: {(done.stderr.strip().splitlines() or ['no answer'])[-1]}")
    answer = json.loads(done.stdout)
    if answer["status"] == 401:
        missing("the registry lets nobody read without a login")
    if not answer["tags"]:
        missing("the registry has no such images")
    for tag, found in answer["tags"].items():
        image = f"nvidia-spark-{role}:{tag}"
        need(found.get("Entrypoint") == ENTRY_POINT, f"{image} has lost its entry point: {found.get('Entrypoint')}")
        need(found.get("User", "").split(":")[0].strip("0"), f"{image} runs as root")
