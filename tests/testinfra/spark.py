# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of a scenario with Spark share: applications by the site's playbooks, and their namespace."""

from __future__ import annotations

import re
from typing import Any

from tests.testinfra import cluster as cluster_tests
from tests.testinfra.play import REPOSITORY, Play, run_play

KUBECTL = f"{cluster_tests.KUBECTL} --namespace=spark"
PI = "local:///opt/spark/examples/src/main/python/pi.py"


def play(name: str, *arguments: str, **variables: Any) -> Play:
    """Run one of the site's playbooks."""
    return run_play(REPOSITORY / "playbooks" / name, variables, arguments=["-vvv", "--diff", *arguments])


def submit(name: str, *arguments: str, application: str = PI, **job: Any) -> Play:
    """Run an application by its name."""
    return play("spark_submit.yml", *arguments, spark_job={"name": name, "application": application, **job})


def result(done: Play) -> dict[str, Any]:
    """Return what the module told of an application."""
    found = re.search(r"^\s+exit_code: (\S+)$", done.output, re.M)
    state = re.search(r"^\s+state: (\w+)$", done.output, re.M)
    return {"exit_code": found[1].strip("'\"") if found else None, "state": state[1] if state else None}


class Cluster(cluster_tests.Cluster):
    """kubectl on the control plane's machine, in the namespace of the applications."""

    def run(self, words: str, *arguments: str) -> Any:
        """Run kubectl."""
        return self.control.run(f"{KUBECTL} {words}", *arguments)

    def names(self, kind: str, selector: str = "") -> list[str]:
        """Return the names of objects."""
        found = self.get(f"{kind} --selector='{selector}'")["items"]
        return [one["metadata"]["name"] for one in found]

    def may(self, who: str, words: str) -> bool:
        """Tell whether an account has a right."""
        return str(self.run(f"auth can-i --as={who} {words}").stdout).strip() == "yes"


def flat(text: str) -> str:
    """Return a text on one line."""
    return " ".join(text.split())
