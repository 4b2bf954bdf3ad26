# SPDX-License-Identifier: GPL-3.0-or-later
"""Action plugin spark_application: follow an application to its end, from the controller, and show how far it is."""

from __future__ import annotations

import contextlib
import signal
import time
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

MODULE = "slipway.platform.spark_application"
POLL_SECONDS = 3.0
# Looking may fail while a node or the API server restarts; for so long it is tried again.
PATIENCE_SECONDS = 120.0
FINISHED = ("succeeded", "failed")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

display = Display()


class GivenUpError(Exception):
    """Somebody does not want to wait any longer."""


@contextlib.contextmanager
def interruptible() -> t.Iterator[None]:
    """Turn the signals by which ansible-core ends a worker into GivenUpError, once; then they are ignored."""

    def stop(number: int, _frame: object) -> None:
        for one in SIGNALS:
            signal.signal(one, signal.SIG_IGN)
        raise GivenUpError(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class ActionModule(ActionBase):  # type: ignore[misc]
    """See the documentation in plugins/modules/spark_application.py."""

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Submit it once, then look until it has ended."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        first = self._call(arguments, task_vars)
        wait = self._flag(arguments, "wait", default=True) and arguments.get("state", "present") == "present"
        if first.get("failed") or not wait or (self._task.check_mode and first["changed"]):
            return first
        # Looking at it must never submit it again, even where somebody deletes it meanwhile.
        with interruptible():
            try:
                result = self._follow({**arguments, "rerun": "never"}, first, task_vars)
            except GivenUpError as exc:
                self._abandon(arguments, task_vars)
                raise AnsibleActionFail(f"{arguments['name']} was given up: {exc}") from exc
        return self._judge({**result, "changed": first["changed"]}, arguments)

    def _call(self, arguments: dict[str, t.Any], task_vars: dict[str, t.Any] | None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = self._execute_module(module_name=MODULE, module_args=arguments, task_vars=task_vars)
        return result

    def _follow(
        self, arguments: dict[str, t.Any], result: dict[str, t.Any], task_vars: dict[str, t.Any] | None
    ) -> dict[str, t.Any]:
        deadline = time.monotonic() + int(arguments.get("seconds", 3600))
        shown, heard = "", time.monotonic()
        while True:
            if not result.get("failed"):
                heard = time.monotonic()
                line = said(arguments["name"], result["application"])
                if line != shown:
                    display.display(line)
                    shown = line
                if result["application"]["state"] in (*FINISHED, "absent"):
                    return result
            elif time.monotonic() - heard > PATIENCE_SECONDS:
                return result
            if time.monotonic() >= deadline:
                raise GivenUpError(f"it has not ended within {arguments.get('seconds', 3600)} seconds; {shown}")
            time.sleep(POLL_SECONDS)
            result = self._look(arguments, task_vars)

    def _look(self, arguments: dict[str, t.Any], task_vars: dict[str, t.Any] | None) -> dict[str, t.Any]:
        """Ask in check mode, in which nothing is ever submitted."""
        before, self._task.check_mode = self._task.check_mode, True
        try:
            return self._call(arguments, task_vars)
        finally:
            self._task.check_mode = before

    def _abandon(self, arguments: dict[str, t.Any], task_vars: dict[str, t.Any] | None) -> None:
        if arguments.get("on_interrupt", "leave") == "kill":
            display.display(f"{arguments['name']}: killing it")
            self._call({"name": arguments["name"], "state": "absent"}, task_vars)

    def _judge(self, result: dict[str, t.Any], arguments: dict[str, t.Any]) -> dict[str, t.Any]:
        found = result.get("application", {})
        if found.get("state") == "succeeded" or result.get("failed"):
            return result
        if found.get("state") == "absent":
            message = f"{arguments['name']} is gone: somebody deleted its driver"
        else:
            code, reason = found.get("exit_code"), found.get("reason") or "the log says why"
            message = f"{arguments['name']} failed with exit code {code}: {reason} (rerun: failed submits it again)"
        return {**result, "failed": True, "msg": message}

    def _flag(self, arguments: dict[str, t.Any], name: str, *, default: bool) -> bool:
        return str(arguments.get(name, default)).lower() in ("true", "yes", "1", "on")


def said(name: str, found: t.Mapping[str, t.Any]) -> str:
    """Return one line of progress."""
    more = found.get("progress") or found.get("reason")
    return f"{name}: {found['state']}" + (f": {more}" if more else "")
