# SPDX-License-Identifier: GPL-3.0-or-later
"""HDFS' settings as the files of its daemons and clients (keys: core-default.xml, hdfs-default.xml of Hadoop 3.4)."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import typing as t
from xml.sax.saxutils import escape

CLIENT_HEADER = (
    "Managed by slipway.platform.hdfs, for every client of this file system. Edits are undone by the next run."
)
DAEMON_HEADER = "Managed by slipway.platform.hdfs. Edits are undone by the next run."
LISTS = ("name_dirs", "data_dirs", "namenodes", "journalnodes", "zookeepers")
UNITS = {"k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
DATANODE_PORTS = {"dfs.datanode.address": 9866, "dfs.datanode.ipc.address": 9867, "dfs.datanode.http.address": 9864}
SECONDARY_PORT = 9868
JOURNAL_PORT, JOURNAL_WEB_PORT = 8485, 8480
ZOOKEEPER_PORT = 2181
# Where the role keeps what the NameNode reads again without a restart.
ETC = "/etc/slipway/hdfs"
INCLUDE, EXCLUDE = f"{ETC}/datanodes", f"{ETC}/datanodes.exclude"
RACKS_PROGRAM = "/usr/local/lib/slipway/hdfs-racks"
# Where the failover controller reads its login to ZooKeeper; its unit puts it there.
LOGIN = "/run/slipway-hdfs-zkfc"
ZOOKEEPER_USER = "hdfs"
# Asks both at once which is active: one after the other would take seconds where the first one's machine is gone.
PROXY_PROVIDER = "org.apache.hadoop.hdfs.server.namenode.ha.RequestHedgingProxyProvider"


def size(text: t.Any) -> int:
    """Return the bytes of a size such as 64m."""
    value = str(text).strip().lower()
    factor = UNITS.get(value[-1:], 1)
    return int(value.rstrip("kmgt")) * factor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the role's variables say, without their prefix; nameservice: empty where there is one NameNode."""

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
    nameservice: str = ""
    namenodes: tuple[str, ...] = ()
    journalnodes: tuple[str, ...] = ()
    zookeepers: tuple[str, ...] = ()
    journal_dir: str = ""

    @classmethod
    def parse(cls, value: t.Mapping[str, t.Any]) -> Settings:
        """Return settings from a dictionary; raises ValueError for names that are none."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(value) - known)
        if unknown:
            raise ValueError(f"{unknown[0]} is no setting of HDFS: it needs one of {', '.join(sorted(known))}")
        numbers = {name: int(value[name]) for name in ("port", "web_port", "replication") if name in value}
        lists = {name: tuple(value[name]) for name in LISTS if name in value}
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
    return {"fs.defaultFS": f"hdfs://{settings.nameservice or f'{settings.namenode}:{settings.port}'}"}


def _addresses(settings: Settings) -> dict[str, t.Any]:
    """Return where the NameNode is, or both of them, by numbers that do not depend on the inventory's order."""
    if not settings.nameservice:
        return {
            "dfs.namenode.rpc-address": f"{settings.namenode}:{settings.port}",
            "dfs.namenode.http-address": f"{settings.namenode}:{settings.web_port}",
        }
    service, names = settings.nameservice, {number: name for name, number in numbers(settings).items()}
    found: dict[str, t.Any] = {
        "dfs.nameservices": service,
        f"dfs.ha.namenodes.{service}": ",".join(names),
        f"dfs.client.failover.proxy.provider.{service}": PROXY_PROVIDER,
    }
    for number, name in names.items():
        found[f"dfs.namenode.rpc-address.{service}.{number}"] = f"{name}:{settings.port}"
        found[f"dfs.namenode.http-address.{service}.{number}"] = f"{name}:{settings.web_port}"
    return found


def numbers(settings: Settings) -> dict[str, str]:
    """Return what each of two NameNodes is called within its nameservice, by its host's name."""
    return {name: f"nn{index}" for index, name in enumerate(sorted(settings.namenodes), 1)}


def _common(settings: Settings) -> dict[str, t.Any]:
    return {
        "dfs.replication": settings.replication,
        "dfs.blocksize": size(settings.block_size),
        **_addresses(settings),
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
        **(_shared(settings) if settings.nameservice else {}),
    }


def _shared(settings: Settings) -> dict[str, t.Any]:
    """Return what makes two NameNodes one: the journal that both read and only one at a time may write."""
    quorum = ";".join(f"{name}:{JOURNAL_PORT}" for name in settings.journalnodes)
    return {
        "dfs.namenode.shared.edits.dir": f"qjournal://{quorum}/{settings.nameservice}",
        "dfs.ha.namenode.id": numbers(settings).get(settings.host, ""),
        "dfs.ha.automatic-failover.enabled": True,
        # The JournalNodes take edits of one NameNode only, the last that became active: another one that still takes
        # itself for it is refused there, and ends.
        "dfs.ha.fencing.methods": "shell(/bin/true)",
    }


def zkfc(settings: Settings) -> dict[str, t.Any]:
    """Return the keys of the failover controller, which are those of its NameNode."""
    return _shared(settings)


def journalnode(settings: Settings) -> dict[str, t.Any]:
    """Return a JournalNode's keys."""
    return {
        # What it fetched from the others would stand beside the unfinished segment that it was killed with; it then
        # answers no question about its segments, and with two such JournalNodes no NameNode can be brought back.
        "dfs.journalnode.enable.sync": False,
        "dfs.journalnode.edits.dir": settings.journal_dir,
        "dfs.journalnode.rpc-address": f"{settings.host}:{JOURNAL_PORT}",
        "dfs.journalnode.http-address": f"{settings.host}:{JOURNAL_WEB_PORT}",
    }


def zookeeper_login(password: str) -> dict[str, str]:
    """Return the failover controller's login to ZooKeeper, and whom its entries belong to (scheme digest)."""
    told = f"{ZOOKEEPER_USER}:{password}"
    digest = base64.b64encode(hashlib.sha1(told.encode(), usedforsecurity=False).digest()).decode()
    return {"auth": f"digest:{told}", "acl": f"digest:{ZOOKEEPER_USER}:{digest}:rwcda"}


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
    "journalnode": journalnode,
    "zkfc": zkfc,
}


def owned_keys() -> set[str]:
    """Return every key that has a variable of its own or that the role depends on."""
    one = Settings(namenode="n", host="h", secondary="s")
    two = dataclasses.replace(one, nameservice="n", namenodes=("h", "i"))
    found = {key for some in (one, two) for part in PARTS.values() for key in part(some)}
    return found | {key for some in (one, two) for values in client(some).values() for key in values}


def daemon_files(settings: Settings, component: str) -> list[dict[str, str]]:
    """Return path and content of one daemon's files. Each has its own, so that another's change does not restart it."""
    core: dict[str, t.Any] = {**_core(settings), "hadoop.tmp.dir": "/tmp"}
    # What a file is made of does not concern those who keep two NameNodes together: no change of it restarts them.
    shared = _addresses if component in ("journalnode", "zkfc") else _common
    site = {**shared(settings), **PARTS[component](settings)}
    if component == "namenode":
        core["net.topology.script.file.name"] = RACKS_PROGRAM
        core["hadoop.http.staticuser.user"] = "nobody"
    if component == "zkfc":
        core["ha.zookeeper.quorum"] = ",".join(f"{name}:{ZOOKEEPER_PORT}" for name in settings.zookeepers)
        # How long it asks a NameNode whose machine is gone to stand by: seconds, and not three quarters of a minute.
        core |= {"ipc.client.connect.timeout": 5000, "ipc.client.connect.max.retries": 1}
        core["ipc.client.connect.max.retries.on.timeouts"] = 1
        core["ha.zookeeper.auth"] = f"@{LOGIN}/auth"
        core["ha.zookeeper.acl"] = f"@{LOGIN}/acl"
    found = {"core-site.xml": core, "hdfs-site.xml": {**site, **settings.options}}
    return [
        {"path": f"{ETC}/{component}/{name}", "content": xml(values, DAEMON_HEADER)} for name, values in found.items()
    ]


def machines(names: t.Iterable[str], hostvars: t.Mapping[str, t.Mapping[str, t.Any]]) -> list[dict[str, t.Any]]:
    """Return machines of the inventory by the names that all resolve."""
    return [{"name": hostvars[name].get("hdfs_host", name), "machine": name} for name in names]


def datanodes(names: t.Iterable[str], hostvars: t.Mapping[str, t.Mapping[str, t.Any]]) -> list[dict[str, t.Any]]:
    """Return the DataNodes by what each machine's variables say of it."""
    return [
        {
            **one,
            "rack": hostvars[one["machine"]].get("hdfs_rack", ""),
            "decommission": hostvars[one["machine"]].get("hdfs_decommission", False),
        }
        for one in machines(names, hostvars)
    ]
