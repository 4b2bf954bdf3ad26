# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role spark_images accepts, and the sentences for what it does not."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.action.validate import apply_rules
from ansible_collections.slipway.platform.plugins.plugin_utils import _rules_spark_images as rules


@pytest.mark.parametrize(
    ("rule", "good"),
    [
        ("version", "3.5.9"),
        ("version", "4.1.4"),
        ("checksum", "aB" * 64),
        ("source", "https://mirror.example/apache/spark"),
        ("image", "registry.corp.lab:6001/torch:2.6"),
        ("image", "nvcr.io/nvidia/pytorch:24.10-py3"),
        ("model_name", ""),
        ("model_name", "torch_2.6-cuda"),
    ],
)
def test_accepted(rule: str, good: str) -> None:
    assert rules.RULES[f"spark_images_{rule}"](good) is None


@pytest.mark.parametrize(
    ("rule", "bad", "sentence"),
    [
        ("version", "3.5", "spark_images_x is '3.5': it needs a version of 3.5 or 4, with all three numbers"),
        ("version", "3.4.4", "it needs a version of 3.5 or 4"),
        ("version", "5.0.0", "it needs a version of 3.5 or 4"),
        ("version", "2.2.0", "because the 2.x fork for Kubernetes is not to be had any more"),
        ("version", 3.5, "it needs a version of 3.5 or 4"),
        ("checksum", "", "it needs the SHA-512 of Spark's distribution, 128 hexadecimal digits"),
        ("checksum", "0" * 64, "it needs the SHA-512"),
        ("source", "ftp://archive", "it needs an http or https address"),
        ("source", "https://user:secret@archive", "is an address with credentials: it needs"),
        ("image", "torch", "it needs a tag or a digest"),
        ("image", "", "it needs a name such as"),
        ("model_name", "a/b", "it needs at most 60 letters"),
        ("model_name", "x" * 61, "it needs at most 60 letters"),
    ],
)
def test_refused_in_one_sentence(rule: str, bad: Any, sentence: str) -> None:
    (said,) = apply_rules({"spark_images_x": f"spark_images_{rule}"}, [], {"spark_images_x": bad})
    assert sentence in said and said.startswith("spark_images_x is ") and "secret" not in said


@pytest.mark.parametrize(
    ("java", "version", "sentence"),
    [
        (17, "3.5.9", ""),
        (21, "4.1.4", ""),
        (17, "4.1.4", ""),
        (17, "what", ""),
        (21, "3.5.9", "spark_images_java is 21: it needs 17, which is what Spark 3.5 runs on."),
        (11, "4.1.4", "spark_images_java is 11: it needs 17 or 21, which is what Spark 4 runs on."),
    ],
)
def test_java_goes_with_spark(java: int, version: str, sentence: str) -> None:
    names = {"java": "spark_images_java", "version": "spark_images_version"}
    values = {"spark_images_java": java, "spark_images_version": version}
    said = apply_rules({}, [{"rule": "spark_images_java", "vars": names}], values)
    assert said == ([sentence] if sentence else [])
