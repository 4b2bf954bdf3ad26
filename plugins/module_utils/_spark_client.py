# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine from which applications are submitted: Spark as it is in the images, its configuration, and a login.

Sources: Spark's bin/spark-submit and "Running on Kubernetes", kubectl's kubeconfig.
"""

from __future__ import annotations

import base64
import dataclasses
import grp
import json
import os
import re
import shlex
import shutil
import tempfile
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import (
    _files,
    _host_state,
    _packages,
    _spark,
    _spark_shuffle,
)
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Runner, run

# The group may read the login: its members may submit.
OWNER, GROUP = "spark", "spark-submit"
ETC = "/etc/spark"
# Not below conf/: spark-submit hands everything there to the driver, in a ConfigMap.
KUBECONFIG = f"{ETC}/kubeconfig"
HADOOP = f"{ETC}/hadoop"
PROPERTIES = f"{ETC}/conf/spark-defaults.conf"
COMMAND = "/usr/local/bin/spark-submit"
MARKER = ".slipway-image"
PULL_SECONDS = 1800.0
PROXIES = "http_proxy https_proxy ftp_proxy all_proxy no_proxy"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the role's variables say of the client; executors: how many an application has, or has at most."""

    namespace: str
    endpoint: str
    driver_image: str
    executor_image: str
    home: str
    java: str
    shuffle: str = "tracking"
    executors: int = 2
    shuffle_dir: str = "/var/lib/spark-shuffle"
    shuffle_port: int = 7337
    shuffle_user: int = 185
    pull_secret: bool = False
    upload_dir: str = ""
    event_log_dir: str = ""
    node_selector: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    tolerations: tuple[t.Mapping[str, t.Any], ...] = ()
    hadoop: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    conf: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    users: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Login:
    """How to reach the cluster as the account that submits."""

    token: str = dataclasses.field(repr=False)
    authority: str


def properties(settings: Settings) -> dict[str, str]:
    """Return what every application is configured with; what the site says comes last."""
    kubernetes = "spark.kubernetes"
    found = {
        "spark.master": f"k8s://https://{settings.endpoint}",
        "spark.submit.deployMode": "cluster",
        f"{kubernetes}.namespace": settings.namespace,
        f"{kubernetes}.authenticate.driver.serviceAccountName": _spark.DRIVER,
        f"{kubernetes}.driver.container.image": settings.driver_image,
        f"{kubernetes}.executor.container.image": settings.executor_image,
        f"{kubernetes}.driver.podTemplateFile": f"{ETC}/templates/driver.yml",
        f"{kubernetes}.executor.podTemplateFile": f"{ETC}/templates/executor.yml",
    }
    if settings.pull_secret:
        found[f"{kubernetes}.container.image.pullSecrets"] = _spark.PULL
    if settings.upload_dir:
        found[f"{kubernetes}.file.upload.path"] = settings.upload_dir
    if settings.event_log_dir:
        found |= {"spark.eventLog.enabled": "true", "spark.eventLog.dir": settings.event_log_dir}
    return {**found, **_shuffle(settings), **settings.conf}


def _shuffle(settings: Settings) -> dict[str, str]:
    number = str(settings.executors)
    if settings.shuffle == "none":
        return {"spark.dynamicAllocation.enabled": "false", "spark.executor.instances": number}
    if settings.shuffle == "external":
        return {
            "spark.dynamicAllocation.enabled": "true",
            "spark.dynamicAllocation.maxExecutors": number,
            "spark.dynamicAllocation.shuffleTracking.enabled": "false",
            "spark.shuffle.service.enabled": "true",
            "spark.shuffle.service.port": str(settings.shuffle_port),
            # Executors share their node's ports; the driver's is the one of its service in the cluster.
            "spark.blockManager.port": "0",
            "spark.driver.blockManager.port": "7079",
            # A service that is started again is back within these minutes: nobody dies of it, nothing is made anew.
            "spark.shuffle.registration.maxAttempts": "24",
            "spark.shuffle.io.maxRetries": "12",
            # What a node has lost is made again at once, and not one executor's part after the other.
            "spark.files.fetchFailure.unRegisterOutputOnHost": "true",
        }
    return {
        "spark.dynamicAllocation.enabled": "true",
        "spark.dynamicAllocation.maxExecutors": number,
        "spark.dynamicAllocation.shuffleTracking.enabled": "true",
        # Without it an executor with shuffle data stays to the end of its application.
        "spark.dynamicAllocation.shuffleTracking.timeout": "1h",
    }


def template(settings: Settings, role: str) -> dict[str, t.Any]:
    """Return the template of drivers' or executors' pods: what Pod Security's level restricted asks for."""
    container = {
        "name": f"spark-{role}",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec: dict[str, t.Any] = {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    if role == "executor":
        # An executor never asks the API server.
        spec["automountServiceAccountToken"] = False
        spec["affinity"] = {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [_APART]}}
        if settings.shuffle == "external":
            _beside_service(spec, container, settings)
    if settings.node_selector:
        spec["nodeSelector"] = dict(settings.node_selector)
    if settings.tolerations:
        spec["tolerations"] = [dict(toleration) for toleration in settings.tolerations]
    spec.setdefault("affinity", {})["nodeAffinity"] = {"preferredDuringSchedulingIgnoredDuringExecution": [_NO_GPU]}
    return {"apiVersion": "v1", "kind": "Pod", "spec": spec}


def _beside_service(spec: dict[str, t.Any], container: dict[str, t.Any], settings: Settings) -> None:
    """Put executors where a shuffle service is, with its user, its network and its directory, by the same path."""
    directory, name = settings.shuffle_dir, "spark-local-dir-1"
    affinity = {
        "labelSelector": {"matchLabels": dict(_spark_shuffle.SERVICE)},
        "namespaces": [_spark_shuffle.space(settings.namespace)],
        "topologyKey": "kubernetes.io/hostname",
    }
    spec["affinity"]["podAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": [affinity]}
    spec["hostNetwork"], spec["dnsPolicy"] = True, "ClusterFirstWithHostNet"
    spec["securityContext"]["runAsUser"] = settings.shuffle_user
    spec["volumes"] = [{"name": name, "hostPath": {"path": directory, "type": "Directory"}}]
    container["volumeMounts"] = [{"name": name, "mountPath": directory}]
    # Spark prefers it to SPARK_LOCAL_DIRS: the janitor knows by the directory's name which application it belongs to.
    selector = {"fieldPath": f"metadata.labels['{_spark_shuffle.LABEL}']"}
    container["env"] = [
        {"name": "SLIPWAY_APPLICATION", "valueFrom": {"fieldRef": selector}},
        {"name": "SPARK_EXECUTOR_DIRS", "value": f"{directory}/$(SLIPWAY_APPLICATION)"},
    ]


# Executors spread over nodes: a node that dies takes fewer of them along.
_APART = {
    "weight": 1,
    "podAffinityTerm": {
        "labelSelector": {"matchLabels": {"spark-role": "executor"}},
        "topologyKey": "kubernetes.io/hostname",
    },
}

# Nodes with a GPU stay free for pods that ask for one; to those a preference makes no difference.
_NO_GPU = {
    "weight": 1,
    "preference": {"matchExpressions": [{"key": "nvidia.com/gpu.present", "operator": "DoesNotExist"}]},
}


def text(value: t.Any) -> str:
    """Return a value as Spark writes it: YAML's true is not Python's True."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def property_lines(found: t.Mapping[str, str]) -> str:
    """Return properties as Spark reads them (java.util.Properties in UTF-8); names have no space in them."""
    return "".join(f"{name} {_escaped(value)}\n" for name, value in sorted(found.items()))


def _escaped(value: str) -> str:
    safe = re.sub(r"[\\\n\r\t]", lambda match: _ESCAPES[match[0]], value)
    return f"\\{safe}" if safe.startswith((" ", "=", ":")) else safe


_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_PLAIN = {"n": "\n", "r": "\r", "t": "\t"}


def read_properties(content: str) -> dict[str, str]:
    """Return the properties of a file that property_lines() wrote."""
    pairs = (line.partition(" ") for line in content.splitlines() if line and not line.startswith("#"))
    return {name: re.sub(r"\\(.)", lambda match: _PLAIN.get(match[1], match[1]), value) for name, _, value in pairs}


def kubeconfig(settings: Settings, login: Login) -> str:
    """Return the login as a kubeconfig; JSON, so that Python needs nothing to read it."""
    authority = base64.b64encode(login.authority.encode()).decode()
    cluster = {"server": f"https://{settings.endpoint}", "certificate-authority-data": authority}
    context = {"cluster": "spark", "user": _spark.SUBMIT, "namespace": settings.namespace}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "spark", "cluster": cluster}],
        "users": [{"name": _spark.SUBMIT, "user": {"token": login.token}}],
        "contexts": [{"name": "spark", "context": context}],
        "current-context": "spark",
    }
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def command(settings: Settings) -> str:
    """Return the script that people call: everything it talks to is inside, so no proxy takes part."""
    lines = [
        "#!/bin/sh",
        "# Managed by slipway.platform.spark",
        f"unset {PROXIES} {PROXIES.upper()}",
        f'export SPARK_HOME={shlex.quote(settings.home)} SPARK_CONF_DIR="${{SPARK_CONF_DIR:-{ETC}/conf}}"',
        f'export KUBECONFIG="${{KUBECONFIG:-{KUBECONFIG}}}"',
    ]
    if settings.hadoop:
        lines.append(f"export HADOOP_CONF_DIR={HADOOP}")
    # What is uploaded is read by the driver, which is this user to HDFS.
    lines += [
        'export HADOOP_USER_NAME="${HADOOP_USER_NAME:-spark}"',
        f'exec {shlex.quote(settings.home)}/bin/spark-submit "$@"',
    ]
    return "\n".join(lines) + "\n"


def files(settings: Settings, login: Login | None) -> list[_files.WantedFile]:
    """Return the files of a client; without a login (check mode) all but the one that holds it."""
    header = "# Managed by slipway.platform.spark\n"
    wanted = [
        # Debian's Java links its pages there, and does not install where a machine was built without them.
        _files.WantedFile(path="/usr/share/man/man1", kind="directory", mode=0o755),
        _files.WantedFile(path=PROPERTIES, content=(header + property_lines(properties(settings))).encode()),
        *(
            _files.WantedFile(path=f"{ETC}/templates/{role}.yml", content=_yaml(template(settings, role)))
            for role in ("driver", "executor")
        ),
        *(
            _files.WantedFile(path=f"{HADOOP}/{name}", content=content.encode())
            for name, content in sorted(settings.hadoop.items())
        ),
        _files.WantedFile(path=COMMAND, content=command(settings).encode(), mode=0o755),
    ]
    if login is not None:
        content = kubeconfig(settings, login).encode()
        wanted.append(_files.WantedFile(path=KUBECONFIG, content=content, mode=0o640, group=GROUP, secret=True))
    return wanted


def _yaml(document: t.Mapping[str, t.Any]) -> bytes:
    """Return a document as JSON, which is YAML too."""
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


class SparkClient:
    """The machine; state_dir and members are for tests."""

    def __init__(
        self,
        *,
        check: bool,
        runner: Runner = run,
        state_dir: str = _files.STATE_DIR,
        members: t.Callable[[], list[str] | None] | None = None,
    ) -> None:
        self.check = check
        self.runner = runner
        self.members = members or _members
        self.state = _host_state.HostState(owner=OWNER, check=check, runner=runner, state_dir=state_dir)
        self.outcome = self.state.outcome

    def present(self, settings: Settings, login: Login | None) -> _host_state.Outcome:
        """Have Spark, its configuration and the login; HostError where a directory is somebody else's."""
        self._group(settings.users)
        self._home(settings)
        package = _packages.WantedPackage(name=settings.java)
        return self.state.present(_host_state.Wanted(owner=OWNER, packages=[package], files=files(settings, login)))

    def absent(self, home: str) -> _host_state.Outcome:
        """Take everything away again."""
        if os.path.exists(os.path.join(home, MARKER)):
            self.outcome.act(f"remove {home}")
            if not self.check:
                shutil.rmtree(home)
        if self.members() is not None:
            self._do("groupdel", GROUP)
        return self.state.absent(_host_state.Wanted(owner=OWNER))

    def _do(self, *words: str, timeout: float = 60) -> str:
        self.outcome.act(" ".join(words))
        return "" if self.check else self._ask(*words, timeout=timeout)

    def _ask(self, *words: str, timeout: float = 60) -> str:
        done = self.runner(list(words), timeout=timeout)
        if done.rc != 0:
            raise HostError(f"{' '.join(words[:3])} failed: {done.output}")
        return done.stdout.strip()

    def _group(self, users: t.Sequence[str]) -> None:
        found = self.members()
        if found is None:
            self._do("groupadd", "--system", GROUP)
        for user in users:
            if user not in (found or []):
                self._do("gpasswd", "--add", user, GROUP)
        for user in found or []:
            if user not in users:
                self._do("gpasswd", "--delete", user, GROUP)

    def _home(self, settings: Settings) -> None:
        """Have Spark as it is in the driver's image: what submits is what runs."""
        marker = os.path.join(settings.home, MARKER)
        if os.path.exists(settings.home) and not os.path.exists(marker):
            raise HostError(f"{settings.home} is there and is not ours: spark_home needs another directory")
        if _read(marker) == settings.driver_image:
            return
        self.outcome.act(f"copy {settings.home} out of {settings.driver_image}")
        if self.check:
            return
        known = self.runner(["docker", "image", "inspect", settings.driver_image]).rc == 0
        if not known:
            self._ask("docker", "pull", "--quiet", settings.driver_image, timeout=PULL_SECONDS)
        container = self._ask("docker", "create", settings.driver_image)
        try:
            self._copy(container, settings)
        finally:
            self.runner(["docker", "rm", "--volumes", container])
            if not known:
                self.runner(["docker", "rmi", settings.driver_image], timeout=300)

    def _copy(self, container: str, settings: Settings) -> None:
        parent = os.path.dirname(settings.home)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".slipway-") as directory:
            new, old = os.path.join(directory, "new"), os.path.join(directory, "old")
            self._ask("docker", "cp", f"{container}:/opt/spark", new, timeout=600)
            _open_up(new)
            with open(os.path.join(new, MARKER), "w", encoding="utf-8") as handle:
                handle.write(settings.driver_image)
            if os.path.exists(settings.home):
                os.rename(settings.home, old)
            os.rename(new, settings.home)


def _open_up(directory: str) -> None:
    """Let everybody read and nobody but root write, whoever owned the files in the image."""
    for path, names, others in os.walk(directory):
        for name in ("", *names, *others):
            entry = os.path.join(path, name)
            if not os.path.islink(entry):
                os.chown(entry, 0, 0)
                os.chmod(entry, 0o755 if os.path.isdir(entry) or os.access(entry, os.X_OK) else 0o644)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as handle:
            return handle.read().strip()
    except FileNotFoundError:
        return ""


def _members() -> list[str] | None:
    """Return the group's members; None where there is no such group."""
    try:
        return list(grp.getgrnam(GROUP).gr_mem)
    except KeyError:
        return None
