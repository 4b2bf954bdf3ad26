# SPDX-License-Identifier: GPL-3.0-or-later
"""Spark on a model image: built once behind the proxy, without a secret, and again only for a reason."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.lab import paths, recipes, spark
from tests.testinfra import inference
from tests.testinfra.play import REPOSITORY, Play, run_play
from tests.testinfra.secrets import Secret, leaks_in, leaks_on

HERE = Path(__file__).resolve().parent
NAME = "spark-images.corp.lab:6001"
PUSH = Secret("bu1ld:{{ pa ss }}/%$", "builder")
LONG = bool(os.environ.get("SLIPWAY_LONG"))
ROLES = ("driver", "executor")
PROXY = "slipway-registry-proxy"
# Requests that send something.
WRITE = re.compile(r'"(POST|PUT|PATCH) (/v2/\S+)')
# An executor of a driver that is not there: it waits for an answer, with a JVM of its own.
EXECUTOR = " ".join(
    f"-e {name}={value}"
    for name, value in {
        "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@127.0.0.1:7078",
        "SPARK_EXECUTOR_ID": "3",
        "SPARK_EXECUTOR_CORES": "1",
        "SPARK_EXECUTOR_MEMORY": "96m",
        "SPARK_APPLICATION_ID": "spark-1",
        "SPARK_EXECUTOR_POD_IP": "127.0.0.1",
        "SPARK_EXECUTOR_POD_NAME": "app-exec-3",
        "SPARK_JAVA_OPT_0": "-Dspark.network.timeout=600s",
    }.items()
)
# A driver that takes connections and never says a word: without one an executor ends by itself within seconds.
DEAF = "import socket, time; port = socket.create_server(('127.0.0.1', 7078)); time.sleep(600)"
ANYBODY = "--user 12345:678 --read-only --tmpfs /tmp"


def converge(*arguments: str, **variables: Any) -> Play:
    words = ("-vvv", "--diff", "--skip-tags", "machine", *arguments)
    return run_play(HERE / "converge.yml", variables, arguments=words)


def tags(host: Any, role: str) -> list[str]:
    """Return the tags that the registry has of a role's images."""
    body = host.check_output(f"curl -sS https://{NAME}/v2/nvidia-spark-{role}/tags/list")
    return sorted(json.loads(body).get("tags") or [])


def writes(host: Any) -> int:
    """Return how often something was sent to the registry."""
    return len(WRITE.findall(host.check_output(f"docker logs {PROXY} 2>/dev/null")))


def built(host: Any) -> str:
    """Return the numbers of all images that the engine has."""
    return str(host.check_output("docker image ls --all --no-trunc --quiet | sort -u"))


def image(host: Any, role: str) -> str:
    """Return the name of the image that was built last as a pod would have it: bare. The engine keeps no other one."""
    listed = f"docker image ls --format '{{{{.Tag}}}}' {NAME}/nvidia-spark-{role}"
    (tag,) = host.check_output(f"{listed} | grep -v none").split()
    assert tag in tags(host, role)
    return f"nvidia-spark-{role}:{tag}"


def named(play: Play, role: str) -> str:
    """Return the full name of the image that a run has made or found."""
    return str(re.findall(rf"{re.escape(NAME)}/nvidia-spark-{role}:[\w.-]+", play.output)[-1])


@pytest.fixture(scope="module")
def driver(hosts: dict[str, Any]) -> str:
    return image(hosts["spark-images"], "driver")


@pytest.fixture(scope="module")
def executor(hosts: dict[str, Any]) -> str:
    return image(hosts["spark-images"], "executor")


def test_both_are_pushed_and_share_their_layers(host: Any) -> None:
    found = [json.loads(host.check_output(f"docker image inspect {NAME}/{image(host, role)}"))[0] for role in ROLES]
    assert [item["Config"]["User"] for item in found] == ["185:0", "185:0"]
    assert found[0]["RootFS"] == found[1]["RootFS"]
    assert re.fullmatch(r"nvidia-spark-driver:3\.5\.9-tiny-1-[0-9a-f]{12}", image(host, "driver"))
    assert tags(host, "driver") == tags(host, "executor")


def test_nothing_secret_is_in_them(host: Any, driver: str) -> None:
    """Neither the proxy's password nor the registry's, in any form: history, configuration, and every layer's bytes."""
    account = json.loads((paths.state() / "proxy.json").read_text(encoding="utf-8"))
    secrets = [PUSH, Secret(account["password"], account["user"])]
    name = f"{NAME}/{driver}"
    told = host.check_output(f"docker history --no-trunc {name} && docker image inspect {name}")
    assert leaks_in(told, secrets, where="history or configuration") == []
    assert "proxy" not in told.lower().replace("noproxy", ""), "not even that there is one"
    patterns = "\n".join(form for secret in secrets for form in secret.forms().values() if len(form) > 5)
    host.check_output(f"printf %s {shlex.quote(patterns)} >/root/patterns")
    try:
        done = host.run(f"docker save {name} | LC_ALL=C grep -a -c -F -f /root/patterns")
    finally:
        host.check_output("rm /root/patterns")
    assert done.stdout.strip() == "0", "a layer holds a password"


def test_nothing_secret_is_on_the_machine(host: Any) -> None:
    assert leaks_on(host, [PUSH]) == []
    assert host.check_output("ls /tmp /var/tmp | grep -c ^slipway- || true") == "0", "a login was left"


def test_a_second_run_builds_and_pushes_nothing(host: Any) -> None:
    before = writes(host), built(host), tags(host, "driver")
    play = converge().succeeded()
    assert play.changed == 0 and leaks_in(play.output, [PUSH], where="ansible's output") == []
    assert (writes(host), built(host), tags(host, "driver")) == before


def test_pulled_by_its_bare_name(host: Any, driver: str) -> None:
    host.check_output(f"docker image rm {NAME}/{driver} && docker pull -q {driver}")
    said = host.run(f"docker run --rm --network none {ANYBODY} -e SPARK_LOCAL_IP=127.0.0.1 {driver} driver --version")
    assert said.rc == 0 and "version 3.5.9" in said.stderr
    host.check_output(f"docker pull -q {NAME}/{driver}")


def test_a_user_without_a_name_can_log_in_to_hadoop(host: Any, executor: str) -> None:
    run = f"docker run --rm --network none {ANYBODY} {NAME}/{executor}"
    login = host.run(f"{run} spark-class org.apache.hadoop.security.UserGroupInformation")
    assert "User: spark" in login.stdout, login.stdout + login.stderr
    assert host.check_output(f"{run} python3 -c 'import pyspark, torch; print(pyspark.__version__, torch.__version__)'")


def test_an_executor_stops_when_it_is_told_to(host: Any, executor: str) -> None:
    """Docker's signal goes through tini to the JVM, which ends by itself: no waiting for the kill after a minute."""
    host.check_output(f'systemd-run --unit=deaf-driver python3 -c "{DEAF}"')
    try:
        container = f"--name executor --network host {ANYBODY} {EXECUTOR}"
        host.check_output(f"docker run -d {container} {NAME}/{executor} executor")
        deadline = time.monotonic() + 120
        while "KubernetesExecutorBackend" not in (shown := host.run("docker logs executor 2>&1").stdout):
            assert time.monotonic() < deadline, shown
            time.sleep(0.5)
        running = host.check_output("docker top executor -eo pid,args")
        first, second = (line.split(None, 1)[1] for line in running.splitlines()[1:3])
        assert first.startswith("/opt/slipway/tini") and second.startswith("/opt/java/bin/java ")
        for word in ("-Dspark.network.timeout=600s", "-Xmx96m", "--executor-id 3", "--podName app-exec-3"):
            assert word in second, word
        start = time.monotonic()
        host.check_output("docker stop -t 60 executor")
        assert time.monotonic() - start < 45
        assert host.check_output("docker inspect -f '{{.State.ExitCode}}' executor") in ("143", "1")
    finally:
        host.run("docker rm -f executor; systemctl stop deaf-driver")


def test_an_image_that_lost_its_entry_point_is_found_and_made_again(host: Any, driver: str) -> None:
    """As `docker commit` of a container that was started with another entry point does."""
    name = f"{NAME}/{driver}"
    host.check_output(
        f"docker create --name lost --entrypoint /bin/sh {name} && docker commit lost {name} && docker rm lost"
        f" && printf %s {shlex.quote(PUSH.password)} | docker login -u builder --password-stdin {NAME}"
        f" && docker push -q {name} && docker logout {NAME}"
    )
    lost = verify()
    assert lost.rc != 0 and f"{driver} has lost its entry point" in lost.output
    assert f"push {driver} again" in converge("--check").succeeded().output
    assert f"push {driver} again" in converge().succeeded().output
    found = verify()
    assert "lost its entry point" not in found.output and "Spark's driver images have their entry" in found.output


def verify() -> Play:
    """Run the site's checks; the scenario's machine is not a whole site, so only what they say of the images counts."""
    files = [REPOSITORY / "inventory/lab/group_vars/all/site.yml", HERE / "vars.yml"]
    given = [word for file in files for word in ("-e", f"@{file}")]
    verdict = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "verdict.json"
    words = ("-e", json.dumps({"verify_verdict": str(verdict), "site_verify": {}}))
    return run_play(REPOSITORY / "playbooks/verify.yml", arguments=(*given, *words, "-l", "registries"))


def test_a_model_that_is_not_debian_is_refused_in_one_sentence(host: Any) -> None:
    before = tags(host, "driver")
    play = converge(spark_images_model=f"{NAME}/alpine:3")
    assert play.rc != 0 and (
        f"spark_images_model is {NAME}/alpine:3, which is Alpine Linux v3.20: it needs an image of Debian or Ubuntu"
    ) in " ".join(play.output.split())
    assert tags(host, "driver") == before


def test_a_model_that_changed_under_its_name_is_built_again(host: Any, driver: str) -> None:
    model = f"{NAME}/tiny:1"
    host.check_output(
        f"docker create --name model {model} && docker commit -c 'LABEL new=1' model {model} && docker rm model"
        f" && printf %s {shlex.quote(PUSH.password)} | docker login -u builder --password-stdin {NAME}"
        f" && docker push -q {model} && docker logout {NAME}"
    )
    before = set(tags(host, "driver"))
    assert converge().succeeded().changed == 1
    new = set(tags(host, "driver")) - before
    assert len(new) == 1 and tags(host, "driver") == tags(host, "executor"), "the old one stays, for who runs it"
    labels = json.loads(host.check_output(f"docker image inspect {NAME}/nvidia-spark-driver:{new.pop()}"))[0]
    assert labels["Config"]["Labels"]["new"] == "1"
    assert host.run(f"docker image inspect {NAME}/{driver}").rc != 0, "what is built no more leaves the machine"


@pytest.mark.skipif(not LONG, reason="part of make test-long: a model image of a gigabyte")
def test_an_executor_s_image_runs_a_real_model(host: Any) -> None:
    """Debian's own PyTorch, a user without a name: the example's scores are those of the same model in plain Python."""
    pki = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "pki/ca.crt"
    seeded = [sys.executable, "-m", "tests.lab", "spark", "--push", "--machine=spark-images", f"--ca={pki}"]
    subprocess.run(seeded, cwd=REPOSITORY, check=True, timeout=900)
    made = named(converge(spark_images_model=f"{NAME}/{recipes.SPARK_MODEL}").succeeded(), "executor")
    assert "-executor:3.5.9-torch-1.13.1-" in made
    work = inference.job()
    program = (REPOSITORY / "examples/spark/inference.py").read_text(encoding="utf-8")
    host.check_output("install -d -m 755 /srv/example")
    for name, text in {**work.files, "inference.py": program}.items():
        encoded = base64.b64encode(text.encode()).decode()
        host.check_output(f"echo {encoded} | base64 -d >/srv/example/{name}")
    local = "--conf spark.driver.host=localhost --conf spark.driver.bindAddress=127.0.0.1"
    command = (
        "python3 -c 'import torch; print(\"torch\", torch.__version__)' && "
        f"spark-submit --master 'local[1]' --driver-memory 512m {local} /example/inference.py"
        " file:///example/rows.csv file:///example/weights.json file:///tmp/out && cat /tmp/out/*.csv"
    )
    run = f"docker run --rm --network none --hostname localhost {ANYBODY} -v /srv/example:/example:ro"
    done = host.run(f"{run} {made} bash -c {shlex.quote(command)}")
    # Debian's package calls itself 1.13.0a0.
    assert done.rc == 0 and "torch 1.13." in done.stdout, done.stdout[-1000:] + done.stderr[-3000:]
    assert inference.read(done.stdout) == pytest.approx(work.scores)


@pytest.mark.skipif(not LONG, reason="part of make test-long: builds another line of Spark")
def test_spark_4(host: Any) -> None:
    spark.publish("4.1.4")
    checksum = (paths.state() / "spark-4.1.4.sha512").read_text(encoding="ascii").strip()
    made = named(converge(spark_images_version="4.1.4", spark_images_checksum=checksum).succeeded(), "driver")
    run = f"docker run --rm --network none {ANYBODY} -e SPARK_LOCAL_IP=127.0.0.1"
    said = host.run(f"{run} {made} driver --version")
    assert said.rc == 0 and "version 4.1.4" in said.stderr


def test_removed_nothing_is_left_on_the_machine(host: Any) -> None:
    known = tags(host, "driver")
    run_play(HERE / "remove.yml").succeeded()
    assert not host.file("/var/cache/slipway/spark_images").exists
    assert "nvidia-spark" not in host.check_output("docker image ls --format '{{.Repository}}' | grep 6001 || true")
    assert tags(host, "driver") == known, "the registry keeps them"
