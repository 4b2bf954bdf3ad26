# SPDX-License-Identifier: GPL-3.0-or-later
"""An application of Spark by its name: submitted once, looked at, taken away. Asked on a client, with its login.

Sources: Spark's "Running on Kubernetes", "Monitoring" (REST API), Kubernetes' API core/v1 (pods, log, proxy).
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import json
import os
import re
import ssl
import tempfile
import time
import typing as t
import urllib.error
import urllib.parse
import urllib.request

from ansible_collections.slipway.platform.plugins.module_utils import _spark, _spark_client, _spark_shuffle
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Runner, run

LABEL, DIGEST = "slipway.platform/application", "slipway.platform/digest"
FINISHED = ("succeeded", "failed")
ASK_SECONDS, SUBMIT_SECONDS, GONE_SECONDS = 20.0, 300.0, 120.0
PHASES = {"Pending": "pending", "Running": "running", "Succeeded": "succeeded", "Failed": "failed"}
UI_PORT = 4040
# Below this a driver is still being pulled, or waits for room; these say that waiting is of no use.
HOPELESS = ("CreateContainerConfigError", "ErrImageNeverPull", "InvalidImageName", "ErrImagePull", "ImagePullBackOff")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """What to run: paths are of the client, of the image (local://) or in HDFS; rerun: never, failed or always."""

    name: str
    application: str
    main_class: str = ""
    arguments: tuple[str, ...] = ()
    jars: tuple[str, ...] = ()
    py_files: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    conf: t.Mapping[str, str] = dataclasses.field(default_factory=dict)

    def digest(self) -> str:
        """Return what tells this work from another under the same name: the spec, and the files of the client."""
        texts = {}
        for path in (self.application, *self.jars, *self.py_files, *self.files):
            local = path.removeprefix("file://")
            if local.startswith("/"):
                texts[path] = _file_digest(local)
        text = json.dumps({**dataclasses.asdict(self), "files of the client": texts}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _file_digest(path: str) -> str:
    try:
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as exc:
        raise HostError(f"{path} cannot be read on this machine: {exc.strerror}") from exc


@dataclasses.dataclass
class Status:
    """What there is of an application; exit_code is None until it has ended."""

    state: str = "absent"
    digest: str = ""
    exit_code: int | None = None
    reason: str = ""
    node: str = ""
    image: str = ""
    identifier: str = ""
    seconds: float = 0.0
    progress: str = ""
    executors: list[dict[str, t.Any]] = dataclasses.field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether it has ended, well or not."""
        return self.state in FINISHED


def status(pod: t.Mapping[str, t.Any] | None, *, now: float) -> Status:
    """Return what a driver's pod tells."""
    if pod is None:
        return Status()
    found, metadata = pod.get("status", {}), pod["metadata"]
    containers = found.get("containerStatuses", [{}])
    state = containers[0].get("state", {})
    ended, waits = state.get("terminated", {}), state.get("waiting", {})
    begun = _time(found.get("startTime")) or now
    result = Status(
        state=PHASES.get(str(found.get("phase")), "pending"),
        digest=metadata.get("annotations", {}).get(DIGEST, ""),
        exit_code=ended.get("exitCode"),
        node=pod.get("spec", {}).get("nodeName", ""),
        image=pod.get("spec", {}).get("containers", [{}])[0].get("image", ""),
        identifier=metadata.get("labels", {}).get("spark-app-selector", ""),
        seconds=round((_time(ended.get("finishedAt")) or now) - begun, 1),
    )
    conditions = [one for one in found.get("conditions", []) if one.get("status") == "False" and one.get("message")]
    said = [ended.get("message"), ended.get("reason"), found.get("message"), found.get("reason")]
    if result.state == "pending":
        said = [_both(waits), *(one["message"] for one in conditions if one.get("type") == "PodScheduled")]
    result.reason = next((str(one) for one in said if one), "") if result.state != "succeeded" else ""
    return result


def _both(waits: t.Mapping[str, t.Any]) -> str:
    return ": ".join(str(waits[key]) for key in ("reason", "message") if waits.get(key))


def _time(text: str | None) -> float:
    if not text:
        return 0.0
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def told(stages: t.Sequence[t.Mapping[str, t.Any]], executors: t.Sequence[t.Mapping[str, t.Any]]) -> str:
    """Return one line of progress."""
    done = [stage for stage in stages if stage.get("status") == "COMPLETE"]
    parts = [f"{len(done)} stages done"]
    for stage in stages:
        if stage.get("status") == "ACTIVE":
            name = str(stage.get("name", "")).split(" at ")[0]
            tasks = f"{stage.get('numCompleteTasks', 0)}/{stage.get('numTasks', 0)}"
            failed = f", {stage['numFailedTasks']} failed" if stage.get("numFailedTasks") else ""
            parts.append(f"stage {stage.get('stageId')} {name} {tasks} tasks{failed}")
    alive = [one for one in executors if one.get("isActive") and one.get("id") != "driver"]
    return ", ".join([*parts, f"{len(alive)} executors"])


class Api:
    """The API server, asked directly: a client needs no kubectl. Any proxy of the environment is left out."""

    def __init__(self, path: str) -> None:
        try:
            with open(path, encoding="utf-8") as handle:
                found = json.load(handle)
        except (OSError, ValueError) as exc:
            raise HostError(f"{path} is not a login for this user: it needs the role spark on this machine") from exc
        cluster = found["clusters"][0]["cluster"]
        self.server = str(cluster["server"])
        self.namespace = str(found["contexts"][0]["context"]["namespace"])
        self._token = str(found["users"][0]["user"]["token"])
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        context = ssl.create_default_context(cadata=authority)
        handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        self._opener = urllib.request.build_opener(*handlers)
        self._base = f"/api/v1/namespaces/{self.namespace}"

    def ask(self, path: str, *, method: str = "GET") -> str | None:
        """Return the body of an answer in the namespace, or at a path from the root; None where nothing is there."""
        address = f"{self.server}{path}" if path.startswith("/") else f"{self.server}{self._base}/{path}"
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json, */*"}
        request = urllib.request.Request(address, method=method, headers=headers)
        try:
            with self._opener.open(request, timeout=ASK_SECONDS) as answer:
                return str(answer.read().decode("utf-8", "replace"))
        except urllib.error.HTTPError as exc:
            with exc:
                if exc.code == 404:
                    return None
                message = exc.read(2000).decode("utf-8", "replace")
            raise HostError(f"the API server answers {exc.code}: {_message(message)}") from exc
        except (OSError, ValueError) as exc:
            raise HostError(f"the API server {self.server} does not answer: {exc}") from exc


def _message(body: str) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.strip()[:200]


class Asks(t.Protocol):
    """What asks the API server; unit tests hand in their own."""

    namespace: str

    def ask(self, path: str, *, method: str = ...) -> str | None: ...


@dataclasses.dataclass
class Outcome:
    """What was done, and what there is now."""

    changed: bool
    status: Status


class Application:
    """An application of one name; pause and properties are for tests."""

    def __init__(
        self,
        name: str,
        *,
        check: bool,
        api: Asks,
        runner: Runner = run,
        properties: str = _spark_client.PROPERTIES,
        pause: t.Callable[[float], None] = time.sleep,
    ) -> None:
        self.name, self.check = name, check
        self.api = api
        self.runner = runner
        self.properties = properties
        self.pause = pause
        self.pod = f"{name}-driver"

    def look(self) -> Status:
        """Return what there is of it, with its progress while it runs."""
        text = self.api.ask(f"pods/{self.pod}")
        found = status(json.loads(text) if text else None, now=time.time())
        if found.state == "running":
            self._progress(found)
        return found

    def _progress(self, found: Status) -> None:
        """Ask the driver's own API how far it is; a driver that has just begun has none."""
        base = f"pods/{self.pod}:{UI_PORT}/proxy/api/v1/applications"
        try:
            about = [self.api.ask(f"{base}/{found.identifier}/{part}") for part in ("stages", "allexecutors")]
            stages, executors = (json.loads(text or "[]") for text in about)
        except (HostError, ValueError):
            return
        found.progress = told(stages, executors)
        found.executors = [
            {
                "id": one.get("id"),
                "host": str(one.get("hostPort", "")).rpartition(":")[0],
                "tasks": one.get("totalTasks"),
            }
            for one in executors
            if one.get("id") != "driver"
        ]

    def log(self, lines: int) -> list[str]:
        """Return the end of the driver's log."""
        if not lines:
            return []
        return (self.api.ask(f"pods/{self.pod}/log?tailLines={lines}") or "").splitlines()

    def present(self, spec: Spec, *, rerun: str) -> Outcome:
        """Have it run, or have run; HostError where its name is taken by other work that runs."""
        found, digest = self.look(), spec.digest()
        if found.state in ("pending", "running") and found.digest != digest:
            raise HostError(
                f"the application {self.name} is {found.state} with other work than this: it needs to end first, "
                "or this another name"
            )
        if not _due(found, digest, rerun):
            return Outcome(False, found)
        site = self._site()
        external = site.get("spark.shuffle.service.enabled") == "true"
        refused = sorted({*spec.conf} & {*_spark.OWNED, *(_spark.OWNED_EXTERNAL if external else ())})
        if refused:
            raise HostError(f"conf has {', '.join(refused)}: that needs to be left to the role spark, which decides it")
        if external:
            self._judge_service()
        if self.check:
            return Outcome(True, found)
        if found.state != "absent":
            self._delete()
        self._submit(spec, digest, site)
        return Outcome(True, self.look())

    def _site(self) -> dict[str, str]:
        with open(self.properties, encoding="utf-8") as handle:
            return _spark_client.read_properties(handle.read())

    def _judge_service(self) -> None:
        """Raise HostError where an executor would find no shuffle service on a node: it would die of it."""
        space = _spark_shuffle.space(self.api.namespace)
        daemonset = self.api.ask(f"/apis/apps/v1/namespaces/{space}/daemonsets/{_spark_shuffle.NAME}")
        selector = "%2C".join(f"{key}%3D{value}" for key, value in _spark_shuffle.SERVICE.items())
        pods = self.api.ask(f"/api/v1/namespaces/{space}/pods?labelSelector={selector}")
        late = _spark_shuffle.late(
            json.loads(daemonset) if daemonset else None, json.loads(pods or "{}").get("items", [])
        )
        if late:
            raise HostError(f"nothing was submitted, because executors need the shuffle service on their node: {late}")

    def absent(self) -> Outcome:
        """Kill it, and take away what is left of it."""
        found = self.look()
        if found.state != "absent" and not self.check:
            self._delete()
        return Outcome(found.state != "absent", Status() if not self.check else found)

    def _delete(self) -> None:
        """Delete the driver; the cluster takes all else along, which belongs to it."""
        self.api.ask(f"pods/{self.pod}", method="DELETE")
        deadline = time.monotonic() + GONE_SECONDS
        while self.api.ask(f"pods/{self.pod}") is not None:
            if time.monotonic() >= deadline:
                raise HostError(f"the pod {self.pod} is not gone after {GONE_SECONDS:g} seconds")
            self.pause(1)

    def _submit(self, spec: Spec, digest: str, site: t.Mapping[str, str]) -> None:
        """Submit it by a file of properties: what is in there appears in no list of processes."""
        kubernetes = "spark.kubernetes.driver"
        # The pod's name is the application's: of two that submit at once, one gets it.
        own = {
            f"{kubernetes}.pod.name": self.pod,
            f"{kubernetes}.label.{LABEL}": self.name,
            f"{kubernetes}.annotation.{DIGEST}": digest,
            "spark.kubernetes.submission.waitAppCompletion": "false",
        }
        with tempfile.TemporaryDirectory(prefix="slipway-spark-") as directory:
            path = os.path.join(directory, "properties")
            with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as handle:
                handle.write(_spark_client.property_lines({**site, **spec.conf, **own}))
            done = self.runner(words(spec, path), timeout=SUBMIT_SECONDS)
        if done.rc != 0:
            raise HostError(f"spark-submit failed: {why(done.output)}")


def _due(found: Status, digest: str, rerun: str) -> bool:
    """Tell whether there is something to submit."""
    if found.state in ("pending", "running"):
        return False
    if found.state == "failed" and found.digest == digest:
        return rerun != "never"
    return found.state == "absent" or found.digest != digest or rerun == "always"


def words(spec: Spec, properties: str) -> list[str]:
    """Return the command."""
    found = [_spark_client.COMMAND, f"--properties-file={properties}", f"--name={spec.name}"]
    if spec.main_class:
        found.append(f"--class={spec.main_class}")
    for option, paths in (("jars", spec.jars), ("py-files", spec.py_files), ("files", spec.files)):
        if paths:
            found.append(f"--{option}={','.join(paths)}")
    return [*found, spec.application, *spec.arguments]


def why(output: str) -> str:
    """Return the lines of spark-submit's output that say why it failed, as one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"Exception|Error|ERROR|Caused by|forbidden|denied", line)]
    telling = [line for line in telling if not line.startswith("at ")]
    return "; ".join(dict.fromkeys((telling or lines)[-4:]))[:1200] or "it says nothing"
