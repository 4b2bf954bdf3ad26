# SPDX-License-Identifier: GPL-3.0-or-later
"""A real registry (distribution 3) as a process of the test, with an empty directory behind it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.lab import golang

SECONDS = 30


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str) -> None:
    """Return once somebody answers there, with whatever status."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextlib.contextmanager
def running(directory: Path, *, port: int, events: str = "", secret: str = "") -> Iterator[str]:
    """Run a registry; yield its URL.

    Args:
        directory: Where it keeps its images; what is there already it serves.
        port: Where it listens.
        events: URL that it notifies, with the secret.
        secret: Goes with each notification.
    """
    config: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(directory)}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if events:
        headers = {"Authorization": [f"Bearer {secret}"]}
        endpoint = {
            "name": "ui",
            "url": events,
            "headers": headers,
            "timeout": "2s",
            "threshold": 5,
            "backoff": "100ms",
        }
        config["notifications"] = {"endpoints": [endpoint]}
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "config.yml"
    file.write_text(json.dumps(config), encoding="utf-8")
    environment = os.environ | {f"OTEL_{kind}_EXPORTER": "none" for kind in ("TRACES", "METRICS", "LOGS")}
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(
            [str(golang.program("registry")), "serve", str(file)], env=environment, stdout=log, stderr=log
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/v2/")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=SECONDS)


def collect_garbage(directory: Path) -> None:
    """Remove what no manifest needs and manifests without a tag, while the registry does not run or nobody writes."""
    command = [str(golang.program("registry")), "garbage-collect", "--delete-untagged", str(directory / "config.yml")]
    subprocess.run(command, check=True, capture_output=True)
