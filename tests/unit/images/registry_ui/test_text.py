# SPDX-License-Identifier: GPL-3.0-or-later
"""What people pushed shows as text: it neither acts nor hides, and numbers read well."""

from __future__ import annotations

import pytest
from registry_ui import text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain ü 漢字 🚢", "plain ü 漢字 🚢"),
        ("\x1b[31mred\x07", "⟨U+001B⟩[31mred⟨U+0007⟩"),
        ("a\u202egpj.exe", "a⟨U+202E⟩gpj.exe"),
        ("zero\u200bwidth\ufeff", "zero⟨U+200B⟩width⟨U+FEFF⟩"),
        ("\u2066isolated\u2069", "⟨U+2066⟩isolated⟨U+2069⟩"),
        ("line\u2028break\nnew\ttab", "line⟨U+2028⟩break⟨U+000A⟩new⟨U+0009⟩tab"),
        ("half \ud800 pair", "half ⟨U+D800⟩ pair"),
        ("\x9b2J", "⟨U+009B⟩2J"),
        (7, "7"),
    ],
)
def test_what_cannot_be_seen_stands_as_its_number(value: object, shown: str) -> None:
    assert text.plain(value) == shown


def test_html_is_text() -> None:
    shown = str(text.visible('<script>alert("1")</script>&\u202e'))
    assert shown.startswith("&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;&amp;")
    assert shown.endswith('<span class="hidden-character">⟨U+202E⟩</span>')


def test_long_text_is_cut_and_says_so() -> None:
    assert text.plain("x" * 5000) == "x" * 4000 + " … 1000 more characters"
    assert str(text.visible("<" * 9, 3)) == "&lt;&lt;&lt; … 6 more characters"


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (None, "—"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99499, "99.5 kB"),
        (99600, "100 kB"),
        (999600, "1.0 MB"),
        (5 * 10**9, "5.0 GB"),
        (2**60, "1153 PB"),
    ],
)
def test_sizes(size: int | None, shown: str) -> None:
    assert text.bytes_(size) == shown


@pytest.mark.parametrize(
    ("stamp", "shown"),
    [
        (None, "—"),
        (0, "—"),
        (1e18, "—"),
        (1000000.0 - 10, "just now"),
        (1000000.0 - 61, "1 minute ago"),
        (1000000.0 - 7300, "2 hours ago"),
        (1000000.0 - 86400 * 3, "3 days ago"),
        (1000000.0 + 3600, "1970-01-12 14:46 UTC"),
    ],
)
def test_how_long_ago(stamp: float | None, shown: str) -> None:
    assert text.ago(stamp, 1e6) == shown


@pytest.mark.parametrize(
    ("value", "stamp"),
    [
        ("2026-01-02T03:04:05.123456789Z", 1767323045.0),
        ("2026-01-02t03:04:05+01:00", 1767319445.0),
        ("1970-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00Z", None),
        ("2026-13-02T03:04:05Z", None),
        ("yesterday", None),
        (None, None),
        ({"a": 1}, None),
    ],
)
def test_times_of_builders(value: object, stamp: float | None) -> None:
    assert text.parse_time(value) == stamp


def test_times_of_machines() -> None:
    assert text.machine_time(1767323045.9) == "2026-01-02T03:04:05Z"
    assert text.machine_time(None) == "" and text.moment(1e300) == ""


def test_digests_are_short() -> None:
    assert text.short("sha256:0123456789abcdef") == "0123456789ab"
    assert text.short("nonsense") == "nonsense"


def test_versions_are_in_order() -> None:
    names = ["1.10", "1.9", "latest", "1.9-rc1", "v2", "٣", "9" * 30]
    assert sorted(names, key=text.natural)[-1] == "9" * 30
    assert sorted(["1.10", "1.9", "1.2"], key=text.natural) == ["1.2", "1.9", "1.10"]


def test_numbers_have_their_noun() -> None:
    assert text.count(1, "tag") == "1 tag"
    assert text.count(12345, "repository", "repositories") == "12,345 repositories"
