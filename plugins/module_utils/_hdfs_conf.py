# SPDX-License-Identifier: GPL-3.0-or-later
"""HDFS' settings as the files of its daemons and clients (keys: core-default.xml, hdfs-default.xml of Hadoop 3.4)."""

from __future__ import annotations

import dataclasses
import typing as t
from xml.sax.saxutils import escape

CLIENT_HEADER = (
    "Managed by slipway.platform.hdfs, for every client of this file system. Edits are undone by the next run."
)
DAEMON_HEADER = "Managed by slipway.platform.hdfs. Edits are undone by the next run."
UNITS = {"k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
DATANODE_PORTS = {"dfs.datanode.address": 9866, "dfs.datanode.ipc.address": 9867, "dfs.datanode.http.address": 9864}
SECONDARY_PORT = 9868
# Where the role keeps what the NameNode reads again without a restart.
ETC = "/etc/slipway/hdfs"
INCLUDE, EXCLUDE = f"{ETC}/datanodes", f"{ETC}/datanodes.exclude"
RACKS_PROGRAM = "/usr/local/lib/slipway/hdfs-racks"


def size(text: t.Any) -> int:
    """Return the bytes of a size such as 64m."""
    value = str(text).strip().lower()
    factor = UNITS.get(value[-1:], 1)
    return int(value.rstrip("kmgt")) * factor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the role's variables say, without their prefix."""

    namenode: str
    port: int = 8020
    web_port: int = 9870
    replication: int = 3
    block_size: str = "64m"
    options: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict)
    host: str = ""
    secondary: str = ""
    user: str = "hdfs"
    name_dirs: tuple[str, ...] = ()
    data_dirs: tuple[str, ...] = ()
    checkpoint_dir: str = ""
    checkpoint_period: str = "1h"
    reserved: str = "0"

    @classmethod
    def parse(cls, value: t.Mapping[str, t.Any]) -> Settings:
        """Return settings from a dictionary; raises ValueError for names that are none."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(value) - known)
        if unknown:
            raise ValueError(f"{unknown[0]} is no setting of HDFS: it needs one of {', '.join(sorted(known))}")
        numbers = {name: int(value[name]) for name in ("port", "web_port", "replication") if name in value}
        lists = {name: tuple(value[name]) for name in ("name_dirs", "data_dirs") if name in value}
        return cls(**{**value, **numbers, **lists})


def text(value: t.Any) -> str:
    """Return a value as Hadoop's configuration has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def xml(values: t.Mapping[str, t.Any], header: str) -> str:
    """Return a configuration file, keys in order."""
    lines = ['<?xml version="1.0"?>', f"<!-- {header} -->", "<configuration>"]
    for name in sorted(values):
        lines += [
            "  <property>",
            f"    <name>{escape(name)}</name>",
            f"    <value>{escape(text(values[name]))}</value>",
            "  </property>",
        ]
    return "\n".join([*lines, "</configuration>", ""])


def _core(settings: Settings) -> dict[str, t.Any]:
    return {"fs.defaultFS": f"hdfs://{settings.namenode}:{settings.port}"}


def _common(settings: Settings) -> dict[str, t.Any]:
    return {
        "dfs.replication": settings.replication,
        "dfs.blocksize": size(settings.block_size),
        "dfs.namenode.rpc-address": f"{settings.namenode}:{settings.port}",
        "dfs.namenode.http-address": f"{settings.namenode}:{settings.web_port}",
    }


def client(settings: Settings) -> dict[str, dict[str, t.Any]]:
    """Return the keys of a client: a name for each DataNode, which also a pod can resolve, and never an address."""
    site = {**_common(settings), "dfs.client.use.datanode.hostname": True, **settings.options}
    return {"core-site.xml": _core(settings), "hdfs-site.xml": site}


def client_files(settings: Settings) -> dict[str, str]:
    """Return core-site.xml and hdfs-site.xml for every client, on hosts and in pods."""
    return {name: xml(values, CLIENT_HEADER) for name, values in client(settings).items()}


def _uris(paths: t.Iterable[str]) -> str:
    return ",".join(f"file://{path}" for path in paths)


def namenode(settings: Settings) -> dict[str, t.Any]:
    """Return the NameNode's keys. The lists of DataNodes are files that it reads again when told to."""
    return {
        "dfs.namenode.name.dir": _uris(settings.name_dirs),
        "dfs.namenode.name.dir.restore": True,
        "dfs.hosts": INCLUDE,
        "dfs.hosts.exclude": EXCLUDE,
        # Membership is by the list above; reverse DNS would be one more thing that has to be right.
        "dfs.namenode.datanode.registration.ip-hostname-check": False,
        "dfs.permissions.enabled": True,
        "dfs.permissions.superusergroup": settings.user,
        "dfs.webhdfs.enabled": True,
    }


def secondary(settings: Settings) -> dict[str, t.Any]:
    """Return the SecondaryNameNode's keys."""
    return {
        "dfs.namenode.checkpoint.dir": _uris([settings.checkpoint_dir]),
        "dfs.namenode.checkpoint.period": settings.checkpoint_period,
        "dfs.namenode.secondary.http-address": f"{settings.secondary}:{SECONDARY_PORT}",
    }


def datanode(settings: Settings) -> dict[str, t.Any]:
    """Return a DataNode's keys: it listens on the address of its name and nowhere else."""
    return {
        "dfs.datanode.data.dir": _uris(settings.data_dirs),
        "dfs.datanode.du.reserved": size(settings.reserved),
        "dfs.datanode.hostname": settings.host,
        "dfs.datanode.use.datanode.hostname": True,
        **{name: f"{settings.host}:{port}" for name, port in DATANODE_PORTS.items()},
    }


PARTS: dict[str, t.Callable[[Settings], dict[str, t.Any]]] = {
    "namenode": namenode,
    "secondary": secondary,
    "datanode": datanode,
}


def owned_keys() -> set[str]:
    """Return every key that has a variable of its own or that the role depends on."""
    some = Settings(namenode="n", host="h", secondary="s")
    found = {key for part in PARTS.values() for key in part(some)}
    return found | {key for values in client(some).values() for key in values}


def daemon_files(settings: Settings, component: str) -> list[dict[str, str]]:
    """Return path and content of one daemon's files. Each has its own, so that another's change does not restart it."""
    core: dict[str, t.Any] = {**_core(settings), "hadoop.tmp.dir": "/tmp"}
    site = {**_common(settings), **PARTS[component](settings)}
    if component == "namenode":
        core["net.topology.script.file.name"] = RACKS_PROGRAM
        core["hadoop.http.staticuser.user"] = "nobody"
    found = {"core-site.xml": core, "hdfs-site.xml": {**site, **settings.options}}
    return [
        {"path": f"{ETC}/{component}/{name}", "content": xml(values, DAEMON_HEADER)} for name, values in found.items()
    ]


def datanodes(machines: t.Iterable[str], hostvars: t.Mapping[str, t.Mapping[str, t.Any]]) -> list[dict[str, t.Any]]:
    """Return the DataNodes by what each machine's variables say of it."""
    found = []
    for machine in machines:
        known = hostvars[machine]
        found.append(
            {
                "name": known.get("hdfs_host", machine),
                "machine": machine,
                "rack": known.get("hdfs_rack", ""),
                "decommission": known.get("hdfs_decommission", False),
            }
        )
    return found
