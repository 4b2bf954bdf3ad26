# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules for the variables of spark."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _spark
from ansible_collections.slipway.platform.plugins.plugin_utils._rules import Problem, Rule, Verdict, shown
from ansible_collections.slipway.platform.plugins.plugin_utils._rules_containerd import IMAGE

# RFC 1123's label, with room for -shuffle; the names of Kubernetes' own namespaces begin with kube-.
LABEL = re.compile(r"(?!kube-)[a-z0-9]([-a-z0-9]{0,53}[a-z0-9])?\Z")
# What stands in Java's options and in Spark's properties without quotes; a directory directly below / is the system's.
DIRECTORY = re.compile(r"(/[A-Za-z0-9][A-Za-z0-9._-]*){2,}\Z")
HEAP = re.compile(r"[1-9][0-9]*[mg]\Z")
PROPERTY = re.compile(r"spark\.[^\s=:#!]+\Z")
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


def spark_machine(value: t.Any) -> Verdict:
    """Accept the name of a machine."""
    return None if isinstance(value, str) and value.strip() else "the machine of the inventory with the control plane"


def spark_namespace(value: t.Any) -> Verdict:
    """Accept the name of a namespace that may be the role's own."""
    if LABEL.match(str(value)) and value != "default":
        return None
    return "a name of a-z, 0-9 and dash that is neither default nor one of Kubernetes' own"


def spark_image(value: t.Any) -> Verdict:
    """Accept an image with a tag other than latest, or a digest."""
    if isinstance(value, str) and IMAGE.fullmatch(value) and not value.endswith(":latest"):
        return None
    return "an image with a tag (not latest) or a digest, such as registry.example.com:6001/nvidia-spark-driver:3.5.9-1"


def spark_registry(value: t.Any) -> Verdict:
    """Accept {host, user, password}, all of them or none."""
    given = {key: str(value.get(key) or "") for key in ("host", "user", "password")}
    if not any(given.values()):
        return None
    return [Problem("a value, because the login has others", f".{key}", "empty") for key in given if not given[key]]


def spark_executors(value: t.Any) -> Verdict:
    """Accept a number of executors."""
    return None if int(value) > 0 else "a number from 1"


def spark_hadoop_files(value: t.Any) -> Verdict:
    """Accept a dictionary from the name of a file to its text; with any, there is a core-site.xml."""
    problems = [
        Problem("the name of a file, without a directory", "", f"the file {shown(str(name))}")
        for name in value
        if not FILE.match(str(name))
    ]
    if value and "core-site.xml" not in value:
        problems.append(Problem("a text: Hadoop's clients read it first", ".core-site.xml", "not there"))
    return problems


def spark_upload_dir(value: t.Any) -> Verdict:
    """Accept an address of a directory in HDFS, or nothing."""
    if not value or re.fullmatch(r"hdfs://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[^/\s]+)+", str(value)):
        return None
    return "the address of a directory, such as hdfs://namenode.example.com:8020/spark-uploads"


def spark_conf(value: t.Any) -> Verdict:
    """Accept properties that the role does not decide itself."""
    problems = []
    for name, text in value.items():
        if name in _spark.OWNED:
            needs = "to be left to the role, whose other variables decide it"
            problems.append(Problem(needs, f"['{name}']", shown(text)))
        elif not PROPERTY.match(str(name)):
            problems.append(Problem("a name that begins with spark.", "", f"the property {shown(str(name))}"))
    return problems


def spark_event_log_dir(value: t.Any) -> Verdict:
    """Accept an address of a directory in HDFS whose name Java takes without quotes, or nothing."""
    if not value or re.fullmatch(r"hdfs://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._-]+)+", str(value)):
        return None
    return "the address of a directory in HDFS, such as hdfs://namenode.example.com:8020/spark-logs"


def spark_days(value: t.Any) -> Verdict:
    """Accept a number of days."""
    return None if int(value) > 0 else "a number of days from 1"


def spark_node_port(value: t.Any) -> Verdict:
    """Accept a port that Kubernetes gives out on nodes, or none."""
    return None if int(value) == 0 or 30000 <= int(value) <= 32767 else "a port from 30000 to 32767, or 0 for none"


def spark_shuffle_dir(value: t.Any) -> Verdict:
    """Accept a directory that can be Spark's own."""
    if DIRECTORY.match(str(value)):
        return None
    return "a directory below one of the root's, such as /var/lib/spark-shuffle, of letters, digits, dots and dashes"


def spark_shuffle_user(value: t.Any) -> Verdict:
    """Accept the number of a user other than root."""
    return None if 0 < int(value) < 2**31 else "the number of a user that is not root"


def spark_heap(value: t.Any) -> Verdict:
    """Accept a heap as Java writes it."""
    return None if HEAP.match(str(value)) else "a number of megabytes or gigabytes, such as 512m or 2g"


def spark_shuffle_janitor_seconds(value: t.Any) -> Verdict:
    """Accept a number of seconds."""
    return None if int(value) > 0 else "a number of seconds from 1"


def spark_external(parts: t.Mapping[str, t.Any]) -> Verdict:
    """Accept the mode external with nodes to run on, and without properties that break it."""
    if parts.get("shuffle") != "external":
        return None
    problems = []
    if not parts.get("nodes"):
        problems.append(Problem("the machines that may run executors, for spark_shuffle: external", ".nodes", "empty"))
    for name in parts.get("conf") or {}:
        if name in _spark.OWNED_EXTERNAL:
            needs = "to leave that to the role, for spark_shuffle: external"
            problems.append(Problem(needs, ".conf", f"given {name}"))
        elif str(name).startswith("spark.kubernetes.executor.volumes.") and ".spark-local-dir-" in str(name):
            needs = "no directories for executors beside spark_shuffle_dir, for spark_shuffle: external"
            problems.append(Problem(needs, ".conf", f"given {name}"))
    return problems


RULES: dict[str, Rule] = {
    "spark_conf": spark_conf,
    "spark_executors": spark_executors,
    "spark_external": spark_external,
    "spark_days": spark_days,
    "spark_event_log_dir": spark_event_log_dir,
    "spark_heap": spark_heap,
    "spark_node_port": spark_node_port,
    "spark_hadoop_files": spark_hadoop_files,
    "spark_image": spark_image,
    "spark_machine": spark_machine,
    "spark_namespace": spark_namespace,
    "spark_registry": spark_registry,
    "spark_shuffle_dir": spark_shuffle_dir,
    "spark_shuffle_janitor_seconds": spark_shuffle_janitor_seconds,
    "spark_shuffle_user": spark_shuffle_user,
    "spark_upload_dir": spark_upload_dir,
}
