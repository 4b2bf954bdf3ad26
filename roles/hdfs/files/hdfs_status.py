#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell how the file system is, by what the NameNode says of it, the active one of two: on its machine, without a JVM.

Without an argument for people; --check prints a JSON list of what is wrong, one sentence each, and always ends well.
"""

from __future__ import annotations

import json
import sys
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

CONFIG = Path("/etc/slipway/hdfs/status.json")
FULL = 90.0  # per cent of what DataNodes may use
SECONDS = 10
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def beans(address: str) -> dict[str, dict[str, Any]]:
    """Return the NameNode's beans by name."""
    query = urllib.parse.quote("Hadoop:service=NameNode,name=*", safe="")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"http://{address}/jmx?qry={query}", timeout=SECONDS) as answer:
        return {bean["name"].rpartition("name=")[2]: bean for bean in json.load(answer)["beans"]}


def size(number: float) -> str:
    """Return bytes for people."""
    for unit in UNITS:
        if number < 1024 or unit == UNITS[-1]:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    raise AssertionError


def nodes(info: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    """Return the DataNodes of a kind (LiveNodes, DeadNodes) by name."""
    found: dict[str, dict[str, Any]] = json.loads(info.get(kind) or "{}")
    return {key.rpartition(":")[0] or key: value for key, value in found.items()}


def problems(found: dict[str, dict[str, Any]]) -> list[str]:
    """Return a sentence for each thing that is wrong."""
    info, system = found["NameNodeInfo"], found["FSNamesystem"]
    sentences = []
    if info.get("Safemode"):
        sentences.append("HDFS is read-only (safe mode): " + " ".join(str(info["Safemode"]).split()))
    if system.get("MissingBlocks"):
        sentences.append(f"{system['MissingBlocks']} blocks are missing: no DataNode that lives has a copy")
    if system.get("CorruptBlocks"):
        sentences.append(f"{system['CorruptBlocks']} blocks have a corrupt copy")
    waiting = system.get("LowRedundancyBlocks", system.get("UnderReplicatedBlocks", 0))
    if waiting:
        sentences.append(f"{waiting} blocks have fewer copies than they should; HDFS makes them while it has room")
    dead = [name for name, node in nodes(info, "DeadNodes").items() if not node.get("decommissioned")]
    if dead:
        sentences.append(f"DataNodes are dead: {', '.join(sorted(dead))}")
    if system.get("VolumeFailuresTotal"):
        sentences.append(f"{system['VolumeFailuresTotal']} disks of DataNodes have failed")
    return sentences + space(info, system)


def space(info: dict[str, Any], system: dict[str, Any]) -> list[str]:
    """Return what is to be said of the space that is left beside what is reserved."""
    live = nodes(info, "LiveNodes")
    left, total = int(system.get("CapacityRemaining", 0)), int(system.get("CapacityTotal", 0))
    used = int(system.get("CapacityUsed", 0))
    if not live:
        return ["no DataNode is alive: nothing can be read or written"]
    if not used + left:
        return [f"no DataNode has room: all of {size(total)} is used by others or reserved (hdfs_reserved)"]
    share = 100.0 * used / (used + left)
    if share >= FULL:
        return [f"HDFS is {share:.0f} % full: {size(left)} of {size(used + left)} are left on {len(live)} DataNodes"]
    full = [name for name, node in live.items() if int(node.get("remaining", 1)) == 0]
    return [f"DataNodes are full: {', '.join(sorted(full))}; hdfs balancer spreads blocks"] if full else []


def summary(found: dict[str, dict[str, Any]]) -> str:
    """Return what people want to know, in a few lines."""
    info, system = found["NameNodeInfo"], found["FSNamesystem"]
    live, dead = nodes(info, "LiveNodes"), nodes(info, "DeadNodes")
    used, left = int(system.get("CapacityUsed", 0)), int(system.get("CapacityRemaining", 0))
    lines = [
        f"file system {info.get('ClusterId')}, Hadoop {str(info.get('Version')).partition(',')[0]}",
        f"{system.get('FilesTotal')} files and directories, {system.get('BlocksTotal')} blocks",
        f"{size(used)} used, {size(left)} left",
    ]
    for name, node in sorted({**live, **dead}.items()):
        state = node.get("adminState", "") if name in live else "dead"
        lines.append(f"  {name}: {state}, {node.get('numBlocks', 0)} blocks, {node.get('location', '')}")
    return "\n".join([*lines, *(f"! {sentence}" for sentence in problems(found))])


def main(words: list[str]) -> int:
    """Run the program; for people it ends with 1 when something is wrong."""
    addresses = json.loads(CONFIG.read_text(encoding="utf-8"))["addresses"]
    found, states, wrong = ask(addresses)
    if "--check" in words:
        print(json.dumps([*wrong, *(problems(found) if found else [])]))
        return 0
    for address, state in states.items() if len(addresses) > 1 else ():
        print(f"NameNode {address}: {state}")
    print("\n".join([*([summary(found)] if found else []), *(f"! {sentence}" for sentence in wrong)]))
    return 1 if wrong or problems(found) else 0


def ask(addresses: list[str]) -> tuple[dict[str, dict[str, Any]], dict[str, str], list[str]]:
    """Return what the NameNode that serves says, the state of each, and what is wrong with them."""
    found: dict[str, dict[str, Any]] = {}
    states, wrong = {}, []
    for address in addresses:
        try:
            said = beans(address)
            states[address] = said["NameNodeStatus"]["State"]
            problems(said)
        except (OSError, ValueError, KeyError) as exc:
            states[address] = "no answer"
            wrong.append(f"the NameNode at {address} does not answer: {exc}")
            continue
        if states[address] == "active":
            found = said
        elif len(addresses) == 1 or states[address] != "standby":
            wrong.append(f"the NameNode at {address} is {states[address]}")
    if len(addresses) > 1 and not found:
        wrong.append("no NameNode is active: nothing can be read or written")
    return found, states, wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
