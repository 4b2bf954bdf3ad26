"""What `make lab` prints at the end: the machines, the registry's address, and commands to try."""

from __future__ import annotations

import os
import sys

from tests.lab import engine, plan

REGISTRY = f"registry.{plan.ZONE}:6001"
TRY = (
    ("a bare name, from the private registry", "make lab-ssh HOST=node1 CMD='docker run --rm hello:1'"),
    ("what is only on Docker Hub, through the proxy", "make lab-ssh HOST=node2 CMD='docker run --rm world:1'"),
    (
        "one of the two GPUs, and no other",
        "make lab-ssh HOST=node1 CMD='docker run --rm --device nvidia.com/gpu=1 hello:1 ls /dev'",
    ),
    ("again: nothing changes, nothing restarts", ".venv/bin/ansible-playbook site.yml"),
)
KUBECTL = "make lab-ssh HOST=control CMD='sudo kubectl --kubeconfig=/etc/kubernetes/admin.conf {}'"
MORE = {
    "kubernetes": (
        ("the bare node3 becomes a node", ".venv/bin/ansible-playbook playbooks/onboard.yml -l node3"),
        ("and leaves again", ".venv/bin/ansible-playbook playbooks/offboard.yml -l node3"),
        ("what runs in the cluster", KUBECTL.format("get pods --all-namespaces --output=wide")),
    ),
    "spark": (
        ("the example's pods", KUBECTL.format("get pods --namespace=spark --output=wide")),
        (
            "the example once more",
            ".venv/bin/ansible-playbook playbooks/spark_submit.yml -e @examples/spark/inference.yml",
        ),
        ("its scores", "make lab-ssh HOST=control CMD='/usr/local/bin/hdfs dfs -cat /jobs/scores/*.csv'"),
    ),
}


def main() -> int:
    """Print the summary."""
    print("\nMachines")
    for container in sorted(engine.own_containers(), key=lambda found: found.labels.get(plan.LABEL_ADDRESS, "")):
        if container.labels.get(plan.LABEL_OWNER) != "lab":
            continue
        name = container.labels[plan.LABEL_MACHINE]
        address = container.labels.get(plan.LABEL_ADDRESS, "")
        image = container.labels.get(plan.LABEL_IMAGE, "").split("/")[-1].split(":")[0]
        print(f"  {name:<10} {address:<16} {image:<10} {container.status}")
    print(f"\nThe private registry is https://{REGISTRY} (push as admin, pull as anybody),")
    print(f"in a browser https://{REGISTRY}/ui/;")
    print(f"the proxy is proxy.{plan.ZONE}:{plan.PROXY_PORT}.")
    print("\nTry")
    for text, command in (*TRY, *MORE.get(os.environ.get("PROFILE", ""), ())):
        print(f"  {command}\n      {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
