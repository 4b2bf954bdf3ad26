# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts an S3 server (versitygw over a directory) onto a machine of the lab: server.py MACHINE. It starts nothing."""

from __future__ import annotations

import io
import sys
import tarfile
import tempfile
from pathlib import Path

import yaml

from tests.lab import golang, machines, pki, plan
from tests.testinfra.lab import put_program

PORT = 7070
DIRECTORY = "/srv/s3"
BUCKET = "images"
UNIT = f"""\
[Unit]
Description=Object storage of the tests

[Service]
EnvironmentFile=/etc/lab-s3/environment
ExecStart=/usr/local/bin/versitygw --quiet --port :{PORT} --cert /etc/lab-s3/server.crt --key /etc/lab-s3/server.key \
posix {DIRECTORY}
Restart=on-failure

[Install]
WantedBy=multi-user.target
"""


def environment() -> str:
    """The server's only user, as the scenario's variables have it."""
    text = (Path(__file__).resolve().parent / "vars.yml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    return f"ROOT_ACCESS_KEY={values['registry_s3_access_key']}\nROOT_SECRET_KEY='{values['registry_s3_secret_key']}'\n"


def main(machine: str) -> None:
    """Put program, certificate, key, user, unit and an empty bucket onto a machine."""
    with tempfile.TemporaryDirectory() as directory:
        leaf = pki.Files(Path(directory) / "server.crt", Path(directory) / "server.key")
        pki.ensure((f"{machine}.{plan.ZONE}",), leaf)
        files = {
            "etc/lab-s3/server.crt": (leaf.certificate.read_text(encoding="ascii"), 0o644),
            "etc/lab-s3/server.key": (leaf.key.read_text(encoding="ascii"), 0o600),
            "etc/lab-s3/environment": (environment(), 0o600),
            "etc/systemd/system/lab-s3.service": (UNIT, 0o644),
        }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("etc/lab-s3", DIRECTORY.lstrip("/"), f"{DIRECTORY.lstrip('/')}/{BUCKET}"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for name, (text, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), mode
            archive.addfile(entry, io.BytesIO(text.encode()))
    put_program(machine, golang.program("versitygw"), "/usr/local/bin/versitygw")
    assert machines.existing(machine).put_archive("/", buffer.getvalue())


if __name__ == "__main__":
    main(sys.argv[1])
