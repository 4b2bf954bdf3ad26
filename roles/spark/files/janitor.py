# SPDX-License-Identifier: GPL-3.0-or-later
"""Remove the shuffle files of applications that are gone, on one node, and those of no other.

An application's executors write below ROOT/IDENTIFIER, where the identifier is their label spark-app-selector. A
directory goes when the API server has told twice in a row that no pod of that identifier is left which has not ended.
Whatever else it says, or that it says nothing, removes nothing. Runs beside the shuffle service with the Python of the
executors' image.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import sys
import time
import urllib.parse
import urllib.request
from typing import Any

LABEL = "spark-app-selector"
IDENTIFIER = re.compile(r"spark-[0-9a-f]{32}\Z")
ENDED = ("Succeeded", "Failed")
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
ASK_SECONDS = 20.0


class DoubtError(Exception):
    """The API server has not said, or not clearly, which applications there are."""


def directories(root: str) -> set[str]:
    """Return the identifiers that have a directory; whatever has another name is nobody's to remove."""
    with os.scandir(root) as entries:
        return {one.name for one in entries if IDENTIFIER.match(one.name) and one.is_dir(follow_symlinks=False)}


def living(answer: Any) -> set[str]:
    """Return the identifiers of pods that have not ended; DoubtError unless it is the whole list."""
    try:
        if answer["kind"] != "PodList" or answer["metadata"].get("continue"):
            raise DoubtError(f"its answer is no whole list of pods: {str(answer)[:200]}")
        pods = [(one["metadata"]["labels"][LABEL], one["status"].get("phase", "")) for one in answer["items"]]
    except (KeyError, TypeError, AttributeError) as exc:
        raise DoubtError(f"its answer is no list of pods: {exc!r}") from exc
    return {identifier for identifier, phase in pods if phase not in ENDED}


def ask(server: str, namespace: str, account: str = ACCOUNT) -> Any:
    """Return the API server's list of pods; DoubtError when there is none. Any proxy of the environment is left out."""
    selector = urllib.parse.urlencode({"labelSelector": LABEL})
    address = f"{server}/api/v1/namespaces/{namespace}/pods?{selector}"
    try:
        with open(f"{account}/token", encoding="utf-8") as handle:
            headers = {"Authorization": f"Bearer {handle.read().strip()}", "Accept": "application/json"}
        context = ssl.create_default_context(cafile=f"{account}/ca.crt")
        handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        request = urllib.request.Request(address, headers=headers)
        with urllib.request.build_opener(*handlers).open(request, timeout=ASK_SECONDS) as found:
            return json.load(found)
    except (OSError, ValueError) as exc:
        raise DoubtError(f"the API server does not tell: {exc}") from exc


class Janitor:
    """One directory; ask and say are for tests."""

    def __init__(self, root: str, ask: Any, say: Any) -> None:
        self.root, self.ask, self.say = root, ask, say
        self.suspects: set[str] = set()
        self.doubt = ""

    def sweep(self) -> None:
        """Remove what is of no use any more."""
        # First what is there, then who lives: an application that begins in between is in neither or in both.
        found = directories(self.root)
        try:
            gone = found - living(self.ask()) if found else set()
        except DoubtError as exc:
            self.suspects = set()
            if str(exc) != self.doubt:
                self.say(f"nothing is removed: {exc}")
            self.doubt = str(exc)
            return
        self.doubt = ""
        for identifier in sorted(gone & self.suspects):
            self._remove(identifier)
        self.suspects = gone

    def _remove(self, identifier: str) -> None:
        try:
            shutil.rmtree(os.path.join(self.root, identifier))
            self.say(f"removed the files of {identifier}")
        except OSError as exc:
            self.say(f"the files of {identifier} cannot be removed: {exc}")


def main() -> None:
    """Sweep for as long as the pod lives."""
    root, namespace, seconds = sys.argv[1:4]
    host, port = (os.environ[f"KUBERNETES_SERVICE_{name}"] for name in ("HOST", "PORT"))
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    janitor = Janitor(root, lambda: ask(server, namespace), lambda text: print(text, flush=True))
    while True:
        janitor.sweep()
        time.sleep(float(seconds))


if __name__ == "__main__":
    main()
