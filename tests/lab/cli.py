"""The lab's command line."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.lab import (
    build,
    engine,
    gpu,
    hadoop,
    images,
    inference,
    internet,
    kubernetes,
    lab,
    machines,
    molecule,
    paths,
    plan,
    seed,
    spark,
    ssh,
)
from tests.lab.errors import LabError
from tests.lab.plan import Machine


def main(words: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        Exit status: 1 when the lab could not do it, after one line that says why.
    """
    arguments = _parser().parse_args(words)
    command: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return command(arguments)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description="A company in a box.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    up = add("up", _up, "Bring the lab up, or some machines of it; gateway and internet come with any.")
    up.add_argument("machine", nargs="*")
    up.add_argument("--packages", action="store_true", help="see that they get packages through the proxy")
    add("down", _down, "Remove every machine and the networks; caches stay.")
    create = add("create", _create, "Make a machine that is not in the plan.")
    create.add_argument("name")
    create.add_argument("--image", default="trixie")
    add("destroy", _destroy, "Throw machines away.").add_argument("machine", nargs="+")
    add("reboot", _each(machines.reboot), "Restart a machine's systemd.").add_argument("machine", nargs="+")
    add("stop", _each(machines.stop), "Shut machines down.").add_argument("machine", nargs="+")
    add("start", _each(machines.start), "Start machines that were shut down.").add_argument("machine", nargs="+")
    shell = add("ssh", _ssh, "Log in to a machine, or run a command there.")
    shell.add_argument("name")
    shell.add_argument("command", nargs=argparse.REMAINDER)
    add("status", _status, "List the machines.").add_argument("--json", action="store_true")
    card = add("gpu", _gpu, "Give a machine simulated NVIDIA GPUs, change them, or take them away.")
    card.add_argument("machine")
    card.add_argument("--count", type=int, default=gpu.COUNT, help="how many, by default %(default)s")
    card.add_argument("--driver", default=gpu.DRIVER, help="version of the driver, by default %(default)s")
    card.add_argument("--remove", action="store_true", help="take GPUs and driver away")
    seeding = add("seed", _seed, "Push hello:1, which exists nowhere else, to the private registry.")
    seeding.add_argument("--image", default="hello:1", help="what it is called there")
    cluster = add("kubernetes", _kubernetes, "Build Kubernetes; `internet` serves its packages from then on.")
    cluster.add_argument("--push", action="store_true", help="push its images to the private registry, too")
    cluster.add_argument("--before", action="store_true", help="the release before, from which clusters are upgraded")
    add("hadoop", _hadoop, "Make Hadoop's tarball; `internet` serves it from then on.")
    spark_parts = add(
        "spark", _spark, "Make Spark's distribution; `internet` serves it as Apache's archive from then on."
    )
    spark_parts.add_argument("--version", default=spark.VERSION, help="by default %(default)s")
    spark_parts.add_argument("--push", action="store_true", help="push a base and a model to the private registry, too")
    more = spark_parts.add_mutually_exclusive_group()
    more.add_argument("--built", dest="which", action="store_const", const="built", help="and driver and executor")
    more.add_argument("--small", dest="which", action="store_const", const="small", help="a base and small models")
    example = add("inference", _inference, "Put the input of examples/spark/inference.yml into HDFS.")
    example.add_argument("--check", action="store_true", help="look at what came of it instead")
    for command in (seeding, cluster, spark_parts):
        command.add_argument("--machine", default="registry", help="where the registry runs")
        command.add_argument("--host", help="the registry's name, by default MACHINE.corp.lab")
        command.add_argument("--port", type=int, default=6001)
        command.add_argument(
            "--ca", type=Path, default=paths.state() / "pki" / "ca.crt", help="PEM file of its authority"
        )
    add("images", _images, "Make all that `make test` needs: machines, Kubernetes, Hadoop, Spark's images.")
    add("clean", _clean, "Remove images and artefacts that no recipe makes any more.")
    add("molecule-create", _molecule_create, "Make a scenario's machines (molecule/shared/create.yml).")
    add("molecule-destroy", _molecule_destroy, "Remove a scenario's machines (molecule/shared/destroy.yml).")
    return parser


def _up(arguments: argparse.Namespace) -> int:
    profile = os.environ.get("PROFILE") or "core"
    known = {machine.name: machine for machine in plan.machines(profile)}
    always = [lab.GATEWAY.name, lab.INTERNET.name]
    unknown = [name for name in arguments.machine if name not in (*known, *always)]
    if unknown:
        raise LabError(f"Machine '{unknown[0]}' is not in the plan: it needs one of {', '.join([*known, *always])}.")
    wanted = [known[name] for name in arguments.machine or known if name in known]
    # The whole lab is what the environment says; bringing up a part must not change the account of the rest.
    lab.up(wanted, keep_account=bool(arguments.machine))
    if profile != "core":
        kubernetes.publish()
        kubernetes.write_hosts({**hadoop.GROUPS, **spark.GROUPS} if profile == "spark" else None)
        if profile == "spark":
            hadoop.publish()
            spark.publish()
    elif not arguments.machine:
        kubernetes.hosts_file().unlink(missing_ok=True)  # else site.yml looks for machines that may be gone
    if arguments.packages:
        lab.check_packages(wanted)
    return 0


def _down(_: argparse.Namespace) -> int:
    for name in lab.down():
        print(name)
    kubernetes.hosts_file().unlink(missing_ok=True)
    return 0


def _create(arguments: argparse.Namespace) -> int:
    lab.up([Machine(name=arguments.name, image=arguments.image, owner="person")])
    print(machines.address(arguments.name))
    return 0


def _destroy(arguments: argparse.Namespace) -> int:
    for name in lab.destroy(arguments.machine):
        print(name)
    return 0


def _each(function: Callable[[str], None]) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        for name in arguments.machine:
            function(name)
        return 0

    return run


def _ssh(arguments: argparse.Namespace) -> int:
    container = machines.existing(arguments.name)
    if arguments.name in ("gateway", "internet"):
        terminal = ["-it"] if sys.stdin.isatty() else ["-i"]
        command = [images.DOCKER, "exec", *terminal, container.name, *(arguments.command or ["bash"])]
    else:
        command = ssh.command(container.labels[plan.LABEL_ADDRESS], arguments.command)
    return subprocess.run(command, check=False).returncode


def _gpu(arguments: argparse.Namespace) -> int:
    if arguments.remove:
        gpu.remove(arguments.machine)
    else:
        gpu.install(arguments.machine, count=arguments.count, driver=arguments.driver)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    rows = sorted((machines.facts(c) for c in engine.own_containers()), key=lambda row: row["machine"])
    if arguments.json:
        print(machines.as_json(rows))
        return 0
    for row in rows:
        print(f"{row['machine']:<28} {row['state']:<9} {row['address']:<15} {row['image']:<36} {row['owner']}")
    return 0


def _registry(arguments: argparse.Namespace) -> seed.Registry:
    user, password = seed.admin()
    return seed.Registry(
        host=arguments.host or f"{arguments.machine}.{plan.ZONE}",
        port=arguments.port,
        address=machines.address(arguments.machine),
        ca=arguments.ca,
        user=user,
        password=password,
    )


def _seed(arguments: argparse.Namespace) -> int:
    registry = _registry(arguments)
    repository, _, tag = arguments.image.rpartition(":")
    seed.push(seed.Store(internet.seed_store()), ("hello", "1"), registry, (repository, tag))
    print(f"{registry.host}:{registry.port}/{arguments.image}")
    return 0


def _kubernetes(arguments: argparse.Namespace) -> int:
    release = kubernetes.BEFORE if arguments.before else kubernetes.CURRENT
    kubernetes.publish(release)
    if arguments.push:
        for reference in kubernetes.push(_registry(arguments), release):
            print(reference)
    return 0


def _hadoop(_: argparse.Namespace) -> int:
    hadoop.publish()
    return 0


def _spark(arguments: argparse.Namespace) -> int:
    spark.publish(arguments.version)
    if arguments.push:
        for reference in spark.push(_registry(arguments), arguments.which or "model"):
            print(reference)
    return 0


def _inference(arguments: argparse.Namespace) -> int:
    if arguments.check:
        for line in inference.check():
            print(line)
    else:
        inference.put()
    return 0


def _images(_: argparse.Namespace) -> int:
    build.everything()
    return 0


def _clean(_: argparse.Namespace) -> int:
    for name in build.clean():
        print(name)
    return 0


def _molecule_create(_: argparse.Namespace) -> int:
    molecule.create(os.environ)
    return 0


def _molecule_destroy(_: argparse.Namespace) -> int:
    for name in molecule.destroy(os.environ):
        print(name)
    return 0
