# SPDX-License-Identifier: GPL-3.0-or-later
"""What the entry point of Spark's images becomes: arguments, environment and working directory of the real program."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

IMAGES = Path(__file__).resolve().parents[3] / "images" / "spark"
# Stands for java and spark-submit: says what it was given.
PROGRAM = f"""#!{sys.executable}
import json, os, sys
print(json.dumps({{"arguments": sys.argv[1:], "environment": dict(os.environ), "pid": os.getpid()}}))
"""
EXECUTOR = {
    "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@driver:7078",
    "SPARK_EXECUTOR_ID": "3",
    "SPARK_EXECUTOR_CORES": "2",
    "SPARK_EXECUTOR_MEMORY": "512m",
    "SPARK_APPLICATION_ID": "spark-1",
    "SPARK_EXECUTOR_POD_IP": "10.244.1.7",
    "SPARK_RESOURCE_PROFILE_ID": "1",
    "SPARK_EXECUTOR_POD_NAME": "app-exec-3",
    "SPARK_CONF_DIR": "/opt/spark/conf",
}


class Image:
    """A directory that stands for the image."""

    def __init__(self, root: Path) -> None:
        self.work = root / "work"
        self.work.mkdir()
        self.bin = root / "usr"
        self.spark, self.java = root / "spark", root / "java"
        for program in (self.spark / "bin/spark-submit", self.java / "bin/java", self.bin / "command"):
            self.program(program, PROGRAM)
        self.root = root

    @staticmethod
    def program(path: Path, text: str) -> None:
        """Write a program."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the entry point with nothing in the environment but what an image has."""
        fixed = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "SPARK_HOME": str(self.spark),
            "JAVA_HOME": str(self.java),
            "TMPDIR": str(self.root),
            **environment,
        }
        command = [str(IMAGES / "entrypoint.sh"), *words]
        return subprocess.run(command, env=fixed, cwd=self.work, capture_output=True, text=True, check=False)

    def became(self, *words: str, **environment: str) -> Any:
        """Run it; return what the program that it became was given."""
        done = self.run(*words, **environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(tmp_path)


def anonymous(image: Image) -> None:
    """Let the user have no name: getent finds none."""
    image.program(image.bin / "getent", "#!/bin/sh\nexit 2\n")


def test_a_driver_is_spark_submit_in_client_mode(image: Image) -> None:
    words = ["--properties-file", "/opt/spark/conf/spark.properties", "--class", "A", "local:///a b.jar", "x"]
    found = image.became("driver", *words, SPARK_DRIVER_BIND_ADDRESS="10.244.1.6")
    assert found["arguments"] == [
        "--deploy-mode",
        "client",
        "--conf",
        "spark.driver.bindAddress=10.244.1.6",
        "--conf",
        "spark.executorEnv.SPARK_DRIVER_POD_IP=10.244.1.6",
        *words,
    ]
    assert image.became("driver", "x")["arguments"] == ["--deploy-mode", "client", "x"]


def test_an_executor_is_given_what_its_driver_says(image: Image) -> None:
    found = image.became("executor", **EXECUTOR)["arguments"]
    assert found[:2] == ["-Xms512m", "-Xmx512m"]
    after = found[found.index("org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend") + 1 :]
    assert dict(zip(after[::2], after[1::2], strict=True)) == {
        "--driver-url": EXECUTOR["SPARK_DRIVER_URL"],
        "--executor-id": "3",
        "--cores": "2",
        "--app-id": "spark-1",
        "--hostname": "10.244.1.7",
        "--resourceProfileId": "1",
        "--podName": "app-exec-3",
    }


def test_an_executor_needs_no_name_of_its_pod(image: Image) -> None:
    given = {name: value for name, value in EXECUTOR.items() if name not in ("SPARK_EXECUTOR_POD_NAME",)}
    assert "--podName" not in image.became("executor", **given)["arguments"]


@pytest.mark.parametrize("name", [name for name in EXECUTOR if name not in
    ("SPARK_RESOURCE_PROFILE_ID", "SPARK_EXECUTOR_POD_NAME", "SPARK_CONF_DIR")])  # fmt: skip
def test_an_executor_without_a_driver_says_what_it_lacks(image: Image, name: str) -> None:
    done = image.run("executor", **{key: value for key, value in EXECUTOR.items() if key != name})
    assert done.returncode == 64 and f"{name} is not set" in done.stderr and not done.stdout


def classpath(arguments: list[str]) -> list[str]:
    return arguments[arguments.index("-cp") + 1].split(":")


def test_an_executors_class_path(image: Image) -> None:
    plain = classpath(image.became("executor", **EXECUTOR)["arguments"])
    assert plain == ["/opt/spark/conf", f"{image.spark}/jars/*", str(image.work)]
    more = {
        "SPARK_MOUNTED_CLASSPATH": "/mounted/*",
        "SPARK_EXTRA_CLASSPATH": "/extra.jar",
        "SPARK_CLASSPATH": "/application.jar",
        "HADOOP_CONF_DIR": "/etc/hadoop/conf",
        "SPARK_DIST_CLASSPATH": "/site.jar",
    }
    assert classpath(image.became("executor", **EXECUTOR, **more)["arguments"]) == [
        "/opt/spark/conf",
        "/mounted/*",
        "/extra.jar",
        "/application.jar",
        f"{image.spark}/jars/*",
        "/etc/hadoop/conf",
        "/site.jar",
        str(image.work),
    ]


def test_a_driver_gets_the_mounted_class_path_beside_its_own(image: Image) -> None:
    found = image.became("driver", "x", SPARK_MOUNTED_CLASSPATH="/mounted/*", SPARK_DIST_CLASSPATH="/site.jar")
    assert found["environment"]["SPARK_DIST_CLASSPATH"] == "/mounted/*:/site.jar"
    assert found["arguments"] == ["--deploy-mode", "client", "x"]


OPTIONS = {f"SPARK_JAVA_OPT_{number}": f"-Dn={number}" for number in (10, 2, 0, 1)}


def test_java_options_keep_their_order_and_their_spaces(image: Image) -> None:
    more = {**OPTIONS, "SPARK_JAVA_OPT_3": '-Dsaid=it is "so" $HOME * ;', "SPARK_JAVA_OPT_4": ""}
    found = image.became("executor", **EXECUTOR, **more)["arguments"]
    assert found[:5] == ["-Dn=0", "-Dn=1", "-Dn=2", '-Dsaid=it is "so" $HOME * ;', "-Dn=10"]


def test_a_driver_gets_java_options_in_javas_own_variable(image: Image) -> None:
    found = image.became("driver", "x", **OPTIONS, SPARK_JAVA_OPT_3='-Da="b c"', JDK_JAVA_OPTIONS="-Dfirst")
    assert found["environment"]["JDK_JAVA_OPTIONS"] == ('-Dfirst "-Dn=0" "-Dn=1" "-Dn=2" \'-Da="b c"\' "-Dn=10"')
    assert "JDK_JAVA_OPTIONS" not in image.became("driver", "x")["environment"]


@pytest.mark.parametrize("case", [("driver",), ("executor",)])
def test_mounted_files_are_copied_into_the_working_directory(image: Image, case: tuple[str]) -> None:
    """As Kubernetes mounts them: names that are links into a directory whose own name begins with two dots."""
    for name in ("files", "secrets"):
        real = image.root / name / "..2026"
        (real / "sub").mkdir(parents=True)
        (real / f"{name} 1").write_text(name)
        (real / "sub" / name).write_text("below")
        (image.root / name / "..data").symlink_to("..2026")
        for entry in (f"{name} 1", "sub"):
            (image.root / name / entry).symlink_to(f"..data/{entry}")
    given = {"SPARK_MOUNTED_FILES_DIR": f"{image.root}/files"}
    given["SPARK_MOUNTED_FILES_FROM_SECRET_DIR"] = f"{image.root}/secrets"
    image.became(*case, **EXECUTOR, **given)
    assert sorted(path.name for path in image.work.iterdir()) == ["files 1", "secrets 1", "sub"]
    assert not (image.work / "files 1").is_symlink() and (image.work / "sub" / "secrets").read_text() == "below"


def test_a_directory_that_is_not_mounted_is_named(image: Image) -> None:
    done = image.run("driver", SPARK_MOUNTED_FILES_DIR="/nowhere")
    assert done.returncode == 64 and "/nowhere with files is not mounted" in done.stderr


def test_an_empty_directory_of_files_is_fine(image: Image) -> None:
    (image.root / "none").mkdir()
    image.became("driver", SPARK_MOUNTED_FILES_DIR=f"{image.root}/none")


def test_anything_else_is_run_as_it_is(image: Image) -> None:
    found = image.became("command", "a b", "*", "")
    assert found["arguments"] == ["a b", "*", ""]
    assert "LD_PRELOAD" not in found["environment"], "this user has a name"


def test_nothing_to_run_is_said(image: Image) -> None:
    done = image.run()
    assert done.returncode == 64 and "needs driver, executor, or a command" in done.stderr


@pytest.mark.parametrize("case", [("driver",), ("executor",), ("command",)])
def test_a_user_without_a_name_gets_one(image: Image, case: tuple[str]) -> None:
    anonymous(image)
    found = image.became(*case, **EXECUTOR, SLIPWAY_NSS_WRAPPER="/lib/wrapper.so")["environment"]
    assert found["LD_PRELOAD"] == "/lib/wrapper.so" and found["NSS_WRAPPER_GROUP"] == "/etc/group"
    passwd = Path(found["NSS_WRAPPER_PASSWD"])
    assert passwd.read_text().splitlines()[-1] == (
        f"spark:x:{os.getuid()}:{os.getgid()}:Spark:{image.spark}/work-dir:/usr/sbin/nologin"
    )
    assert passwd.read_text().startswith("root:") and stat.S_IMODE(passwd.stat().st_mode) == 0o600


def test_a_user_without_a_name_is_told_where_none_can_be_given(image: Image) -> None:
    anonymous(image)
    done = image.run("command", TMPDIR="/nowhere")
    assert done.returncode == 0 and "has no name, and /nowhere cannot be written" in done.stderr


@pytest.mark.parametrize("case", [("driver",), ("executor",), ("command",)])
def test_signals_and_status_are_those_of_the_program(image: Image, case: tuple[str]) -> None:
    """The script is replaced, not a parent: its number is the program's, so a signal has nobody to pass."""
    waits = "#!/bin/sh\ntrap 'exit 42' TERM\necho $$\nwhile :; do sleep 0.1; done\n"
    for program in (image.spark / "bin/spark-submit", image.java / "bin/java", image.bin / "command"):
        image.program(program, waits)
    environment = {**EXECUTOR, "PATH": f"{image.bin}:/usr/bin:/bin"}
    environment |= {"SPARK_HOME": str(image.spark), "JAVA_HOME": str(image.java)}
    command = [str(IMAGES / "entrypoint.sh"), *case]
    with subprocess.Popen(
        command, env=environment, cwd=image.work, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as started:
        try:
            assert started.stdout and started.stdout.readline().strip() == str(started.pid)
            started.send_signal(signal.SIGTERM)
            assert started.wait(timeout=30) == 42
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)


def gpus(image: Image, environment: Mapping[str, str]) -> Any:
    done = subprocess.run([str(IMAGES / "gpus.sh")], env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(("said", "addresses"), [("0\\n1\\n", ["0", "1"]), ("0\\n", ["0"]), ("", [])])
def test_gpus_as_spark_asks_for_them(image: Image, said: str, addresses: list[str]) -> None:
    image.program(image.bin / "nvidia-smi", f"#!/bin/sh\nprintf '{said}'\n")
    assert gpus(image, {"PATH": f"{image.bin}:/usr/bin:/bin"}) == {"name": "gpu", "addresses": addresses}


def test_a_node_without_a_driver_is_an_error(image: Image) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        gpus(image, {"PATH": "/usr/bin:/bin"})


def test_the_images_run_as_nobody_special_and_keep_their_entry_point() -> None:
    text = (IMAGES / "Dockerfile").read_text()
    last = text.rindex("FROM ${MODEL}")
    assert "USER 185:0\n" in text[last:] and 'ENTRYPOINT ["/opt/slipway/tini", "--", ' in text[last:]
    assert text.count("ENTRYPOINT") == 1, "both images have the same one"
    assert not any(word in text for word in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"))
