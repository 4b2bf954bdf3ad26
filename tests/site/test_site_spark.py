"""The lab with everything, as `make lab PROFILE=spark` makes it: it ends with a job whose result is known beforehand.

Part of make test-long. It begins with bare machines, and they are thrown away at its end.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.lab import inference, kubernetes
from tests.lab.paths import REPOSITORY
from tests.site.conftest import LOGS, lab, on, playbook

pytestmark = pytest.mark.skipif(not os.environ.get("SLIPWAY_LONG"), reason="part of make test-long")

MACHINES = ("registry", "control", "node1", "node2", "node3")
LOG = LOGS / "make-lab-spark.log"
JOB = ("playbooks/spark_submit.yml", "-e", "@examples/spark/inference.yml")


@pytest.fixture(scope="module", autouse=True)
def made() -> Iterator[str]:
    """What `make lab PROFILE=spark` prints, on bare machines."""
    lab("destroy", *MACHINES)
    LOGS.mkdir(parents=True, exist_ok=True)
    with LOG.open("w", encoding="utf-8") as log:
        command = ["make", "lab", "PROFILE=spark"]
        done = subprocess.run(command, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, check=False)
    output = LOG.read_text(encoding="utf-8")
    assert done.returncode == 0, output[-4000:]
    yield output
    lab("destroy", *MACHINES)
    kubernetes.hosts_file().unlink(missing_ok=True)


def test_the_example_has_the_result_of_plain_python(made: str) -> None:
    """The lab itself refuses a wrong result, pods of another registry, and executors that are not as they should be."""
    assert f"{inference.ROWS} rows, {inference.ROWS} scores, 0 wrong ones" in made
    assert re.search(r"^\s+exit_code: '?0'?$", made, re.M), "the driver ended with 0"
    pods = re.findall(r"^  (driver|executor) +(\S+) +(\S+?)-(?:driver|executor):\S+( +nvidia.com/gpu: 1)?$", made, re.M)
    assert {image for _, _, image, _ in pods} == {"registry.corp.lab:6001/nvidia-spark"}
    executors = {node: bool(gpu) for role, node, _, gpu in pods if role == "executor"}
    assert len(executors) == 2 and executors.pop("node1") and not any(executors.values())


def test_the_same_work_again_is_none() -> None:
    again = playbook(*JOB, log="spark-again")
    assert again.rc == 0 and again.changed == {"control": 0}, again.errors


def test_a_wrong_score_is_found() -> None:
    """The comparison can fail."""
    spoilt = "hdfs dfs -put - /jobs/scores/z.csv"
    on("control", f"printf 'id,score\\n7,0.125\\n' | HADOOP_USER_NAME=spark PATH=/usr/local/bin:$PATH {spoilt}")
    command = ["python", "-m", "tests.lab", "inference", "--check"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "1 wrong ones" in done.stderr and "NOT the same" in done.stderr
