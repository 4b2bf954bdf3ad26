# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role hdfs refuses, beyond the common rules."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.slipway.platform.plugins.plugin_utils._rules import Problem
from ansible_collections.slipway.platform.plugins.plugin_utils._rules_hdfs import RULES

NODES = [{"name": "one.corp.lab", "machine": "one", "rack": "/a"}, {"name": "two", "machine": "two", "rack": "/b"}]
TOGETHER: dict[str, Any] = {
    "components": ["namenode", "secondary", "datanode"],
    "host": "one.corp.lab",
    "namenode": "one.corp.lab",
    "secondary": "one.corp.lab",
    "datanodes": NODES,
    "replication": 2,
}


THREE = [{"name": "one.corp.lab"}, {"name": "two.corp.lab"}, {"name": "three.corp.lab"}]
PAIR: dict[str, Any] = {
    **TOGETHER,
    "failover": True,
    "namenodes": THREE[:2],
    "journalnodes": THREE,
    "zookeepers": THREE,
    "password": "eight-or-more",
    "components": ["namenode"],
}


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("hdfs_block_size", "64m"),
        ("hdfs_checksum", "aB" * 64),
        ("hdfs_url", "https://archive.apache.org/dist/hadoop-3.4.2.tar.gz"),
        ("hdfs_paths", ["/a", "/b/c"]),
        ("hdfs_rack", ""),
        ("hdfs_rack", "/room1/rack-3"),
        ("hdfs_user", "hdfs"),
        ("hdfs_users", ["ada", "Grace.Hopper"]),
        ("hdfs_directories", [{"path": "/spark-logs", "mode": "1777", "owner": "spark"}, {"path": "/a/b"}]),
        ("hdfs_options", {"dfs.heartbeat.interval": 1, "x": True}),
        ("hdfs_datanodes", NODES),
        ("hdfs_datanodes", []),
        ("hdfs_together", TOGETHER),
        ("hdfs_together", {**TOGETHER, "components": [], "namenode": ""}),
        ("hdfs_together", PAIR),
        ("hdfs_together", {**PAIR, "host": "two.corp.lab"}),
        ("hdfs_nameservice", "slipway"),
        ("hdfs_together", {**TOGETHER, "components": ["client"], "host": "x", "datanodes": [], "replication": "3"}),
    ],
)
def test_what_can_work_is_taken(rule: str, value: Any) -> None:
    assert not RULES[rule](value)


def only(found: Any) -> tuple[str, str]:
    problems = found if isinstance(found, list) else [found]
    assert len(problems) == 1, problems
    problem = problems[0]
    return (problem.path, problem.needs) if isinstance(problem, Problem) else ("", problem)


@pytest.mark.parametrize(
    ("rule", "value", "path", "needs"),
    [
        ("hdfs_block_size", "512k", "", "1m or more"),
        ("hdfs_block_size", "many", "", "1m or more"),
        ("hdfs_checksum", "abc", "", "128 hexadecimal"),
        ("hdfs_url", "https://user:pw@x/y.tar.gz", "", "without credentials"),
        ("hdfs_url", "https://x/y.zip", "", ".tar.gz"),
        ("hdfs_paths", [], "", "at least one"),
        ("hdfs_paths", ["/a", "b"], "[1]", "absolute"),
        ("hdfs_paths", ["/a", "/a"], "[1]", "once"),
        ("hdfs_rack", "rack1", "", "a place such as"),
        ("hdfs_user", "a b", "", "a user name"),
        ("hdfs_users", ["ok", "a/b"], "[1]", "a user name"),
        ("hdfs_directories", [{"path": "spark"}], "[0].path", "absolute"),
        ("hdfs_directories", [{"path": "/a/../b"}], "[0].path", "without .."),
        ("hdfs_directories", [{"path": "/a", "mode": "rwx"}], "[0].mode", "octal"),
        ("hdfs_directories", [{"path": "/a", "group": "x y"}], "[0].group", "a user name"),
        ("hdfs_options", [], "", "a dictionary"),
        ("hdfs_options", {"dfs.replication": 1}, "", "does not set itself"),
        ("hdfs_options", {"x": [1]}, "['x']", "a text"),
        ("hdfs_datanodes", [{"name": "10.0.0.1"}], "[0].name", "a name"),
        ("hdfs_datanodes", [NODES[1], NODES[1]], "[1].name", "once"),
        ("hdfs_datanodes", [{"name": "a", "rack": "r"}], "[0].rack", "a place"),
        ("hdfs_datanodes", [NODES[0], {"name": "a", "rack": "/room/rack"}], "", "one depth"),
        ("hdfs_together", {**TOGETHER, "namenode": "10.0.0.1", "components": ["client"]}, ".namenode", "a name"),
        ("hdfs_together", {**TOGETHER, "host": "", "components": ["client"]}, ".host", "a name"),
        ("hdfs_together", {**TOGETHER, "host": "two", "components": ["namenode"]}, ".host", "one.corp.lab"),
        ("hdfs_together", {**TOGETHER, "secondary": "two"}, ".host", "hdfs_secondary"),
        ("hdfs_together", {**TOGETHER, "replication": 3}, ".replication", "from 1 to 2"),
        ("hdfs_together", {**TOGETHER, "replication": "two"}, ".replication", "from 1 to 2"),
        ("hdfs_together", {**TOGETHER, "namenodes": THREE[:2]}, ".namenodes", "hdfs_failover: true"),
        ("hdfs_together", {**TOGETHER, "zookeepers": THREE}, ".zookeepers", "hdfs_failover: true"),
        ("hdfs_together", {**PAIR, "namenodes": THREE}, ".namenodes", "two machines"),
        ("hdfs_together", {**PAIR, "journalnodes": THREE[:2]}, ".journalnodes", "an odd number"),
        ("hdfs_together", {**PAIR, "zookeepers": [*THREE, {"name": "four"}]}, ".zookeepers", "an odd number"),
        ("hdfs_together", {**PAIR, "password": "short"}, ".password", "eight or more"),
        ("hdfs_together", {**PAIR, "password": "with,a-comma"}, ".password", "colons and commas"),
        ("hdfs_together", {**PAIR, "host": "three.corp.lab"}, ".host", "a name in hdfs_namenodes"),
        ("hdfs_together", {**PAIR, "components": ["zookeeper"], "host": "x.lab"}, ".host", "a name in hdfs_zookeepers"),
        (
            "hdfs_together",
            {**PAIR, "components": ["secondary"], "secondary": PAIR["host"]},
            ".components",
            "the standby makes the checkpoints",
        ),
        ("hdfs_nameservice", "My.Site", "", "without dots"),
        (
            "hdfs_together",
            {**TOGETHER, "datanodes": [NODES[0], {**NODES[1], "decommission": True}]},
            ".replication",
            "from 1 to 1",
        ),
    ],
)
def test_what_cannot_work_is_named(rule: str, value: Any, path: str, needs: str) -> None:
    found = only(RULES[rule](value))
    assert found[0] == path and needs in found[1]
