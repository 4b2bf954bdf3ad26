# SPDX-License-Identifier: GPL-3.0-or-later
"""Spark's shuffle service on every node, with the janitor beside it, and what executors may do then.

Sources: Spark's ExternalShuffleService and "Running on Kubernetes", Kubernetes' "Pod Security Standards" and
"Validating Admission Policy".
"""

from __future__ import annotations

import dataclasses
import json
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _kubernetes

NAME, JANITOR = "spark-shuffle", "spark-janitor"
SERVICE = {"app.kubernetes.io/name": NAME}
LABEL = "spark-app-selector"
# The program, where the janitor's container has it.
PROGRAM = "/slipway/janitor.py"
PLACE = "slipway.platform/place"
CLASS = "org.apache.spark.deploy.ExternalShuffleService"
MODES = ("enforce", "audit", "warn")

Object = dict[str, t.Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the role's variables say; user: whom executors and service run as; janitor: the text of its program."""

    image: str
    janitor: str
    directory: str = "/var/lib/spark-shuffle"
    port: int = 7337
    user: int = 185
    memory: str = "512m"
    janitor_seconds: int = 60
    pull_secret: str = ""
    node_selector: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    tolerations: tuple[t.Mapping[str, t.Any], ...] = ()

    @property
    def place(self) -> str:
        """What applications that run have been configured with: none of it can change under them."""
        return f"{self.user}:{self.port}:{self.directory}"


def space(namespace: str) -> str:
    """Return the namespace of the service, beside that of the applications."""
    return f"{namespace}-shuffle"


def policy_name(namespace: str) -> str:
    """Return the name of the admission policy, which is the whole cluster's."""
    return f"slipway-{namespace}-pods"


def levels(level: str) -> dict[str, str]:
    """Return the labels that make Pod Security's level a namespace's."""
    return {f"pod-security.kubernetes.io/{mode}": level for mode in MODES}


def namespace(applications: str) -> Object:
    """Return the service's namespace: its pods are on the host's network, and mount a directory of the host."""
    made = _kubernetes.resource("Namespace", "v1", space(applications))
    made["metadata"]["labels"] = levels("privileged")
    return made


def accounts(applications: str, submitter: str) -> list[Object]:
    """Return the janitor's account, which may list the pods of applications, and what those who submit may look at."""
    own = space(applications)
    pods = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    service = {"apiGroups": ["apps"], "resources": ["daemonsets"], "resourceNames": [NAME], "verbs": ["get"]}
    account = _kubernetes.resource("ServiceAccount", "v1", JANITOR, own)
    return [
        {**account, "automountServiceAccountToken": False},
        *_grant(JANITOR, applications, pods, (JANITOR, own)),
        *_grant(submitter, own, [*pods, service], (submitter, applications)),
    ]


def _grant(name: str, where: str, rules: t.Sequence[t.Mapping[str, t.Any]], who: tuple[str, str]) -> list[Object]:
    rbac = "rbac.authorization.k8s.io/v1"
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    subjects = [{"kind": "ServiceAccount", "name": who[0], "namespace": who[1]}]
    return [
        _kubernetes.resource("Role", rbac, name, where, rules=list(rules)),
        _kubernetes.resource("RoleBinding", rbac, name, where, roleRef=role, subjects=subjects),
    ]


def service(settings: Settings, applications: str) -> list[Object]:
    """Return the janitor's program, and the pod of every node that may run executors."""
    own = space(applications)
    program = _kubernetes.resource("ConfigMap", "v1", JANITOR, own, data={"janitor.py": settings.janitor})
    pod = _pod(settings, applications)
    annotations = {_kubernetes.DIGEST: _kubernetes.digest([pod, settings.janitor])}
    made = _kubernetes.resource("DaemonSet", "apps/v1", NAME, own)
    made["metadata"]["annotations"] = {PLACE: settings.place}
    made["spec"] = {
        "selector": {"matchLabels": dict(SERVICE)},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
        "template": {"metadata": {"labels": dict(SERVICE), "annotations": annotations}, "spec": pod},
    }
    return [program, made]


def _pod(settings: Settings, applications: str) -> Object:
    """Return the pod: on the host's network, with one directory of the host, and restricted in all else."""
    options = {
        "spark.local.dir": settings.directory,
        "spark.shuffle.service.port": settings.port,
        # What executors have registered outlives the service's own restart.
        "spark.shuffle.service.db.enabled": "true",
    }
    data = {"name": "data", "mountPath": settings.directory}
    serve = {
        **_kubernetes.confined("shuffle", settings.image, ["spark-class", CLASS]),
        "env": [
            {"name": "SPARK_DAEMON_MEMORY", "value": settings.memory},
            {"name": "SPARK_SHUFFLE_OPTS", "value": " ".join(f"-D{key}={value}" for key, value in options.items())},
        ],
        "readinessProbe": {"tcpSocket": {"port": settings.port}, "periodSeconds": 5, "timeoutSeconds": 5},
        "volumeMounts": [data, {"name": "scratch", "mountPath": "/tmp"}],
        "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}},
    }
    words = ["python3", "-I", PROGRAM, settings.directory, applications, str(settings.janitor_seconds)]
    sweep = {
        **_kubernetes.confined("janitor", settings.image, words),
        "volumeMounts": [
            data,
            {"name": "janitor-scratch", "mountPath": "/tmp"},
            {"name": "program", "mountPath": PROGRAM.rpartition("/")[0], "readOnly": True},
            {"name": "account", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": True},
        ],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
    }
    spec: Object = {
        "priorityClassName": "system-node-critical",
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "serviceAccountName": JANITOR,
        # The janitor's container alone gets the token.
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": settings.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": 10,
        "containers": [serve, sweep],
        "volumes": [
            {"name": "data", "hostPath": {"path": settings.directory, "type": "Directory"}},
            {"name": "scratch", "emptyDir": {"sizeLimit": "64Mi"}},
            {"name": "janitor-scratch", "emptyDir": {"sizeLimit": "1Mi"}},
            {"name": "program", "configMap": {"name": JANITOR}},
            {"name": "account", "projected": {"sources": _token(), "defaultMode": 0o444}},
        ],
    }
    return {
        **spec,
        **_kubernetes.placement(settings.pull_secret, settings.node_selector, settings.tolerations),
    }


def _token() -> list[Object]:
    items = [{"key": "ca.crt", "path": "ca.crt"}]
    return [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
        {"configMap": {"name": "kube-root-ca.crt", "items": items}},
    ]


# --- What executors need beyond Pod Security's level restricted, and no more ----------------------------------------

CONTAINERS = "object.spec.containers + object.spec.?initContainers.orValue([])"
EXECUTOR = (
    "object.metadata.?labels['spark-role'].orValue('') == 'executor' && "
    "object.metadata.?ownerReferences.orValue([]).exists(one, one.kind == 'Pod')"
)
PLAIN_VOLUMES = "configMap secret emptyDir projected downwardAPI persistentVolumeClaim csi ephemeral"


def policy(applications: str, label: tuple[str, str], directory: str) -> list[Object]:
    """Return the admission policy that puts Pod Security's level restricted into the place that its label leaves.

    The host's network and the one directory are for executors of a driver in the cluster, and all else is as before.
    """
    volumes = " || ".join(f"has(one.{kind})" for kind in PLAIN_VOLUMES.split())
    own = f"has(one.hostPath) && one.hostPath.path == {json.dumps(directory)} && variables.executor"
    each = "variables.containers.all(one, {})".format
    rules = {
        "hostPID and hostIPC are refused": (
            "!object.spec.?hostPID.orValue(false) && !object.spec.?hostIPC.orValue(false)"
        ),
        "only executors of a driver in the cluster may have the host's network": (
            "!object.spec.?hostNetwork.orValue(false) || variables.executor"
        ),
        f"of the host, {directory} can be mounted, by executors of a driver in the cluster": (
            f"object.spec.?volumes.orValue([]).all(one, {volumes} || ({own}))"
        ),
        "an executor needs a driver in the cluster: its files would be removed under a driver elsewhere": (
            "object.metadata.?labels['spark-role'].orValue('') != 'executor' || variables.executor"
        ),
        "runAsNonRoot needs to be true": each(
            "one.?securityContext.?runAsNonRoot.orValue(variables.context.?runAsNonRoot.orValue(false))"
        ),
        "runAsUser 0 is refused": "variables.context.?runAsUser.orValue(1) != 0 && "
        + each("one.?securityContext.?runAsUser.orValue(1) != 0"),
        "allowPrivilegeEscalation needs to be false, and privileged is refused": each(
            "one.?securityContext.?allowPrivilegeEscalation.orValue(true) == false && "
            "one.?securityContext.?privileged.orValue(false) == false"
        ),
        "capabilities need to be dropped, ALL of them, and none added": each(
            "'ALL' in one.?securityContext.?capabilities.?drop.orValue([]) && "
            "size(one.?securityContext.?capabilities.?add.orValue([])) == 0"
        ),
        "seccompProfile needs to be RuntimeDefault or Localhost": each(
            "one.?securityContext.?seccompProfile.?type.orValue("
            "variables.context.?seccompProfile.?type.orValue('')) in ['RuntimeDefault', 'Localhost']"
        ),
        "procMount, sysctls, seLinuxOptions, windowsOptions and an AppArmor profile Unconfined are refused": (
            "!has(variables.context.sysctls) && !has(variables.context.seLinuxOptions) && "
            "!has(variables.context.windowsOptions) && "
            "variables.context.?appArmorProfile.?type.orValue('') != 'Unconfined' && "
        )
        + each(
            "one.?securityContext.?procMount.orValue('Default') == 'Default' && "
            "!one.?securityContext.?seLinuxOptions.hasValue() && !one.?securityContext.?windowsOptions.hasValue() && "
            "one.?securityContext.?appArmorProfile.?type.orValue('') != 'Unconfined'"
        ),
    }
    name, kind = policy_name(applications), "admissionregistration.k8s.io/v1"
    selector = {"matchLabels": {"kubernetes.io/metadata.name": applications, label[0]: label[1]}}
    # With the scope that the API server would put there: kubectl takes a list without it for another one.
    pods = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "resources": ["pods"],
        "operations": ["CREATE", "UPDATE"],
        "scope": "*",
    }
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [pods], "namespaceSelector": selector},
        "variables": [
            {"name": "containers", "expression": CONTAINERS},
            {"name": "context", "expression": "object.spec.securityContext"},
            {"name": "executor", "expression": EXECUTOR},
        ],
        "validations": [{"expression": rule, "message": message} for message, rule in rules.items()],
    }
    bound = {"policyName": name, "validationActions": ["Deny"], "matchResources": {"namespaceSelector": selector}}
    return [
        _kubernetes.resource("ValidatingAdmissionPolicy", kind, name, spec=spec),
        _kubernetes.resource("ValidatingAdmissionPolicyBinding", kind, name, spec=bound),
    ]


# --- Whether it is there for executors ------------------------------------------------------------------------------


def late(daemonset: t.Mapping[str, t.Any] | None, pods: t.Sequence[t.Mapping[str, t.Any]]) -> str:
    """Return why executors would find no service on some node; empty where they would.

    A node that does not answer has the last word of its kubelet, and gets no executors: it is no reason to wait.
    """
    if daemonset is None:
        return "there is no shuffle service in the cluster"
    status = daemonset.get("status", {})
    if status.get("observedGeneration", 0) < daemonset["metadata"].get("generation", 0):
        return "the cluster has not made the pods of the shuffle service yet"
    wanted = int(status.get("desiredNumberScheduled", 0))
    there = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    if not wanted or len(there) < wanted:
        return f"{len(there)} of {wanted} nodes have a pod of the shuffle service"
    digest = daemonset["spec"]["template"]["metadata"].get("annotations", {}).get(_kubernetes.DIGEST)
    for pod in there:
        found = pod.get("status", {}).get("containerStatuses", [])
        name = pod.get("spec", {}).get("nodeName", "?")
        if pod["metadata"].get("annotations", {}).get(_kubernetes.DIGEST) != digest:
            return f"the shuffle service on {name} is an older one"
        if not found or not all(one.get("ready") for one in found):
            return f"the shuffle service on {name} is not ready: {_why(pod)}"
    return ""


def _why(pod: t.Mapping[str, t.Any]) -> str:
    for one in pod.get("status", {}).get("containerStatuses", []):
        state = one.get("state", {})
        told = state.get("waiting") or state.get("terminated") or {}
        if not one.get("ready") and told:
            return ": ".join(str(told[key]) for key in ("reason", "message") if told.get(key)) or "it does not say why"
    return "it has not begun to answer"
