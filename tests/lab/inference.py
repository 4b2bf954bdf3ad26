"""The example of examples/spark/inference.yml in a lab that has Spark: its input into HDFS, and what came of it."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Iterable, Mapping
from typing import Any

from tests.lab import machines, paths, plan
from tests.lab.errors import LabError
from tests.lab.progress import step

EXAMPLES = paths.REPOSITORY / "examples" / "spark"
# The client, and where its user has the example.
MACHINE, HOME = "control", f"/home/{plan.USER}/inference"
ROWS, COLUMNS, HIDDEN, FILES = 1000, 8, 16, 4
INPUT = ("rows", "weights.json", "inference.py")
REGISTRY = f"registry.{plan.ZONE}:6001/nvidia-spark-"
GPU = "nvidia.com/gpu"
KUBECTL = "env -i PATH=/usr/bin:/bin HOME=/root kubectl --kubeconfig=/etc/kubernetes/admin.conf --namespace=spark"


def files() -> dict[str, str]:
    """Return programs and input by name; the same at every call."""
    chance = random.Random(7)
    layers = [
        {
            "weight": [[chance.uniform(-1, 1) for _ in range(wide)] for _ in range(high)],
            "bias": [chance.uniform(-1, 1) for _ in range(high)],
        }
        for wide, high in ((COLUMNS, HIDDEN), (HIDDEN, 1))
    ]
    found = {name: (EXAMPLES / name).read_text(encoding="utf-8") for name in ("inference.py", "compare.py")}
    found["weights.json"] = json.dumps(layers) + "\n"
    header = ",".join(["id", *(f"x{number}" for number in range(COLUMNS))])
    for part in range(FILES):
        keys = range(part * ROWS // FILES, (part + 1) * ROWS // FILES)
        lines = [",".join([str(key), *(repr(chance.uniform(-2, 2)) for _ in range(COLUMNS))]) for key in keys]
        found[f"rows/part-{part}.csv"] = "\n".join([header, *lines]) + "\n"
    return found


def archive(content: Mapping[str, str]) -> bytes:
    """Return files as a tar file of the user's."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("", "rows"):
            entry = tarfile.TarInfo(f"inference/{name}".rstrip("/"))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            entry.uid = entry.gid = machines.USER_ID
            tar.addfile(entry)
        for name, text in content.items():
            data = text.encode()
            entry = tarfile.TarInfo(f"inference/{name}")
            entry.size, entry.mode = len(data), 0o644
            entry.uid = entry.gid = machines.USER_ID
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def put() -> None:
    """Put the example's program and input into HDFS, as the user that people are."""
    with step("the example's input in HDFS"):
        if not machines.existing(MACHINE).put_archive(f"/home/{plan.USER}", archive(files())):
            raise LabError(f"Machine {MACHINE} took no files.")
        source = f"cd {HOME} && hdfs dfs -put -f {' '.join(INPUT)}"
        _as_user(f"hdfs dfs -mkdir -p /jobs/inference && {source} /jobs/inference/")


def check() -> list[str]:
    """Compare the result with the same model in plain Python, and look at the pods.

    Returns:
        What to print.

    Raises:
        LabError: Something is not as it should be; the message says what.
    """
    with step("the example's result"):
        result = "rm -rf result && hdfs dfs -get /jobs/scores result"
        compared = _as_user(f"cd {HOME} && {result} && python3 compare.py rows weights.json result")
        pods = json.loads(_run("root", f"{KUBECTL} get pods --selector=spark-app-name=inference --output=json"))
    found = sorted(pods["items"], key=lambda one: str(one["metadata"]["creationTimestamp"]))
    problems = wrong(found)
    if problems:
        raise LabError("The example's pods: " + "; ".join(problems) + ".")
    return [*compared.splitlines(), *(line(pod) for pod in found)]


def wrong(pods: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what is not as it should be: images, nodes, GPUs."""
    pods = list(pods)
    executors = [pod for pod in pods if pod["metadata"]["labels"].get("spark-role") == "executor"]
    foreign = {_image(pod) for pod in pods if not _image(pod).startswith(REGISTRY)}
    nodes = {str(pod["spec"].get("nodeName", "")) for pod in executors}
    problems = [f"image {image} is not the private registry's" for image in sorted(foreign)]
    if len(pods) - len(executors) != 1:
        problems.append(f"there are {len(pods) - len(executors)} drivers")
    if len(nodes - {""}) < 2:
        problems.append(f"executors were on {', '.join(sorted(nodes)) or 'no node'}, and not on two")
    if [_gpus(pod) for pod in executors].count("1") != 1:
        problems.append("there is not one executor that asked for a GPU")
    return problems


def line(pod: Mapping[str, Any]) -> str:
    """Return a pod in one line."""
    gpus = f"  {GPU}: {_gpus(pod)}" if _gpus(pod) else ""
    role = pod["metadata"]["labels"].get("spark-role", "?")
    return f"  {role:<9} {pod['spec'].get('nodeName', '?'):<8} {_image(pod)}{gpus}"


def _image(pod: Mapping[str, Any]) -> str:
    return str(pod["spec"]["containers"][0]["image"])


def _gpus(pod: Mapping[str, Any]) -> str:
    return str(pod["spec"]["containers"][0].get("resources", {}).get("limits", {}).get(GPU, ""))


def _as_user(command: str) -> str:
    return _run(plan.USER, f"export PATH=/usr/local/bin:$PATH; {command}")


def _run(user: str, command: str) -> str:
    home = "/root" if user == "root" else f"/home/{user}"
    words = ["bash", "-c", command]
    done = machines.existing(MACHINE).exec_run(words, user=user, environment={"HOME": home}, workdir=home, demux=True)
    output, errors = ((part or b"").decode(errors="replace") for part in done.output)
    if done.exit_code:
        raise LabError(f"Machine {MACHINE}: {command} failed: {(output + errors)[-2000:].strip()}")
    return output
