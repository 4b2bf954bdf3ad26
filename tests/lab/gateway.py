"""The company's gateway: squid with authentication, the corporate name server, and squid's own name server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from urllib.parse import quote

from tests.lab import credentials, engine, paths, plan, sources
from tests.lab.credentials import Account

# Docker's own resolver, which every container on a network of ours can ask, forwards to the host's.
ENGINE_RESOLVER = "127.0.0.11"

REMEMBERED = "proxy.json"

SQUID = """\
http_port {port}
visible_hostname proxy.{zone}
dns_nameservers 127.0.0.1
hosts_file none
shutdown_lifetime 0 seconds
pinger_enable off

auth_param basic program /usr/local/libexec/squid-accounts /srv/lab/accounts.json
auth_param basic children 4 startup=1 idle=1
auth_param basic realm proxy.{zone}
auth_param basic casesensitive on
auth_param basic credentialsttl 1 seconds

acl clients src {corp}
acl account proxy_auth REQUIRED
acl tls_port port 443
acl web_port port 80 443
acl own_zone dstdomain .{zone}
acl played dst {internet}
acl archives dstdomain {archives}
acl private dst 0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.168.0.0/16
http_access deny !clients
http_access deny !account
http_access deny CONNECT !tls_port
http_access deny !web_port
http_access deny own_zone
http_access allow played
http_access allow archives
http_access deny private
http_access allow all

access_log stdio:/var/log/squid/access.log squid
cache_store_log none
cache_mem 64 MB
maximum_object_size 1 GB
cache_dir ufs /var/spool/squid 8000 16 64
refresh_pattern -i (\\.deb|/by-hash/.*)$ 129600 100% 129600 ignore-reload
refresh_pattern . 0 20% 4320
"""

DNS_CORP = """\
listen-address={gateway}
bind-interfaces
no-resolv
no-hosts
no-poll
local=/{zone}/
addn-hosts=/srv/lab/hosts
local-ttl=0
"""

DNS_OUTSIDE = """\
listen-address=127.0.0.1
bind-interfaces
no-resolv
no-hosts
no-poll
local=/{zone}/
server={resolver}
filter-AAAA
cache-size=1000
{played}
"""


def directory() -> Path:
    """The gateway's configuration, bound into its container at /srv/lab."""
    return paths.state() / "gateway"


def cache_directory() -> Path:
    """Squid's disk cache; outlives the gateway."""
    return paths.cache_root() / "squid"


def squid_configuration(archives: list[str]) -> str:
    """Text of squid.conf.

    Args:
        archives: Host names of Debian's archives; reachable wherever they are.
    """
    return SQUID.format(
        port=plan.PROXY_PORT,
        zone=plan.ZONE,
        corp=plan.CORP,
        internet=plan.INTERNET,
        archives=" ".join(archives) or "none.invalid",
    )


def dns_configuration() -> tuple[str, str]:
    """Texts for the corporate name server and for squid's."""
    played = "\n".join(f"address=/{name}/{plan.INTERNET}" for name in plan.PLAYED_NAMES)
    return (
        DNS_CORP.format(gateway=plan.GATEWAY, zone=plan.ZONE),
        DNS_OUTSIDE.format(zone=plan.ZONE, resolver=ENGINE_RESOLVER, played=played),
    )


def write_configuration(*, keep_account: bool) -> bool:
    """Write all of the gateway's files.

    Args:
        keep_account: Whether an environment that names no account means the one that the lab has, or the default one.

    Returns:
        Whether squid has to read its configuration again. Accounts and names need no such thing.
    """
    corp, outside = dns_configuration()
    changed = paths.write(directory() / "squid.conf", squid_configuration(sources.hosts_of(sources.host_archives())))
    changed = paths.write(directory() / "dns-corp.conf", corp) or changed
    changed = paths.write(directory() / "dns-outside.conf", outside) or changed
    account = credentials.chosen(os.environ, _remembered() if keep_account else None)
    set_account(account)
    # What inventory/lab reads, so that a later ansible-playbook knows the account without the environment.
    raw = {"url": f"http://proxy.{plan.ZONE}:{plan.PROXY_PORT}", "user": account.user, "password": account.password}
    paths.write(paths.state() / REMEMBERED, json.dumps(raw), mode=0o600)
    cache_directory().mkdir(parents=True, exist_ok=True)
    return changed


def _remembered() -> Account | None:
    text = _text(paths.state() / REMEMBERED)
    if not text:
        return None
    raw = json.loads(text)
    return Account(raw["user"], raw["password"])


def proxy_url() -> str:
    """The proxy with the lab's account in it, each part percent-encoded once."""
    account = _remembered() or credentials.from_environment()
    user, password = quote(account.user, safe=""), quote(account.password, safe="")
    return f"http://{user}:{password}@proxy.{plan.ZONE}:{plan.PROXY_PORT}"


def set_account(account: Account, owner: str = credentials.MAIN) -> None:
    """Let an account use the proxy; takes effect within a second."""
    with paths.locked("accounts"):
        file = directory() / "accounts.json"
        paths.write(file, credentials.with_account(_text(file), account, owner))


@contextmanager
def extra_account(account: Account, owner: str) -> Iterator[None]:
    """Let one more account use the proxy for a while.

    Args:
        account: Raw user and password.
        owner: Unique name, such as the test's.
    """
    set_account(account, owner)
    try:
        yield
    finally:
        with paths.locked("accounts"):
            file = directory() / "accounts.json"
            paths.write(file, credentials.without_account(_text(file), owner))


def publish_names() -> None:
    """Bring the corporate zone in line with the machines that exist."""
    with paths.locked("names"):
        addresses = {
            container.labels[plan.LABEL_MACHINE]: IPv4Address(container.labels[plan.LABEL_ADDRESS])
            for container in engine.own_containers()
            if container.labels.get(plan.LABEL_ADDRESS)
        }
        changed = paths.write(directory() / "hosts", plan.hosts_file(addresses))
        container = engine.find(plan.PREFIX + "gateway")
        if changed and container and container.status == "running":
            container.exec_run(["systemctl", "kill", "--signal=HUP", "lab-dns@corp"])


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""
