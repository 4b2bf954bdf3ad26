"""The host's own apt sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import sources

ONE_LINE = """\
# deb http://commented.example/debian trixie main
deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian/ trixie main
deb-src http://src.example/debian trixie main
deb http://user:pw@security.example:8080/debian-security trixie-security main
"""
DEB822 = """\
Types: deb
URIs: https://mirror.example/debian
Suites: trixie
Components: main

Types: deb
URIs: https://mirror.example/debian-security https://other.example/debian-security
Suites: trixie-security
"""


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        (
            "sources.list",
            ONE_LINE,
            {
                "debian": "http://mirror.example/debian",
                "debian-security": "http://user:pw@security.example:8080/debian-security",
            },
        ),
        (
            "sources.list.d/debian.sources",
            DEB822,
            {"debian": "https://mirror.example/debian", "debian-security": "https://mirror.example/debian-security"},
        ),
        ("sources.list.d/other.list", "deb https://packages.example/apt stable main\n", {}),
        ("sources.list.d/debian.sources.bak", DEB822, {}),
    ],
)
def test_archives_are_found_in_both_formats(tmp_path: Path, file: str, text: str, expected: dict[str, str]) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert sources.host_archives(tmp_path) == expected


def test_a_suite_gets_updates_and_security() -> None:
    found = sources.lines("trixie", {"debian": "http://m/debian", "debian-security": "http://m/debian-security"})
    assert [line.split(" ", 2)[2] for line in found] == [
        "http://m/debian trixie main",
        "http://m/debian trixie-updates main",
        "http://m/debian-security trixie-security main",
    ]


def test_without_an_archive_of_debian_the_bootstrapper_decides() -> None:
    assert sources.lines("trixie", {"debian-security": "http://m/debian-security"}) == []


def test_hosts_come_without_user_and_port() -> None:
    assert sources.hosts_of({"a": "http://u:p@b.example:80/debian", "c": "https://a.example/debian"}) == [
        "a.example",
        "b.example",
    ]
