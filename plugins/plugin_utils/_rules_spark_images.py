# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules of the role spark_images, for the action plugin validate."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _images
from ansible_collections.slipway.platform.plugins.plugin_utils import _rules
from ansible_collections.slipway.platform.plugins.plugin_utils._rules import Problem, Rule, Verdict

# Which Java runs which Spark: its own documentation, page "Overview".
JAVA = {"3.5": (17,), "4": (17, 21)}


def _line(version: t.Any) -> str:
    """Return the line of a version that we build, or an empty string."""
    match = re.fullmatch(r"(?:(3\.5)|(4)\.\d+)\.\d+", str(version))
    return (match[1] or match[2]) if match else ""


def spark_images_version(value: t.Any) -> Verdict:
    """Accept a version of a line that runs on today's Kubernetes with today's Java."""
    if _line(value):
        return None
    if str(value).startswith("2."):
        return "3.5.x or 4.x, because the 2.x fork for Kubernetes is not to be had any more (docs/spark_images.md)"
    return "a version of 3.5 or 4, with all three numbers, such as 3.5.9"


def spark_images_checksum(value: t.Any) -> Verdict:
    """Accept a SHA-512."""
    if re.fullmatch(r"[0-9A-Fa-f]{128}", str(value)):
        return None
    return "the SHA-512 of Spark's distribution, 128 hexadecimal digits, from the file .sha512 beside it"


def spark_images_source(value: t.Any) -> Verdict:
    """Accept an address without credentials."""
    return _rules.web_address(value)


def spark_images_image(value: t.Any) -> Verdict:
    """Accept an image with tag or digest."""
    try:
        _images.parse(str(value))
    except ValueError as exc:
        return str(exc)
    return None


def spark_images_model_name(value: t.Any) -> Verdict:
    """Accept what may stand in a tag, beside a version and a digest."""
    if re.fullmatch(r"[A-Za-z0-9_.-]{0,60}", str(value)):
        return None
    return "at most 60 letters, digits, dots, dashes and underscores, as a tag may hold"


def spark_images_java(value: t.Any) -> Verdict:
    """Accept {java, version} that go together."""
    line = _line(value.get("version"))
    if not line or int(value.get("java") or 0) in JAVA[line]:
        return None
    numbers = " or ".join(map(str, JAVA[line]))
    return Problem(f"{numbers}, which is what Spark {line} runs on", ".java", _rules.shown(value.get("java")))


RULES: dict[str, Rule] = {
    "spark_images_version": spark_images_version,
    "spark_images_checksum": spark_images_checksum,
    "spark_images_source": spark_images_source,
    "spark_images_image": spark_images_image,
    "spark_images_model_name": spark_images_model_name,
    "spark_images_java": spark_images_java,
}
