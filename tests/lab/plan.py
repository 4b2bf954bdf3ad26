"""The lab's fixed facts: names, networks, addresses. Nothing here talks to anything."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from tests.lab.errors import LabError

ZONE = "corp.lab"
PREFIX = "slipway-"
USER = "ops"

CORP = IPv4Network("172.29.64.0/24")
OUTSIDE = IPv4Network("172.29.65.0/24")
CORP_NAME = "slipway-corp"
OUTSIDE_NAME = "slipway-outside"

GATEWAY = IPv4Address("172.29.64.2")
INTERNET = IPv4Address("172.29.65.20")
PROXY_PORT = 8080

# Names of the real internet that the lab's own `internet` answers to.
PLAYED_NAMES = (
    "registry-1.docker.io",
    "auth.docker.io",
    "index.docker.io",
    "download.docker.com",
    "nvidia.github.io",
    "registry.k8s.io",
    "pkgs.k8s.io",
    "archive.apache.org",
)

# Addresses of machines that are not in the plan, such as molecule's, come from here.
POOL_FIRST, POOL_LAST = 100, 249

# Docker labels by which the lab finds what is its own.
LABEL_MACHINE = "slipway.machine"
LABEL_IMAGE = "slipway.image"
LABEL_ADDRESS = "slipway.address"
LABEL_FORM = "slipway.form"
LABEL_OWNER = "slipway.owner"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine as asked for.

    Attributes:
        name: Short host name; the container is `slipway-<name>`, the DNS name `<name>.corp.lab`.
        image: Name of a recipe in `tests.lab.recipes`.
        address: On the corporate network; None takes one from the pool.
        owner: "lab", or the molecule scenario that made it.
        gpus: Simulated NVIDIA GPUs; 0 leaves it to `python -m tests.lab gpu`.
    """

    name: str
    image: str
    address: IPv4Address | None = None
    owner: str = "lab"
    gpus: int = 0

    @property
    def container(self) -> str:
        """Name of its container."""
        return PREFIX + self.name

    @property
    def full_name(self) -> str:
        """Name in the corporate zone."""
        return f"{self.name}.{ZONE}"


MACHINES = (
    Machine(name="registry", image="trixie", address=IPv4Address("172.29.64.11")),
    Machine(name="node1", image="trixie", address=IPv4Address("172.29.64.21"), gpus=2),
    Machine(name="node2", image="bookworm", address=IPv4Address("172.29.64.22")),
)
KUBERNETES = (
    Machine(name="control", image="trixie", address=IPv4Address("172.29.64.12")),
    Machine(name="node3", image="trixie", address=IPv4Address("172.29.64.23")),
)
# Spark's lab has the machines of Kubernetes': HDFS and the clients of Spark are on them, too.
PROFILES = {
    name: (*MACHINES, *more) for name, more in {"core": (), "kubernetes": KUBERNETES, "spark": KUBERNETES}.items()
}


def machines(profile: str) -> tuple[Machine, ...]:
    """Machines of a profile.

    Raises:
        LabError: There is no such profile.
    """
    if profile not in PROFILES:
        raise LabError(f"PROFILE is '{profile}': it needs one of {', '.join(PROFILES)}.")
    return PROFILES[profile]


def free_address(taken: set[IPv4Address]) -> IPv4Address:
    """Lowest address of the pool that nobody has.

    Raises:
        LabError: All are taken.
    """
    for number in range(POOL_FIRST, POOL_LAST + 1):
        address = CORP.network_address + number
        if address not in taken:
            return address
    raise LabError(
        f"No free address is left on {CORP}: destroy machines that nobody uses (python -m tests.lab status)."
    )


def hosts_file(addresses: dict[str, IPv4Address]) -> str:
    """Content of the corporate DNS: machines by name, and the names the gateway itself has.

    Args:
        addresses: Short machine name to address.
    """
    names = {"gateway": GATEWAY, "proxy": GATEWAY, **addresses}
    return "".join(f"{address} {name}.{ZONE}\n" for name, address in sorted(names.items()))
