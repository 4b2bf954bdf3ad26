# SPDX-License-Identifier: GPL-3.0-or-later
"""Spark's history server in the applications' namespace: the pages of an application after its driver has gone.

Sources: Spark's "Monitoring and Instrumentation" (history server and its REST API).
"""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _kubernetes

NAME = "spark-history"
LABELS = {"app.kubernetes.io/name": NAME}
PORT = 18080
CLASS = "org.apache.spark.deploy.history.HistoryServer"

Object = dict[str, t.Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the role's variables say; directory: the event logs' address; node_port: 0 for none outside the cluster."""

    image: str
    directory: str
    memory: str = "1g"
    days: int = 30
    node_port: int = 0
    pull_secret: str = ""
    hadoop: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    node_selector: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    tolerations: tuple[t.Mapping[str, t.Any], ...] = ()


def objects(settings: Settings, space: str) -> list[Object]:
    """Return the server with its configuration and its address in the cluster."""
    config = _kubernetes.resource("ConfigMap", "v1", NAME, space, data=dict(settings.hadoop))
    pod = _pod(settings)
    annotations = {_kubernetes.DIGEST: _kubernetes.digest([pod, config["data"]])}
    spec = {
        "replicas": 1,
        # Two of them would clean the same directory.
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": dict(LABELS)},
        "template": {"metadata": {"labels": dict(LABELS), "annotations": annotations}, "spec": pod},
    }
    port: Object = {"name": "http", "port": PORT, "targetPort": PORT, "protocol": "TCP"}
    if settings.node_port:
        port["nodePort"] = settings.node_port
    service = {
        "type": "NodePort" if settings.node_port else "ClusterIP",
        "selector": dict(LABELS),
        "ports": [port],
    }
    return [
        config,
        _kubernetes.resource("Service", "v1", NAME, space, spec=service),
        _kubernetes.resource("Deployment", "apps/v1", NAME, space, spec=spec),
    ]


def _pod(settings: Settings) -> Object:
    """Return the pod: what Pod Security's level restricted asks for, and a root file system that is read-only."""
    options = {
        "spark.history.fs.logDirectory": settings.directory,
        "spark.history.ui.port": PORT,
        "spark.history.fs.cleaner.enabled": "true",
        "spark.history.fs.cleaner.maxAge": f"{settings.days}d",
    }
    # Java's heap, and what it needs beside.
    limit = f"{_megabytes(settings.memory) + 512}Mi"
    container = {
        **_kubernetes.confined("history", settings.image, ["spark-class", CLASS]),
        "env": [
            {"name": "SPARK_DAEMON_MEMORY", "value": settings.memory},
            {"name": "SPARK_HISTORY_OPTS", "value": " ".join(f"-D{key}={value}" for key, value in options.items())},
            # Whom applications are to HDFS.
            {"name": "HADOOP_USER_NAME", "value": "spark"},
        ],
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "readinessProbe": {
            "httpGet": {"path": "/api/v1/version", "port": PORT},
            "periodSeconds": 5,
            "timeoutSeconds": 5,
        },
        # A quota on memory or cores refuses pods that do not say what they use.
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": limit}},
        "volumeMounts": [
            {"name": "scratch", "mountPath": "/tmp"},
            {"name": "hadoop", "mountPath": "/etc/hadoop/conf", "readOnly": True},
        ],
    }
    spec: Object = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [
            {"name": "scratch", "emptyDir": {"sizeLimit": "1Gi"}},
            {"name": "hadoop", "configMap": {"name": NAME}},
        ],
    }
    return {
        **spec,
        **_kubernetes.placement(settings.pull_secret, settings.node_selector, settings.tolerations),
    }


def _megabytes(heap: str) -> int:
    return int(heap[:-1]) * (1024 if heap.endswith("g") else 1)


def ready(deployment: t.Mapping[str, t.Any] | None) -> bool:
    """Tell whether the server answers, as it is wanted now."""
    if deployment is None:
        return False
    status = deployment.get("status", {})
    current = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    return bool(current and status.get("updatedReplicas") == 1 and status.get("readyReplicas") == 1)
