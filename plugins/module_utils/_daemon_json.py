# SPDX-License-Identifier: GPL-3.0-or-later
"""Merge named fragments into one daemon.json; pure functions, no file is touched here.

Source of the rules: house style section 4 (one file, one writer) and dockerd's reload code
(https://docs.docker.com/reference/cli/dockerd/#configuration-reload-behavior).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]
Path = tuple[str, ...]

# Lists that several roles may add to. The order of fragments is the order of the result.
APPENDED: frozenset[Path] = frozenset(
    {
        ("allow-nondistributable-artifacts",),
        ("authorization-plugins",),
        ("cdi-spec-dirs",),
        ("default-address-pools",),
        ("dns-opts",),
        ("dns-search",),
        ("exec-opts",),
        ("hosts",),
        ("insecure-registries",),
        ("labels",),
        ("node-generic-resources",),
        ("registry-mirrors",),
        ("storage-opts",),
    }
)

# Lists that only make sense as a whole: the fragment that comes last in name order has the word.
REPLACED: frozenset[Path] = frozenset({("dns",)})

# What dockerd takes over on SIGHUP. A key that vanishes is not among the changes it sees
# (its reload code looks only at keys that stand in the file), so removal asks for a restart.
RELOADABLE: frozenset[str] = frozenset(
    {
        "allow-nondistributable-artifacts",
        "debug",
        "default-runtime",
        "insecure-registries",
        "labels",
        "live-restore",
        "max-concurrent-downloads",
        "max-concurrent-uploads",
        "max-download-attempts",
        "registry-mirrors",
        "runtimes",
        "shutdown-timeout",
    }
)


class MergeError(ValueError):
    """Two fragments, or a fragment and the rules, contradict each other; the text is one sentence."""


class BrokenJsonError(ValueError):
    """A file is not a JSON object; the text says where."""


@dataclass(frozen=True)
class Composed:
    """The file to write: its content, the leaf paths that fragments own, and the foreign ones it keeps or drops."""

    config: Config
    owned: frozenset[Path]
    unknown: tuple[str, ...]


def dotted(path: Path) -> str:
    """Name of a key as people write it: ``log-opts.max-size``."""
    return ".".join(path)


def parse(text: str) -> Config:
    """Read daemon.json as dockerd does (an empty file is an empty object); BrokenJsonError if it is no object."""
    if not text.strip():
        return {}
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise BrokenJsonError(f"line {error.lineno}, column {error.colno}: {error.msg}") from error
    if not isinstance(value, dict):
        raise BrokenJsonError("it holds no JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> Config:
    """Build an object; BrokenJsonError when a key stands twice, because which one counts is anyone's guess."""
    result: Config = {}
    for key, value in pairs:
        if key in result:
            raise BrokenJsonError(f"the key '{key}' stands twice")
        result[key] = value
    return result


def render(config: Mapping[str, Any]) -> str:
    """Text of the file: sorted keys, so that the same configuration is always the same bytes."""
    return json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def same(left: Any, right: Any) -> bool:
    """Equal as JSON: unlike in Python, true is not 1 and 1 is not 1.0."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


def leaves(config: Mapping[str, Any], prefix: Path = ()) -> dict[Path, Any]:
    """Every value that is no map, by its path; an empty map is a value too."""
    found: dict[Path, Any] = {}
    for key, value in config.items():
        path = (*prefix, key)
        if isinstance(value, dict) and value:
            found.update(leaves(value, path))
        else:
            found[path] = value
    return found


def overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> Config:
    """Defaults with a site's own values on top: maps merge, everything else is replaced."""
    result: Config = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            result[key] = overlay(below, value)
        else:
            result[key] = value
    return result


def merge(fragments: Mapping[str, Mapping[str, Any]]) -> Config:
    """All fragments as one configuration, in name order; MergeError names the two that contradict each other."""
    result: Config = {}
    owners: dict[Path, str] = {}
    for name in sorted(fragments):
        _merge_into(result, fragments[name], owners, name, ())
    return result


def _merge_into(target: Config, source: Mapping[str, Any], owners: dict[Path, str], name: str, prefix: Path) -> None:
    for key, value in source.items():
        path = (*prefix, key)
        if value is None:
            raise MergeError(f"fragment '{name}' sets {dotted(path)} to null: leave the key out instead")
        if key not in target:
            target[key] = _fresh(value, owners, name, path)
        elif isinstance(target[key], dict) and isinstance(value, dict):
            _merge_into(target[key], value, owners, name, path)
        elif isinstance(target[key], list) and isinstance(value, list):
            target[key] = _merge_list(target[key], value, (owners.get(path, ""), name), path)
        elif not same(target[key], value):
            raise _contradiction(target[key], value, (_owner(owners, path), name), path)


def _owner(owners: Mapping[Path, str], path: Path) -> str:
    """Who set a path first, or something below it."""
    return next((name for known, name in owners.items() if known[: len(path)] == path), "")


def _fresh(value: Any, owners: dict[Path, str], name: str, path: Path) -> Any:
    """Copy a value that nobody set before, and note whose it is."""
    owners[path] = name
    if isinstance(value, dict):
        copy: Config = {}
        _merge_into(copy, value, owners, name, path)
        return copy
    return list(value) if isinstance(value, list) else value


def _merge_list(left: list[Any], right: list[Any], names: tuple[str, str], path: Path) -> list[Any]:
    if path in APPENDED:
        return left + [item for item in right if not any(same(item, have) for have in left)]
    if path in REPLACED or same(left, right):
        return list(right)
    raise _contradiction(left, right, names, path)


def _contradiction(left: Any, right: Any, names: tuple[str, str], path: Path) -> MergeError:
    return MergeError(
        f"fragments '{names[0]}' and '{names[1]}' contradict each other: {dotted(path)} is "
        f"{json.dumps(left)} in the first and {json.dumps(right)} in the second"
    )


def compose(
    fragments: Mapping[str, Mapping[str, Any]],
    current: Mapping[str, Any],
    before: Iterable[Path],
    unknown_keys: str,
) -> Composed:
    """What daemon.json has to hold.

    ``current`` is the file as it stands, ``before`` the leaf paths that fragments owned when we last wrote it: a key
    in the file that is in neither is foreign. ``unknown_keys`` keeps such keys, removes them, or fails on them.
    """
    merged = merge(fragments)
    owned = frozenset(leaves(merged))
    earlier = frozenset(before)
    result = merged
    unknown: list[str] = []
    for path, value in sorted(leaves(current).items()):
        if path in owned or path in earlier or _blocked(path, owned):
            continue
        unknown.append(dotted(path))
        if unknown_keys == "keep":
            _put(result, path, value)
    if unknown and unknown_keys == "fail":
        raise MergeError(
            f"/etc/docker/daemon.json holds keys that no role owns ({', '.join(unknown)}): "
            "add them to docker_engine_options, or set docker_engine_unknown_keys to keep or remove"
        )
    return Composed(config=result, owned=owned, unknown=tuple(unknown))


def _blocked(path: Path, owned: frozenset[Path]) -> bool:
    """A foreign leaf cannot stand below an owned value, nor an owned value below a foreign leaf."""
    return any(mine[: len(path)] == path or path[: len(mine)] == mine for mine in owned)


def _put(config: Config, path: Path, value: Any) -> None:
    for key in path[:-1]:
        config = config.setdefault(key, {})
    config[path[-1]] = value


def nested(path: Path, value: Any) -> Config:
    """One leaf as nested maps."""
    config: Config = {}
    _put(config, path, value)
    return config


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Top-level keys whose value differs."""
    return sorted(key for key in {*old, *new} if (key in old) != (key in new) or not same(old.get(key), new.get(key)))


def reload_is_enough(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Does SIGHUP bring a dockerd that runs with ``old`` to ``new``?"""
    return all(key in RELOADABLE and key in new for key in changed_keys(old, new))
