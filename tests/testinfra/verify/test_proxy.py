# SPDX-License-Identifier: GPL-3.0-or-later
"""The proxy: in the running daemons and in apt, and its password where no ordinary user can look."""

from __future__ import annotations

from typing import Any

import pytest

from tests.testinfra.verify.machine import Machine, missing, need, proxy_url, wrong

READABLE = (
    "/etc/docker /etc/containerd /etc/containers /etc/systemd /etc/slipway /etc/apt /etc/environment /etc/profile.d"
)


def environment(host: Any, unit: str) -> dict[str, str]:
    """Return the environment of a unit's main process as the kernel has it."""
    pid = host.run(f"systemctl show --property=MainPID --value {unit}.service").stdout.strip()
    if pid in ("", "0"):
        wrong(f"{unit}.service has no process")
    text = host.run(f"cat /proc/{pid}/environ").stdout
    return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)


@pytest.mark.parametrize("unit", ["docker", "containerd"])
def test_daemon_uses_the_proxy(unit: str, machine: Machine, host: Any) -> None:
    """the {unit} process has the proxy"""
    running = environment(host, unit)
    proxies = {scheme: machine.fact("proxy").get(scheme) for scheme in ("http", "https")}
    if not any(proxies.values()):
        missing("the inventory sets no site_proxy.http and no site_proxy.https")
    for scheme, proxy in proxies.items():
        for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper()):
            wanted = proxy_url(proxy) if proxy and proxy.get("url") else None
            need(running.get(name) == wanted, f"{name} of the {unit} process is not what site_proxy.{scheme} says")


@pytest.mark.parametrize("unit", ["docker", "containerd"])
def test_daemon_goes_direct(unit: str, machine: Machine, host: Any) -> None:
    """the {unit} process goes direct where it should"""
    direct = machine.fact("proxy").get("no_proxy") or []
    if not direct:
        missing("site_proxy.no_proxy is empty")
    running = environment(host, unit)
    for name in ("no_proxy", "NO_PROXY"):
        entries = running.get(name, "").split(",")
        lost = [entry for entry in direct if entry not in entries]
        need(not lost, f"{name} of the {unit} process lacks {', '.join(lost)}")


def test_apt_uses_the_proxy(machine: Machine, host: Any) -> None:
    """apt uses the proxy"""
    wanted = proxy_url(machine.proxy("http"))
    dump = host.run("apt-config dump Acquire::http::Proxy").stdout
    need(f'"{wanted.rstrip("/")}' in dump, "apt's Acquire::http::Proxy is not what site_proxy.http says")


def test_no_secret_in_units(machine: Machine, host: Any) -> None:
    """no password in what any user can ask systemd"""
    if machine.site.get("credentials") == "environment":
        missing("docker_proxy_credentials is environment: every local user may read the proxy's password")
    secrets = machine.secrets()
    if not secrets:
        missing("the site has no password")
    shown = host.run("cd / && runuser -u nobody -- systemctl show docker.service containerd.service 'slipway-*'").stdout
    need(shown, "systemctl show shows nothing")
    need(not any(secret in shown for secret in secrets), "systemctl show tells every local user a password")


def test_no_secret_in_files(machine: Machine, host: Any) -> None:
    """no password in a file that any user can read"""
    if machine.site.get("credentials") == "environment":
        missing("docker_proxy_credentials is environment: every local user may read the proxy's password")
    secrets = machine.secrets()
    if not secrets:
        missing("the site has no password")
    # Searched here: the passwords must not travel to the machine. One command for all files, one each to name them.
    find = f"cd / && runuser -u nobody -- find {READABLE} -type f -readable -size -1024k"
    everything = host.run(f"{find} -exec cat {{}} + 2>/dev/null").stdout_bytes
    need(everything, "the search for passwords saw no file at all")
    if not any(secret.encode() in everything for secret in secrets):
        return
    for path in host.run(f"{find} 2>/dev/null").stdout.splitlines():
        content = host.run("cat %s", path).stdout_bytes
        leaks = any(secret.encode() in content for secret in secrets)
        need(not leaks, f"every local user can read a password in {path}")


def test_company_ca(machine: Machine, host: Any) -> None:
    """the company's CA certificates are in the system's trust store"""
    bundle = host.run("cat /etc/ssl/certs/ca-certificates.crt").stdout
    lost = [name for name, pem in machine.fact("ca_certificates").items() if pem.strip() not in bundle]
    need(not lost, f"the trust store lacks {', '.join(lost)}: update-ca-certificates")
