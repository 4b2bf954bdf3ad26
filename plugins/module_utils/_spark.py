# SPDX-License-Identifier: GPL-3.0-or-later
"""Spark in a cluster: its namespace, accounts, rights and quotas, and what an application's configuration has to say.

Sources: Spark's "Running on Kubernetes" and "Configuration", Kubernetes' "Pod Security Standards".
"""

from __future__ import annotations

import base64
import dataclasses
import json
import time
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import (
    _host_state,
    _kubernetes,
    _spark_history,
    _spark_shuffle,
)
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError

# What marks an object as ours: only such are ever taken away.
PART = "slipway.platform/part"
DRIVER, SUBMIT, PULL = "spark-driver", "spark-submit", "spark-pull"
LOGIN = "spark-submit-login"
KINDS = "deployments,services,configmaps,serviceaccounts,secrets,roles,rolebindings,resourcequotas,limitranges"
LOGIN_SECONDS, SERVICE_SECONDS = 60.0, 600.0
# What the role decides: with another value executors die, or an application leaves the place that was made for it.
OWNED = (
    "spark.dynamicAllocation.enabled",
    "spark.dynamicAllocation.shuffleTracking.enabled",
    "spark.kubernetes.authenticate.driver.serviceAccountName",
    "spark.kubernetes.driver.podTemplateFile",
    "spark.kubernetes.executor.podTemplateFile",
    "spark.kubernetes.namespace",
    "spark.master",
    "spark.shuffle.service.enabled",
    "spark.submit.deployMode",
)
# The same where a shuffle service outlives executors; everybody may set them elsewhere.
OWNED_EXTERNAL = (
    "spark.blockManager.port",
    "spark.driver.blockManager.port",
    "spark.dynamicAllocation.shuffleTracking.timeout",
    "spark.kubernetes.local.dirs.tmpfs",
    "spark.local.dir",
    "spark.shuffle.service.port",
)

Object = dict[str, t.Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the role's variables say of the cluster; registry: {host, user, password}, empty where pulls need none."""

    namespace: str
    registry: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    quota: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict)
    limits: tuple[t.Mapping[str, t.Any], ...] = ()
    shuffle: _spark_shuffle.Settings | None = None
    history: _spark_history.Settings | None = None


def _ours(item: Object) -> Object:
    item["metadata"]["labels"] = {**item["metadata"].get("labels", {}), PART: "spark"}
    return item


def _rule(resources: str, verbs: str) -> Object:
    return {"apiGroups": [""], "resources": resources.split(), "verbs": verbs.split()}


# What Spark 3.5 asks for, and no more: executors and what is left of them at the end; a driver with all that it needs.
DRIVER_RULES = (
    _rule("pods", "create delete deletecollection get list watch"),
    _rule("configmaps", "create deletecollection list"),
    _rule("services persistentvolumeclaims", "deletecollection list"),
)
SUBMIT_RULES = (
    _rule("pods", "create delete get list patch watch"),
    _rule("configmaps services", "create get patch"),
    _rule("pods/log pods/proxy", "get"),
)


def _account(settings: Settings, name: str, rules: t.Sequence[Object]) -> list[Object]:
    """Return an account with its rights in the namespace, and nowhere else."""
    rbac, space = "rbac.authorization.k8s.io/v1", settings.namespace
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    who = [{"kind": "ServiceAccount", "name": name, "namespace": space}]
    return [
        _kubernetes.resource("ServiceAccount", "v1", name, space),
        _kubernetes.resource("Role", rbac, name, space, rules=list(rules)),
        _kubernetes.resource("RoleBinding", rbac, name, space, roleRef=role, subjects=who),
    ]


def namespace(settings: Settings) -> Object:
    """Return the namespace; nothing gets into it that could harm a node.

    Beside a shuffle service an admission policy sees to that: no level of Pod Security allows what executors need there
    and forbids the rest.
    """
    space = _kubernetes.resource("Namespace", "v1", settings.namespace)
    space["metadata"]["labels"] = _spark_shuffle.levels("privileged" if settings.shuffle else "restricted")
    return _ours(space)


def _pull_secret(settings: Settings, space: str) -> Object:
    host, user, password = (str(settings.registry[key]) for key in ("host", "user", "password"))
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    text = json.dumps({"auths": {host: {"auth": auth}}}, sort_keys=True)
    data = {".dockerconfigjson": base64.b64encode(text.encode()).decode()}
    kind = "kubernetes.io/dockerconfigjson"
    return _kubernetes.resource("Secret", "v1", PULL, space, type=kind, data=data)


def objects(settings: Settings) -> list[Object]:
    """Return what is to be in the namespace."""
    space = settings.namespace
    login = _kubernetes.resource("Secret", "v1", LOGIN, space, type="kubernetes.io/service-account-token")
    login["metadata"]["annotations"] = {"kubernetes.io/service-account.name": SUBMIT}
    wanted = [*_account(settings, DRIVER, DRIVER_RULES), *_account(settings, SUBMIT, SUBMIT_RULES), login]
    if settings.registry:
        wanted.append(_pull_secret(settings, space))
    if settings.quota:
        wanted.append(_kubernetes.resource("ResourceQuota", "v1", "spark", space, spec={"hard": dict(settings.quota)}))
    if settings.limits:
        limits = [dict(limit) for limit in settings.limits]
        wanted.append(_kubernetes.resource("LimitRange", "v1", "spark", space, spec={"limits": limits}))
    if settings.history:
        wanted.extend(_spark_history.objects(settings.history, space))
    if settings.shuffle:
        wanted.extend(_spark_shuffle.accounts(space, SUBMIT))
        wanted.extend(_spark_shuffle.service(settings.shuffle, space))
        if settings.registry:
            wanted.append(_pull_secret(settings, _spark_shuffle.space(space)))
    return [_ours(item) for item in wanted]


@dataclasses.dataclass
class Outcome(_host_state.Outcome):
    """What was done, how to log in as the one who submits, and whether nodes hold data of a service that is gone."""

    told: dict[str, str] = dataclasses.field(default_factory=dict)
    leaving: bool = False


@dataclasses.dataclass(kw_only=True)
class SparkCluster(_kubernetes.Administrator):
    """The cluster, asked on a machine of its control plane."""

    outcome: Outcome = dataclasses.field(default_factory=Outcome)

    def present(self, settings: Settings) -> Outcome:
        """Have everything that an application needs; HostError where the namespace is somebody else's."""
        found = self._namespace(settings.namespace)
        service = self._service(settings.namespace)
        self._judge_running(settings, service)
        wanted = objects(settings)
        spaces = [*self._guard(settings), namespace(settings)]
        if settings.shuffle:
            self._namespace(_spark_shuffle.space(settings.namespace))
            spaces.append(_ours(_spark_shuffle.namespace(settings.namespace)))
        for action in self.api.apply(spaces, check=self.check):
            self.outcome.act(action)
        missing = self._missing(settings) if self.check else set()
        for item in wanted:
            if item["metadata"]["namespace"] in missing:
                self.outcome.act(f"created {item['kind'].lower()}/{item['metadata']['name']}")
        there = [item for item in wanted if item["metadata"]["namespace"] not in missing]
        for action in self.api.apply(there, check=self.check) if there else ():
            self.outcome.act(action)
        if found is not None or not self.check:
            self._prune(settings.namespace, _names(wanted, settings.namespace))
            self.outcome.told = self._login(settings.namespace)
        self._settle_service(settings)
        if settings.history and not self.check:
            self._wait_history(settings.namespace)
        return self.outcome

    def absent(self, name: str) -> Outcome:
        """Take the namespace away, with every application in it; that of a shuffle service is left for swept()."""
        self._leave(name)
        if self._namespace(name) is not None:
            self._delete("namespace", name)
        self._unguard(name)
        return self.outcome

    def swept(self, name: str) -> Outcome:
        """Take away the last of a shuffle service, once no node holds data of it."""
        space = _spark_shuffle.space(name)
        if self._namespace(space) is not None:
            self._delete("namespace", space)
        return self.outcome

    # --- The shuffle service ------------------------------------------------------------------------------------

    def _service(self, name: str) -> Object | None:
        return self.api.get("daemonset", _spark_shuffle.NAME, f"--namespace={_spark_shuffle.space(name)}")

    def _judge_running(self, settings: Settings, service: Object | None) -> None:
        """Raise HostError where applications run that were configured with a shuffle service as it will not be."""
        if service is None:
            return
        place = service["metadata"].get("annotations", {}).get(_spark_shuffle.PLACE)
        if settings.shuffle and settings.shuffle.place == place:
            return
        selector = f"--selector=spark-role=driver,{_spark_shuffle.LABEL}"
        found = self.api.get("pods", f"--namespace={settings.namespace}", selector) or {}
        for pod in found.get("items", []):
            if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
                raise HostError(
                    f"the application of {pod['metadata']['name']} uses the shuffle service: it needs to end before "
                    "spark_shuffle, spark_shuffle_dir, spark_shuffle_port or spark_shuffle_user changes; "
                    "nothing was changed"
                )

    def _guard(self, settings: Settings) -> list[Object]:
        """Return the admission policy: in place before the namespace is opened, and away after it is closed."""
        if not settings.shuffle:
            return []
        label = (PART, "spark")
        return [_ours(one) for one in _spark_shuffle.policy(settings.namespace, label, settings.shuffle.directory)]

    def _missing(self, settings: Settings) -> set[str]:
        """Return the namespaces that are not there yet: the API server predicts nothing in them."""
        names = [settings.namespace, *([_spark_shuffle.space(settings.namespace)] if settings.shuffle else [])]
        return {name for name in names if self.api.get("namespace", name) is None}

    def _settle_service(self, settings: Settings) -> None:
        if not settings.shuffle:
            self._leave(settings.namespace)
            self._unguard(settings.namespace)
            return
        space = _spark_shuffle.space(settings.namespace)
        if not self.check:
            self._wait(space)
        if self.api.get("namespace", space) is not None:
            self._prune(space, _names(objects(settings), space))

    def _leave(self, name: str) -> None:
        """Stop the service, and tell whether nodes may hold data of it."""
        space = _spark_shuffle.space(name)
        if self.api.get("namespace", space) is None:
            return
        self.outcome.leaving = True
        self._namespace(space)
        if self._service(name) is not None:
            self._delete("daemonset", _spark_shuffle.NAME, f"--namespace={space}", "--cascade=foreground")

    def _unguard(self, name: str) -> None:
        for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
            found = self.api.get(kind, _spark_shuffle.policy_name(name))
            if found is not None and PART in found["metadata"].get("labels", {}):
                self._delete(kind, _spark_shuffle.policy_name(name))

    def _wait(self, space: str) -> None:
        """Wait until executors find the service on every node on which they may run."""
        deadline = time.monotonic() + SERVICE_SECONDS
        while True:
            pods = self.api.get("pods", f"--namespace={space}", f"--selector={_selector(_spark_shuffle.SERVICE)}")
            daemonset = self.api.get("daemonset", _spark_shuffle.NAME, f"--namespace={space}")
            late = _spark_shuffle.late(daemonset, (pods or {}).get("items", []))
            if not late:
                return
            if time.monotonic() >= deadline:
                raise HostError(f"{late} (after {SERVICE_SECONDS:g} seconds)")
            self.pause(1)

    def _wait_history(self, space: str) -> None:
        """Wait until the history server has read its directory and answers."""
        deadline = time.monotonic() + SERVICE_SECONDS
        name, where = _spark_history.NAME, f"--namespace={space}"
        while not _spark_history.ready(self.api.get("deployment", name, where)):
            if time.monotonic() >= deadline:
                said = self.api.run("logs", where, f"deployment/{name}", "--tail=40").output
                raise HostError(
                    f"the history server does not answer after {SERVICE_SECONDS:g} seconds: {_kubernetes.told(said)}"
                )
            self.pause(1)

    # --- Objects ------------------------------------------------------------------------------------------------

    def _delete(self, kind: str, name: str, *words: str) -> None:
        self.outcome.act(f"delete {kind} {name}")
        if not self.check:
            self.api.ask("delete", kind, name, *words, "--timeout=120s", timeout=150)

    def _namespace(self, name: str) -> Object | None:
        found = self.api.get("namespace", name)
        if found is not None and PART not in found["metadata"].get("labels", {}):
            raise HostError(
                f"the namespace {name} is there and is not ours: spark_namespace needs another name, "
                f"or the namespace the label {PART}=spark"
            )
        return found

    def _prune(self, space: str, wanted: t.Collection[str]) -> None:
        """Delete what an earlier run has made and this one does not want."""
        found = self.api.get(KINDS, f"--namespace={space}", f"--selector={PART}=spark") or {}
        for item in found.get("items", []):
            kind, name = item["kind"], item["metadata"]["name"]
            if f"{kind}/{name}" not in wanted:
                self.outcome.act(f"delete {kind.lower()}/{name}")
                if not self.check:
                    self.api.ask("delete", kind.lower(), name, f"--namespace={space}", "--ignore-not-found")

    def _login(self, space: str) -> dict[str, str]:
        """Return token and authority of the account that submits; the cluster fills the secret in a moment."""
        deadline = time.monotonic() + LOGIN_SECONDS
        while True:
            found = (self.api.get("secret", LOGIN, f"--namespace={space}") or {}).get("data", {})
            if found.get("token") and found.get("ca.crt"):
                return {key: base64.b64decode(found[name]).decode() for key, name in _LOGIN_KEYS.items()}
            if self.check:
                return {}
            if time.monotonic() >= deadline:
                raise HostError(f"the cluster made no token for the account {SUBMIT} within {LOGIN_SECONDS:g} seconds")
            self.pause(0.5)


def _names(wanted: t.Sequence[Object], space: str) -> set[str]:
    """Return kind and name of what is to be in a namespace."""
    here = [item for item in wanted if item["metadata"]["namespace"] == space]
    return {f"{item['kind']}/{item['metadata']['name']}" for item in here}


def _selector(labels: t.Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in labels.items())


_LOGIN_KEYS = {"token": "token", "authority": "ca.crt"}
