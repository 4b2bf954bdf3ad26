"""Gives scenarios the same fixtures as tests/testinfra."""

from __future__ import annotations

from tests.testinfra.fixtures import (
    _machine,
    host,
    host_vars,
    hosts,
    lab,
    pytest_addoption,
    pytest_generate_tests,
)

__all__ = ["_machine", "host", "host_vars", "hosts", "lab", "pytest_addoption", "pytest_generate_tests"]
