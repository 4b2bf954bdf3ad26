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

from ansible_collections.slipway.platform.plugins.module_utils import _host_state, _kubernetes
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Runner, run

# What marks an object as ours: only such are ever taken away.
PART = "slipway.platform/part"
DRIVER, SUBMIT, PULL = "spark-driver", "spark-submit", "spark-pull"
LOGIN = "spark-submit-login"
KINDS = "serviceaccounts,secrets,roles,rolebindings,resourcequotas,limitranges"
LOGIN_SECONDS = 60.0
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

Object = dict[str, t.Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the role's variables say of the cluster; registry: {host, user, password}, empty where pulls need none."""

    namespace: str
    registry: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    quota: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict)
    limits: tuple[t.Mapping[str, t.Any], ...] = ()


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
    """Return the namespace; Pod Security lets nothing into it that could harm a node."""
    space = _kubernetes.resource("Namespace", "v1", settings.namespace)
    modes = ("enforce", "audit", "warn")
    space["metadata"]["labels"] = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in modes}
    return _ours(space)


def _pull_secret(settings: Settings) -> Object:
    host, user, password = (str(settings.registry[key]) for key in ("host", "user", "password"))
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    text = json.dumps({"auths": {host: {"auth": auth}}}, sort_keys=True)
    data = {".dockerconfigjson": base64.b64encode(text.encode()).decode()}
    kind = "kubernetes.io/dockerconfigjson"
    return _kubernetes.resource("Secret", "v1", PULL, settings.namespace, type=kind, data=data)


def objects(settings: Settings) -> list[Object]:
    """Return what is to be in the namespace."""
    space = settings.namespace
    login = _kubernetes.resource("Secret", "v1", LOGIN, space, type="kubernetes.io/service-account-token")
    login["metadata"]["annotations"] = {"kubernetes.io/service-account.name": SUBMIT}
    wanted = [*_account(settings, DRIVER, DRIVER_RULES), *_account(settings, SUBMIT, SUBMIT_RULES), login]
    if settings.registry:
        wanted.append(_pull_secret(settings))
    if settings.quota:
        wanted.append(_kubernetes.resource("ResourceQuota", "v1", "spark", space, spec={"hard": dict(settings.quota)}))
    if settings.limits:
        limits = [dict(limit) for limit in settings.limits]
        wanted.append(_kubernetes.resource("LimitRange", "v1", "spark", space, spec={"limits": limits}))
    return [_ours(item) for item in wanted]


@dataclasses.dataclass
class Outcome(_host_state.Outcome):
    """What was done, and how to log in as the one who submits."""

    told: dict[str, str] = dataclasses.field(default_factory=dict)


class SparkCluster:
    """The cluster, asked on a machine of its control plane; places and pause are for tests."""

    def __init__(
        self,
        *,
        check: bool,
        runner: Runner = run,
        places: _kubernetes.Places | None = None,
        pause: t.Callable[[float], None] = time.sleep,
    ) -> None:
        self.check = check
        self.places = places or _kubernetes.Places()
        self.pause = pause
        self.api = _kubernetes.Api(runner, self.places)
        self.outcome = Outcome()

    def present(self, settings: Settings) -> Outcome:
        """Have everything that an application needs; HostError where the namespace is somebody else's."""
        found = self._namespace(settings.namespace)
        wanted = objects(settings)
        for action in self.api.apply([namespace(settings)], check=self.check):
            self.outcome.act(action)
        if found is None and self.check:
            for item in wanted:
                self.outcome.act(f"created {item['kind'].lower()}/{item['metadata']['name']}")
            return self.outcome
        for action in self.api.apply(wanted, check=self.check):
            self.outcome.act(action)
        self._prune(settings.namespace, {f"{item['kind']}/{item['metadata']['name']}" for item in wanted})
        if found is not None or not self.check:
            self.outcome.told = self._login(settings.namespace)
        return self.outcome

    def absent(self, name: str) -> Outcome:
        """Take the namespace away, with every application in it."""
        if self._namespace(name) is not None:
            self.outcome.act(f"delete namespace {name}")
            if not self.check:
                self.api.ask("delete", "namespace", name, "--timeout=120s", timeout=150)
        return self.outcome

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


_LOGIN_KEYS = {"token": "token", "authority": "ca.crt"}
