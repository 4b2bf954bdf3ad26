"""Which Go compiler is good enough."""

from __future__ import annotations

import pytest

from tests.lab import golang


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("go version go1.26.8 linux/amd64\n", True),
        ("go version go1.27rc1 linux/amd64\n", True),
        ("go version go2.0 linux/amd64\n", True),
        ("go version go1.24.4 linux/amd64\n", False),
        ("", False),
    ],
)
def test_a_go_that_is_too_old_is_not_used(text: str, good: bool) -> None:
    assert golang.is_new_enough(text) == good
