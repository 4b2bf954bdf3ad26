# SPDX-License-Identifier: GPL-3.0-or-later
"""Serves the pages: python3 -m registry_ui."""

from __future__ import annotations

import logging
import os
import sys

import uvicorn

from registry_ui.app import application
from registry_ui.settings import Settings


def main() -> int:
    """Run until a signal; return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        app = application(Settings.read(os.environ))
    except (OSError, ValueError) as exc:
        print(f"registry_ui: {exc}", file=sys.stderr)
        return 2
    # One process: the index has one writer. nginx writes the access log, with the user.
    uvicorn.run(app, host="0.0.0.0", port=8080, access_log=False, server_header=False, timeout_graceful_shutdown=10)
    return 0


if __name__ == "__main__":
    sys.exit(main())
