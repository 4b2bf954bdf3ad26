# SPDX-License-Identifier: GPL-3.0-or-later
"""Search for a password in every form in which tools let it out: raw, percent-encoded, base64, quoted for JSON.

`leaks_in(text, secrets)` looks at what is at hand, such as Ansible's output at -vvv --diff; `leaks_on(host, secrets)`
at what an ordinary user of a machine can read. Both return sentences that never hold the secret itself.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import tarfile
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

# Where configuration and state end up. /proc and /sys are asked for separately.
READABLE_PLACES = ("/etc", "/run", "/usr/local", "/var/lib/slipway", "/var/log", "/var/tmp", "/tmp", "/home", "/root")
MAX_FILE_KIB = 1024
ORDINARY_USER = "nobody"


@dataclasses.dataclass(frozen=True)
class Secret:
    """A password, and the user it belongs to where there is one."""

    password: str
    user: str = ""

    def forms(self) -> dict[str, str]:
        """Return every spelling to search for, by a name that may be shown."""
        encoded = urllib.parse.quote(self.password, safe="")
        found = {
            "raw": self.password,
            "percent-encoded": encoded,
            "percent-encoded in lower case": _lower_hex(encoded),
            "percent-encoded for a form": urllib.parse.quote_plus(self.password),
            "percent-encoded for a unit": encoded.replace("%", "%%"),
            "in JSON": json.dumps(self.password)[1:-1],
            "in JSON with Unicode": json.dumps(self.password, ensure_ascii=False)[1:-1],
            "base64": _base64(self.password),
        }
        if self.user:
            found["base64 with its user"] = _base64(f"{self.user}:{self.password}")
            found["base64 with its user, percent-encoded"] = _base64(
                f"{urllib.parse.quote(self.user, safe='')}:{encoded}"
            )
        return found


def _base64(text: str) -> str:
    """Return base64 without its end, which depends on what follows the secret."""
    data = text.encode()
    whole = len(data) - len(data) % 3
    return base64.b64encode(data[:whole] or data).decode().rstrip("=")


def _lower_hex(encoded: str) -> str:
    parts = encoded.split("%")
    return "%".join([parts[0], *(part[:2].lower() + part[2:] for part in parts[1:])])


def leaks_in(text: str | bytes, secrets: Iterable[Secret], *, where: str = "the text") -> list[str]:
    """Return a sentence for each form of a secret that a text holds."""
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return [
        f"{where} holds the password of {secret.user or 'a user'} ({name})"
        for secret in secrets
        for name, form in secret.forms().items()
        if form.encode() in data
    ]


def leaks_on(host: Any, secrets: Iterable[Secret]) -> list[str]:
    """Return a sentence for each secret that an ordinary user of a machine (testinfra's host) can come by.

    That is: files, what systemd tells of its units, command lines of processes, and what is stored in containers and
    images (asked as root, since whoever may use Docker reads it). The secrets do not travel to the machine.
    """
    wanted = list(secrets)
    found: list[str] = []
    for path, content in readable_files(host).items():
        found += leaks_in(content, wanted, where=path)
    user = f"runuser -u {ORDINARY_USER} --"
    for where, command in {
        "systemctl show": f"{user} systemctl show --all '*.service'",
        "a process's command line": f"{user} sh -c 'cat /proc/[0-9]*/cmdline 2>/dev/null'",
        "a process's environment": f"{user} sh -c 'cat /proc/[0-9]*/environ 2>/dev/null'",
        "docker inspect": "docker ps -aq 2>/dev/null | xargs -r docker inspect",
        "docker image inspect": "docker images -q 2>/dev/null | sort -u | xargs -r docker image inspect",
        "docker history": "docker images -q 2>/dev/null | sort -u | xargs -r -n1 docker history --no-trunc",
        "docker info": "docker info 2>/dev/null",
    }.items():
        found += leaks_in(host.run(command).stdout_bytes, wanted, where=where)
    return found


def readable_files(host: Any, places: Iterable[str] = READABLE_PLACES) -> Mapping[str, bytes]:
    """Return every file that an ordinary user of a machine can read, by path, in one call."""
    command = (
        f"cd / && runuser -u {ORDINARY_USER} -- sh -c "
        f"'find {' '.join(places)} -xdev -type f -readable -size -{MAX_FILE_KIB}k -print0 2>/dev/null"
        " | tar --create --null --ignore-failed-read --files-from=- 2>/dev/null | gzip -1'"
    )
    data = host.run(command).stdout_bytes
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        return {
            f"/{member.name.lstrip('/')}": handle.read()
            for member in archive
            if member.isfile() and (handle := archive.extractfile(member)) is not None
        }
