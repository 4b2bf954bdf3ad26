# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands run without a shell, in a fixed language, for a bounded time."""

from __future__ import annotations

import pytest
from ansible_collections.slipway.platform.plugins.module_utils import _run
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError


def test_streams_and_status_are_kept_apart() -> None:
    result = _run.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert result == _run.Result(3, "out\n", "err\n")
    assert result.output == "out\nerr"


def test_the_language_is_fixed_and_nothing_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    output = _run.run(["sh", "-c", "echo $LC_ALL $LANGUAGE $DEBIAN_FRONTEND"]).stdout
    assert output == "C.UTF-8 C noninteractive\n"


def test_there_is_no_shell() -> None:
    assert _run.run(["echo", "$HOME; `id`"]).stdout == "$HOME; `id`\n"


def test_input_is_handed_over() -> None:
    assert _run.run(["cat"], stdin="hello").stdout == "hello"


def test_output_that_is_no_text_is_no_error() -> None:
    assert _run.run(["printf", "\\377"]).stdout == "\ufffd"


def test_a_missing_command_is_one_sentence() -> None:
    with pytest.raises(HostError, match=r"^no-such-command is not installed on this host$"):
        _run.run(["no-such-command", "x"])


def test_a_command_that_does_not_end_is_one_sentence() -> None:
    with pytest.raises(HostError, match=r"^sleep 60 did not end within 0\.05 seconds$"):
        _run.run(["sleep", "60"], timeout=0.05)
