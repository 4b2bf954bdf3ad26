# SPDX-License-Identifier: GPL-3.0-or-later
"""The UI in front of a real registry, with images to look at, and Debian's Chromium to look with."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from registry_ui.app import Application, application
from registry_ui.settings import Settings

from tests.lab import images
from tests.registry_ui.process import free_port, running, wait_for
from tests.registry_ui.push import Pusher

SECRET = "0123456789abcdef0123456789abcdef"
GATE = {"X-Slipway-Gate": SECRET}
READER = GATE | {"X-Slipway-User": "rita"}
ADMIN = GATE | {"X-Slipway-User": "anna", "X-Slipway-May": "delete"}
NAME = "registry.corp.lab:6001"
SECONDS = 60
HISTORY = [
    {"created": "2026-11-01T09:00:00Z", "created_by": "ADD debian-13.tar / # buildkit", "comment": "Debian 13"},
    {
        "created": "2026-11-20T10:00:00Z",
        "created_by": "RUN apt-get install --yes python3 python3-torch # buildkit",
    },
    {"created": "2026-11-20T10:00:00Z", "created_by": "ENV MODEL=/srv/model", "empty_layer": True},
    {"created": "2026-11-20T10:01:00Z", "created_by": "COPY app /srv/app # buildkit"},
]


def config(version: str, **more: object) -> dict[str, object]:
    """Return what an image of the examples says."""
    labels = {
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.source": "https://git.corp.lab/ml/serving",
    }
    runs = {
        "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "MODEL=/srv/model", f"VERSION={version}"],
        "Entrypoint": ["python3", "-m", "serving"],
        "User": "1000",
        "WorkingDir": "/srv/app",
        "ExposedPorts": {"8080/tcp": {}},
        "Labels": labels,
    }
    return {"created": "2026-11-20T10:01:00Z", "config": runs, "history": HISTORY} | more


def fill(url: str) -> None:
    """Push images of every kind."""
    pusher = Pusher(url)
    base, torch = os.urandom(700_000), os.urandom(1_800_000)
    for version in ("1.0", "1.1", "1.2", "1.9", "1.10"):
        layers = [base, torch if version > "1.1" else torch[:900_000], version.encode() * 20_000]
        amd = pusher.image("ml/serving", layers=layers, config=config(version))
        arm = pusher.image(
            "ml/serving", layers=[*layers[:2], b"arm" + layers[2]], config=config(version), platform="linux/arm64"
        )
        pusher.index("ml/serving", version, {"linux/amd64": amd, "linux/arm64": arm})
        pusher.index("ml/serving", "latest", {"linux/amd64": amd, "linux/arm64": arm})
    pusher.artifact("ml/serving", f"sha256-{amd[7:]}.sig", "application/vnd.dev.cosign.simplesigning.v1+json")
    for name, size in {
        "ml/training": 2_500_000,
        "web/shop/frontend": 400_000,
        "web/shop/cart": 300_000,
        "web/blog": 150_000,
    }.items():
        for tag in ("2026.10", "2026.11"):
            pusher.image(name, tag, layers=[base, os.urandom(size)], config=config(tag, history=[]))
    for name in ("k8s/kube-apiserver", "k8s/kube-proxy", "k8s/coredns/coredns", "hello"):
        pusher.image(name, "v1.34.3", layers=[os.urandom(200_000)])
    hostile = {"config": {"Labels": {"<script>alert(1)</script>": "\u202eevil\x1b[31m"}, "Env": ["A=" + "x" * 9000]}}
    pusher.image("odd/hostile", "1", config=hostile | {"history": [{"created_by": "RUN <img src=x onerror=alert(1)>"}]})
    pusher.artifact("charts/shop", "0.4.1", "application/vnd.cncf.helm.config.v1+json")


@contextlib.contextmanager
def ui(directory: Path, address: str = "127.0.0.1") -> Iterator[tuple[str, Application]]:
    """Run a registry with images and the UI; yield the UI's URL as a browser reaches it."""
    port, ui_port = free_port(), free_port()
    told = {"events": f"http://127.0.0.1:{ui_port}/events", "secret": SECRET}
    with running(directory / "registry", port=port, **told) as url:
        settings = Settings(
            registry_url=url, registry_name=NAME, registry_version="3.1.2", data_dir=directory / "data", gate=SECRET
        )
        app = application(settings)
        server = uvicorn.Server(uvicorn.Config(app, host=address, port=ui_port, log_level="error"))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            wait_for(f"http://{address}:{ui_port}/healthz")
            fill(url)
            app.pages.indexer.scan()
            yield f"http://{address}:{ui_port}", app
        finally:
            server.should_exit = True
            thread.join()


@contextlib.contextmanager
def chromium(directory: Path) -> Iterator[str]:
    """Run Chromium; yield where it is driven: the machine's own, else the lab's image of Debian's."""
    port = free_port()
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    words += [f"--remote-debugging-port={port}", f"--user-data-dir={directory}/profile", "about:blank"]
    own = shutil.which("chromium")
    name = f"slipway-browser-{port}"
    command = [own, *words] if own else [images.DOCKER, "run", "--rm", "--name", name, "--network", "host"]
    if not own:
        command += [os.environ.get("SLIPWAY_CHROMIUM_IMAGE") or images.ensure("browser"), "chromium", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + SECONDS
        while not _answers(port):
            assert process.poll() is None and time.monotonic() < deadline, "Chromium does not start"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        if not own:
            subprocess.run([images.DOCKER, "kill", name], capture_output=True, check=False)
        process.terminate()
        process.wait(timeout=SECONDS)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
