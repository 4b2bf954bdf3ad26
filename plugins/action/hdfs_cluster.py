# SPDX-License-Identifier: GPL-3.0-or-later
"""Action plugin hdfs_cluster: call the module while DataNodes hand their blocks over, and show how far they are."""

from __future__ import annotations

import time
import typing as t

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

DEFAULT_TIMEOUT = 43200

display = Display()


class ActionModule(ActionBase):  # type: ignore[misc]
    """See the documentation in plugins/modules/hdfs_cluster.py."""

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Run the module until nobody leaves any more, or too long."""
        super().run(tmp, task_vars)
        seconds = float(self._task.args.get("decommission_timeout", DEFAULT_TIMEOUT))
        deadline = time.monotonic() + seconds
        actions: list[str] = []
        shown = ""
        while True:
            result: dict[str, t.Any] = self._execute_module(task_vars=task_vars)
            actions += result.get("actions", [])
            leaving = result.get("leaving") or {}
            if result.get("failed") or not leaving or self._task.check_mode:
                break
            text = "; ".join(f"{name}: {progress}" for name, progress in sorted(leaving.items()))
            if time.monotonic() >= deadline:
                result |= {"failed": True, "msg": f"after {seconds:g} seconds there are DataNodes that leave: {text}"}
                break
            if text != shown:
                display.display(f"    {text}")
                shown = text
        if "actions" in result:
            result |= {"actions": actions, "changed": bool(actions) or bool(result.get("changed"))}
        return result
