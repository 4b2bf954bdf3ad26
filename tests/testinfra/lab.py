"""What tests may ask of the lab around the machines."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.lab import engine, gateway, machines, plan
from tests.lab.credentials import Account
from tests.lab.errors import LabError

ACCESS_LOG = "/var/log/squid/access.log"

LINE = re.compile(r"\S+\s+\d+ (?P<client>\S+) (?P<result>\S+) \d+ (?P<method>\S+) (?P<url>\S+) (?P<user>.+) \S+ \S+")


@dataclass(frozen=True)
class Request:
    """One line of squid's access log.

    Attributes:
        client: Address of the machine that asked.
        result: Squid's word and the HTTP status, such as TCP_TUNNEL/200.
        method: HTTP method.
        url: What was asked for; `name:port` for CONNECT.
        user: Name that was authenticated, or "-".
    """

    client: str
    result: str
    method: str
    url: str
    user: str

    @classmethod
    def parse(cls, line: str) -> Request:
        """Read a line in squid's native format.

        Raises:
            ValueError: It is none.
        """
        match = LINE.fullmatch(line.strip())
        if match is None:
            raise ValueError(f"not a line of squid's access log: {line!r}")
        found = match.groupdict()
        # Squid percent-encodes what is not printable ASCII and doubles the backslash; a space stays as it is.
        found["user"] = unquote(found["user"]).replace("\\\\", "\\")
        return cls(**found)


@dataclass
class Lab:
    """The lab's outside view. `mark` is where in squid's log this test began."""

    mark: int

    @classmethod
    @contextmanager
    def attach(cls) -> Iterator[Lab]:
        """Connect to the running lab, or skip the test where there is none."""
        try:
            running = engine.find(plan.PREFIX + "gateway")
        except LabError as error:
            pytest.skip(f"no lab here: {error}")
        if running is None:
            pytest.skip("no lab here: `make lab` starts one")
        yield cls(mark=log_size())

    def squid_log(self, client: str | None = None) -> list[Request]:
        """Requests that squid logged since this test began.

        Args:
            client: Only those of this machine, by name.
        """
        text = _gateway(["tail", "-c", f"+{self.mark + 1}", ACCESS_LOG])
        requests = [Request.parse(line) for line in text.splitlines() if LINE.fullmatch(line.strip())]
        return [request for request in requests if client is None or request.client == machines.address(client)]

    def reboot(self, name: str) -> None:
        """Restart a machine's systemd and wait until it has booted."""
        machines.reboot(name)

    def stop(self, name: str) -> None:
        """Shut a machine down."""
        machines.stop(name)

    def kill(self, name: str) -> None:
        """Cut a machine's power."""
        machines.existing(name).kill()

    def start(self, name: str) -> None:
        """Start a machine that was shut down or killed."""
        machines.start(name)

    @contextmanager
    def proxy_account(self, user: str, password: str, owner: str) -> Iterator[None]:
        """Let one more account, raw as a person would type it, use the proxy.

        Args:
            user: Any printable characters but a colon.
            password: Any printable characters.
            owner: Unique name of the account, such as the scenario's.
        """
        with gateway.extra_account(Account(user, password), owner):
            yield


def put_program(machine: str, program: Path, target: str) -> None:
    """Put a program onto a machine of the lab, at a path that only root writes to."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tar.gettarinfo(str(program), arcname=target.lstrip("/"))
        entry.mode, entry.uid, entry.gid = 0o755, 0, 0
        with program.open("rb") as content:
            tar.addfile(entry, content)
    assert machines.existing(machine).put_archive("/", archive.getvalue())


def log_size() -> int:
    """Bytes in squid's access log."""
    size = _gateway(["stat", "-c", "%s", ACCESS_LOG]).strip()
    # Under load the engine may lose what so short a command prints. Zero would make other tests' requests ours.
    return int(size or _gateway(["sh", "-c", f"stat -c %s {ACCESS_LOG}; sleep 0.5"]))


def _gateway(words: list[str]) -> str:
    return str(machines.existing("gateway").exec_run(words, stderr=False).output.decode())
