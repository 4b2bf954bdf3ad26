# SPDX-License-Identifier: GPL-3.0-or-later
"""Two NameNodes: whichever dies, hangs or loses its disk, the other one goes on and no acknowledged write is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.testinfra.cluster import wait_for
from tests.testinfra.lab import Lab
from tests.testinfra.play import REPOSITORY, Play, run_play
from tests.testinfra.secrets import Secret, leaks_on

A, B, C = "hdfs-a", "hdfs-b", "hdfs-c"
PASSWORD = "lab-zookeeper"
HERE = REPOSITORY / "molecule" / "hdfs_failover"
WRITER = REPOSITORY / "molecule" / "hdfs" / "writer.py"
STATUS = "/usr/local/lib/slipway/hdfs-status"
MARK = "/var/lib/slipway/hdfs/file-system.json"
UNIT = "slipway-hdfs-{}.service"
NAMENODE = UNIT.format("namenode")
WEBS = f"{A}.corp.lab:9870,{B}.corp.lab:9870"
ONE = {"site_hdfs": {"replication": 2, "failover": False}, "hdfs_namenodes": []}


def play(name: str, *arguments: str, **variables: Any) -> Play:
    """Run one of the site's playbooks or the scenario's own."""
    path = HERE / name if (HERE / name).exists() else REPOSITORY / "playbooks" / name
    return run_play(path, variables, arguments=list(arguments))


class Pair:
    """The two NameNodes, asked from the machine that has none."""

    def __init__(self, hosts: dict[str, Any]) -> None:
        self.hosts = hosts
        self.client = hosts[C]

    def states(self) -> dict[str, str]:
        found = {}
        for name in (A, B):
            query = f"http://{name}.corp.lab:9870/jmx?qry=Hadoop:service=NameNode,name=NameNodeStatus"
            done = self.client.run("curl --silent --noproxy '*' --max-time 5 %s", query)
            try:
                found[name] = str(json.loads(done.stdout)["beans"][0]["State"])
            except (ValueError, KeyError, IndexError):
                found[name] = "no answer"
        return found

    def whole(self, seconds: float = 180) -> tuple[str, str]:
        """Wait until one is active and the other stands by, and nothing is wrong; return both in that order."""
        wait_for(lambda: sorted(self.states().values()) == ["active", "standby"], self.states, seconds)
        wait_for(lambda: not self.problems(), self.problems, seconds)
        states = self.states()
        return tuple(sorted(states, key=lambda name: states[name]))  # type: ignore[return-value]

    def problems(self) -> list[str]:
        return list(json.loads(self.hosts[A].run(f"{STATUS} --check").stdout or "[]"))

    def active(self, name: str, seconds: float = 180) -> None:
        wait_for(lambda: self.states()[name] == "active", self.states, seconds)

    def put(self, path: str, text: str) -> None:
        self.client.check_output("printf %s | runuser -u hdfs -- hdfs dfs -put -f - %s", text, path)

    def read(self, path: str) -> str:
        return str(self.client.check_output("runuser -u hdfs -- hdfs dfs -cat %s", path))

    def journal(self) -> str:
        return "\n".join(
            f"{name}: {self.hosts[name].run('journalctl -n 20 -u slipway-hdfs-namenode -u slipway-hdfs-zkfc').stdout}"
            for name in (A, B)
        )


@pytest.fixture(scope="module")
def pair(hosts: dict[str, Any]) -> Pair:
    return Pair(hosts)


def test_one_is_active_and_clients_know_both_by_one_name(pair: Pair) -> None:
    active, standby = pair.whole()
    pair.put("/first", "1")
    assert pair.read("hdfs://slipway/first") == "1"
    said = pair.hosts[A].check_output(STATUS)
    assert f"NameNode {active}.corp.lab:9870: active" in said and f"{standby}.corp.lab:9870: standby" in said, said


def test_a_second_run_changes_nothing(pair: Pair) -> None:
    marks = [pair.hosts[name].file(MARK).content_string for name in (A, B)]
    assert play("hdfs.yml").succeeded().changed == 0
    looked = play("hdfs.yml", hdfs_timeout="119s").succeeded()
    assert looked.changed == 0, looked.output[-5000:]
    assert [pair.hosts[name].file(MARK).content_string for name in (A, B)] == marks


def test_nobody_else_decides_who_is_active(pair: Pair) -> None:
    """The entries in ZooKeeper belong to the failover controllers, and their password is in nobody's sight."""
    pair.whole()
    home = pair.client.check_output("ls -d /opt/slipway/hadoop-*")
    command = (
        f"java -cp '{home}/share/hadoop/common/lib/*' org.apache.zookeeper.ZooKeeperMain -server {C}.corp.lab:2181"
    )
    said = pair.client.run(f"{command} set /hadoop-ha/slipway/ActiveBreadCrumb mine 2>&1").stdout
    assert "Insufficient permission" in said, said[-2000:]
    for name in (A, B, C):
        assert leaks_on(pair.hosts[name], [Secret(PASSWORD, "hdfs")]) == []


def test_no_acknowledged_write_is_lost_with_the_active_one_s_machine(pair: Pair, lab: Lab) -> None:
    active, standby = pair.whole()
    host, notes, count = pair.client, "/var/tmp/acknowledged", 1000
    host.run("cat >/var/tmp/writer.py <<'END_OF_PROGRAM'\n" + WRITER.read_text(encoding="utf-8") + "\nEND_OF_PROGRAM")
    host.check_output(f"rm -f {notes}.go && : >{notes}")
    host.check_output(
        "systemd-run --quiet --unit=writer --property=StandardOutput=file:/var/tmp/written --remain-after-exit "
        f"python3 /var/tmp/writer.py write {WEBS} /writes {count} {notes}"
    )
    try:
        wait_for(
            lambda: int(host.check_output(f"wc -l <{notes}")) >= 100, lambda: host.run("journalctl -u writer").stdout
        )
        lab.kill(active)
        host.check_output(f"touch {notes}.go")
        pair.active(standby)
        wait_for(
            lambda: "acknowledged" in host.run("cat /var/tmp/written").stdout,
            lambda: host.run("cat /var/tmp/written; journalctl -u writer").stdout + pair.journal(),
            300,
        )
        written = host.check_output("cat /var/tmp/written")
        assert f"acknowledged {count} " in written and " again 0" not in written, written
    finally:
        host.run("systemctl stop writer")
        lab.start(active)
    assert pair.whole() == (standby, active), "what comes back stands by"
    assert host.run(f"python3 /var/tmp/writer.py read {WEBS} /writes {count} {notes}").stdout == "lost []\n"


def test_one_that_hangs_and_wakes_up_writes_nothing(pair: Pair) -> None:
    """It still takes itself for the active one; the JournalNodes do not."""
    active, standby = pair.whole()
    host = pair.hosts[active]
    before = host.check_output(f"systemctl show --value --property=MainPID {NAMENODE}")
    host.check_output(f"systemctl kill --signal=STOP {NAMENODE}")
    try:
        pair.active(standby)
        pair.put("/while-it-hangs", "1")
    finally:
        host.check_output(f"systemctl kill --signal=CONT {NAMENODE}")
    query = f"http://{active}.corp.lab:9870/webhdfs/v1/by-the-old-one?op=MKDIRS&user.name=hdfs"
    done = pair.client.run(
        "curl --silent --noproxy '*' --max-time 60 --request PUT --write-out %%{http_code} %s", query
    )
    assert not done.stdout.endswith("200"), done.stdout
    assert pair.whole() == (standby, active)
    print("restarted:", host.check_output(f"systemctl show --value --property=MainPID {NAMENODE}") != before)
    assert pair.client.run("runuser -u hdfs -- hdfs dfs -test -e /by-the-old-one").rc != 0
    assert pair.read("/while-it-hangs") == "1"


def test_one_journal_and_one_zookeeper_may_be_away(pair: Pair) -> None:
    active, standby = pair.whole()
    units = " ".join(UNIT.format(part) for part in ("journalnode", "zookeeper"))
    pair.client.check_output(f"systemctl stop {units}")
    try:
        pair.put("/with-two-of-three", "1")
        pair.hosts[active].check_output(f"systemctl kill --signal=KILL {NAMENODE}")
        pair.active(standby)
        assert pair.read("/with-two-of-three") == "1"
    finally:
        pair.client.check_output(f"systemctl start {units}")
    pair.whole()


def test_a_lost_disk_comes_back_from_the_other_one(pair: Pair) -> None:
    """Also where it is the inventory's first that has lost it."""
    pair.whole()
    pair.put("/before-the-loss", "1")
    host, mark = pair.hosts[A], json.loads(pair.hosts[A].file(MARK).content_string)
    host.check_output(f"systemctl stop {NAMENODE}")
    host.check_output("mv /srv/hdfs/name /srv/hdfs/lost && install -d -o hdfs -g hdfs -m 700 /srv/hdfs/name")
    play("hdfs.yml", hdfs_timeout="118s").succeeded()
    pair.whole()
    assert json.loads(host.file(MARK).content_string)["cluster"] == mark["cluster"]
    pair.hosts[B].check_output(f"systemctl restart {NAMENODE}")
    pair.active(A)
    assert pair.read("/before-the-loss") == "1"
    pair.whole()
    host.check_output("rm -r /srv/hdfs/lost")


def test_verify_misses_the_second_one(pair: Pair) -> None:
    _, standby = pair.whole()
    units = " ".join(UNIT.format(part) for part in ("zkfc", "namenode"))
    pair.hosts[standby].check_output(f"systemctl stop {units}")
    file = REPOSITORY / ".slipway/hdfs-verify.json"
    try:
        done = play("verify.yml", "-l", f"{A},{B}", verify_verdict=str(file))
        verdict = json.loads(file.read_text(encoding="utf-8"))
        failed = [item["reason"] for item in verdict["results"] if item["outcome"] == "failed"]
        assert done.rc != 0 and any(f"NameNode at {standby}.corp.lab:9870 does not answer" in one for one in failed)
    finally:
        pair.hosts[standby].check_output(f"systemctl start {units}")
    pair.whole()


def test_half_of_it_is_not_taken_for_the_whole(pair: Pair) -> None:
    refused = play("hdfs.yml", "-l", f"{A},{C}", **ONE)
    assert refused.rc != 0 and "holds one half of what two NameNodes share" in refused.output, refused.output[-3000:]
    play("hdfs.yml").succeeded()
    pair.whole()


def test_removed_and_back(pair: Pair) -> None:
    pair.put("/before-the-removal", "1")
    play("remove.yml").succeeded()
    assert pair.hosts[A].run("systemctl list-units --plain --no-legend 'slipway-hdfs-*'").stdout == ""
    play("hdfs.yml").succeeded()
    pair.whole()
    assert pair.read("/before-the-removal") == "1"


def test_from_one_namenode_to_two(pair: Pair) -> None:
    play("remove.yml", hdfs_remove_data=True).succeeded()
    for name in (A, B, C):
        left = (
            pair.hosts[name].run("ls -d /etc/systemd/system/slipway-hdfs-* /etc/hadoop /etc/slipway /srv/hdfs/*").stdout
        )
        assert left == "", left
    play("hdfs.yml", "-l", f"{A},{C}", **ONE).succeeded()
    pair.put("/by-one", "1")
    cluster = json.loads(pair.hosts[A].file(MARK).content_string)["cluster"]
    play("hdfs.yml").succeeded()
    pair.whole()
    assert pair.read("/by-one") == "1"
    for name in (A, B):
        assert json.loads(pair.hosts[name].file(MARK).content_string)["cluster"] == cluster
    assert play("hdfs.yml").succeeded().changed == 0
