# SPDX-License-Identifier: GPL-3.0-or-later
"""What programs make of the files that proxy settings are written to: their parsers, rewritten from their sources.

tests/testinfra and molecule/docker_proxy run the same values through the real programs.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import os
import shutil
import subprocess
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

SHELL_NEED_ESCAPE = '"\\`$'


def credentials_of(url: str) -> tuple[str, str]:
    """Return user and password of a URL as Go's net/url and curl do: split first, then percent-decode each once."""
    parts = urllib.parse.urlsplit(url)
    userinfo = parts.netloc.rpartition("@")[0]
    user, _, password = userinfo.partition(":")
    return urllib.parse.unquote(user, errors="strict"), urllib.parse.unquote(password, errors="strict")


def read_environment_file(text: str) -> dict[str, str]:
    """Parse an EnvironmentFile like parse_env_file_internal() of systemd 252 (src/basic/env-file.c)."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        if not line.strip() or line.lstrip()[0] in "#;":
            continue
        name, _, rest = line.partition("=")
        found[name.strip()] = _environment_value(rest)
    return found


def _environment_value(rest: str) -> str:
    value, state, index = "", "plain", 0
    while index < len(rest):
        char = rest[index]
        index += 1
        if state == "single":
            state, value = ("plain", value) if char == "'" else (state, value + char)
        elif state == "double" and char == "\\" and index < len(rest):
            following = rest[index]
            index += 1
            value += following if following in SHELL_NEED_ESCAPE else "\\" + following
        elif state == "double":
            state, value = ("plain", value) if char == '"' else (state, value + char)
        elif char == "'":
            state = "single"
        elif char == '"':
            state = "double"
        elif char == "\\":
            raise AssertionError("an unquoted backslash: not what the encoder writes")
        else:
            value += char
    assert state == "plain", f"quotes left open in {rest!r}"
    return value


def read_environment_directives(text: str) -> dict[str, str]:
    """Parse Environment= lines like config_parse_environ() of systemd: unquote, unescape, expand specifiers."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, _, rest = line.partition("=")
        assert key == "Environment"
        assert not line.endswith("\\"), "systemd would join the next line"
        for word in _unquoted_words(rest):
            name, _, value = _expand_specifiers(word).partition("=")
            found[name] = value
    return found


def _unquoted_words(text: str) -> list[str]:
    words, word, quote, index = [], "", "", 0
    while index < len(text):
        char = text[index]
        index += 1
        if char == "\\":
            following = text[index]
            index += 1
            assert following in '\\"', f"an escape that the encoder does not write: {following!r}"
            word += following
        elif quote:
            quote, word = ("", word) if char == quote else (quote, word + char)
        elif char in "\"'":
            quote = char
        elif char == " ":
            words.append(word)
            word = ""
        else:
            word += char
    assert not quote, f"quotes left open in {text!r}"
    return [*words, word]


def _expand_specifiers(word: str) -> str:
    parts = word.split("%%")
    assert not any("%" in part for part in parts), f"systemd would expand a specifier in {word!r}"
    return "%".join(parts)


HAS_APT = shutil.which("apt-config") is not None


def read_apt_config(path: Path) -> dict[str, str]:
    """Return every option under Acquire as the real apt reads it from a file, and fail on any warning."""
    done = subprocess.run(
        ["apt-config", "dump", "--format", "%f%n%v%n"],
        env={**os.environ, "APT_CONFIG": str(path), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    lines = done.stdout.split("\n")
    return {name: value for name, value in zip(lines[::2], lines[1::2], strict=False) if name.startswith("Acquire::")}


class RecordingProxy:
    """A proxy on 127.0.0.1 that answers 404 and remembers the credentials that it was sent."""

    def __init__(self) -> None:
        self.credentials: list[str] = []
        recorder = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                header = self.headers.get("Proxy-Authorization", "")
                recorder.credentials.append(base64.b64decode(header.removeprefix("Basic ")).decode("utf-8"))
                self.send_error(404)

            def log_message(self, *args: object) -> None:
                """Stay quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]


@contextlib.contextmanager
def recording_proxy() -> Iterator[RecordingProxy]:
    """Run a RecordingProxy as long as the block runs."""
    proxy = RecordingProxy()
    thread = threading.Thread(target=proxy.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        proxy.server.server_close()


def run_apt_update(configuration: Path, directory: Path) -> None:
    """Let the real apt-get fetch an index of a host that does not exist, with a configuration file of ours."""
    for name in ("state/lists/partial", "cache/archives/partial", "etc"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    (directory / "etc/sources.list").write_text("deb [trusted=yes] http://mirror.invalid/debian stable main\n")
    (directory / "state/status").touch()
    options = {
        "Dir::State": f"{directory}/state",
        "Dir::State::status": f"{directory}/state/status",
        "Dir::Cache": f"{directory}/cache",
        "Dir::Etc": f"{directory}/etc",
        "APT::Sandbox::User": "root",
        "Acquire::Retries": "0",
    }
    arguments = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    subprocess.run(
        ["apt-get", "update", *arguments],
        env={**os.environ, "APT_CONFIG": str(configuration)},
        capture_output=True,
        check=False,
        timeout=30,
    )
