# SPDX-License-Identifier: GPL-3.0-or-later
"""What an upgrade has to know before it changes anything, and kubeadm's part of it on one machine.

Sources: Kubernetes' "Upgrading kubeadm clusters" and "Version Skew Policy", kubeadm upgrade, apt.conf(5).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import glob
import os
import re
import shutil
import typing as t

from ansible_collections.slipway.platform.plugins.module_utils import (
    _host_state,
    _kubernetes,
    _kubernetes_node,
    _packages,
    _registry_lookup,
    _units,
)
from ansible_collections.slipway.platform.plugins.module_utils._errors import HostError
from ansible_collections.slipway.platform.plugins.module_utils._run import Runner

PACKAGES = _kubernetes_node.PACKAGES
# How many minor versions a kubelet may be behind its API server.
MOST_BEHIND = 3
# Less than a second run waits for the first.
APPLY_SECONDS = 840.0
ANSWER_SECONDS = 180.0
COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
SCRATCH = "var/lib/slipway/upgrade"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is wanted of one machine.

    version is a shell pattern for the packages' version. api is what the API server runs, nodes what
    `kubernetes_cluster` told of all; together tells that the control plane is upgraded in the same run.
    """

    name: str
    version: str
    url: str
    key: str
    api: str
    nodes: tuple[t.Mapping[str, t.Any], ...]
    together: bool
    ignored: tuple[str, ...] = ()
    registry: _registry_lookup.Registry = dataclasses.field(default_factory=_registry_lookup.Registry)

    @property
    def node(self) -> t.Mapping[str, t.Any]:
        """What the cluster knows of this machine; HostError where it knows nothing."""
        for node in self.nodes:
            if node["name"] == self.name:
                return node
        raise HostError(f"the cluster has no node {self.name}: it needs playbooks/onboard.yml; nothing was changed")


@dataclasses.dataclass
class Outcome(_host_state.Outcome):
    """What was done, and what a plan found."""

    told: dict[str, t.Any] = dataclasses.field(default_factory=dict)


def number(text: str) -> tuple[int, ...]:
    """Return (1, 34, 3) of v1.34.3 and of 1.34.3-1.1."""
    match = re.match(r"v?(\d+)\.(\d+)\.(\d+)", text)
    if not match:
        raise HostError(f"{text!r} is no version of Kubernetes")
    return tuple(int(part) for part in match.groups())


def release(text: str) -> str:
    """Return v1.34.3 of 1.34.3-1.1."""
    return "v{}.{}.{}".format(*number(text))


def choose(pattern: str, offered: t.Mapping[str, t.Sequence[str]], url: str) -> str:
    """Return the newest version that all packages have and that matches; HostError says what there is."""
    common = [version for version in offered["kubelet"] if all(version in offered[name] for name in PACKAGES)]
    for version in common:
        if fnmatch.fnmatchcase(version, pattern):
            return version
    raise HostError(
        f"kubernetes_node_version is {pattern}, but {url} offers {', '.join(common) or 'nothing of Kubernetes'}: it "
        "needs a version that is there (kubernetes_node_repository_url has one minor version); nothing was changed"
    )


def judge(settings: Settings, target: str) -> None:
    """Raise HostError where Kubernetes forbids to go from what runs to a version, or the node is not well.

    Of a pattern counts the minor version, which says much before the repository is asked.
    """
    api, wanted = number(settings.api), _minor(target) if re.search(r"[*?[]", target) else number(target)
    says = f"kubernetes_node_version is {settings.version}, but the API server runs {settings.api}"
    if wanted < api[: len(wanted)]:
        raise HostError(f"{says}: there is no way back; nothing was changed")
    if settings.together and wanted[:2] > (api[0], api[1] + 1):
        raise HostError(
            f"{says}: kubeadm goes up one minor version at a time, it needs {api[0]}.{api[1] + 1}.* first "
            "(kubernetes_node_version and kubernetes_node_repository_url); nothing was changed"
        )
    if not settings.together and wanted > api[: len(wanted)]:
        raise HostError(
            f"{says}: it needs to be upgraded first, by the same command without a limit or with the control plane in "
            "it; nothing was changed"
        )
    _judge_kubelets(settings, wanted, api)
    node = settings.node
    if number(str(node["kubelet"]))[: len(wanted)] > wanted:
        raise HostError(
            f"kubernetes_node_version is {settings.version}, but the kubelet of {settings.name} is {node['kubelet']}: "
            "there is no way back; nothing was changed"
        )
    if not node["ready"] and not node["upgrading"]:
        raise HostError(f"node {settings.name} is not ready: {node['why']}; nothing was changed")


def _minor(pattern: str) -> tuple[int, ...]:
    """Return (1, 34) of 1.34.*."""
    return tuple(int(part) for part in pattern.split(".")[:2])


def _judge_kubelets(settings: Settings, wanted: tuple[int, ...], api: tuple[int, ...]) -> None:
    """Raise HostError where a kubelet, of whatever node, is newer than its API server or would be too old for it."""
    for node in settings.nodes:
        kubelet = number(str(node["kubelet"]))
        if kubelet[:2] > api[:2]:
            raise HostError(
                f"the kubelet of {node['name']} is {node['kubelet']}, newer than the API server, {settings.api}, which "
                "Kubernetes does not support: it needs to be put right by hand; nothing was changed"
            )
        if settings.together and wanted[1] - kubelet[1] > MOST_BEHIND:
            raise HostError(
                f"the kubelet of {node['name']} is {node['kubelet']}, more than {MOST_BEHIND} minor versions behind "
                f"{settings.version}: it needs to be upgraded first; nothing was changed"
            )


class Repository:
    """A package repository as this machine reaches it, asked without touching what apt itself knows."""

    def __init__(self, directory: str, *, url: str, key: str, runner: Runner) -> None:
        self.directory = directory
        self.url = url
        self.key = key
        self.runner = runner
        places = {"Etc::SourceParts": "parts", "State::Lists": "lists", "Cache": "cache"}
        self.options = [f"-oDir::{name}={directory}/{place}" for name, place in places.items()]
        self.options += ["-oDir::Etc::SourceList=/dev/null", "-oAPT::Sandbox::User=root"]

    def offered(self) -> dict[str, list[str]]:
        """Return which versions of each package there are."""
        for name in ("parts", "lists/partial", "cache/archives/partial"):
            os.makedirs(os.path.join(self.directory, name), mode=0o700)
        key = os.path.join(self.directory, "key.asc")
        stanza = f"Types: deb\nURIs: {self.url}\nSuites: /\nSigned-By: {key}\n"
        for path, text in ((key, self.key.strip() + "\n"), (os.path.join(self.directory, "parts/k8s.sources"), stanza)):
            with open(path, "w", encoding="utf-8") as handle:
                handle.write(text)
        _packages.update_index(runner=self.runner, options=self.options)
        return _packages.candidates(PACKAGES, runner=self.runner, options=self.options)

    def kubeadm(self, version: str) -> str:
        """Fetch and unpack kubeadm of a version; return its path."""
        command = [
            "env",
            f"--chdir={self.directory}",
            "apt-get",
            "-qq",
            *self.options,
            "download",
            f"kubeadm={version}",
        ]
        done = self.runner(command, timeout=600)
        found = glob.glob(os.path.join(self.directory, "kubeadm_*.deb"))
        if done.rc != 0 or not found:
            raise HostError(f"package kubeadm {version} cannot be had: {_packages.reason(done.output)}")
        unpacked = os.path.join(self.directory, "unpacked")
        done = self.runner(["dpkg-deb", "--extract", found[0], unpacked], timeout=120)
        if done.rc != 0:
            raise HostError(f"package kubeadm {version} cannot be unpacked: {done.output}")
        return os.path.join(unpacked, "usr/bin/kubeadm")


@dataclasses.dataclass(kw_only=True)
class UpgradeHost(_kubernetes.Administrator):
    """One machine; an API server that is away before an upgrade stops it at once."""

    patience: float = 0.0
    outcome: Outcome = dataclasses.field(default_factory=Outcome)

    @property
    def is_control_plane(self) -> bool:
        """Whether the machine runs an API server."""
        return os.path.exists(os.path.join(self.places.manifests, "kube-apiserver.yaml"))

    # --- Before anything changes --------------------------------------------------------------------------------

    def plan(self, settings: Settings) -> Outcome:
        """Find out where the machine would go, whether it is there already, and what would stop it half way."""
        judge(settings, settings.version)
        with self._alone(), self._scratch() as directory:
            repository = Repository(directory, url=settings.url, key=settings.key, runner=self.runner)
            target = choose(settings.version, repository.offered(), settings.url)
            judge(settings, target)
            ahead = self.is_control_plane and not self._control_plane_is_at(target)
            if ahead:
                self._plan_control_plane(settings, target, repository.kubeadm(target))
            self.outcome.told = {
                "target": target,
                "version": release(target),
                "before": settings.node["kubelet"],
                "control_plane": self.is_control_plane,
                "due": ahead or not self._is_at(settings, target),
            }
        return self.outcome

    def _plan_control_plane(self, settings: Settings, target: str, kubeadm: str) -> None:
        """Ask the target's own kubeadm which images it needs and what it thinks of the cluster."""
        images = self._kubeadm(
            kubeadm,
            *("config", "images", "list", f"--kubernetes-version={release(target)}"),
            f"--image-repository={self._configured('imageRepository') or 'registry.k8s.io'}",
        ).split()
        lacking = _registry_lookup.missing(settings.registry, images)
        if lacking:
            raise HostError(
                f"the registry {settings.registry.address} lacks {', '.join(lacking)}, which {release(target)} needs: "
                "it needs them first (playbooks/mirror.yml); nothing was changed"
            )
        if not self.check:  # it runs a pod for a moment, to see whether the cluster can
            options = (f"--kubeconfig={self.places.admin}", *_ignoring(settings.ignored))
            self._kubeadm(kubeadm, "upgrade", "plan", release(target), *options)

    def _kubeadm(self, program: str, *words: str) -> str:
        done = self.runner([*_kubernetes.SCRUBBED, program, *words], timeout=300)
        if done.rc != 0:
            raise HostError(
                f"kubeadm {' '.join(words[:2])} failed: {_kubernetes.told(done.output)}; nothing was changed"
            )
        return done.stdout

    def _is_at(self, settings: Settings, target: str) -> bool:
        """Tell whether nothing is left to do: packages, the kubelet that runs, and no upgrade that was cut off."""
        have = _packages.read_installed(PACKAGES)
        packages = all(name in have and have[name] == _packages.Installed(target, True) for name in PACKAGES)
        return packages and settings.node["kubelet"] == release(target) and not settings.node["upgrading"]

    def _control_plane_is_at(self, target: str) -> bool:
        """Tell whether the static pods, kubeadm's configuration and kube-proxy are of a release."""
        wanted = release(target)
        for name in COMPONENTS:
            text = _kubernetes.read(os.path.join(self.places.manifests, f"{name}.yaml"))
            if not re.search(rf"^\s*image: \S+/{name}:{re.escape(wanted)}$", text, re.M):
                return False
        proxy = self.api.get("daemonset", "kube-proxy", "--namespace=kube-system") or {"spec": {}}
        containers = proxy["spec"].get("template", {}).get("spec", {}).get("containers", [])
        proxied = all(str(item["image"]).endswith(f":{wanted}") for item in containers)
        return proxied and self._configured("kubernetesVersion") == wanted

    def _configured(self, key: str) -> str:
        """Return a value of what kubeadm remembers of the cluster."""
        found = self.api.get("configmap", "kubeadm-config", "--namespace=kube-system") or {"data": {}}
        match = re.search(rf"^{key}: (\S+)$", str(found["data"].get("ClusterConfiguration")), re.M)
        return match[1] if match else ""

    # --- Doing it -----------------------------------------------------------------------------------------------

    def apply(self, target: str, *, ignored: t.Sequence[str] = ()) -> Outcome:
        """Upgrade the control plane, by the kubeadm that is installed; nothing where the machine runs none."""
        with self._alone():
            if self.is_control_plane and not self._control_plane_is_at(target):
                self.outcome.act(f"kubeadm upgrade apply {release(target)}")
                words = ("upgrade", "apply", release(target), "--yes", *_ignoring(ignored))
                self._do(*words, f"--kubeconfig={self.places.admin}")
                if not self.check:
                    self.api.wait(ANSWER_SECONDS)
        return self.outcome

    def node(self, *, ignored: t.Sequence[str] = ()) -> Outcome:
        """Have kubeadm renew the kubelet's configuration; the control plane's machine has had it from `apply`."""
        with self._alone():
            if not self.is_control_plane:
                self.outcome.act("kubeadm upgrade node")
                self._do("upgrade", "node", *_ignoring(ignored))
        return self.outcome

    def restart(self) -> Outcome:
        """Restart the kubelet with what has been installed."""
        with self._alone():
            self.outcome.act("restart kubelet.service")
            if not self.check:
                _units.systemctl(["daemon-reload"], runner=self.runner)
                _units.systemctl(["restart", "kubelet.service"], runner=self.runner)
        return self.outcome

    def _do(self, *words: str) -> None:
        if not self.check:
            _kubernetes.kubeadm(self.runner, *words, timeout=APPLY_SECONDS)

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        return _kubernetes.alone(self.places, check=False)

    @contextlib.contextmanager
    def _scratch(self) -> t.Iterator[str]:
        """Have an empty directory for root, where programs may be run, which /run does not allow."""
        path = self.places.at(SCRATCH)
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path, mode=0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def _ignoring(names: t.Sequence[str]) -> list[str]:
    return [f"--ignore-preflight-errors={','.join(names)}"] if names else []
