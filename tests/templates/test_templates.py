# SPDX-License-Identifier: GPL-3.0-or-later
"""Every template of every role, rendered with few, all and hostile values, is what its reader can parse."""

from __future__ import annotations

import configparser
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template
from ansible_collections.slipway.platform.plugins.module_utils import _registry_cache

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = sorted(ROOT.glob("roles/*/templates/**/*.j2"))
PKI = {"registry_pki_dir": "/nonexistent"}


def caches(*upstreams: dict[str, Any]) -> dict[str, Any]:
    """Return the variables that role registry_cache computes by a filter."""
    settings = {"host": "cache.corp.lab", "upstreams": upstreams, "image": "registry", "data_dir": "/srv/cache"}
    parsed = _registry_cache.Caches.parse({**settings, "ttl": "30d", "memory": "1g", "min_free": "1g"})
    return {"registry_cache_host": "cache.corp.lab", "__registry_cache_told": _registry_cache.program(parsed)}


CASES: dict[str, dict[str, dict[str, Any]]] = {
    "registry": {
        "minimal": {**PKI, "registry_host": "registry"},
        "full": {
            **PKI,
            "registry_host": "registry.corp.lab",
            "registry_port": 443,
            "registry_pull": "authenticated",
            "registry_ui": True,
            "registry_http_secret": "s3cret",
            "registry_data_dir": "/data/images",
            "registry_gc_schedule": "daily",
            "registry_storage": "s3",
            "registry_s3_endpoint": "https://s3.corp.lab:9000",
            "registry_s3_bucket": "images",
            "registry_s3_prefix": "site/registry",
            "registry_s3_access_key": "registry",
            "registry_s3_secret_key": "s3{{cr%41}}/k\"e'y\\$1=#: [",
        },
        "hostile": {
            **PKI,
            "registry_host": "registry.corp.lab",
            "registry_http_secret": "a \"quote\" 'and' % $x \\ # ; {{ braces }} ü: - [x]\n",
            "registry_data_dir": "/srv/regis try%s/ü",
        },
    },
    # What the role gives its templates one by one, as it loops over components.
    "hdfs": {
        "minimal": {
            "__hdfs_component": "datanode",
            "__hdfs_level": "INFO",
            "hdfs_namenode": "name",
            "hdfs_host": "name",
        },
        "full": {
            "__hdfs_component": "zkfc",
            "__hdfs_level": "WARN",
            "hdfs_namenode": "name.corp.lab",
            "hdfs_host": "name.corp.lab",
            "hdfs_zookeepers": [{"name": f"{letter}.corp.lab", "machine": letter} for letter in "abc"],
            "hdfs_components": ["namenode", "secondary", "datanode", "client"],
            "hdfs_data_dirs": ["/data/1", "/data/2"],
        },
        "hostile": {
            "__hdfs_component": "secondary",
            "__hdfs_level": "WARN",
            "hdfs_namenode": "name.corp.lab",
            "hdfs_host": "name.corp.lab",
            "hdfs_checkpoint_dir": "/srv/ü",
        },
    },
    "registry_cache": {
        "minimal": caches(),
        "full": {
            **caches(
                {"name": "docker.io", "port": 6011, "user": "u", "password": "p"},
                {"name": "vault.corp.lab:5000", "port": "6012", "url": "http://vault.corp.lab:5000"},
            ),
            "registry_cache_fresh": "1h",
        },
        "hostile": {
            **caches({"name": "a.b-c.d", "port": 1, "user": "'\"\\", "password": "{{ x }}'\"%"}),
            "registry_cache_data_dir": "/srv/ca che%s/ü",
        },
    },
}


@pytest.fixture(scope="session", autouse=True)
def _plugins() -> None:
    """Let templates find filters and lookups by their full names, as in a run."""
    init_plugin_loader([str(ROOT / ".dev")])


def words(role: str, case: str) -> dict[str, Any]:
    """Return a role's defaults and private variables as templates, and a case's values as plain data."""
    values: dict[str, Any] = {}
    for name in ("defaults/main.yml", "vars/main.yml"):
        path = ROOT / "roles" / role / name
        if path.exists():
            values |= DataLoader().load_from_file(str(path), trusted_as_template=True) or {}
    return values | CASES.get(role, {}).get(case, {})


def parse_nginx(text: str) -> list[str]:
    """Return the statements of an nginx configuration; fails when quotes, braces or semicolons do not match."""
    token = re.compile(r"""\s+|\#[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\$\{\w+\}|[{};]|(?:\\.|[^\s{};"'])+""")
    statements, words_, depth, at = [], [], 0, 0
    while at < len(text):
        match = token.match(text, at)
        assert match, f"nginx cannot read {text[at : at + 40]!r}"
        at = match.end()
        piece = match.group()
        if piece.isspace() or piece.startswith("#"):
            continue
        if piece not in "{};":
            words_.append(piece)
            continue
        depth += {"{": 1, "}": -1, ";": 0}[piece]
        assert depth >= 0 and (piece != "}" or not words_), f"brace or semicolon missing near {words_}"
        statements.append(" ".join(words_))
        words_ = []
    assert depth == 0 and not words_, f"unfinished: {words_}"
    return [statement for statement in statements if statement]


def parse_unit(text: str) -> configparser.RawConfigParser:
    """Return a systemd unit as sections; an option may occur more than once."""
    parser = configparser.RawConfigParser(strict=False, delimiters="=", comment_prefixes="#")
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser


def render(path: Path, case: str) -> str:
    """Return a template rendered as the role would."""
    role = path.relative_to(ROOT / "roles").parts[0]
    templar = Templar(loader=DataLoader(), variables=words(role, case))
    return str(templar.template(trust_as_template(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("case", ["minimal", "full", "hostile"])
@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_renders_to_what_its_reader_can_parse(path: Path, case: str) -> None:
    text = render(path, case)
    assert "{%" not in text
    name = path.name.removesuffix(".j2")
    if name.endswith((".yml", ".yaml")):
        assert isinstance(yaml.safe_load(text), dict)
    elif name.endswith((".service", ".timer", ".socket", ".path")):
        assert "Unit" in parse_unit(text).sections()
    elif name.startswith("nginx"):
        assert "events" in parse_nginx(text)
    elif name.endswith((".properties", ".cfg")):  # also ZooKeeper reads its file as Java's properties
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert lines and all(re.fullmatch(r"[\w.]+=\S.*", line) for line in lines)
    elif text.startswith("#!/bin/sh\n"):
        done = subprocess.run(["sh", "-n"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    else:
        pytest.fail(f"{name}: say here how its reader parses it")


def test_a_secret_comes_through_as_it_is() -> None:
    path = ROOT / "roles/registry/templates/config.yml.j2"
    parsed = yaml.safe_load(render(path, "hostile"))
    assert parsed["http"]["secret"] == CASES["registry"]["hostile"]["registry_http_secret"]


def test_a_key_of_the_bucket_comes_through_as_it_is() -> None:
    parsed = yaml.safe_load(render(ROOT / "roles/registry/templates/config.yml.j2", "full"))
    assert set(parsed["storage"]) == {"s3", "redirect", "delete", "maintenance"}
    assert parsed["storage"]["s3"] == {
        "region": "us-east-1", "bucket": "images", "regionendpoint": "https://s3.corp.lab:9000", "forcepathstyle": True,
        "accesskey": "registry", "secretkey": CASES["registry"]["full"]["registry_s3_secret_key"],
        "rootdirectory": "/site/registry",
    }  # fmt: skip
    assert parsed["storage"]["redirect"] == {"disable": True}


@pytest.mark.parametrize("broken", ["http {", "http } {", "user nobody", 'a "b;'])
def test_the_nginx_parser_sees_mistakes(broken: str) -> None:
    with pytest.raises(AssertionError):
        parse_nginx(broken)
