"""What each image is made of: data, no doing. A recipe's key changes when anything it is made of changes."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.golang import KUBERNETES, PROGRAMS
from tests.lab.paths import FILES, digest

MACHINE_PACKAGES = (
    "ca-certificates",
    "curl",
    "dbus",
    "gpg",
    "iproute2",
    "iptables",
    "kmod",
    "openssh-server",
    "procps",
    "python3",
    "python3-apt",
    "sudo",
    "systemd",
    "systemd-sysv",
)


@dataclass(frozen=True, kw_only=True)
class Base:
    """A root directory from Debian packages.

    Attributes:
        name: Image name, without the lab's prefix.
        suite: Debian's code name.
        packages: What is installed besides the required ones.
        files: Path in the image to file below tests/lab/files.
        hook: File below tests/lab/files that mmdebstrap runs at the end.
    """

    name: str
    suite: str
    packages: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)
    hook: str = ""

    def key(self) -> str:
        """Hash of everything that decides what comes out."""
        return digest(
            self.suite, *self.packages, *_contents(self.files), *_contents({"": self.hook} if self.hook else {})
        )


@dataclass(frozen=True, kw_only=True)
class Layer:
    """An image on top of another one.

    Attributes:
        name: Image name, without the lab's prefix.
        parent: Recipe below, or "scratch" for nothing.
        dockerfile: Text after the FROM line.
        files: Name in the build context to file below tests/lab/files.
        programs: Go programs (see `tests.lab.golang`), under their names in the build context.
        copies: Other recipes that `COPY --from=@NAME@` takes files from.
        wheels: File below tests/lab/files that pins Python's wheels, which lie in the build context.
    """

    name: str
    parent: str
    dockerfile: str
    files: dict[str, str] = field(default_factory=dict)
    programs: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    wheels: str = ""

    def key(self) -> str:
        """Hash of everything that decides what comes out."""
        parent = RECIPES[self.parent].key() if self.parent in RECIPES else self.parent
        programs = [PROGRAMS[name].key() for name in self.programs]
        copies = [RECIPES[name].key() for name in self.copies]
        wheels = _contents({"": self.wheels}) if self.wheels else []
        return digest(parent, self.dockerfile, *_contents(self.files), *programs, *copies, *wheels)


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """An image with programs of a Go module that need a C compiler.

    They are linked against the parent's C library, so they run on every Debian that is not older than the parent.

    Attributes:
        name: Image name, without the lab's prefix.
        parent: Recipe that has the C compiler.
        module: Go module.
        version: Its version.
        packages: Main packages below the module; the programs lie in PROGRAMS_ROOT.
        link_flags: For Go's linker.
        sources: Directory of the module that is kept in SOURCES_ROOT, "" for none.
    """

    name: str
    parent: str
    module: str
    version: str
    packages: tuple[str, ...]
    link_flags: str = "-s -w"
    sources: str = ""

    def key(self) -> str:
        """Hash of everything that decides what comes out."""
        what = (self.module, self.version, *self.packages, self.link_flags, self.sources)
        return digest(RECIPES[self.parent].key(), *what)


Recipe = Base | Layer | Compiled

# Where a Compiled image has what.
PROGRAMS_ROOT = "/srv/programs"
SOURCES_ROOT = "/srv/sources"


def _contents(files: dict[str, str]) -> list[str]:
    found = []
    for target, source in sorted(files.items()):
        path: Path = FILES / source
        found += [target, oct(mode(path)), path.read_text(encoding="utf-8")]
    return found


def mode(path: Path) -> int:
    """Mode that a file gets in an image: whether it is a program counts, the checkout's umask does not."""
    return 0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644


def _machine(suite: str) -> Base:
    return Base(
        name=suite,
        suite=suite,
        packages=MACHINE_PACKAGES,
        files={
            "/usr/local/sbin/slipway-lab-boot": "machine/slipway-lab-boot",
            "/etc/systemd/system/slipway-lab-boot.service": "machine/slipway-lab-boot.service",
        },
        hook="machine/customize",
    )


def _install(*packages: str) -> str:
    return (
        "RUN apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends "
        + " ".join(packages)
        + " && apt-get clean && rm -rf /var/lib/apt/lists/*\n"
    )


def _docker(suite: str) -> Layer:
    return Layer(name=f"{suite}-docker", parent=suite, dockerfile=_install("docker.io"))


_GATEWAY = Layer(
    name="gateway",
    parent="trixie",
    dockerfile=_install("squid", "dnsmasq-base")
    + "COPY squid-accounts /usr/local/libexec/squid-accounts\n"
    + "COPY tmpfiles.conf /etc/tmpfiles.d/lab.conf\n"
    + "COPY lab-dns@.service lab-firewall.service /etc/systemd/system/\n"
    + "RUN chmod 0755 /usr/local/libexec/squid-accounts && ln -sf /srv/lab/squid.conf /etc/squid/squid.conf"
    + " && systemctl mask ssh.service ssh.socket && systemctl enable squid lab-firewall lab-dns@corp lab-dns@outside\n",
    files={
        "squid-accounts": "gateway/squid-accounts",
        "tmpfiles.conf": "gateway/tmpfiles.conf",
        "lab-firewall.service": "gateway/lab-firewall.service",
        "lab-dns@.service": "gateway/lab-dns@.service",
    },
)

_INTERNET = Layer(
    name="internet",
    parent="trixie",
    dockerfile=_install("nginx-light")
    + "COPY registry /usr/local/bin/registry\n"
    + "COPY lab-registry.service /etc/systemd/system/\n"
    + "RUN ln -sf /srv/lab/nginx.conf /etc/nginx/nginx.conf"
    + " && systemctl mask ssh.service ssh.socket && systemctl enable nginx lab-registry\n",
    files={"lab-registry.service": "internet/lab-registry.service"},
    programs=("registry",),
)

# A C compiler on the oldest Debian: what it makes runs on all of them.
_CC = Layer(name="cc", parent="bookworm", dockerfile=_install("gcc", "libc6-dev"))

# What is on the lab's Docker Hub. All stand on one Debian, so that a machine pulls that layer once.
_DEBIAN = Base(name="debian", suite="trixie", packages=())
_REGISTRY_IMAGE = """\
COPY entrypoint.sh /entrypoint.sh
RUN chmod 0755 /entrypoint.sh && mkdir -p /var/lib/registry
VOLUME ["/var/lib/registry"]
EXPOSE 5000
ENTRYPOINT ["/entrypoint.sh"]
"""
_REGISTRY_FILES = {"entrypoint.sh": "hub/registry-entrypoint", "config.yml": "hub/registry-config.yml"}
_REGISTRY_3 = Layer(
    name="hub-registry-3",
    parent="debian",
    dockerfile=_install("ca-certificates")
    + "COPY registry /bin/registry\nCOPY config.yml /etc/distribution/config.yml\n"
    + "ENV OTEL_TRACES_EXPORTER=none\n"
    + _REGISTRY_IMAGE
    + 'CMD ["/etc/distribution/config.yml"]\n',
    files=_REGISTRY_FILES,
    programs=("registry",),
)
_REGISTRY_2 = Layer(
    name="hub-registry-2",
    parent="debian",
    dockerfile=_install("ca-certificates", "docker-registry")
    + "RUN ln -sf /usr/bin/docker-registry /bin/registry\nCOPY config.yml /etc/docker/registry/config.yml\n"
    + _REGISTRY_IMAGE
    + 'CMD ["/etc/docker/registry/config.yml"]\n',
    files=_REGISTRY_FILES,
)
_NGINX = Layer(
    name="hub-nginx",
    parent="debian",
    dockerfile=_install("nginx-light")
    + "RUN groupadd --system --gid 101 nginx"
    + " && useradd --system --gid 101 --uid 101 --no-create-home --home-dir /nonexistent --shell /bin/false nginx"
    + " && ln -sf /dev/stdout /var/log/nginx/access.log && ln -sf /dev/stderr /var/log/nginx/error.log\n"
    + "COPY nginx.conf /etc/nginx/nginx.conf\nCOPY default.conf /etc/nginx/conf.d/default.conf\n"
    + 'EXPOSE 80\nSTOPSIGNAL SIGQUIT\nCMD ["nginx", "-g", "daemon off;"]\n',
    files={"nginx.conf": "hub/nginx.conf", "default.conf": "hub/nginx-default.conf"},
)


def _shell(name: str) -> Layer:
    return Layer(
        name=f"hub-{name}",
        parent="debian",
        dockerfile=f'RUN echo {name} >/etc/lab-image\nCMD ["/bin/sh", "-c", "echo hello from {name}:1"]\n',
    )


_PAUSE_CC = Layer(
    name="pause-cc",
    parent="cc",
    dockerfile="COPY pause.c /srv/\nRUN gcc -Wall -Werror -Os -static -s -o /srv/pause /srv/pause.c\n",
    files={"pause.c": "hub/pause.c"},
)
_PAUSE = Layer(
    name="hub-pause",
    parent="scratch",
    dockerfile='COPY --from=@pause-cc@ /srv/pause /pause\nUSER 65535:65535\nENTRYPOINT ["/pause"]\n',
    copies=("pause-cc",),
)


# Reference on Docker Hub to recipe; what has no slash is on registry.k8s.io.
HUB = {
    "library/debian:13": "debian",
    "library/nginx:1.26.3": "hub-nginx",
    "library/registry:2.8.2": "hub-registry-2",
    "library/registry:3.1.2": "hub-registry-3",
    "library/world:1": "hub-world",
    "pause:3.10": "hub-pause",
}

# The same image for two platforms, on Docker Hub: reference of the index to that of the image.
HUB_INDEXES = {"library/worlds:1": "library/world:1"}

# Docker's package repository, at APT_ROOT in the image.
APT_ROOT = "/srv/apt"
_RUNC = Layer(
    name="apt-runc",
    parent="bookworm",
    dockerfile="RUN apt-get -q update && mkdir /srv/runc && cd /srv/runc && apt-get -q download runc\n",
)
_APT = Layer(
    name="apt",
    parent="trixie",
    dockerfile="COPY --from=@apt-runc@ /srv/runc /srv/runc\n"
    + "COPY repackage /usr/local/bin/repackage\n"
    + "RUN apt-get -q update && apt-get -qy install --no-install-recommends apt-utils gpg-agent"
    + f" && repackage {APT_ROOT}/linux/debian /srv/runc/*.deb\n",
    files={"repackage": "apt/repackage"},
    copies=("apt-runc",),
)

# NVIDIA's container toolkit: its own programs, in packages that have the layout of its own.
NVIDIA_MODULE = "github.com/NVIDIA/nvidia-container-toolkit"
NVIDIA_VERSIONS = ("1.19.1", "1.20.1")
NVIDIA_PROGRAMS = ("nvidia-ctk", "nvidia-container-runtime", "nvidia-container-runtime-hook", "nvidia-cdi-hook")


def _nvidia(version: str) -> Compiled:
    # The libraries of the driver are looked up when they are first called: a binary that binds at once would not start.
    extern = "-Wl,--export-dynamic -Wl,--unresolved-symbols=ignore-in-object-files -Wl,-z,lazy"
    return Compiled(
        name=f"nvidia-{version}",
        parent="cc",
        module=NVIDIA_MODULE,
        version=f"v{version}",
        packages=tuple(f"cmd/{name}" for name in NVIDIA_PROGRAMS),
        link_flags=f"-s -w '-extldflags={extern}' -X {NVIDIA_MODULE}/internal/info.version={version}",
        sources="deployments",
    )


# The simulated driver, at GPU_ROOT in the image. It has every symbol that one of NVIDIA's programs may look up.
GPU_ROOT = "/srv/gpu"
_GPU_SOURCES = ("build", "cuda.c", "nvidia_smi.c", "nvml.c")
_GPU = Layer(
    name="gpu",
    parent="cc",
    dockerfile="".join(f"COPY --from=@nvidia-{v}@ {PROGRAMS_ROOT} /srv/nvidia/{v}\n" for v in NVIDIA_VERSIONS)
    + "WORKDIR /srv/build\n"
    + f"COPY {' '.join(_GPU_SOURCES)} ./\n"
    + f"RUN ./build {GPU_ROOT} /srv/nvidia/*/*\n",
    files={name: f"../gpu/{name}" for name in _GPU_SOURCES},
    copies=tuple(f"nvidia-{v}" for v in NVIDIA_VERSIONS),
)

# NVIDIA's package repository, at NVIDIA_ROOT in the image.
NVIDIA_ROOT = "/srv/nvidia-apt"
_NVIDIA_APT = Layer(
    name="apt-nvidia",
    parent="trixie",
    dockerfile="".join(
        f"COPY --from=@nvidia-{v}@ {PROGRAMS_ROOT} /srv/nvidia/{v}/programs\n"
        f"COPY --from=@nvidia-{v}@ {SOURCES_ROOT} /srv/nvidia/{v}/sources\n"
        for v in NVIDIA_VERSIONS
    )
    + "COPY nvidia /usr/local/bin/nvidia\n"
    + "RUN apt-get -q update && apt-get -qy install --no-install-recommends apt-utils gpg-agent"
    + f" && nvidia {NVIDIA_ROOT} /srv/nvidia/*\n",
    files={"nvidia": "apt/nvidia"},
    copies=tuple(f"nvidia-{v}" for v in NVIDIA_VERSIONS),
)

# Kubernetes: its own programs under the names of its own images, in packages that have the layout of its own.
KUBERNETES_ROOT = "/srv/kubernetes"
CNI_MODULE, CNI_VERSION = "github.com/containernetworking/plugins", "1.7.1"
FLANNEL_VERSION = "v0.26.7"
FLANNEL_PLUGIN_VERSION = "v1.6.2-flannel1"
COREDNS_VERSION = PROGRAMS["coredns"].version
ETCD_TAG = f"{PROGRAMS['etcd'].version.removeprefix('v')}-0"
_CNI_PLUGINS = (
    *(f"main/{name}" for name in ("bridge", "dummy", "host-device", "ipvlan", "loopback", "macvlan", "ptp", "vlan")),
    *(f"ipam/{name}" for name in ("dhcp", "host-local", "static")),
    *(f"meta/{name}" for name in ("bandwidth", "firewall", "portmap", "sbr", "tuning", "vrf")),
)
_CNI = Compiled(
    name="kubernetes-cni",
    parent="cc",
    module=CNI_MODULE,
    version=f"v{CNI_VERSION}",
    packages=tuple(f"plugins/{name}" for name in _CNI_PLUGINS),
)
_FLANNEL_PROGRAM = Compiled(
    name="flannel-program",
    parent="cc",
    module="github.com/flannel-io/flannel",
    version=FLANNEL_VERSION,
    packages=(".",),
    link_flags=f"-s -w -X github.com/flannel-io/flannel/pkg/version.Version={FLANNEL_VERSION}",
)


def _component(name: str, path: str = "/usr/local/bin") -> Layer:
    """One static program, found by its name, and nothing else."""
    return Layer(
        name=f"kubernetes-{name}",
        parent="scratch",
        dockerfile=f'COPY {name} {path}/{name}\nENV PATH={path}\nENTRYPOINT ["{path}/{name}"]\n',
        programs=(name,),
    )


_NETWORK = Layer(name="kubernetes-network", parent="debian", dockerfile=_install("conntrack", "iptables", "kmod"))
_KUBE_PROXY = Layer(
    name="kubernetes-kube-proxy",
    parent="kubernetes-network",
    dockerfile="COPY kube-proxy /usr/local/bin/kube-proxy\n",
    programs=("kube-proxy",),
)
_FLANNEL = Layer(
    name="kubernetes-flannel",
    parent="kubernetes-network",
    dockerfile=f"COPY --from=@flannel-program@ {PROGRAMS_ROOT}/flannel /opt/bin/flanneld\n"
    + 'ENTRYPOINT ["/opt/bin/flanneld"]\n',
    copies=("flannel-program",),
)
_FLANNEL_PLUGIN = Layer(
    name="kubernetes-flannel-plugin",
    parent="debian",
    dockerfile="COPY flannel-stand-in /flannel\n",
    programs=("flannel-stand-in",),
)
_KUBERNETES_APT = Layer(
    name="apt-kubernetes",
    parent="trixie",
    dockerfile=f"COPY --from=@kubernetes-cni@ {PROGRAMS_ROOT} /srv/cni\n"
    + "COPY kubeadm kubectl kubelet /srv/programs/\n"
    + "COPY kubernetes /usr/local/bin/kubernetes\n"
    + "RUN apt-get -q update && apt-get -qy install --no-install-recommends apt-utils gpg-agent"
    + f" && kubernetes {KUBERNETES_ROOT} {KUBERNETES} {CNI_VERSION} && rm -rf /srv/programs\n",
    files={"kubernetes": "apt/kubernetes"},
    programs=("kubeadm", "kubectl", "kubelet"),
    copies=("kubernetes-cni",),
)

# What the private registry gets by `python -m tests.lab kubernetes --push`, under the names that it has upstream.
KUBERNETES_IMAGES = {
    **{
        f"{name}:v{KUBERNETES}": f"kubernetes-{name}"
        for name in ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler")
    },
    f"etcd:{ETCD_TAG}": "kubernetes-etcd",
    f"coredns/coredns:{COREDNS_VERSION}": "kubernetes-coredns",
    f"flannel/flannel:{FLANNEL_VERSION}": "kubernetes-flannel",
    f"flannel/flannel-cni-plugin:{FLANNEL_PLUGIN_VERSION}": "kubernetes-flannel-plugin",
    "pause:3.10.1": "hub-pause",
}

# Chromium, for tests/browser.
_BROWSER = Layer(name="browser", parent="debian", dockerfile=_install("chromium", "fonts-dejavu-core"))

# Under Spark, as a site's own registry has them: the base with Debian's Java 17, and an image with a model's libraries.
_DEBIAN_12 = Base(name="debian-12", suite="bookworm", packages=())
_TORCH = Layer(
    name="spark-torch",
    parent="debian-12",
    dockerfile=_install("python3", "python3-pandas", "python3-torch")
    + "COPY *.whl /tmp/\n"
    + "RUN for wheel in /tmp/*.whl; do python3 -m zipfile -e $wheel /usr/lib/python3/dist-packages || exit; done"
    + " && rm /tmp/*.whl && python3 -c 'import pandas, pyarrow, torch'\n"
    + 'CMD ["python3"]\n',
    wheels="spark/wheels.txt",
)
SPARK_MODEL = "torch:1.13.1"
SPARK_IMAGES = {"debian:12": "debian-12", SPARK_MODEL: "spark-torch"}

# What only the private registry gets, and only by `python -m tests.lab seed`.
SEED = {"hello:1": "hub-hello"}

_ALL: tuple[Recipe, ...] = (
    _machine("trixie"),
    _machine("bookworm"),
    _docker("trixie"),
    _docker("bookworm"),
    _GATEWAY,
    _INTERNET,
    _DEBIAN,
    _REGISTRY_3,
    _REGISTRY_2,
    _NGINX,
    _shell("world"),
    _shell("hello"),
    _RUNC,
    _APT,
    _CC,
    _PAUSE_CC,
    _PAUSE,
    *(_nvidia(version) for version in NVIDIA_VERSIONS),
    _GPU,
    _NVIDIA_APT,
    _BROWSER,
    _CNI,
    _FLANNEL_PROGRAM,
    *(_component(name) for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd")),
    _component("coredns", "/bin"),
    _NETWORK,
    _KUBE_PROXY,
    _FLANNEL,
    _FLANNEL_PLUGIN,
    _KUBERNETES_APT,
    _DEBIAN_12,
    _TORCH,
)
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _ALL}

# Only these become containers. The others are ingredients of what `internet` serves, of no use once that is made.
MACHINE_IMAGES = ("trixie", "bookworm", "trixie-docker", "bookworm-docker", "gateway", "internet")
