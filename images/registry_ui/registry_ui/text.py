# SPDX-License-Identifier: GPL-3.0-or-later
"""What people pushed, and numbers, as text that a page can show: nothing in it acts, hides or turns the line around."""

from __future__ import annotations

import datetime
import re
import typing as t
import unicodedata

from markupsafe import Markup, escape

# Longer text is cut; the raw manifest has all of it.
LONGEST = 4000
# Cc control, Cf format (bidirectional marks, zero width), Cs surrogates, Co private use, Zl and Zp line separators.
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
PRINTABLE = re.compile("[ -~]*")
UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
SPANS = ((86400 * 365, "year"), (86400 * 30, "month"), (86400, "day"), (3600, "hour"), (60, "minute"))


def plain(value: object, *, longest: int = LONGEST, kept: str = "") -> str:
    """Return text in which each character that cannot be seen stands as its number, such as ⟨U+202E⟩.

    Those in kept stay what they are.
    """
    whole = str(value)
    shown = "".join(character if character in kept else _seen(character) for character in whole[:longest])
    return f"{shown} … {len(whole) - longest} more characters" if len(whole) > longest else shown


def _seen(character: str) -> str:
    if character < "\x7f" and character.isprintable():
        return character
    return f"⟨U+{ord(character):04X}⟩" if unicodedata.category(character) in HIDDEN else character


def visible(value: object, longest: int = LONGEST, kept: str = "") -> Markup:
    """Return `plain` as HTML, escaped, the numbers marked so that they are not mistaken for text."""
    if isinstance(value, str) and len(value) <= longest and PRINTABLE.fullmatch(value):
        return escape(value)
    parts = re.split(r"(⟨U\+[0-9A-F]{4,6}⟩)", plain(value, longest=longest, kept=kept))
    marked = (
        Markup('<span class="hidden-character">{}</span>').format(x) if i % 2 else escape(x)
        for i, x in enumerate(parts)
    )
    return Markup("").join(marked)


def lines(value: object, longest: int = LONGEST) -> Markup:
    """Return text of several lines as HTML."""
    return visible(value, longest, "\n\t")


def bytes_(size: float | None) -> str:
    """Return a size with three digits or so, in decimal units as registries and disks are sold."""
    if size is None:
        return "—"
    value, unit = float(size), 0
    while value >= 999.5 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {UNITS[unit]}" if unit == 0 or value >= 99.5 else f"{value:.1f} {UNITS[unit]}"


def count(number: int, noun: str, plural: str = "") -> str:
    """Return "1 tag", "2 tags"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def moment(stamp: float | None) -> str:
    """Return a time in UTC to the minute; empty when it is not known or nonsense."""
    when = _utc(stamp)
    return f"{when:%Y-%m-%d %H:%M} UTC" if when else ""


def machine_time(stamp: float | None) -> str:
    """Return a time as HTML's time element and JSON want it."""
    when = _utc(stamp)
    return when.isoformat().replace("+00:00", "Z") if when else ""


def _utc(stamp: float | None) -> datetime.datetime | None:
    try:
        return datetime.datetime.fromtimestamp(stamp, datetime.UTC).replace(microsecond=0) if stamp else None
    except (OverflowError, OSError, ValueError):
        return None


def ago(stamp: float | None, now: float) -> str:
    """Return how long ago, in one unit; a dash when it is not known."""
    if not _utc(stamp):
        return "—"
    seconds = now - t.cast(float, stamp)
    if seconds < -60:
        return moment(stamp)
    for span, name in SPANS:
        if seconds >= span:
            return f"{count(int(seconds // span), name)} ago"
    return "just now"


def when(stamp: float | None, now: float, unknown: str = "—") -> Markup:
    """Return how long ago as HTML that says the exact time too."""
    exact = _utc(stamp)
    if exact is None:
        return Markup('<span class="none">{}</span>').format(unknown)
    machine = exact.strftime("%Y-%m-%dT%H:%M:%SZ")
    return Markup(f'<time datetime="{machine}" title="{exact:%Y-%m-%d %H:%M} UTC">{ago(stamp, now)}</time>')


def parse_time(value: object) -> float | None:
    """Return epoch seconds of an RFC 3339 time with any number of digits after the second; None for anything else."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.\d+)?([Zz]|[+-]\d\d:\d\d)", str(value))
    if match is None:
        return None
    try:
        stamp = datetime.datetime.fromisoformat(match[1] + match[2].upper().replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError):
        return None
    # Builders that want the same digest every time write the epoch, or year 1: that is no date.
    return stamp if stamp > 86400 else None


def short(digest: str) -> str:
    """Return the first twelve hexadecimal digits of a digest."""
    return digest.partition(":")[2][:12] or digest[:12]


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key that puts 1.10 after 1.9."""
    parts = re.findall(r"\d{1,18}|\D+|\d", name)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]
