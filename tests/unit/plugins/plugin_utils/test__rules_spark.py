# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role spark accepts, and the sentence that an operator reads of the rest."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.action import validate
from ansible_collections.slipway.platform.plugins.plugin_utils import _rules_spark as rules

LOGIN = {"host": "r:6001", "user": "u", "password": "p"}


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("spark_machine", "control"),
        ("spark_namespace", "spark"),
        ("spark_namespace", "team-a"),
        ("spark_image", "r:6001/nvidia-spark-driver:3.5.9-1"),
        ("spark_image", "r/x@sha256:" + "a" * 64),
        ("spark_registry", {}),
        ("spark_registry", LOGIN),
        ("spark_executors", 1),
        ("spark_hadoop_files", {}),
        ("spark_hadoop_files", {"core-site.xml": "<x/>", "hdfs-site.xml": "<x/>"}),
        ("spark_upload_dir", ""),
        ("spark_upload_dir", "hdfs://nn.corp.lab:8020/spark-uploads"),
        ("spark_upload_dir", "hdfs://cluster/a/b"),
        ("spark_conf", {"spark.executor.memory": "2g"}),
        ("spark_shuffle_dir", "/var/lib/spark-shuffle"),
        ("spark_shuffle_user", 185),
        ("spark_heap", "512m"),
        ("spark_event_log_dir", ""),
        ("spark_event_log_dir", "hdfs://nn.corp.lab:8020/spark-logs"),
        ("spark_days", 1),
        ("spark_node_port", 0),
        ("spark_node_port", 30080),
        ("spark_shuffle_janitor_seconds", 1),
        ("spark_external", {"shuffle": "tracking", "nodes": [], "conf": {"spark.local.dir": "/x"}}),
        ("spark_external", {"shuffle": "external", "nodes": ["n"], "conf": {"spark.executor.memory": "2g"}}),
    ],
)
def test_good(rule: str, value: Any) -> None:
    assert not rules.RULES[rule](value)


@pytest.mark.parametrize(
    ("rule", "value", "sentence"),
    [
        ("spark_shuffle_dir", "/data", "v is '/data': it needs a directory below one of the root's"),
        ("spark_shuffle_dir", "/data/a b", "v is '/data/a b': it needs a directory"),
        ("spark_shuffle_dir", "/data/../etc", "v is '/data/../etc': it needs a directory"),
        ("spark_shuffle_user", 0, "v is 0: it needs the number of a user that is not root."),
        ("spark_event_log_dir", "file:///tmp/x", "v is 'file:///tmp/x': it needs the address of a directory in"),
        ("spark_days", 0, "v is 0: it needs a number of days from 1."),
        ("spark_node_port", 80, "v is 80: it needs a port from 30000 to 32767, or 0 for none."),
        ("spark_heap", "1.5g", "v is '1.5g': it needs a number of megabytes or gigabytes"),
        ("spark_shuffle_janitor_seconds", 0, "v is 0: it needs a number of seconds from 1."),
        ("spark_external", {"shuffle": "external"}, "v.nodes is empty: it needs the machines that may run executors"),
        (
            "spark_external",
            {"shuffle": "external", "nodes": ["n"], "conf": {"spark.local.dir": "/x"}},
            "v.conf is given spark.local.dir: it needs to leave that to the role",
        ),
        (
            "spark_external",
            {
                "shuffle": "external",
                "nodes": ["n"],
                "conf": {"spark.kubernetes.executor.volumes.emptyDir.spark-local-dir-2.mount.path": "/x"},
            },
            "v.conf is given spark.kubernetes.executor.volumes.emptyDir.spark-local-dir-2.mount.path: it needs no dir",
        ),
        ("spark_machine", "", "v is '': it needs the machine of the inventory with the control plane."),
        ("spark_namespace", "default", "v is 'default': it needs a name of a-z, 0-9 and dash that is neither"),
        ("spark_namespace", "kube-system", "v is 'kube-system': it needs a name"),
        ("spark_namespace", "a.b", "v is 'a.b': it needs a name"),
        ("spark_image", "", "v is '': it needs an image with a tag (not latest) or a digest"),
        ("spark_image", "r/x:latest", "v is 'r/x:latest': it needs an image"),
        ("spark_registry", {**LOGIN, "password": ""}, "v.password is empty: it needs a value, because the login has"),
        ("spark_executors", 0, "v is 0: it needs a number from 1."),
        ("spark_hadoop_files", {"a.xml": ""}, "v.core-site.xml is not there: it needs a text"),
        ("spark_hadoop_files", {"core-site.xml": "", "../x": ""}, "v is the file '../x': it needs the name of a file"),
        ("spark_upload_dir", "/tmp", "v is '/tmp': it needs the address of a directory, such as hdfs://"),
        ("spark_upload_dir", "hdfs://nn:8020", "v is 'hdfs://nn:8020': it needs the address"),
        ("spark_conf", {"executor.memory": "2g"}, "v is the property 'executor.memory': it needs a name that begins"),
        (
            "spark_conf",
            {"spark.shuffle.service.enabled": True},
            "v['spark.shuffle.service.enabled'] is True: it needs to be left to the role, whose other variables",
        ),
    ],
)
def test_bad(rule: str, value: Any, sentence: str) -> None:
    assert validate.sentences("v", value, rules.RULES[rule](value))[0].startswith(sentence)
