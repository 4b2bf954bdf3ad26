# SPDX-License-Identifier: GPL-3.0-or-later
"""The one error type that module logic raises and a module's main() turns into fail_json."""

from __future__ import annotations


class HostError(Exception):
    """A wanted state could not be reached; the message is one sentence for the operator."""
