# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules of the role hdfs, for the action plugin validate."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import _hdfs_conf
from ansible_collections.slipway.platform.plugins.plugin_utils import _rules
from ansible_collections.slipway.platform.plugins.plugin_utils._rules import Problem, Rule, Verdict, shown

MIB = 1024**2
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\Z")
_RACK = re.compile(r"(/[A-Za-z0-9][A-Za-z0-9_.-]*)+\Z")
_NAMESERVICE = re.compile(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?\Z")
QUORUMS = ("journalnodes", "zookeepers")
_PATH = re.compile(r"(/[^/\x00-\x1f\x7f:]+)+\Z")


def hdfs_block_size(value: t.Any) -> Verdict:
    """Accept a size that the NameNode accepts: 1 MiB or more (dfs.namenode.fs-limits.min-block-size)."""
    if _rules.size(value) or _hdfs_conf.size(value) < MIB or _hdfs_conf.size(value) % 512:
        return "a size of 1m or more, such as 64m or 128m"
    return None


def hdfs_checksum(value: t.Any) -> Verdict:
    """Accept a SHA-512."""
    return (
        None if re.fullmatch(r"[0-9a-fA-F]{128}", str(value)) else "the SHA-512 of the tarball, 128 hexadecimal digits"
    )


def hdfs_url(value: t.Any) -> Verdict:
    """Accept an address without credentials that ends in a tarball."""
    if re.fullmatch(r"https?://[^/@?#\s]+/[^@?#\s]+\.(tar\.gz|tgz)", str(value)):
        return None
    return "an http or https address of a .tar.gz, without credentials"


def hdfs_paths(value: t.Any) -> Verdict:
    """Accept a list of different absolute paths, at least one."""
    items = value if isinstance(value, list) else []
    problems = []
    for index, item in enumerate(items):
        if wrong := _rules.absolute_path(item):
            problems.append(Problem(str(wrong), f"[{index}]", shown(item)))
        elif item in items[:index]:
            problems.append(Problem("each directory once", f"[{index}]", shown(item)))
    return problems or (None if items else "at least one directory")


def hdfs_rack(value: t.Any) -> Verdict:
    """Accept a place such as /room1/rack3, or nothing."""
    return None if value == "" or _RACK.match(str(value)) else "a place such as /rack3 or /room1/rack3, or nothing"


def hdfs_user(value: t.Any) -> Verdict:
    """Accept a user name."""
    return None if _USER.match(str(value)) else "a user name of letters, digits, _, . and -"


def hdfs_users(value: t.Any) -> Verdict:
    """Accept user names for home directories."""
    items = value if isinstance(value, list) else []
    return [
        Problem(str(wrong), f"[{index}]", shown(item)) for index, item in enumerate(items) if (wrong := hdfs_user(item))
    ]


def hdfs_directories(value: t.Any) -> Verdict:
    """Accept {path, owner, group, mode}."""
    problems = []
    for index, item in enumerate(value if isinstance(value, list) else []):
        path = str(item.get("path"))
        if not _PATH.match(path) or {".", ".."} & {*path.split("/")}:
            needs = "an absolute path below /, without .., : and a slash at the end"
            problems.append(Problem(needs, f"[{index}].path", shown(item.get("path"))))
        if not re.fullmatch(r"[01]?[0-7]{3}", str(item.get("mode", "0755"))):
            needs = "three or four octal digits in quotes, such as '1777'"
            problems.append(Problem(needs, f"[{index}].mode", shown(item.get("mode"))))
        for part in ("owner", "group"):
            if item.get(part) and (wrong := hdfs_user(item[part])):
                problems.append(Problem(str(wrong), f"[{index}].{part}", shown(item[part])))
    return problems


def hdfs_options(value: t.Any) -> Verdict:
    """Accept keys of hdfs-site.xml that the role has no variable for."""
    if not isinstance(value, dict):
        return "a dictionary from a key of hdfs-site.xml to its value"
    owned = _hdfs_conf.owned_keys()
    problems = []
    for key, item in value.items():
        if key in owned:
            problems.append(Problem("a key that the role does not set itself", "", f"the key {shown(key)}"))
        elif isinstance(item, (dict, list)) or item is None:
            problems.append(Problem("a text, a number, true or false", f"['{key}']", shown(item)))
    return problems


def hdfs_datanodes(value: t.Any) -> Verdict:
    """Accept DataNodes with different names, and racks that are all equally deep."""
    items = [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
    problems, names = [], [str(item.get("name")) for item in items]
    for index, item in enumerate(items):
        name = names[index]
        if _rules.is_ip(name) or _rules.host_name(name):
            problems.append(Problem("a name that all machines resolve", f"[{index}].name", shown(item.get("name"))))
        elif name in names[:index]:
            problems.append(Problem("each name once", f"[{index}].name", shown(name)))
        if wrong := hdfs_rack(item.get("rack") or ""):
            problems.append(Problem(str(wrong), f"[{index}].rack", shown(item.get("rack"))))
    depths = {str(item.get("rack") or "/default-rack").count("/") for item in items}
    if not problems and len(depths) > 1:
        racks = ", ".join(sorted({str(item.get("rack") or "no rack") for item in items}))
        problems.append(Problem("racks of one depth, on all of them or on none", "", f"a mixture ({racks})"))
    return problems


def hdfs_nameservice(value: t.Any) -> Verdict:
    """Accept a name that is no host's: it goes into keys of hdfs-site.xml and into addresses."""
    return None if _NAMESERVICE.match(str(value)) else "a name of lower-case letters, digits and -, without dots"


def hdfs_together(value: t.Any) -> Verdict:
    """Accept {components, host, namenode, secondary, datanodes, replication} that make one file system, or none.

    With failover true, {namenodes, journalnodes, zookeepers, password} too.
    """
    components = value.get("components") or []
    if not components:
        return None
    host, namenode, secondary = (str(value.get(part) or "") for part in ("host", "namenode", "secondary"))
    problems = []
    for part, name in (("namenode", namenode), ("host", host)):
        if not name or _rules.is_ip(name) or _rules.host_name(name):
            needs = "a name that all machines resolve, because hdfs_components is set"
            problems.append(Problem(needs, f".{part}", shown(name)))
    for part, name in (("namenode", namenode), ("secondary", secondary)):
        if part in components and host != name and not value.get("failover"):
            needs = f"the name hdfs_{part} has, {shown(name)}, because this machine runs it"
            problems.append(Problem(needs, ".host", shown(host)))
    return problems + _failover(value) + _replication(value)


def _failover(value: t.Mapping[str, t.Any]) -> list[Problem]:
    """Accept what two NameNodes need, all of it, or one NameNode without any of it."""
    names = {part: [str(item.get("name")) for item in value.get(part) or []] for part in QUORUMS}
    namenodes = [str(item.get("name")) for item in value.get("namenodes") or []]
    if not value.get("failover"):
        problems = [
            Problem("nobody, or hdfs_failover: true", f".{part}", f"{len(found)} machines")
            for part, found in names.items()
            if found
        ]
        if len(namenodes) > 1:
            problems.append(Problem("one machine, or hdfs_failover: true", ".namenodes", f"{len(namenodes)} machines"))
        return problems
    problems = []
    for component, found in {
        "namenode": namenodes,
        **{part.removesuffix("s"): names[part] for part in QUORUMS},
    }.items():
        if component in (value.get("components") or []) and str(value.get("host")) not in found:
            needs = f"a name in hdfs_{component}s, because this machine runs one"
            problems.append(Problem(needs, ".host", shown(value.get("host"))))
    if len(namenodes) != 2:
        needs = "two machines, because hdfs_failover is true"
        problems.append(Problem(needs, ".namenodes", f"{len(namenodes)} machines"))
    for part, found in names.items():
        if len(found) < 3 or len(found) % 2 == 0:
            needs = "an odd number of machines, three or more, because hdfs_failover is true"
            problems.append(Problem(needs, f".{part}", f"{len(found)} machines"))
    if "secondary" in (value.get("components") or []):
        needs = "no secondary, because hdfs_failover is true and the standby makes the checkpoints"
        problems.append(Problem(needs, ".components", "one"))
    # Hadoop takes several logins, with a comma between two.
    if not re.fullmatch(r"[!-+\--9;-~]{8,}", str(value.get("password") or "")):
        needs = "eight or more ASCII characters without spaces, colons and commas, because hdfs_failover is true"
        problems.append(Problem(needs, ".password", "another text (hidden)"))
    return problems


def _replication(value: t.Mapping[str, t.Any]) -> list[Problem]:
    """Accept as many copies as there are DataNodes to hold them; a client knows of none."""
    datanodes = value.get("datanodes") or []
    most = sum(not item.get("decommission") for item in datanodes) if datanodes else 512
    text = str(value.get("replication"))
    if text.isdigit() and 1 <= int(text) <= most:
        return []
    return [Problem(f"a number from 1 to {most}, the DataNodes that stay", ".replication", shown(value["replication"]))]


RULES: dict[str, Rule] = {
    "hdfs_block_size": hdfs_block_size,
    "hdfs_checksum": hdfs_checksum,
    "hdfs_datanodes": hdfs_datanodes,
    "hdfs_directories": hdfs_directories,
    "hdfs_nameservice": hdfs_nameservice,
    "hdfs_options": hdfs_options,
    "hdfs_paths": hdfs_paths,
    "hdfs_rack": hdfs_rack,
    "hdfs_together": hdfs_together,
    "hdfs_url": hdfs_url,
    "hdfs_user": hdfs_user,
    "hdfs_users": hdfs_users,
}
