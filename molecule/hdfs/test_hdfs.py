# SPDX-License-Identifier: GPL-3.0-or-later
"""A real file system: what is in it survives daemons, a NameNode's disk, a reboot, and DataNodes that come and go."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.testinfra.lab import Lab
from tests.testinfra.play import REPOSITORY, Play, run_play

HERE = Path(__file__).resolve().parent
NAME, DATA1, DATA2, DATA3 = "hdfs-name", "hdfs-data1", "hdfs-data2", "hdfs-data3"
WEB = f"{NAME}.corp.lab:9870"
UNIT = "slipway-hdfs-{}.service"
MIB = 1024 * 1024
STATUS = "/usr/local/lib/slipway/hdfs-status"
MARK = "/var/lib/slipway/hdfs/file-system.json"
LONG = pytest.mark.skipif(not os.environ.get("SLIPWAY_LONG"), reason="part of make test-long")
LIVING = {NAME: ("namenode", "datanode"), DATA1: ("secondary", "datanode"), DATA2: ("datanode",)}


def play(name: str, *arguments: str, more: dict[str, Any] | None = None, **variables: Any) -> Play:
    """Run one of the site's playbooks or the scenario's own; more: what the inventory says beside molecule's own."""
    path = HERE / name if (HERE / name).exists() else REPOSITORY / "playbooks" / name
    extra: list[str] = []
    if more:
        file = REPOSITORY / ".slipway" / "hdfs-more.yml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"all": {"children": more}}), encoding="utf-8")
        extra = ["-i", str(file)]
    return run_play(path, variables, arguments=[*extra, *arguments])


def wait_for(what: Callable[[], Any], why: Callable[[], Any], seconds: float = 120) -> Any:
    """Ask again until the answer is true; say why it is not when the time is up."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, why()
        time.sleep(1)
    return answer


class FileSystem:
    """HDFS as the NameNode's machine sees it."""

    def __init__(self, machine: Any) -> None:
        self.machine = machine

    def ask(self, path: str) -> str:
        done = self.machine.run("curl --silent --show-error --noproxy '*' --max-time 20 %s", f"http://{WEB}{path}")
        return str(done.stdout)

    def bean(self, name: str) -> dict[str, Any]:
        text = self.ask(f"/jmx?qry=Hadoop:service=NameNode,name={name}")
        try:
            found: list[dict[str, Any]] = json.loads(text)["beans"]
        except (ValueError, KeyError):
            return {}
        return found[0] if found else {}

    def nodes(self, kind: str = "LiveNodes") -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = json.loads(self.bean("NameNodeInfo").get(kind) or "{}")
        return {key.partition(".")[0]: value for key, value in found.items()}

    def problems(self) -> list[str]:
        return list(json.loads(self.machine.check_output(f"{STATUS} --check")))

    def healthy(self) -> None:
        wait_for(lambda: not self.problems(), self.problems)

    def fsck(self, path: str) -> str:
        return self.ask(f"/fsck?path={path}&files=1&blocks=1&racks=1&ugi=hdfs")

    def put(self, path: str, size: int) -> str:
        """Write a file of random bytes as the superuser; return its checksum."""
        self.machine.check_output(f"head -c {size} /dev/urandom >/var/tmp/put && chmod 644 /var/tmp/put")
        self.machine.check_output(f"runuser -u hdfs -- hdfs dfs -put -f /var/tmp/put {path}")
        return str(self.machine.check_output("sha256sum /var/tmp/put && rm /var/tmp/put").split()[0])

    def checksum(self, path: str) -> str:
        return str(self.machine.check_output(f"runuser -u hdfs -- hdfs dfs -cat {path} | sha256sum").split()[0])


@pytest.fixture(scope="module")
def name(hosts: dict[str, Any]) -> Any:
    return hosts[NAME]


@pytest.fixture(scope="module")
def hdfs(name: Any) -> FileSystem:
    return FileSystem(name)


@pytest.fixture(scope="module")
def big(hdfs: FileSystem) -> str:
    """Checksum of /big, 150 MiB."""
    return hdfs.put("/big", 150 * MIB)


@pytest.fixture(scope="module")
def cluster(name: Any) -> str:
    """ID of the file system as the first converge made it."""
    return str(json.loads(name.file(MARK).content_string)["cluster"])


def pids(hosts: dict[str, Any]) -> dict[str, str]:
    return {
        f"{machine} {part}": hosts[machine].check_output(
            f"systemctl show --value --property=MainPID {UNIT.format(part)}"
        )
        for machine, parts in LIVING.items()
        for part in parts
    }


def test_150_mib_are_three_blocks_in_two_racks(hdfs: FileSystem, big: str, cluster: str) -> None:
    text = hdfs.fsck("/big")
    assert re.search(r"Total blocks \(validated\):\s+3 \(", text), text
    assert "is HEALTHY" in text and re.search(r"Average block replication:\s+2\.0", text), text
    blocks = re.findall(r"len=(\d+) Live_repl=(\d+)\s+\[([^\]]*)\]", text)
    assert [int(length) for length, _, _ in blocks] == [64 * MIB, 64 * MIB, 22 * MIB], text
    for _, copies, where in blocks:
        assert copies == "2" and len(set(re.findall(r"/([abc])/", where))) == 2, "a block has both copies in one rack"
    assert hdfs.checksum("/big") == big
    assert hdfs.bean("NameNodeInfo")["ClusterId"] == cluster
    hdfs.healthy()


def test_a_run_with_nothing_to_do_ends_early_and_formats_nothing(name: Any, cluster: str) -> None:
    first = name.check_output("stat -c %Y /srv/hdfs/name/current/VERSION")
    done = play("hdfs.yml").succeeded()
    assert done.changed == 0 and "Tell it which DataNodes it has" not in done.output, done.output[-3000:]
    done = play("hdfs.yml", hdfs_timeout="119s").succeeded()  # another input: everything is looked at
    assert done.changed == 0 and "Tell it which DataNodes it has" in done.output, done.output[-3000:]
    assert name.check_output("stat -c %Y /srv/hdfs/name/current/VERSION") == first
    assert json.loads(name.file(MARK).content_string)["cluster"] == cluster


def test_clients_have_one_configuration_and_people_their_homes(hosts: dict[str, Any], name: Any) -> None:
    found = {hosts[machine].file("/etc/hadoop/conf/hdfs-site.xml").sha256sum for machine in LIVING}
    assert len(found) == 1
    text = name.file("/etc/hadoop/conf/hdfs-site.xml").content_string
    assert f"<value>{64 * MIB}</value>" in text and "dfs.client.use.datanode.hostname" in text
    assert name.check_output("hdfs getconf -confKey fs.defaultFS") == f"hdfs://{NAME}.corp.lab:8020"
    listing = name.check_output("HADOOP_USER_NAME=ada hdfs dfs -ls -d /user/ada /spark-logs /tmp")
    assert re.search(r"drwxr-x---\s+- ada ada .* /user/ada", listing), listing
    assert re.search(r"drwxrwxrwt\s+- hdfs hdfs .* /spark-logs", listing), listing
    refused = name.run("HADOOP_USER_NAME=ada hdfs dfs -mkdir /mine")
    assert refused.rc != 0 and "Permission denied" in refused.stderr


def test_daemons_are_confined(hosts: dict[str, Any], name: Any) -> None:
    for machine, parts in LIVING.items():
        host = hosts[machine]
        address = host.check_output("hostname -i").split()[0]
        listening = host.check_output("ss --no-header --listening --tcp --numeric --processes | grep java")
        addresses = {line.split()[3].rpartition(":")[0] for line in listening.splitlines()}
        assert addresses - {"127.0.0.1"} == {address}, listening
        for part in parts:
            pid = host.check_output(f"systemctl show --value --property=MainPID {UNIT.format(part)}")
            assert host.check_output(f"stat -c %U /proc/{pid}") == "hdfs"
            exposure = host.check_output(f"systemd-analyze security --no-pager {UNIT.format(part)} | tail -1")
            assert float(re.findall(r"(\d+\.\d)", exposure)[0]) <= 3.0, exposure


def test_a_killed_datanode_comes_back_and_a_stopped_one_loses_nothing(
    hosts: dict[str, Any], hdfs: FileSystem, big: str
) -> None:
    host, unit = hosts[DATA2], UNIT.format("datanode")
    before = host.check_output(f"systemctl show --value --property=MainPID {unit}")
    host.check_output(f"kill -9 {before}")
    wait_for(
        lambda: host.check_output(f"systemctl show --value --property=MainPID {unit}") not in (before, "0"),
        lambda: host.run(f"systemctl status {unit}").stdout,
    )
    wait_for(lambda: DATA2 in hdfs.nodes(), hdfs.problems)
    host.check_output(f"systemctl stop {unit}")
    try:
        wait_for(lambda: DATA2 in hdfs.nodes("DeadNodes"), hdfs.nodes)
        assert any(f"DataNodes are dead: {DATA2}" in line for line in hdfs.problems())
        assert hdfs.checksum("/big") == big
        wait_for(lambda: not re.search(r"Live_repl=1 ", hdfs.fsck("/big")), lambda: hdfs.fsck("/big"))
    finally:
        host.check_output(f"systemctl start {unit}")
    hdfs.healthy()


@LONG
def test_safe_mode_is_told(name: Any, hdfs: FileSystem) -> None:
    name.check_output("runuser -u hdfs -- hdfs dfsadmin -safemode enter")
    try:
        assert any("read-only (safe mode)" in sentence for sentence in hdfs.problems())
        refused = play("hdfs.yml", hdfs_timeout="20s")
        assert refused.rc != 0 and "HDFS is read-only after 20 seconds: Safe mode is ON" in refused.output
    finally:
        name.check_output("runuser -u hdfs -- hdfs dfsadmin -safemode leave")
    hdfs.healthy()


MORE: dict[str, Any] = {"hdfs_datanodes": {"hosts": {DATA3: {}}}}
LEAVING = {"hdfs_datanodes": {"hosts": {DATA3: {"hdfs_decommission": True}}}}


def test_a_datanode_comes_and_no_other_daemon_notices(hosts: dict[str, Any], hdfs: FileSystem) -> None:
    before = pids(hosts)
    play("hdfs.yml", more=MORE).succeeded()
    node = hdfs.nodes()[DATA3]
    assert node["adminState"] == "In Service" and node["location"] == "/c"
    assert pids(hosts) == before


def test_a_datanode_with_blocks_cannot_be_dropped(hosts: dict[str, Any], hdfs: FileSystem) -> None:
    FileSystem(hosts[DATA3]).put("/moved", 3 * MIB)  # the first copy is where the writer is
    wait_for(lambda: int(hdfs.nodes()[DATA3]["numBlocks"]) > 0, hdfs.nodes)
    refused = play("hdfs.yml")
    assert refused.rc != 0
    assert re.search(rf"{DATA3}\.corp\.lab is no DataNode any more and still has \d+ blocks", refused.output)
    assert hosts[DATA3].service(UNIT.format("datanode")).is_running, "and nothing was taken from it"


def test_a_datanode_hands_its_blocks_over_before_it_goes(hosts: dict[str, Any], hdfs: FileSystem, big: str) -> None:
    assert int(hdfs.nodes()[DATA3]["numBlocks"]) > 0
    before, moved = pids(hosts), hdfs.checksum("/moved")
    play("hdfs.yml", more=LEAVING).succeeded()
    assert pids(hosts) == before, "others were restarted"
    assert not hosts[DATA3].service(UNIT.format("datanode")).is_running
    states = {**hdfs.nodes(), **hdfs.nodes("DeadNodes")}
    assert states[DATA3]["adminState"] == "Decommissioned", states[DATA3]
    for path in ("/big", "/moved"):
        assert "is HEALTHY" in hdfs.fsck(path) and "Under replicated" not in hdfs.fsck(path), hdfs.fsck(path)
    assert (hdfs.checksum("/big"), hdfs.checksum("/moved")) == (big, moved)
    play("hdfs.yml").succeeded()  # and now it is taken out of the inventory
    wait_for(lambda: DATA3 not in {**hdfs.nodes(), **hdfs.nodes("DeadNodes")}, hdfs.nodes)
    assert not hosts[DATA3].file("/etc/slipway/hdfs").exists
    hdfs.healthy()


def test_a_lost_namenode_is_refused_and_restored(
    hosts: dict[str, Any], name: Any, hdfs: FileSystem, cluster: str
) -> None:
    total = hdfs.put("/before-the-checkpoint", 5 * MIB)
    play("hdfs_checkpoint.yml").succeeded()
    name.check_output(f"systemctl stop {UNIT.format('namenode')}")
    name.check_output("mv /srv/hdfs/name /srv/hdfs/lost && install -d -o hdfs -g hdfs -m 700 /srv/hdfs/name")
    refused = play("hdfs.yml", hdfs_timeout="118s")
    assert refused.rc != 0 and f"has lost the file system {cluster}" in refused.output, refused.output[-3000:]
    assert "playbooks/hdfs_restore.yml brings it back" in refused.output
    name.check_output(f"mv {MARK} /var/tmp/mark")  # as on a new machine: then it is the DataNodes who know
    refused = play("hdfs.yml", hdfs_timeout="118s")
    assert refused.rc != 0 and f"{DATA1}.corp.lab has {cluster}" in refused.output, refused.output[-3000:]
    assert name.check_output("ls /srv/hdfs/name") == "", "something was formatted"
    play("hdfs_restore.yml").succeeded()
    assert hdfs.bean("NameNodeInfo")["ClusterId"] == cluster
    assert json.loads(name.file(MARK).content_string)["cluster"] == cluster
    assert hdfs.checksum("/before-the-checkpoint") == total
    hdfs.healthy()
    again = play("hdfs_restore.yml").succeeded()
    assert again.changed == 0, "a NameNode that has its directories is left alone"


def test_no_acknowledged_write_is_lost_when_the_namenode_is_killed(
    hosts: dict[str, Any], name: Any, hdfs: FileSystem
) -> None:
    host, notes, count = hosts[DATA2], "/var/tmp/acknowledged", 1000
    program = (HERE / "writer.py").read_text(encoding="utf-8")
    host.run("cat >/var/tmp/writer.py <<'END_OF_PROGRAM'\n" + program + "\nEND_OF_PROGRAM")
    host.check_output(f"rm -f {notes}.go && : >{notes}")
    host.check_output(
        f"systemd-run --quiet --unit=writer --property=StandardOutput=file:/var/tmp/written --remain-after-exit "
        f"python3 /var/tmp/writer.py write {WEB} /writes {count} {notes}"
    )

    def acknowledged() -> int:
        return int(host.check_output(f"wc -l <{notes}"))

    wait_for(lambda: acknowledged() >= 100, lambda: host.run("journalctl -u writer").stdout)
    name.check_output(f"systemctl kill --signal=KILL {UNIT.format('namenode')}")
    host.check_output(f"touch {notes}.go")
    try:
        wait_for(
            lambda: "acknowledged" in host.run("cat /var/tmp/written").stdout,
            lambda: host.run("cat /var/tmp/written; journalctl -u writer").stdout,
            seconds=300,
        )
        written = host.check_output("cat /var/tmp/written")
        assert f"acknowledged {count} " in written and " again 0" not in written, written
        assert host.run(f"python3 /var/tmp/writer.py read {WEB} /writes {count} {notes}").stdout == "lost []\n"
    finally:
        host.run("systemctl stop writer; rm -f /var/tmp/writer.py /var/tmp/written")
    hdfs.healthy()


@LONG
def test_a_reboot_changes_nothing(hosts: dict[str, Any], lab: Lab, hdfs: FileSystem, big: str, cluster: str) -> None:
    lab.reboot(NAME)
    wait_for(lambda: NAME in hdfs.nodes(), lambda: hdfs.ask("/jmx?qry=Hadoop:service=NameNode,name=NameNodeInfo"))
    hdfs.healthy()
    assert hdfs.checksum("/big") == big
    assert hdfs.bean("NameNodeInfo")["ClusterId"] == cluster
    assert play("hdfs.yml").succeeded().changed == 0


@LONG
def test_a_full_file_system_is_told(name: Any, hdfs: FileSystem, big: str) -> None:
    play("hdfs.yml", hdfs_reserved="900t").succeeded()
    try:
        wait_for(lambda: any("HDFS is 100 % full: 0 B of" in sentence for sentence in hdfs.problems()), hdfs.problems)
        refused = name.run("head -c 1000 /dev/urandom | runuser -u hdfs -- hdfs dfs -put - /full")
        assert refused.rc != 0 and "could only be written to 0 of the 1 minReplication nodes" in refused.stderr
        assert hdfs.checksum("/big") == big
    finally:
        play("hdfs.yml").succeeded()
    name.run("runuser -u hdfs -- hdfs dfs -rm -f -skipTrash /full")
    hdfs.healthy()


def test_verify_says_what_is_wrong(hosts: dict[str, Any]) -> None:
    unit = UNIT.format("datanode")
    hosts[DATA1].check_output(f"systemctl stop {unit}")
    try:
        done = play("verify.yml", "-l", f"{NAME},{DATA1}", verify_verdict=str(REPOSITORY / ".slipway/hdfs-verify.json"))
        verdict = json.loads((REPOSITORY / ".slipway/hdfs-verify.json").read_text(encoding="utf-8"))
        failed = [item for item in verdict["results"] if item["outcome"] == "failed" and "HDFS" in item["check"]]
        assert done.rc != 0 and any(f"{unit} is inactive" in item["reason"] for item in failed), failed
    finally:
        hosts[DATA1].check_output(f"systemctl start {unit}")


@LONG
def test_removed_and_back_with_all_that_was_in_it(name: Any, hdfs: FileSystem, big: str, cluster: str) -> None:
    play("remove.yml", "-l", NAME).succeeded()
    assert name.run("ls /etc/systemd/system/slipway-hdfs-* /etc/hadoop /opt/slipway/hadoop-* /etc/slipway").stdout == ""
    assert name.file("/srv/hdfs/data/current/VERSION").exists and name.file("/srv/hdfs/name/current/VERSION").exists
    play("hdfs.yml").succeeded()
    hdfs.healthy()
    assert hdfs.bean("NameNodeInfo")["ClusterId"] == cluster
    assert hdfs.checksum("/big") == big
