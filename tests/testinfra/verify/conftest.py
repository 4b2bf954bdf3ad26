# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the checks: each runs on every machine; one that does not answer fails one check and skips the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.testinfra.verify.machine import Machine, missing

_answers: dict[str, str] = {}


def reach(machine: Machine) -> str:
    """Return why a machine cannot be checked, or nothing. Asked once for each machine."""
    if machine.name not in _answers:
        try:
            done = machine.host().run("id -u")
            _answers[machine.name] = "" if done.stdout.strip() == "0" else done.stderr.strip() or "is not root"
        except RuntimeError as error:  # testinfra raises it, with ssh's result inside, when ssh itself fails
            _answers[machine.name] = str(getattr(error.args[0], "stderr", error)).strip()
    return _answers[machine.name]


@pytest.fixture(autouse=True)
def _named(request: pytest.FixtureRequest, machine: Machine) -> None:
    """Give the result its names: the check's docstring, its parameters filled in, and the machine."""
    parameters = request.node.callspec.params
    sentence = (request.function.__doc__ or request.function.__name__).format(**parameters)
    request.node.user_properties += [("check", sentence), ("machine", machine.name)]


@pytest.fixture
def host(machine: Machine, _named: None) -> Any:
    """Return testinfra's host of a machine that answers."""
    if reach(machine):
        missing("the machine does not answer")
    return machine.host()


@pytest.fixture
def docker(host: Any) -> dict[str, Any]:
    """Return what the running daemon says about itself; skips where no docker is."""
    if not host.exists("docker"):
        missing("docker is not installed")
    done = host.run("docker info --format '{{json .}}'")
    told = json.loads(done.stdout) if done.stdout.strip() else {}
    if done.rc != 0 or told.get("ServerErrors"):
        missing("docker does not answer")
    return dict(told)
